"""`burnish plan --probe`: a few steps of the run are made here, and plans go by what they took."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from burnish.cli import main
from burnish.core.artifacts import Adapter, Plan, Probe
from burnish.model.lora_bank import Group
from burnish.model.lora_parts import PlainPart
from burnish.store.home import Home

SHORT = ("--set", "train.epochs=30", "--set", "train.tokens_per_step=256", "--set", "train.row_tokens=256")
Said = Callable[..., dict[str, Any]]


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe on the tiny base, of some fifty short steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURNISH_HOME", raising=False)
    assert main(["new", "support", "-q"]) == 0
    recipe = tmp_path / "support.yaml"
    recipe.write_text(recipe.read_text().replace("smollm2-135m-instruct", str(tiny_base)))
    return tmp_path


@pytest.fixture
def said(project: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """Run a verb on the recipe and return its JSON."""

    def run(verb: str, *arguments: str, code: int = 0) -> dict[str, Any]:
        assert main([verb, "support.yaml", *SHORT, "--json", "-q", *arguments]) == code
        return json.loads(capsys.readouterr().out)

    return run


def test_a_probe_is_kept_and_plans_of_its_shape_go_by_it(said: Said, project: Path) -> None:
    before = said("plan")
    probed = said("plan", "--probe")
    home = Home(project / ".burnish")
    [probe] = home.all(Probe)
    took = probe.measured
    assert took.steps >= 15
    assert (took.rows > 0, took.generated_tokens) == (True, 8 * took.rows)
    assert took.peak_bytes > 50_000_000
    assert not list(home.root.glob("probe-*"))

    assert probed["time"]["train"]["mid"] == pytest.approx(probed["tokens"]["total"] * took.seconds / took.tokens)
    assert took.spread > 0
    band = max(0.15, min(0.9, 2 * took.spread))
    assert probed["time"]["train"]["high"] == pytest.approx((1 + band) * probed["time"]["train"]["mid"])
    assert probed["memory"]["peak_bytes"] == sum(probed["memory"]["components"].values())
    assert probed["memory"]["peak_bytes"] == pytest.approx(took.peak_bytes, rel=0.1)
    assert f"a probe here: {took.steps} steps" in probed["because"]["time.train"]
    assert "a probe here held" in probed["because"]["memory.peak_bytes"]
    assert probed["correction"]["time.train"] > 0
    assert before["correction"] is None

    again = said("plan")
    assert again["id"] == probed["id"]
    assert again["time"] == probed["time"]
    other = said("plan", "--set", "method.rank=4")
    assert "a probe here" not in other["because"]["time.train"]


def test_answering_and_reading_are_timed_with_an_adapter_as_of_a_tuned_model(
    said: Said, project: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down, tokens = PlainPart.down, list[int]()

    def counted(part: PlainPart, x_NI: Tensor, group: Group) -> Tensor:
        tokens.append(x_NI.shape[0])
        return down(part, x_NI, group)

    monkeypatch.setattr(PlainPart, "down", counted)
    said("plan", "--probe")
    [probe] = Home(project / ".burnish").all(Probe)
    groups = 4 * json.loads((tiny_base / "config.json").read_text())["num_hidden_layers"]  # q k v, o, gate up, down
    assert sum(tokens) >= groups * (probe.measured.generated_tokens + probe.measured.read_tokens)


def test_a_run_goes_by_the_probe_and_is_held_against_it(said: Said, project: Path) -> None:
    said("plan", "--probe")
    said("train")
    home = Home(project / ".burnish")
    adapter = home.all(Adapter)[0]
    plan = home.load(Plan, adapter.plan)
    assert "a probe here" in plan.because["time.train"]
    calibration = said_calibration(project)
    row = next(row for row in calibration["runs"] if row["what"] == "time.train")
    assert row["predicted"] == pytest.approx(plan.time.train.mid)
    assert row["ratio_to_formulas"] == pytest.approx(
        row["measured"] / row["predicted"] * (plan.correction or {})["time.train"]
    )


def said_calibration(project: Path) -> dict[str, Any]:
    """What the home knows of predicted against measured."""
    from burnish.doors.planning import calibration
    from burnish.plan.table import calibration_document

    return calibration_document(*calibration(Home(project / ".burnish")))


def test_a_run_shorter_than_a_probe_is_probed_whole(said: Said, project: Path) -> None:
    said("plan", "--probe", "--set", "train.epochs=1", "--set", "train.tokens_per_step=1024")
    [probe] = Home(project / ".burnish").all(Probe)
    assert 1 <= probe.measured.steps < 15


def test_the_list_of_artifacts_says_what_a_probe_measured(
    said: Said, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said("plan", "--probe")
    assert main(["show"]) == 0
    [probe] = Home(project / ".burnish").all(Probe)
    assert f"{probe.measured.steps} steps on" in capsys.readouterr().out


@pytest.mark.parametrize("more", [("--gpu", "h100"), ("--gpus", "t4,h100"), ("--fit", "1GB"), ("--deadline", "2h")])
def test_a_probe_for_another_machine_is_refused(said: Said, project: Path, more: tuple[str, str]) -> None:
    message = said("plan", "--probe", *more, code=2)["error"]["message"]
    assert "--probe measures this machine" in message
    assert not Home(project / ".burnish").all(Probe)


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_in_a_probe_ends_it_and_keeps_nothing_of_it(said: Said, project: Path, presses: int) -> None:
    slow = ("--set", "train.epochs=100", "--set", "train.tokens_per_step=65536", "--set", "train.row_tokens=512")
    process = subprocess.Popen(
        [sys.executable, "-m", "burnish", "plan", "support.yaml", "--probe", "--json", *slow],
        cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    home, until = Home(project / ".burnish"), time.monotonic() + 60
    while not list(home.root.glob("probe-*/events.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["error"]["type"] == "Interrupted"
    assert "ending the probe after this step; press Ctrl-C again to stop at once" in err
    assert ("the probe was stopped; nothing is kept of it" in err) or presses == 2
    assert "Traceback" not in err
    assert not home.all(Probe)
    assert not list(home.root.glob("probe-*"))
    assert "a probe here" in said("plan", "--probe")["because"]["time.train"], "and the next one is made as ever"
