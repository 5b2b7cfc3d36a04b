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
