"""Which split a row goes to, and which rows go: by row, group, file, date, answer; copies, leaks, the brake."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from preparing import Prepare, write_rows

from burnish.core.errors import DataError
from burnish.core.recipe_file import parse_recipe
from burnish.data.prepare import prepare
from burnish.text.tokenizer import Tokenizer


def row(number: int, **more: Any) -> dict[str, Any]:
    words = " ".join(f"w{number}x{place}" for place in range(6))
    return {"instruction": f"explain {words}", "response": f"it is {number}", **more}


def test_rows_of_a_group_stay_together(run_prepare: Prepare) -> None:
    rows = [row(n, group=f"customer {n % 40}") for n in range(400)]
    done = run_prepare(rows, prepare={"split_by": "group", "test_share": 0.3})
    sides = {split: {r.group for r in done.rows(split)} for split in ("train", "test")}
    assert sides["train"] & sides["test"] == set()
    assert 4 <= len(sides["test"]) <= 20
    assert "customer" not in json.dumps([r.group for r in done.rows("train")]), "a group may be a name"


def test_a_row_without_a_group_is_an_error_that_names_it(run_prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r"1 of 3 rows have no `group` \(the first is .*rows.jsonl:2\)"):
        run_prepare([row(1, group="a"), row(2), row(3, group="b")], prepare={"split_by": "group"})


def test_chunks_of_500_documents_split_by_file_have_no_document_on_both_sides(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # sides go by the names of files as the recipe has them
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(500):
        write_rows(folder / f"d{number:03}.jsonl", [row(10 * number + chunk) for chunk in range(10)])
    raw = {"name": "d", "base": "b", "data": "documents", "method": "lora"}
    recipe = parse_recipe(raw | {"prepare": {"split_by": "file"}}, source="t")
    out = tmp_path / "out"
    manifest = prepare(recipe, tokenizer=tokenizer, folder=out, root=tmp_path, emit=lambda event: None)
    from burnish.data.rows import read_messages, rows_path

    files = {split: {r.source for r in read_messages(rows_path(out, split))} for split in ("train", "test")}
    assert files["train"] & files["test"] == set()
    assert 50 <= len(files["test"]) <= 100
    assert manifest.splits["train"].rows + manifest.splits["test"].rows == 5000


def test_what_every_group_says_does_not_chain_them_together(run_prepare: Prepare) -> None:
    rows = [row(n, group=f"customer {n % 40}") for n in range(400)]
    hello = "hello there how are you doing on this fine day my friend"
    rows += [{"instruction": hello, "response": "Hi", "group": f"customer {n}"} for n in range(40)]
    done = run_prepare(rows, prepare={"split_by": "group", "test_share": 0.3})
    sides = {split: {r.group for r in done.rows(split)} for split in ("train", "test")}
    assert not sides["train"] & sides["test"]
    assert len(sides["train"] | sides["test"]) == 40
    assert 60 <= done.manifest.splits["test"].rows <= 180
    assert json.loads((done.folder / "leakage.json").read_text())["clean"]
    assert sum(hello in request for request in done.requests("test")) == 1
    assert not any(hello in request for request in done.requests("train"))


def test_the_latest_rows_are_tested_and_the_embargo_is_left_out(run_prepare: Prepare) -> None:
    first = datetime.date(2025, 1, 1)
    rows = [row(n, date=(first + datetime.timedelta(days=n)).isoformat()) for n in range(100)]
    done = run_prepare(rows, prepare={"split_by": "date", "test_share": 0.2, "embargo_days": 7})
    assert {r.line for r in done.rows("test")} == set(range(81, 101))
    assert {r.line for r in done.rows("train")} == set(range(1, 74))
    assert done.manifest.ledger.rejected == {"within the embargo before the test rows": 7}
    with pytest.raises(DataError, match="have no date"):
        run_prepare([*rows, row(200)], prepare={"split_by": "date"})


def test_rows_are_split_by_their_date_with_a_time_or_by_when_they_were_created(run_prepare: Prepare) -> None:
    first = datetime.date(2025, 1, 1)
    days = [(first + datetime.timedelta(days=n)).isoformat() for n in range(100)]
    keys = ({"date": "{}T00:00:00"}, {"created_at": "{} 10:05:00+02:00"})
    rows = [row(n) | {key: said.format(day) for key, said in keys[n % 2].items()} for n, day in enumerate(days)]
    done = run_prepare(rows, prepare={"split_by": "date", "test_share": 0.2})
    assert {r.line for r in done.rows("test")} == set(range(81, 101))
    assert done.manifest.ledger.changed == {}


def test_a_stratified_split_holds_the_share_of_each_answer(run_prepare: Prepare) -> None:
    rows = [row(n) | {"response": "rare" if n % 20 == 0 else "common"} for n in range(400)]
    done = run_prepare(rows, prepare={"stratify": True, "test_share": 0.25})
    answers = Counter(r.messages[-1]["content"] for r in done.rows("test"))
    assert answers == {"common": 95, "rare": 5}


def test_near_duplicates_are_on_one_side(run_prepare: Prepare) -> None:
    long = "please find me a flight from Paris to {} on the first of May for two people and one small dog"
    rows = [{"prompt": long.format(f"c{n}") + tail, "completion": "x"} for n in range(60) for tail in ("", " thanks")]
    done = run_prepare(rows, prepare={"near_duplicate": 0.9, "test_share": 0.3, "stop_share": 1.0})
    assert sum(done.manifest.leakage.values()) == 0


def test_a_file_that_would_lose_most_of_its_rows_stops_with_examples(run_prepare: Prepare) -> None:
    rows = [row(n % 50) for n in range(200)]
    with pytest.raises(
        DataError, match=r"rows.jsonl would lose \d+ of \d+ rows as duplicates(.|\n)*line (.|\n)*stop_share to 1"
    ):
        run_prepare(rows)
    done = run_prepare(rows, prepare={"stop_share": 1.0})
    assert done.manifest.ledger.rejected["duplicate"] == 150


def test_the_proof_and_the_account_are_in_the_manifest(run_prepare: Prepare) -> None:
    rows = [row(n) for n in range(100)] + [row(5)]
    done = run_prepare(rows, tasks={"own": [row(700)]})
    proof = json.loads((done.folder / "leakage.json").read_text())
    assert proof["clean"]
    assert {(c["trained"], c["tested"], c["method"]) for c in proof["checks"]} == {
        (trained, tested, method)
        for trained, tested in (("train", "test"), ("train", "own"), ("test", "own"))
        for method in ("exact", "13-gram", "near")
        if (trained, tested) != ("test", "own")
    }  # fmt: skip
    assert done.manifest.leakage_file is not None
    account = done.manifest.account
    assert account is not None
    assert account.total.dropped_rows == {"duplicate": 1}
    splits = done.manifest.splits.values()
    assert account.total.trained == sum(split.trained_tokens for split in splits)
    assert account.total.trained + account.total.masked == sum(split.tokens for split in splits)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.integers(0, 25), min_size=2, max_size=60),
    by=st.sampled_from(["row", "group", "file"]),
    share=st.floats(0.1, 0.5),
)
def test_no_row_is_lost_and_nothing_tested_is_trained_on(
    run_prepare: Prepare, numbers: list[int], by: str, share: float
) -> None:
    rows = [row(n, group=str(n % 5)) for n in numbers]
    rows += [row(100, split="test"), row(101)] if by == "row" else []
    try:
        done = run_prepare(rows, prepare={"split_by": by, "test_share": share, "stop_share": 1.0})
    except DataError:
        assume(False)  # few rows may all lie on one side
        return
    numbers = [*numbers, 100, 101] if by == "row" else numbers
    ledger = done.manifest.ledger
    assert ledger.rows_in == len(numbers)
    assert ledger.rows_kept == len(set(numbers)), "one row of each content stays"
    train, test = (set(done.requests(split)) for split in ("train", "test"))
    assert train & test == set()
