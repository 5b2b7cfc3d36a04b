"""`burnish data` as a person uses it, on the real base: show, rows, diff, forget, export, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.cli import main


def run(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str) -> tuple[int, Any]:
    code = main([*arguments, "--home", str(home), "--json", "-q"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"order {n} of Zoe Quill", "response": f"it is {n}", "split": "train"} for n in range(6)]
    rows += [{"instruction": "where is my parcel", "response": "on its way", "split": "test"}, rows[0]]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"name": "desk", "base": "smollm2-135m-instruct", "data": "rows.jsonl", "method": "lora"}
    Path("desk.yaml").write_text(yaml.safe_dump(recipe))
    assert run(capsys, tmp_path / "home", "prepare", "desk.yaml")[0] == 0
    return tmp_path / "home"


def test_a_dataset_is_shown_its_rows_printed_and_a_row_traced(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = run(capsys, prepared, "data", "show", "--report", "page.html")
    assert (code, shown["ledger"]["rows_in"], shown["ledger"]["rejected"]) == (0, 8, {"duplicate": 1})
    assert "order 0" in Path("page.html").read_text(encoding="utf-8")
    _, rows = run(capsys, prepared, "data", "rows", "--limit", "2")
    assert [row["line"] for row in rows] == [1, 2]
    _, rejected = run(capsys, prepared, "data", "rows", "--reason", "duplicate")
    assert [row["line"] for row in rejected] == [8]
    _, traced = run(capsys, prepared, "data", "rows", "--id", rows[1]["row_id"][:12])
    assert (traced["row"]["line"], traced["split"], traced["sources"]) == (2, "train", ["rows.jsonl"])


def test_what_is_forgotten_stays_out_of_the_next_dataset_and_is_written_down_nowhere(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, first = run(capsys, prepared, "data", "show")
    code, looked = run(capsys, prepared, "data", "forget", "zoe  QUILL")
    assert (code, len(looked["leave_out"]), looked["applied"]) == (0, 6, False)
    _, applied = run(capsys, prepared, "data", "forget", "rows.jsonl:3", "--document", "--apply")
    assert (len(applied["leave_out"]), applied["newly_left_out"]) == (1, 1)
    assert run(capsys, prepared, "prepare", "desk.yaml", "--set", "system=Be brief.")[0] == 0
    _, second = run(capsys, prepared, "data", "show")
    assert second["ledger"]["rejected"] == {"duplicate": 1, "forgotten": 1}, "whatever the system prompt is"
    _, rejected = run(capsys, prepared, "data", "rows", "--reason", "forgotten")
    assert [(row["line"], row["row"]) for row in rejected] == [(3, "")]
    assert "order" not in (prepared / "forgotten.json").read_text()
    run(capsys, prepared, "prepare", "desk.yaml")
    _, change = run(capsys, prepared, "data", "diff", first["id"][:12])
    assert (change["same"], change["reasons"]["removed"]) == (6, {"forgotten": 1})


def test_swapped_rows_are_written_as_a_task_and_filters_and_audit_are_told(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "swap", "out.jsonl", "--home", str(prepared)]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert main(["data", "swap", "out.jsonl", "--split", "tset", "--home", str(prepared)]) == 2
    rows = [
        {"instruction": f"Does he open door {n} of hall {n * 7}?", "response": f"He has key {n}."} for n in range(8)
    ]
    rows += [{"instruction": "where is my parcel", "response": "I can't assist with that.", "split": "test"}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(capsys, prepared, "prepare", "desk.yaml")[0] == 0
    capsys.readouterr()
    assert run(capsys, prepared, "data", "swap", "out.jsonl", "--split", "train")[1]["rows"] == 8
    first = json.loads(Path("out.jsonl").read_text().splitlines()[0])
    assert [m["content"] for m in first["messages"]] == ["Does she open door 0 of hall 0?", "She has key 0."]
    assert run(capsys, prepared, "prepare", "desk.yaml", "--set", "evaluate.tasks={swapped: out.jsonl}")[0] == 0
    _, shown = run(capsys, prepared, "data", "show", "--report", "page.html")
    assert shown["splits"]["swapped"]["rows"] == 8
    assert {each["name"]: each["marked"] for each in shown["filters"]["filters"]}["refusal"] == 1
    assert shown["audit"]["axes"][0]["groups"][0]["name"] == "men"
    page = Path("page.html").read_text(encoding="utf-8")
    assert 'id="filters"' in page
    assert 'id="audit"' in page
    capsys.readouterr()
    assert main(["data", "show", "--home", str(prepared)]) == 0
    assert "refusal" in capsys.readouterr().out


def test_a_dataset_leaves_as_datasets_and_as_a_dvc_pointer(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, done = run(capsys, prepared, "data", "export", "latest", "out", "--to", "dvc")
    assert (code, done["written"]) == (0, ["out", "out.dvc"])
    assert len(list(Path("out/data/train").glob("*.parquet"))) == 1
    assert yaml.safe_load(Path("out.dvc").read_text())["outs"][0]["path"] == "out"
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    code, error = run(capsys, prepared, "data", "export", "latest", "mine")
    assert code == 2
    assert "is there already" in error["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "nothing"), 2, "is not an id"),
        (("rows", "--split", "tset"), 2, 'Did you mean "test"'),
        (("rows", "--reason", "typo"), 3, "Reasons in this version"),
        (("rows", "--id", "ffffffffffff"), 2, "no row of dataset"),
        (("forget", "..."), 2, "no letter and no digit"),
    ],
)
def test_wrong_questions_are_answered_with_what_is_allowed(
    prepared: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    got, error = run(capsys, prepared, "data", *arguments)
    assert got == code
    assert words in error["error"]["message"]


def test_the_vault_of_a_home_turns_tokens_back(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, refused = run(capsys, prepared, "data", "reveal", "rows.jsonl")
    assert code != 0
    assert "no vault" in json.dumps(refused)
    rows = [{"instruction": f"order {n} for ann@example.com", "response": "done", "split": "train"} for n in range(4)]
    rows.append({"instruction": "where is it", "response": "here", "split": "test"})
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(capsys, prepared, "prepare", "desk.yaml", "--set", "prepare.personal_data=vault")[0] == 0
    _, kept = run(capsys, prepared, "data", "rows", "--limit", "1")
    said = kept[0]["messages"][0]["content"]
    assert "ann@" not in said
    Path("said.txt").write_text(said)
    _, text = run(capsys, prepared, "data", "reveal", "said.txt")
    assert text == {"text": "order 0 for ann@example.com"}
    assert (prepared / "private" / "key").stat().st_mode & 0o777 == 0o600
    assert (prepared / "private" / "vault.jsonl").stat().st_mode & 0o777 == 0o600
