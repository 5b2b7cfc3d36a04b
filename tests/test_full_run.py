"""Full fine-tuning as a person uses it: from raw rows to a released model that is served, gone on from, and a base of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from burnish.cli import main
from burnish.core.artifacts import Adapter, Release
from burnish.core.events import discard
from burnish.doors.serving import open_engine_app
from burnish.store.home import Home

ROOT = Path(__file__).parents[1]
QUICK = ["--set", "train.epochs=1", "--set", "evaluate.max_new_tokens=8", "--set", "train.row_tokens=512",
         "--set", "train.tokens_per_step=512"]  # fmt: skip


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*arguments, "--json", "-q"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def desk(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped recipe on the tiny base, and one of preferences that goes on from it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples" / "desk", tmp_path / "examples" / "desk")
    recipe = (ROOT / "recipes" / "help-desk-full.yaml").read_text().replace("smollm2-135m-instruct", str(tiny_base))
    (tmp_path / "full.yaml").write_text(recipe)
    (tmp_path / "preferences.yaml").write_text(
        f"name: desk-preferences\nbase: {tiny_base}\ndata: examples/desk/preferences.jsonl\nmethod: full\nobjective: dpo\n"
        "start_from: help-desk-full\n"
    )
    return tmp_path


def test_a_fully_trained_model_is_released_served_and_gone_on_from(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, made = said(capsys, "run", "full.yaml", *QUICK)
    assert code == 0, made
    home = Home(desk / ".burnish")
    adapter = home.load(Adapter, made["adapter"])
    assert adapter.method.kind == "full"
    assert adapter.model is not None
    folder = home.path(adapter.weights_file).parent
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    report = json.loads((home.root / "artifacts" / "report" / f"{made['report']}.json").read_text())
    assert {score["subject"] for score in report["scores"]} == {"base", "tuned"}
    losses = {s["subject"]: s["value"] for s in report["scores"] if s["metric"] == "token_loss" and s["task"] == "test"}
    assert losses["tuned"] < losses["base"]
    card = next((home.root / "reports").rglob("card.md")).read_text()
    assert "Every weight of" in card
    assert "library_name: transformers" in card

    engine = open_engine_app(home, discard)
    try:
        assert engine.version("help-desk-full") == "help-desk-full:1"
    finally:
        engine.close()

    code, second = said(capsys, "run", "preferences.yaml", *QUICK)
    assert code == 0, second
    going_on = home.load(Adapter, second["adapter"])
    assert adapter.id in going_on.parents
    assert going_on.model is not None
    assert going_on.model.digest != adapter.model.digest

    code, third = said(
        capsys, "run", "full.yaml", *QUICK, "--set", "name=on-top", "--set", f"base={folder}", "--set", "method=lora"
    )
    assert code == 0, third
    assert home.load(Adapter, third["adapter"]).base.digest == adapter.model.digest
    assert {release.name for release in home.all(Release)} == {"help-desk-full", "desk-preferences", "on-top"}


def test_an_adapter_cannot_go_on_from_a_model_nor_keep_keys_of_the_other_kind(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, made = said(capsys, "run", "full.yaml", *QUICK)
    assert code == 0, made
    code, told = said(capsys, "plan", "preferences.yaml", "--set", "method=lora", *QUICK)
    assert code != 0 or told
    code, told = said(capsys, "run", "preferences.yaml", "--set", "method=lora", *QUICK)
    assert code == 2
    assert "was trained with method: full" in json.dumps(told)
    code, told = said(capsys, "plan", "full.yaml", "--set", "method={kind: full, rank: 8}")
    assert code == 2
    assert "method full has none" in json.dumps(told)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["method=lora", "train.optimizer=muon"], "is for every weight, not for lora"),
        (["method=lora", "train.optimizer_in_backward=true"], "gains nothing"),
        (["train.optimizer=paged_adamw_8bit"], "there is no GPU here. Use adamw_8bit"),
        (["train.optimizer=sgd"], "must be 'adamw', 'adamw_8bit'"),
        (["train.optimizer_in_backward=true", "train.row_tokens=256", "train.tokens_per_step=1024"], "updates in every backward"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_before_anything_is_loaded(
    desk: Path, capsys: pytest.CaptureFixture[str], settings: list[str], says: str
) -> None:
    code, told = said(capsys, "plan", "full.yaml", *(part for each in settings for part in ("--set", each)))
    assert code == 2
    assert says in json.dumps(told)


def test_the_plan_counts_every_weight_and_the_states_of_its_optimizer(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = {}
    for optimizer in ("adamw", "adamw_8bit", "muon", "adafactor"):
        code, plan = said(capsys, "plan", "full.yaml", "--set", f"train.optimizer={optimizer}")
        assert code == 0, plan
        counted[optimizer] = plan["memory"]["components"]["optimizer"]
        assert plan["parameters"]["trainable"] == plan["parameters"]["total"]
        assert plan["memory"]["components"]["gradients"] == 4 * plan["parameters"]["total"]
    assert counted["adamw"] == 8 * plan["parameters"]["total"]
    assert counted["adafactor"] < counted["adamw_8bit"] < counted["muon"] < counted["adamw"]
    code, plan = said(capsys, "plan", "full.yaml", "--set", "train.optimizer_in_backward=true")
    assert plan["train"]["rows_per_step"] == 1
    assert plan["memory"]["components"]["gradients"] < 2 * plan["parameters"]["total"]
