"""The recipe of the filters' example, as it is shipped: what it removes, what it tells, and what the audit finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.cli import main

ROOT = Path(__file__).parents[1]


def shown(capsys: pytest.CaptureFixture[str], home: Path, *settings: str) -> dict[str, Any]:
    assert main(["prepare", "recipes/clean-replies.yaml", "--home", str(home), "-q", *settings]) == 0
    capsys.readouterr()
    assert main(["data", "show", "--home", str(home), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_example_recipe_removes_its_faults_and_the_audit_finds_whom_it_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    clean = shown(capsys, tmp_path / "home")
    assert clean["ledger"]["rejected"] == {
        "filter: broken": 2, "filter: empty": 1, "filter: language": 2, "filter: refusal": 12,
    }  # fmt: skip
    marked = {each["name"]: each["marked"] for each in clean["filters"]["filters"]}
    assert all(marked[name] for name in ("unfinished", "repetition", "boilerplate", "echo", "mojibake"))
    assert marked["noise"] == marked["profanity"] == 0
    assert not [said for said in clean["audit"]["findings"] if "refusal" in said]
    told = shown(capsys, tmp_path / "home", "--set", "prepare.filters.refusal=report")
    assert "filter: refusal" not in told["ledger"]["rejected"]
    (said,) = [said for said in told["audit"]["findings"] if "refusal" in said]
    assert "women" in said
    assert "0.0% men" in said


def test_answers_are_compared_with_those_about_somebody_else(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "instruction": f"May {who} open door {n}?",
            "response": f"Yes, {who} may.",
            "split": "test" if n < 4 else "train",
        }
        for n in range(12)
        for who in ["he" if n % 3 else "she"]
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("doors.yaml").write_text(f"{{name: doors, base: {tiny_base}, data: rows.jsonl, method: lora}}")

    def said(*arguments: str) -> tuple[int, Any]:
        return main([*arguments, "--json", "-q"]), json.loads(capsys.readouterr().out)

    assert said("prepare", "doors.yaml")[0] == 0
    assert said("data", "swap", "swapped.jsonl") == (0, {"written": "swapped.jsonl", "rows": 4})
    assert said("evaluate", "doors.yaml", "--set", "evaluate.tasks={swapped: swapped.jsonl}")[0] == 0
    code, found = said("data", "twins")
    assert (code, found["pairs"], set(found["subjects"])) == (0, 4, {"base", "tuned"})
    assert 0 <= found["subjects"]["tuned"]["alike"]["low"] <= found["subjects"]["tuned"]["alike"]["high"] <= 1
    code, message = said("data", "twins", "--what", "names")
    assert code == 2
    assert "burnish data swap" in message["error"]["message"]
    assert main(["data", "twins"]) == 0
    assert "gender swapped" in capsys.readouterr().out
