"""Several named sources become one dataset, and each is told by name: in rows, ledger, splits and manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from preparing import Prepare, write_rows

from burnish.core.errors import DataError, RecipeError
from burnish.data.order import run_order


def pairs(word: str, count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"instruction": f"{word} number {n} of {n * 7}", "response": f"{word} {n}", **more} for n in range(count)]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    write_rows(tmp_path / "b.jsonl", [{"q": f"what is {n}", "a": f"{n}!", "difficulty": n / 10} for n in range(10)])
    rows = [*pairs("order", 20), {"instruction": "order number 3 of 21", "response": "order 3"}, b"{broken"]
    rows[0]["license"] = "mit"
    write_rows(tmp_path / "a.jsonl", rows)
    return {
        "tickets": {"path": str(tmp_path / "a.jsonl"), "license": "cc-by-4.0"},
        "manuals": {"path": str(tmp_path / "b.jsonl"), "columns": {"user": "q", "assistant": "a"}},
    }


def test_rows_ledger_splits_and_files_tell_their_source(run_prepare: Prepare, sources: dict[str, Any]) -> None:
    done = run_prepare([], data=sources)
    ledger = done.manifest.ledger
    assert ledger.sources is not None
    assert (ledger.rows_in, ledger.rows_kept) == (32, 30)
    tickets, manuals = ledger.sources["tickets"], ledger.sources["manuals"]
    assert (tickets.rows_in, tickets.rows_kept, tickets.rejected) == (22, 20, {"broken JSON": 1, "duplicate": 1})
    assert (manuals.rows_in, manuals.rows_kept, manuals.rejected) == (10, 10, {})
    assert [file.source for file in done.manifest.sources] == ["tickets", "manuals"]
    rows = done.rows("train") + done.rows("test")
    assert sorted({(row.source, row.source_name) for row in rows}) == [("a.jsonl", "tickets"), ("b.jsonl", "manuals")]
    assert {row.license for row in rows if row.source_name == "tickets"} == {"mit", "cc-by-4.0"}
    assert {row.license for row in rows if row.source_name == "manuals"} == {None}
    assert {row.difficulty for row in rows if row.source_name == "manuals"} == {n / 10 for n in range(10)}
    for name, split in done.manifest.splits.items():
        assert split.sources is not None
        assert {k: s.rows for k, s in split.sources.items()} == {
            k: sum(row.source_name == k for row in done.rows(name)) for k in ("tickets", "manuals")
        }
        assert sum(source.tokens for source in split.sources.values()) == split.tokens
        assert sum(source.trained_tokens for source in split.sources.values()) == split.trained_tokens


def test_one_source_tells_no_names_and_tasks_stay_tasks(run_prepare: Prepare, sources: dict[str, Any]) -> None:
    alone = run_prepare(pairs("order", 20), folder="alone").manifest
    assert alone.ledger.sources is None
    assert alone.splits["train"].sources is None
    assert "sources" not in json.dumps(alone.identity()["splits"])
    tested = run_prepare([], tasks={"own": pairs("task", 4)}, folder="tasks", data=sources).manifest
    assert tested.splits["own"].rows == 4
    assert tested.splits["own"].sources == alone.splits["train"].sources or tested.splits["own"].sources is not None
    assert tested.ledger.sources is not None
    assert sum(source.rows_in for source in tested.ledger.sources.values()) == tested.ledger.rows_in - 4


def test_the_same_rows_give_the_same_dataset_and_names_count(run_prepare: Prepare, sources: dict[str, Any]) -> None:
    first = run_prepare([], folder="first", data=sources).manifest
    assert run_prepare([], folder="second", data=sources).manifest.id == first.id
    with_ratios = {name: {**source, "ratio": 2} for name, source in sources.items()}
    assert run_prepare([], folder="third", data=with_ratios).manifest.id == first.id, "what is drawn is no part of it"
    other = {"tickets": sources["tickets"], "books": sources["manuals"]}
    assert run_prepare([], folder="fourth", data=other).manifest.id != first.id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"manuals": {"path": "none.jsonl"}}, "none.jsonl"),
        ({"manuals": {"path": "EMPTY"}}, "empty.jsonl"),
        ({"manuals": {"path": "BROKEN"}}, "no usable row"),
    ],
)
def test_a_source_without_rows_is_told(
    run_prepare: Prepare, sources: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text("{\n[1]\n")
    for source in change.values():
        source["path"] = {"EMPTY": "empty.jsonl", "BROKEN": "broken.jsonl"}.get(source["path"], source["path"])
        source["path"] = str(tmp_path / source["path"])
    with pytest.raises(DataError, match=words):
        run_prepare([], data=sources | change)


def test_a_wrong_mapping_of_one_source_names_it(run_prepare: Prepare, sources: dict[str, Any]) -> None:
    sources["manuals"]["columns"] = {"usr": "q"}
    with pytest.raises(RecipeError, match=r"data.manuals.columns.usr"):
        run_prepare([], data=sources)
    assert run_order is not None
