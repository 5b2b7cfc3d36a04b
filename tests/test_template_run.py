"""Variables of the chat template hold from the first row to the last answer, and are recorded with the adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from burnish.cli import main
from burnish.core.errors import RecipeError
from burnish.core.recipe_file import parse_recipe
from burnish.data.rows import read_messages, read_token_rows

QWEN3 = Path(__file__).parent / "text" / "templates" / "qwen3.jinja"


@pytest.fixture
def desk(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`burnish new support` on a tiny base with Qwen3's template."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURNISH_HOME", raising=False)
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "chat_template.jinja").write_bytes(QWEN3.read_bytes())
    assert main(["new", "support", "-q"]) == 0
    recipe = Path("support.yaml").read_text().replace("smollm2-135m-instruct", str(base))
    Path("support.yaml").write_text(recipe.replace("json_valid: 0.9", "json_valid: 0.0"))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*arguments, "--json", "-q"])
    return code, json.loads(capsys.readouterr().out)


def test_the_same_prompt_in_training_and_in_chat(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = ("--set", "template.enable_thinking=false")
    code, done = said(capsys, "run", "support.yaml", *quiet)
    assert code == 0
    home = desk / ".burnish"
    manifest = json.loads((home / "artifacts" / "manifest" / f"{done['manifest']}.json").read_text())
    adapter = json.loads((home / "artifacts" / "adapter" / f"{done['adapter']}.json").read_text())
    assert adapter["fingerprint"]["variables"] == {"enable_thinking": False}
    split = manifest["splits"]["test"]
    row = read_messages(home / split["file"]["path"])[0]
    tokens = read_token_rows(home / split["token_file"]["path"])[0]
    code, answer = said(capsys, "chat", "support", "--once", row.messages[-2]["content"])
    assert (code, answer["prompt_tokens"]) == (0, tokens.prompt)
    cards = [path.read_text() for path in home.rglob("*.md")]
    assert any('`{"enable_thinking": false}`' in card for card in cards)

    code, other = said(capsys, "prepare", "support.yaml", "--set", "template.enable_thinking=true")
    assert code == 0
    assert other["manifest"] != done["manifest"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("template.enable_thinkng=false", 'Did you mean "enable_thinking"?'),
        ("template.messages=[]", "is what burnish gives the template itself"),
        ("template.enable_thinking=[1]", "must be true, false, a number"),
        ("template.enable_thinking=null", "must be true, false, a number"),
        ("template.enable_thinking=.nan", "must be true, false, a number"),
        ("template=yes please", "must be a mapping of keys"),
        ("template={a b: 1}", "is no name of a variable"),
    ],
)
def test_wrong_variables_are_told(desk: Path, capsys: pytest.CaptureFixture[str], change: str, words: str) -> None:
    code, told = said(capsys, "check", "support.yaml", "--set", change)
    assert (code, words in told["error"]["message"]) == (2, True), told


def test_numbers_that_json_cannot_hold_exactly_are_refused() -> None:
    short = {"name": "desk", "base": "b", "data": "rows.jsonl", "method": "lora"}
    for value in (2**60, float("inf"), "x" * 10_001, b"x", {}):
        with pytest.raises(RecipeError):
            parse_recipe(short | {"template": {"x": value}}, source="test")
