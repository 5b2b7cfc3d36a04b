"""Runs move the next prediction towards what was measured, and its band with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from burnish.core.artifacts import Plan
from burnish.plan.calibrate import PRIOR_RUNS, Correction, RunError, calibrated, corrections, memory_band
from burnish.plan.compare import Compared
from burnish.plan.constants import constant

MakePlan = Callable[..., Plan]


def error(what: str, ratio: float, *, device: str = "cpu", predicted: float = 100.0) -> RunError:
    unit = "bytes" if what.startswith("memory") else "seconds"
    row = Compared(what, unit, predicted, 0.8 * predicted, 1.2 * predicted, ratio * predicted)
    return RunError("run", device, row, ratio)


def of(errors: list[RunError], what: str, device: str = "cpu") -> Correction:
    return corrections(errors)[device, what]


def test_one_run_moves_a_prediction_by_a_third_and_leaves_the_band() -> None:
    found = of([error("time.train", 2.0)], "time.train")
    assert found.factor == pytest.approx(2 ** (1 / (1 + PRIOR_RUNS)))
    assert (found.low, found.high, found.runs) == (None, None, 1)
    assert found.mean_error == pytest.approx(0.5)
    assert found.within == 0.0


def test_many_runs_give_their_mean_and_a_band_that_holds_all_of_them() -> None:
    ratios = [1.4, 1.5, 1.6, 1.45, 1.55] * 8
    found = of([error("time.train", ratio) for ratio in ratios], "time.train")
    assert found.factor == pytest.approx(1.5, rel=0.03)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1.4
    assert found.high > 1.6
    assert found.high / found.factor < 1.15


def test_runs_without_any_spread_still_leave_a_band() -> None:
    found = of([error("time.train", 1.0)] * 20, "time.train")
    assert found.high == pytest.approx(1.03)
    assert found.low == pytest.approx(1 / 1.03)


def test_devices_do_not_teach_each_other() -> None:
    known = corrections([error("time.train", 2.0), error("time.train", 0.5, device="cuda")])
    assert known["cpu", "time.train"].factor > 1 > known["cuda", "time.train"].factor


def test_a_plan_is_corrected_in_time_money_and_memory_and_says_so(plan_of: MakePlan) -> None:
    plan = plan_of()
    slow = [error("time.train", 2.0)] * 4 + [error("memory.peak_bytes", 1.1)] * 4
    known = corrections(slow)
    made = calibrated(plan, known)
    factor = known["cpu", "time.train"].factor
    assert made.time.train.mid == pytest.approx(plan.time.train.mid * factor)
    assert made.time.evaluate == plan.time.evaluate
    assert made.time.total.mid - plan.time.total.mid == pytest.approx(made.time.train.mid - plan.time.train.mid)
    assert made.cost is not None
    assert plan.cost is not None
    assert made.cost.usd is not None
    assert plan.cost.usd is not None
    assert made.cost.usd.mid / plan.cost.usd.mid == pytest.approx(made.time.total.mid / plan.time.total.mid)
    assert made.memory.peak_bytes > plan.memory.peak_bytes
    assert sum(made.memory.components.values()) == made.memory.peak_bytes
    assert "4 runs here measured" in made.because["time.train"]
    assert "4 runs here measured" in made.because["memory.peak_bytes"]
    assert made.id == plan.id, "what was learnt changes no decision"
    assert made.correction == {"time.train": factor, "memory.peak_bytes": known["cpu", "memory.peak_bytes"].factor}


def test_a_peak_that_was_predicted_too_high_is_not_lowered(plan_of: MakePlan) -> None:
    plan = plan_of()
    made = calibrated(plan, corrections([error("memory.peak_bytes", 0.7)] * 5))
    assert made.memory == plan.memory
    assert made.correction == {"memory.peak_bytes": 1.0}


def test_without_runs_a_plan_is_as_it_was(plan_of: MakePlan) -> None:
    plan = plan_of()
    assert calibrated(plan, {}) is plan
    assert calibrated(plan, corrections([error("time.train", 2.0, device="cuda")])) is plan


def test_a_corrected_plan_that_comes_true_teaches_the_same_again(plan_of: MakePlan) -> None:
    known = corrections([error("time.train", 2.0)] * 6)
    made = calibrated(plan_of(), known)
    assert made.correction is not None
    plain = made.time.train.mid / made.correction["time.train"]
    again = RunError("b", "cpu", Compared("time.train", "seconds", made.time.train.mid, 0, 1e9, 2 * plain), 2.0)
    assert of([error("time.train", 2.0)] * 6 + [again], "time.train").factor == pytest.approx(
        2 ** (7 / (7 + PRIOR_RUNS))
    )


def test_the_band_of_memory_is_that_of_the_runs_once_there_are_some() -> None:
    assert memory_band({}, "cpu") == constant("memory_band")
    known = corrections([error("memory.peak_bytes", ratio) for ratio in (0.95, 1.0, 1.05)])
    logs = [math.log(ratio) for ratio in (0.95, 1.0, 1.05)]
    middle = sum(logs) / (3 + PRIOR_RUNS)
    spread = max(abs(each - middle) for each in logs) * 4 / 3
    assert memory_band(known, "cpu") == pytest.approx(math.exp(spread) - 1)


def test_stored_runs_are_read_and_used(
    tmp_path: Any, tiny_base: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from burnish.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURNISH_HOME", raising=False)
    assert main(["plan", "--calibration"]) == 0
    assert "no run of this home was measured yet" in capsys.readouterr().out
    assert main(["plan"]) == 2
    assert "which recipe" in capsys.readouterr().err
    assert main(["new", "support", "-q"]) == 0
    recipe = tmp_path / "support.yaml"
    recipe.write_text(recipe.read_text().replace("smollm2-135m-instruct", str(tiny_base)), encoding="utf-8")
    capsys.readouterr()
    assert main(["plan", "support.yaml", "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert before["correction"] is None
    for rank in ("4", "8", "16"):
        assert main(["train", "support.yaml", "-q", "--set", f"method.rank={rank}"]) == 0
    capsys.readouterr()
    assert main(["plan", "--calibration", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in found["runs"]] == ["memory.peak_bytes", "time.train"] * 3
    known = {each["what"]: each for each in found["corrections"]}
    assert known["time.train"]["runs"] == 3
    assert known["time.train"]["low"] < known["time.train"]["factor"] < known["time.train"]["high"]
    assert main(["plan", "support.yaml", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["correction"]["time.train"] == pytest.approx(known["time.train"]["factor"])
    assert "3 runs here measured" in after["because"]["time.train"]
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plan", "--calibration"]) == 0
    assert "what the next plan does with it" in capsys.readouterr().out
