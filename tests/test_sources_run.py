"""Several sources as a person uses them: the shipped recipe on the tiny base, from check to the page, stopped and gone on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from burnish.cli import main

ROOT = Path(__file__).parents[1]
SET = ["--set", "train.checkpoint_every=4", "--set", "train.tokens_per_step=64"]


@pytest.fixture
def desk(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example of two sources on the tiny base."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples" / "desk", tmp_path / "examples" / "desk")
    recipe = (ROOT / "recipes" / "help-desk.yaml").read_text().replace("smollm2-135m-instruct", str(tiny_base))
    (tmp_path / "desk.yaml").write_text(recipe)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*arguments, "--json", "-q"])
    return code, json.loads(capsys.readouterr().out)


def test_the_plan_and_the_pages_tell_the_mix(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = said(capsys, "check", "desk.yaml")
    assert (code, found["format"].count("tickets:")) == (0, 1)
    assert "faq: as the recipe's columns say" in found["format"]
    assert said(capsys, "prepare", "desk.yaml")[0] == 0
    _, plan = said(capsys, "plan", "desk.yaml")
    tickets, faq = plan["train"]["mix"]["sources"]
    assert (tickets["share"], faq["share"]) == (0.8, 0.2)
    drawn = tickets["drawn"] + faq["drawn"]
    assert drawn == 2 * (tickets["rows"] + faq["rows"])
    assert abs(faq["drawn"] / drawn - 0.2) < 0.02
    assert faq["drawn"] > 2 * faq["rows"]
    assert plan["tokens"]["trained"] == tickets["drawn_trained_tokens"] + faq["drawn_trained_tokens"]
    assert plan["tokens"]["exact"] is True
    code, done = said(capsys, "train", "desk.yaml", *SET)
    assert code == 0
    adapter = json.loads((desk / ".burnish" / "artifacts" / "adapter" / f"{done['adapter']}.json").read_text())
    events = (desk / ".burnish" / adapter["events_file"]["path"]).read_text().splitlines()
    steps = [json.loads(line) for line in events if '"StepDone"' in line]
    _, planned = said(capsys, "show", adapter["plan"])
    assert sum(step["tokens"] for step in steps) == planned["tokens"]["total"], "what was planned is what was trained"
    assert sum(step["trained_tokens"] for step in steps) == planned["tokens"]["trained"]
    assert len(steps) == planned["train"]["steps"]
    assert main(["data", "show", "--report", "page.html"]) == 0
    shown = capsys.readouterr().out
    assert "by source" in shown
    assert "CC0-1.0" in Path("page.html").read_text()
    _, rows = said(capsys, "data", "rows", "--limit", "100")
    assert {row["source_name"] for row in rows} == {"tickets", "faq"}
    assert {row["license"] for row in rows} == {"CC0-1.0"}


def test_a_stopped_run_goes_on_in_the_same_order(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, whole = said(capsys, "train", "desk.yaml", "--home", "whole", *SET)
    assert code == 0
    command = [sys.executable, "-m", "burnish", "train", "desk.yaml", "--json", "--home", "cut", *SET]
    cut = subprocess.Popen(
        command, cwd=desk, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not list((desk / "cut").glob("work/train/*/checkpoints/step-*")):
        assert cut.poll() is None, cut.communicate()
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.01)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    code, resumed = said(capsys, "train", "desk.yaml", "--home", "cut", *SET)
    assert code == 0

    def weights(home: str, result: dict[str, Any]) -> str:
        adapter = json.loads((desk / home / "artifacts" / "adapter" / f"{result['adapter']}.json").read_text())
        return str(adapter["weights_file"]["sha256"])

    assert weights("cut", resumed) == weights("whole", whole)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("data.faq.ratio=0", 2, "data.faq.ratio"),
        ("data.faq.ratio=-1", 2, "data.faq.ratio"),
        ("data.faq.ratio=null", 2, "give every source one"),
        ("data.faq.path=none.csv", 3, "none.csv"),
        ("data.faq.path=empty.csv", 3, "empty.csv"),
        ("data.faq.path=examples/desk/tickets.jsonl", 2, "is the path of tickets too"),
        ("data.faq.columns={user: questoin, assistant: answer}", 3, 'Did you mean "question"?'),
        ("train.order={by: source, sources: [[faqs]]}", 2, 'Did you mean "faq"?'),
        ("train.order=difficulty", 3, "have no difficulty"),
        ("train.mix.temperature=2", 2, "cannot go with ratios"),
        ("train.mix.epoch_rows=0", 2, "train.mix.epoch_rows"),
    ],
)
def test_wrong_keys_are_told(
    desk: Path, capsys: pytest.CaptureFixture[str], change: str, code: int, words: str
) -> None:
    (desk / "empty.csv").write_text("")
    found, told = said(capsys, "check", "desk.yaml", "--set", change)
    assert (found, words in told["error"]["message"]) == (code, True), told
