"""Ids depend on content alone; times, paths and measurements do not count."""

from __future__ import annotations

import hashlib

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from burnish.core.artifacts import BaseRef, FileRef, GateVerdict, Ledger, Release
from burnish.core.ids import content_id


def release(**changes: object) -> Release:
    values: dict[str, object] = {
        "name": "a",
        "alias": "a",
        "adapter": "1",
        "report": "2",
        "plan": "3",
        "manifest": "4",
        "base": BaseRef(name="b", digest="d"),
        "gate": GateVerdict(passed=True, thresholds={"exact_match": 0.5}, reasons=()),
    }
    return Release.model_validate(values | changes)


def test_an_id_is_the_sha256_of_canonical_json() -> None:
    assert content_id({"b": 1, "a": [1.0, "é"]}) == content_id({"a": [1.0, "é"], "b": 1})
    assert content_id({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@given(st.dictionaries(st.text(), st.one_of(st.integers(-(2**53) + 1, 2**53 - 1), st.text(), st.booleans(), st.none())))
def test_key_order_never_changes_an_id(value: dict[str, object]) -> None:
    assert content_id(value) == content_id(dict(reversed(list(value.items()))))


TEXTS = st.recursive(
    st.text(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(TEXTS)
def test_texts_are_written_as_the_reference_writes_them(value: object) -> None:
    assert content_id(value) == hashlib.sha256(rfc8785.dumps(value)).hexdigest()  # pyright: ignore[reportArgumentType]


def test_half_of_a_pair_is_refused() -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        content_id(["a\ud83d"])


def test_version_and_time_are_outside_the_id_and_the_verdict_is_inside() -> None:
    assert release(version=1, created_at="x").id == release(version=2, created_at="y").id
    failed = GateVerdict(passed=False, thresholds={"exact_match": 0.5}, reasons=("short",))
    assert release(gate=failed).id != release().id


def test_a_path_does_not_count_but_the_hash_does() -> None:
    one, two = FileRef(path="a", sha256="1", size_bytes=1), FileRef(path="b", sha256="1", size_bytes=1)
    assert one.identity() == two.identity()
    assert FileRef(path="a", sha256="2", size_bytes=1).identity() != one.identity()


def test_a_ledger_that_does_not_balance_is_refused() -> None:
    with pytest.raises(ValidationError, match="rows in"):
        Ledger(rows_in=3, rows_kept=1, rejected={"broken": 1})
    assert Ledger(rows_in=3, rows_kept=1, rejected={"broken": 2}).rows_kept == 1


def test_artifacts_are_frozen_and_refuse_unknown_fields() -> None:
    with pytest.raises(ValidationError):
        release(colour="red")
    with pytest.raises(ValidationError):
        release().name = "b"
