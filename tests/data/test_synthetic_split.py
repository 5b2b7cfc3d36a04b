"""Rows that a model wrote are never tested, move no other row, and go when what they were made from is tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preparing import Prepare, Prepared

from burnish.core.errors import DataError
from burnish.data.formats.read import read
from burnish.data.made import take_made
from burnish.data.versions.forgotten import add_forgotten, read_forgotten, row_hash


def row(number: int, **more: Any) -> dict[str, Any]:
    words = " ".join(f"w{number}x{place}" for place in range(6))
    return {"instruction": f"explain {words}", "response": f"it is {number}", **more}


def parent_of(value: dict[str, Any]) -> str:
    turns = [("user", value["instruction"]), ("assistant", value["response"])]
    return f"{row_hash([{'role': role, 'content': text} for role, text in turns]):016x}"


def paraphrase(value: dict[str, Any], number: int, **more: Any) -> dict[str, Any]:
    made = {"kind": "paraphrase", "teacher": "scripted", "parent": parent_of(value)}
    return {"instruction": f"say other{number} thing{number}", "response": value["response"], "synthetic": made, **more}


def sides(done: Prepared) -> dict[str, set[str]]:
    """Return the requests of rows that no model wrote, by split."""
    return {
        split: {r.messages[0]["content"] for r in done.rows(split) if r.synthetic is None}
        for split in ("train", "test")
    }


def test_no_synthetic_row_is_tested_and_no_real_row_moves_because_of_one(run_prepare: Prepare) -> None:
    real = [row(n) for n in range(300)]
    alike = [{**row(n), "instruction": row(n)["instruction"] + " thanks", "synthetic": True} for n in range(300)]
    free = [{**row(1000 + n), "synthetic": {"kind": "persona", "teacher": "t"}} for n in range(300)]
    before = run_prepare(real, prepare={"test_share": 0.3})
    after = run_prepare([*alike, *real, *free], prepare={"test_share": 0.3}, folder="after")
    assert sides(before) == sides(after)
    assert [r for r in after.rows("test") if r.synthetic is not None] == []
    assert sum(r.synthetic == "persona" and r.teacher == "t" for r in after.rows("train")) == 300
    gone = after.manifest.ledger.rejected
    assert gone["near duplicate"] + gone["near duplicate of a test row"] == 300, "a real row never gives way"


def test_a_row_made_from_a_tested_row_is_not_trained_on(run_prepare: Prepare) -> None:
    real = [row(n) for n in range(200)]
    made = [paraphrase(value, n) for n, value in enumerate(real)]
    done = run_prepare([*real, *made], prepare={"test_share": 0.3})
    tested = {r.messages[1]["content"] for r in done.rows("test")}
    learned = {r.messages[1]["content"] for r in done.rows("train") if r.synthetic == "paraphrase"}
    assert len(tested) > 30
    assert learned == {value["response"] for value in real} - tested
    reason = "made from a row that is tested or left out"
    rejected = [r for r in done.rejected() if r["reason"] == reason]
    assert len(rejected) == len(tested) == done.manifest.ledger.rejected[reason]
    place = rejected[0]["detail"].removeprefix("of ").rpartition(":")
    assert real[int(place[2]) - 1]["response"] in tested


def test_a_row_made_from_the_document_of_a_tested_row_is_not_trained_on(run_prepare: Prepare) -> None:
    real = [row(n, group=f"document {n % 20}") for n in range(200)]
    made = [{**row(1000 + n, group=f"document {n}"), "synthetic": {"kind": "questions"}} for n in range(20)]
    done = run_prepare([*real, *made], prepare={"split_by": "group", "test_share": 0.3})
    tested = {r.group for r in done.rows("test")}
    learned = {r.group for r in done.rows("train")}
    assert tested
    assert not tested & learned
    assert sum(r.synthetic is not None for r in done.rows("train")) == 20 - len(tested)


def test_synthetic_rows_that_ask_to_be_tested_are_rejected_in_data_and_in_tasks(run_prepare: Prepare) -> None:
    rows = [row(1, split="train"), row(2, split="test"), row(3, split="test", synthetic=True)]
    done = run_prepare(rows, tasks={"hard": [row(4), row(5, synthetic={"kind": "adversarial"})]})
    assert done.manifest.ledger.rejected == {"synthetic rows are never tested": 2}
    assert [r.line for split in ("test", "hard") for r in done.rows(split)] == [2, 1]


def test_what_was_made_from_a_forgotten_row_is_forgotten_with_it(run_prepare: Prepare, tmp_path: Path) -> None:
    real = [row(n, split="test" if n < 5 else "train") for n in range(20)]
    add_forgotten(tmp_path, {int(parent_of(real[7]), 16)})
    done = run_prepare([*real, paraphrase(real[7], 7), paraphrase(real[8], 8)], forgotten=read_forgotten(tmp_path))
    assert done.manifest.ledger.rejected == {"forgotten": 2}
    assert "other7" not in json.dumps(done.rejected()), "what is forgotten is not written down"


def test_data_of_synthetic_rows_alone_has_nothing_to_test_and_says_why(run_prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r"no row is left in the split test.*Synthetic rows are never tested"):
        run_prepare([row(n, synthetic=True) for n in range(50)])


@pytest.mark.parametrize(("said", "synthetic"), [
    (True, True), ({"kind": "x"}, True), ("yes", True), (1, True), ({"parent": 7}, True),
    (False, False), (None, False), ("", False), ("no", False), ("False", False), (0, False), ("0", False),
])  # fmt: skip
def test_a_row_says_in_many_ways_whether_it_is_synthetic(said: Any, synthetic: bool) -> None:
    record, made = take_made(read({"prompt": "a", "completion": "b", "synthetic": said}))
    assert (made is not None) == synthetic
    assert "synthetic" not in record.unused


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(
    st.sampled_from(["kind", "teacher", "parent", "x"]), inner, max_size=4) | st.lists(inner, max_size=3)))  # fmt: skip
def test_whatever_stands_there_is_read_without_an_error(said: Any) -> None:
    _, made = take_made(read({"prompt": "a", "completion": "b", "synthetic": said}))
    assert made is None or (0 <= made.parent < 2**64 and 0 < len(made.kind) <= 200)
