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
from preparing import Prepare, Prepared, write_rows

from burnish.core.errors import DataError, RecipeError
from burnish.core.events import Event, Note
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


def test_rows_are_tested_from_a_day_on(run_prepare: Prepare) -> None:
    first = datetime.date(2025, 1, 1)
    rows = [row(n, date=(first + datetime.timedelta(days=n)).isoformat()) for n in range(60)]
    said = {"split_by": "date", "test_from": "2025-02-20", "embargo_days": 5}
    done = run_prepare(rows, prepare=said)
    assert {r.line for r in done.rows("test")} == set(range(51, 61))
    assert {r.line for r in done.rows("train")} == set(range(1, 46))
    assert done.manifest.settings["test_from"] == "2025-02-20"
    with pytest.raises(DataError, match="no row is left in the split test"):
        run_prepare(rows, prepare=said | {"test_from": "2026-01-01"})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"embargo_days": 3}, "embargo_days = 3 +goes with split_by: date; split_by is row"),
        ({"split_by": "group", "test_from": "2025-01-01"}, "test_from = 2025-01-01 +goes with split_by: date"),
        ({"split_by": "date", "stratify": True}, "stratify = true +cannot go with split_by: date"),
    ],
)
def test_what_a_split_would_take_no_notice_of_is_refused(said: dict[str, Any], message: str) -> None:
    raw = {"name": "d", "base": "b", "data": "rows.jsonl", "method": "lora", "prepare": said}
    with pytest.raises(RecipeError, match=message):
        parse_recipe(raw, source="t")


def made_of(sources: Any, tmp_path: Path, tokenizer: Tokenizer, **settings: Any) -> Prepared:
    raw = {"name": "d", "base": "b", "data": sources, "method": "lora", "prepare": settings}
    events: list[Event] = []
    manifest = prepare(
        parse_recipe(raw, source="t"), tokenizer=tokenizer, folder=tmp_path / "out", root=tmp_path, emit=events.append
    )
    return Prepared(manifest, tmp_path / "out", events)


def test_a_source_says_the_split_of_its_rows(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [row(n) for n in range(12)]
    ours, theirs = (
        write_rows(tmp_path / "a.jsonl", rows[:8]),
        write_rows(tmp_path / "b.jsonl", [*rows[8:], rows[0], row(99, split="train")]),
    )
    sources = {"ours": {"path": str(ours)}, "theirs": {"path": str(theirs), "split": "test"}}
    done = made_of(sources, tmp_path, tokenizer, split_by="file", stratify=True)
    assert [(r.source, r.line) for r in done.rows("test")] == [("b.jsonl", n) for n in range(1, 6)]
    assert [(r.source, r.line) for r in done.rows("train")] == [("a.jsonl", n) for n in range(2, 9)] + [("b.jsonl", 6)]
    assert done.manifest.ledger.rejected == {"duplicate of a test row": 1}
    assert any("split_by, stratify" in event.text for event in done.events if isinstance(event, Note))
    with pytest.raises(DataError, match=r'no row is left in the split test.*none of those that are left says "test"'):
        made_of({"ours": {"path": str(ours), "split": "train"}, "theirs": str(theirs)}, tmp_path, tokenizer)


def test_a_file_that_looks_like_a_test_split_and_is_none_is_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, first in (("train.jsonl", 0), ("test.jsonl", 40)):
        write_rows(folder / name, [row(first + n) for n in range(40)])
    done = made_of(str(folder), tmp_path, tokenizer)
    told = [event.text for event in done.events if isinstance(event, Note) and "test split" in event.text]
    assert len(told) == 1
    assert "test.jsonl may be a test split" in told[0]


def test_a_folder_that_is_moved_is_split_as_before(tmp_path: Path, tokenizer: Tokenizer) -> None:
    def tested(folder: Path, named: str) -> set[str]:
        folder.mkdir(parents=True)
        for number in range(40):
            write_rows(folder / f"d{number}.jsonl", [row(10 * number + n) for n in range(3)])
        return {r.source for r in made_of(named, tmp_path, tokenizer, split_by="file").rows("test")}

    one, two = tmp_path / "one" / "docs", tmp_path / "elsewhere"
    assert tested(one, str(one)) == tested(two, f"{two}/*.jsonl")


def test_the_same_request_about_somebody_else_is_no_duplicate_and_leaks_all_the_same(run_prepare: Prepare) -> None:
    asks = "Is a {} of number {} near the old harbour allowed to bring a folding bicycle on board of the ferry to the islands?"
    rows = [{"prompt": asks.format(who, n), "completion": f"Yes, {n}."} for n in range(30) for who in ("man", "woman")]
    both = (
        "May a {} come along when we sail around the lighthouse, or must everybody stay ashore till the storm is over?"
    )
    rows += [
        {"prompt": both.format(who), "completion": "Yes."} for who in ("man with his wife", "woman with her husband")
    ]
    done = run_prepare(rows, prepare={"near_duplicate": 0.5})
    assert done.manifest.ledger.rejected == {}
    assert sum(done.manifest.leakage.values()) == 0, "both lie on one side"
    gender = json.loads((done.folder / "audit.json").read_text())["counterfactual"][0]
    assert (gender["with_twin"], gender["other_answer"]["rows"]) == (62, 0)
    split = [each | {"split": "test" if at in (0, 61) else "train"} for at, each in enumerate(rows)]
    apart = run_prepare(split, folder="apart", prepare={"near_duplicate": 0.5})
    assert apart.manifest.ledger.rejected == {"near duplicate of a test row": 2}
    assert {record["line"] for record in apart.rejected()} == {2, 61}


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
        DataError,
        match=r"rows.jsonl would lose \d+ of \d+ rows as duplicates(.|\n)*rows.jsonl:\d+: explain(.|\n)*stop_share to 1",
    ):
        run_prepare(rows)
    done = run_prepare(rows, prepare={"stop_share": 1.0})
    assert done.manifest.ledger.rejected["duplicate"] == 150


def test_a_folder_of_small_files_that_would_lose_most_of_its_rows_stops_too(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    for number in range(30):
        write_rows(folder / f"{number}.jsonl", [row(n) for n in range(6)])
    with pytest.raises(DataError, match=r"small would lose \d+ of \d+ rows as duplicates"):
        made_of(str(folder), tmp_path, tokenizer)
    assert made_of(str(folder), tmp_path, tokenizer, stop_share=1.0).manifest.ledger.rejected["duplicate"] == 174


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
