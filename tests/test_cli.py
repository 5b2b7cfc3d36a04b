"""The command line as a stranger uses it: real recipes, a tiny real base, wrong inputs, signals, a second run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from burnish.cli import main

SLOW_STEPS = ["--set", "train.epochs=3", "--set", "train.checkpoint_every=10", "--set", "train.tokens_per_step=64"]


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with support.yaml and support.jsonl, as `burnish new` writes them, on the tiny base."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURNISH_HOME", raising=False)
    assert main(["new", "support", "-q"]) == 0
    recipe = tmp_path / "support.yaml"
    text = (
        recipe.read_text()
        .replace("smollm2-135m-instruct", str(tiny_base))
        .replace("json_valid: 0.9", "json_valid: 0.0")
    )
    recipe.write_text(text)
    return tmp_path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Run with --json; stdout must be exactly one JSON document."""
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_recipe_becomes_a_release_and_a_second_run_does_no_work(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, first = run_json(capsys, "run", "support.yaml")
    assert code == 0
    assert set(first) >= {"manifest", "plan", "adapter", "report", "release", "gate", "seconds"}
    assert first["gate"]["passed"] is True
    assert Path(first["report_path"]).read_text().startswith("<!")
    began = time.monotonic()
    assert main(["run", "support.yaml"]) == 0
    assert time.monotonic() - began < 10
    shown = capsys.readouterr()
    assert shown.err.count("already done") == 5
    assert "burnish chat support" in shown.out

    code, release = run_json(capsys, "show", "latest")
    assert (code, release["kind"], release["id"]) == (0, "release", first["release"])
    code, report = run_json(capsys, "show", first["report"][:10])
    assert {"subject", "task", "metric", "value", "low", "high", "n"} <= set(report["scores"][0])
    assert {"metric", "a", "b", "difference", "low", "high", "p"} <= set(report["comparisons"][0])
    assert {score["subject"] for score in report["scores"]} == {"base", "tuned"}

    database = project / ".burnish" / "registry" / "mlflow.db"
    database.unlink()
    assert main(["run", "support.yaml"]) == 0
    shown = capsys.readouterr()
    assert "the registry was gone; registered again from the artifacts: 1" in shown.err
    assert shown.err.count("already done") == 5
    assert database.exists()

    for path in (project / ".burnish" / "registry").iterdir():
        path.unlink()
    assert main(["run", "support.yaml", "--set", "method.rank=4"]) == 0
    assert "another plan than the last one (method.rank 4 instead of 16)" in capsys.readouterr().err
    code, changed = run_json(capsys, "run", "support.yaml", "--set", "method.rank=4")
    assert code == 0
    code, second = run_json(capsys, "show", changed["release"])
    assert second["version"] == 2, "a lost registry is made again from the artifacts, versions included"
    assert changed["manifest"] == first["manifest"]
    assert changed["adapter"] != first["adapter"]
    code, kept = run_json(capsys, "show", first["adapter"])
    assert (code, kept["method"]["rank"]) == (0, 16)

    code, answer = run_json(capsys, "chat", "support", "--once", "my parcel is late")
    assert code == 0
    assert answer["model"] == "support"
    code, listed = run_json(capsys, "show")
    assert [row["kind"] for row in listed].count("release") == 2


def test_a_failed_gate_exits_7_and_says_which_number_fell_short(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    code = main(["run", "support.yaml", "--json", "--set", "gate.exact_match=0.9"])
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert code == 7
    assert result["gate"]["passed"] is False
    assert result["release"] is None
    assert "exact_match" in result["gate"]["reasons"][0]
    assert "GateError" in shown.err
    assert "0.9" in shown.err


def test_flags_stand_before_or_after_the_verb(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["--json", "--set", "method.rank=4", "plan", "support.yaml", "--set", "train.epochs=2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["method"]["rank"], plan["train"]["epochs"]) == (4, 2.0)
    assert plan["tokens"]["exact"] is False, "nothing was prepared, so tokens are estimated, and the plan says so"
    assert plan["because"]["tokens.total"]


def test_check_finds_what_is_there_and_keeps_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run_json(capsys, "check", "support.yaml")
    assert (code, found["rows in"], found["fits"]) == (0, 96, "yes")
    assert not list((project / ".burnish" / "artifacts").rglob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["run", "none.yaml"], 2, "burnish new"),
        (["run", "support.yaml", "--set", "method=qlra"], 2, 'Did you mean "qlora"?'),
        (["run", "support.yaml", "--set", "base=smollm2-135m-instrct"], 4, "Did you mean"),
        (["run", "support.yaml", "--set", "data=none.jsonl"], 3, "none.jsonl"),
        (["run", "support.yaml", "--set", "data=empty.jsonl"], 3, "empty.jsonl"),
        (["run", "support.yaml", "--set", "data=broken.jsonl"], 3, "broken.jsonl"),
        (["run", "support.yaml", "--set", "method.targets=[q_prj]"], 2, "q_proj"),
        (["run", "support.yaml", "--set", "data=long.jsonl"], 3, "long.jsonl"),
        (["run", "support.yaml", "--home", "support.yaml/home"], 8, "--home"),
        (["chat", "nobody"], 2, "nobody"),
        (["show", "ffffffffffff"], 2, "no artifact"),
        (["fly"], 2, "invalid choice"),
        (["new", "../up"], 2, "no name"),
        (["new", "support"], 2, "exists"),
    ],
)
def test_wrong_input_gives_a_clear_error_and_its_exit_code(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, part: str
) -> None:
    (project / "empty.jsonl").write_text("")
    (project / "broken.jsonl").write_text("{\nnot json\n[1]\n")
    row = {"instruction": "word " * 2000, "response": "{}"}
    lines = (project / "support.jsonl").read_text() + json.dumps(row) + "\n"
    (project / "long.jsonl").write_text(lines)
    capsys.readouterr()
    assert main(arguments) == code
    assert part in capsys.readouterr().err
    assert main([*arguments, "--json"]) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["exit_code"] == code


def spawn(project: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "burnish", *arguments]
    return subprocess.Popen(
        command, cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_checkpoint(home: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(home.glob("work/train/*/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.02)


def adapter_sha256(result: str, home: Path) -> str:
    identifier = json.loads(result)["adapter"]
    artifact = json.loads((home / "artifacts" / "adapter" / f"{identifier}.json").read_text())
    return str(artifact["weights_file"]["sha256"])


def test_killed_or_stopped_in_training_it_goes_on_and_ends_with_the_same_bits(project: Path) -> None:
    train = ["train", "support.yaml", "--json", *SLOW_STEPS]
    undisturbed = spawn(project, *train, "--home", "whole")
    out, err = undisturbed.communicate(timeout=200)
    assert undisturbed.returncode == 0, err
    expected = adapter_sha256(out, project / "whole")

    killed = spawn(project, *train, "--home", "cut")
    wait_for_checkpoint(project / "cut", killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    stopped = spawn(project, *train, "--home", "cut")
    time.sleep(0.5)
    wait_for_checkpoint(project / "cut", stopped)
    while "going on" not in (line := stopped.stderr.readline()):  # type: ignore[union-attr]
        assert line, "the second run did not go on from the checkpoint"
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, err
    resumed = spawn(project, *train, "--home", "cut")
    out, err = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, err
    assert adapter_sha256(out, project / "cut") == expected


def test_two_runs_at_once_the_second_is_told(project: Path) -> None:
    first = spawn(project, "train", "support.yaml", "--home", "home", *SLOW_STEPS)
    try:
        wait_for_checkpoint(project / "home", first)
        second = spawn(project, "train", "support.yaml", "--home", "home", *SLOW_STEPS)
        _, err = second.communicate(timeout=120)
        assert second.returncode == 8, err
        assert f"process {first.pid}" in err
    finally:
        first.kill()
        first.communicate()


def test_help_answers_at_once() -> None:
    command = [sys.executable, "-m", "burnish", "--help"]
    seconds: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("port", ["65536", "99999", "-1", "http"])
def test_a_port_that_is_none_is_refused_before_anything_is_loaded(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", port]) == 2
    assert "from 0 (takes a free one) to 65535" in capsys.readouterr().err
