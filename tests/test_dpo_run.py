"""Preferences as a person uses them: the two shipped recipes on the tiny base, from the adapter of the first to the page."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from burnish.cli import main
from burnish.core.artifacts import Adapter, Manifest, Plan
from burnish.core.events import discard
from burnish.store.home import Home
from burnish.subjects import ModelSubject
from burnish.wiring import load_for_serving, open_base
from burnish.wiring.evaluating import eval_rows, on_layers, subjects, with_bank

ROOT = Path(__file__).parents[1]
SMALL = ["--set", "train.epochs=1", "--set", "evaluate.max_new_tokens=8", "--set", "evaluate.forgetting=false"]
QUICK = [*SMALL, "--set", "train.row_tokens=512", "--set", "train.tokens_per_step=2048"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*arguments, "--json", "-q"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def desk(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The help desk's two recipes on the tiny base."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples" / "desk", tmp_path / "examples" / "desk")
    for name in ("help-desk", "help-desk-preferences"):
        recipe = (ROOT / "recipes" / f"{name}.yaml").read_text().replace("smollm2-135m-instruct", str(tiny_base))
        (tmp_path / f"{name}.yaml").write_text(recipe)
    return tmp_path


def artifact(folder: Path, kind: str, identifier: str) -> dict[str, Any]:
    return json.loads((folder / ".burnish" / "artifacts" / kind / f"{identifier}.json").read_text())


def assert_a_bank_answers_as_layers_do(home: Home, plan_id: str, adapter_id: str, manifest_id: str) -> None:
    """Base, start and tuned read and answer the test rows in a bank as with the adapter on the layers, in float32."""
    plan, adapter = home.load(Plan, plan_id), home.load(Adapter, adapter_id)
    plan = plan.model_copy(update={"train": plan.train.model_copy(update={"compute_dtype": "float32"})})
    assert plan.start is not None
    base = open_base(plan.base.name, discard)
    start, tuned = (home.path(each.weights_file).parent for each in (home.load(Adapter, plan.start), adapter))
    plain = load_for_serving(base, plan, discard)
    assert with_bank(plain, plan.model_copy(update={"method": plan.method.model_copy(update={"dora": True})})) is None
    layers = {name: ModelSubject(lent, frozenset()) for name, lent in on_layers(plain, start, tuned).items()}
    bank = subjects(adapter, plan, base, home, discard)
    assert list(bank) == list(layers) == ["base", "start", "tuned"]
    rows = [row.tokens for row in eval_rows(home.load(Manifest, manifest_id).splits["test"], home)]
    nats: dict[str, float] = {}
    for name, subject in bank.items():
        read, other = subject.read(rows), layers[name].read(rows)
        nats[name] = sum(each[0] for each in read)
        assert [each[0] for each in read] == pytest.approx([each[0] for each in other], rel=1e-4)
        prompts = [row.ids[: row.prompt] for row in rows]
        begun = [row.ids[row.prompt :][:agreed] for row, (*_, agreed) in zip(rows, read, strict=True)]
        told: list[tuple[int, int]] = []
        answers = subject.complete(prompts, begun, 12, lambda done, total, told=told: told.append((done, total)))
        assert answers == layers[name].complete(prompts, [()] * len(rows), 12, lambda done, total: None)
        assert told[-1] == (len(rows), len(rows))
    assert len({round(each, 3) for each in nats.values()}) == 3, "the adapters change nothing: this shows nothing"


def test_preferences_go_on_from_a_released_specialist(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, first = said(capsys, "run", "help-desk.yaml", *QUICK)
    assert code == 0, first
    code, second = said(capsys, "run", "help-desk-preferences.yaml", *QUICK, "--set", "gate={preference_accuracy: 0.1}")
    assert code == 0, second
    plan = artifact(desk, "plan", second["plan"])
    assert plan["start"] == first["adapter"]
    assert plan["train"]["preference"]["kind"] == "dpo"
    assert plan["train"]["learning_rate"] == 5e-5
    assert plan["memory"]["components"]["reference"] == plan["memory"]["components"]["adapter"]
    adapter = artifact(desk, "adapter", second["adapter"])
    assert first["adapter"] in adapter["parents"]
    report = artifact(desk, "report", second["report"])
    metrics = {(score["subject"], score["metric"]) for score in report["scores"] if score["task"] == "test"}
    for subject in ("base", "start", "tuned"):
        assert {(subject, "preference_accuracy"), (subject, "preference_margin")} <= metrics
    assert ("tuned", "reward_accuracy") in metrics
    assert ("start", "reward_accuracy") not in metrics
    assert {(c["a"], c["b"]) for c in report["comparisons"]} == {("tuned", "base"), ("tuned", "start")}
    rows = [json.loads(line) for line in (desk / ".burnish" / report["rows_file"]["path"]).read_text().splitlines()]
    assert all(row["rejected"] and row["subjects"]["tuned"]["rejected_loss"]["tokens"] > 0 for row in rows)
    events = (desk / ".burnish" / adapter["events_file"]["path"]).read_text().splitlines()
    steps = [json.loads(line) for line in events if '"StepDone"' in line]
    assert all(
        {"reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy"} == s["told"].keys() for s in steps
    )
    assert_a_bank_answers_as_layers_do(Home(desk / ".burnish"), second["plan"], second["adapter"], second["manifest"])
    page = Path(second["report_path"]).read_text()
    assert "prefers the chosen" in page
    assert "tuned minus start" in page
    code, again = said(capsys, "run", "help-desk-preferences.yaml", *QUICK, "--set", "gate={preference_accuracy: 0.1}")
    assert (code, again["adapter"]) == (0, second["adapter"])


def test_preferences_need_no_adapter_to_go_on_from(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--set", "start_from=null", "--set", "gate={reward_accuracy: 0.99}", "--set", "train.learning_rate=1e-7"]
    code, found = said(capsys, "run", "help-desk-preferences.yaml", *QUICK, *changes)
    assert code != 0
    assert "reward_accuracy" in json.dumps(found)
    code, plan = said(capsys, "plan", "help-desk-preferences.yaml", *QUICK, "--set", "start_from=null")
    assert (code, plan["start"]) == (0, None)
    assert "reference" not in plan["memory"]["components"]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (["start_from=help-dask"], 2, "no specialist is released by this name"),
        (["objective=dpoo"], 2, 'Did you mean "dpo"?'),
        (["objective={kind: dpo, beta: 0}"], 2, "objective.beta"),
        (["objective={kind: dpo, loss: ipo, label_smoothing: 0.1}"], 2, "only the sigmoid loss has it"),
        (["objective={kind: sft, beta: 0.2}"], 2, "belongs to preference pairs"),
        (["objective.kind=sft"], 2, "belongs to preference pairs"),
        (["objective=sft", "gate={}", "start_from=null"], 3, "objective: sft trains on conversations"),
        (["data=examples/desk/tickets.jsonl", "start_from=null"], 3, "not a preference pair"),
    ],
)
def test_what_does_not_fit_is_told(
    desk: Path, capsys: pytest.CaptureFixture[str], changes: list[str], code: int, words: str
) -> None:
    asked = [part for change in changes for part in ("--set", change)]
    found, told = said(capsys, "prepare" if code == 3 else "plan", "help-desk-preferences.yaml", *asked)
    assert (found, words in told["error"]["message"]) == (code, True), told


def test_an_adapter_of_another_shape_is_refused_with_what_to_set(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, first = said(capsys, "train", "help-desk.yaml", *QUICK)
    assert code == 0
    changes = ["--set", f"start_from={first['adapter'][:12]}", "--set", "method={kind: lora, rank: 8}"]
    code, told = said(capsys, "train", "help-desk-preferences.yaml", *QUICK, *changes)
    assert code == 2
    assert "method.rank" in told["error"]["message"]
    assert "has 16" in told["error"]["message"]


def test_the_example_is_what_its_script_writes(tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    subprocess.run([sys.executable, str(ROOT / "examples" / "desk" / "pairs.py"), "--out", str(out)], check=True)
    assert out.read_bytes() == (ROOT / "examples" / "desk" / "preferences.jsonl").read_bytes()
