"""Runs move the next prediction towards what was measured, and its band with it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from burnish.core.artifacts import Adapter, EvalReport, FileRef, Foretold, Interval, Plan, TrainMeasured
from burnish.core.dataset import TextFingerprint
from burnish.plan.calibrate import (
    PRIOR_RUNS,
    Correction,
    RunError,
    calibrated,
    corrections,
    machines,
    run_errors,
)  # fmt: skip
from burnish.plan.compare import Compared, predictions
from burnish.plan.constants import constant

MakePlan = Callable[..., Plan]


def error(
    what: str, ratio: float, *, device: str = "cpu", predicted: float = 100.0, machine: str | None = None
) -> RunError:
    unit = "bytes" if what.startswith("memory") else "seconds"
    row = Compared(what, unit, predicted, 0.8 * predicted, 1.2 * predicted, ratio * predicted)
    return RunError("run", device, row, ratio, machine)


def of(errors: list[RunError], what: str, device: str = "cpu") -> Correction:
    return corrections(errors, None)[device, what]


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
    known = corrections([error("time.train", 2.0), error("time.train", 0.5, device="cuda")], None)
    assert known["cpu", "time.train"].factor > 1 > known["cuda", "time.train"].factor


def test_a_plan_is_corrected_in_time_money_and_memory_and_says_so(plan_of: MakePlan) -> None:
    plan = plan_of()
    slow = [error("time.train", 2.0)] * 4 + [error("memory.peak_bytes", 1.1)] * 4
    known = corrections(slow, None)
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
    made = calibrated(plan, corrections([error("memory.peak_bytes", 0.7)] * 5, None))
    assert made.memory.peak_bytes == plan.memory.peak_bytes
    assert made.memory.components == plan.memory.components
    assert "a peak is not lowered" in made.because["memory.peak_bytes"]
    assert made.correction == {"memory.peak_bytes": 1.0}


def test_without_runs_a_plan_is_as_it_was(plan_of: MakePlan) -> None:
    plan = plan_of()
    assert calibrated(plan, {}) is plan
    assert calibrated(plan, corrections([error("time.train", 2.0, device="cuda")], None)) is plan


def test_a_corrected_plan_that_comes_true_teaches_the_same_again(plan_of: MakePlan) -> None:
    known = corrections([error("time.train", 2.0)] * 6, None)
    made = calibrated(plan_of(), known)
    assert made.correction is not None
    plain = made.time.train.mid / made.correction["time.train"]
    again = RunError("b", "cpu", Compared("time.train", "seconds", made.time.train.mid, 0, 1e9, 2 * plain), 2.0)
    assert of([error("time.train", 2.0)] * 6 + [again], "time.train").factor == pytest.approx(
        2 ** (7 / (7 + PRIOR_RUNS))
    )


def test_the_band_of_memory_is_that_of_the_runs_once_there_are_some(plan_of: MakePlan) -> None:
    plan = plan_of()
    assert plan.memory.peak_band == constant("memory_band")
    two = corrections([error("memory.peak_bytes", 1.2)] * 2, None)
    assert calibrated(plan, two).memory.peak_band == constant("memory_band")
    logs = [math.log(ratio) for ratio in (1.05, 1.1, 1.15)]
    middle = sum(logs) / (3 + PRIOR_RUNS)
    spread = max(abs(each - middle) for each in logs) * 4 / 3
    made = calibrated(plan, corrections([error("memory.peak_bytes", ratio) for ratio in (1.05, 1.1, 1.15)], None))
    assert made.memory.peak_band == pytest.approx(math.exp(spread) - 1)
    row = predictions(made)["memory.peak_bytes"][1]
    assert row.high == pytest.approx(made.memory.peak_bytes * math.exp(spread))


def test_the_band_of_a_peak_that_is_not_lowered_reaches_down_to_the_runs(plan_of: MakePlan) -> None:
    plan = plan_of()
    made = calibrated(plan, corrections([error("memory.peak_bytes", 0.8)] * 10, None))
    assert predictions(made)["memory.peak_bytes"][1].low < 0.8 * plan.memory.peak_bytes


def test_what_runs_measured_is_told_beside_what_it_is_taken_as() -> None:
    one = of([error("time.train", 2.0)], "time.train")
    assert one.because == "1 run here measured 2.00 times what the formulas say, taken as 1.26"
    many = of([error("time.train", ratio) for ratio in (0.5, 0.8, 2.0)], "time.train")
    assert many.ratio == pytest.approx(0.8 ** (1 / 3))
    assert "3 runs here measured 0.93 times what the formulas say, taken as 0.96, the band from " in many.because
    peak = of([error("memory.peak_bytes", 0.5)], "memory.peak_bytes")
    assert peak.factor == 1.0
    assert peak.because == "1 run here measured 0.50 times what the formulas say, and a peak is not lowered"


def test_processors_do_not_teach_each_other_and_unknown_ones_teach_all() -> None:
    slow, fast = error("time.train", 2.0, machine="A"), error("time.train", 0.5, machine="B")
    old = error("time.train", 1.0)
    errors = [slow, fast, old]
    assert machines(errors) == ("A", "B")
    assert corrections(errors, "A")["cpu", "time.train"].ratio == pytest.approx(2**0.5)
    assert corrections(errors, "B")["cpu", "time.train"].ratio == pytest.approx(0.5**0.5)
    assert corrections(errors, "C")["cpu", "time.train"].ratio == 1.0
    assert corrections([slow, fast], "C") == {}
    assert machines([old]) == (None,)
    assert machines([]) == (None,)


def test_on_a_gpu_what_no_run_measures_is_not_corrected(plan_of: MakePlan) -> None:
    plan = plan_of()
    held = {"weights": 700, "context": 200, "allocator": 100}
    memory = plan.memory.model_copy(update={"components": held, "peak_bytes": 1000})
    train = plan.train.model_copy(update={"device": "cuda"})
    plan = plan.model_copy(update={"memory": memory, "train": train})
    known = corrections([error("memory.peak_bytes", 1.5, device="cuda")], None)
    factor = 1.5 ** (1 / (1 + PRIOR_RUNS))
    made = calibrated(plan, known)
    assert made.memory.components["calibration"] == round(700 * (factor - 1))
    assert predictions(made)["memory.peak_bytes"][1].mid / factor == pytest.approx(700, rel=1e-3)


def test_a_corrected_peak_that_no_longer_fits_is_told_with_its_own_numbers(plan_of: MakePlan) -> None:
    plan = plan_of()
    memory = plan.memory.model_copy(update={"available_bytes": plan.memory.peak_bytes + 1})
    made = calibrated(plan.model_copy(update={"memory": memory, "fits": True}),
                      corrections([error("memory.peak_bytes", 2.0)] * 9, None))  # fmt: skip
    assert made.fits is False
    assert "less than the peak" in made.because["fits"]


def test_a_run_is_held_against_what_its_plan_said_when_it_began(plan_of: MakePlan) -> None:
    plan = plan_of()
    measured = TrainMeasured(
        seconds=plan.time.train.mid, peak_rss_bytes=plan.memory.peak_bytes, peak_device_bytes=0, tokens_per_second=1.0,
        first_loss=1.0, last_loss=1.0, steps=1, resumed_at_step=0,
    )  # fmt: skip
    file = FileRef(path="x", sha256="0" * 64, size_bytes=1)
    adapter = Adapter(
        name="a", base=plan.base, plan=plan.id, manifest="0" * 64, method=plan.method, weights_file=file, config_file=file,
        fingerprint=TextFingerprint.model_construct(), measured=measured,
        foretold=Foretold(machine="A", memory=plan.memory, time=plan.time, correction={"time.train": 0.5}),
    )  # fmt: skip
    later = plan.model_copy(update={"time": plan.time.model_copy(update={"train": Interval(low=1, mid=2, high=3)})})
    assert later.id == plan.id
    found = {each.compared.what: each for each in run_errors([(later, adapter, None)])}
    assert found["time.train"].compared.predicted == plan.time.train.mid
    assert found["time.train"].ratio == pytest.approx(0.5), "measured over what the formulas alone had said"
    assert {each.machine for each in found.values()} == {"A"}
    report = EvalReport.model_construct(measured_seconds=5.0, machine="B")
    assert "time.evaluate" not in {e.compared.what for e in run_errors([(later, adapter, report)])}
    report = EvalReport.model_construct(measured_seconds=5.0, machine="A")
    assert "time.evaluate" in {e.compared.what for e in run_errors([(later, adapter, report)])}


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
    assert {row["machine"] for row in found["runs"]} == {each["machine"] for each in found["corrections"]}
    assert all(row["machine"] for row in found["runs"]), "the processor is kept with the run"
    assert known["time.train"]["runs"] == 3
    assert known["time.train"]["low"] < known["time.train"]["factor"] < known["time.train"]["high"]
    assert main(["plan", "support.yaml", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["correction"]["time.train"] == pytest.approx(known["time.train"]["factor"])
    assert "3 runs here measured" in after["because"]["time.train"]
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plan", "--calibration"]) == 0
    shown = capsys.readouterr().out
    assert f"runs on {found['runs'][0]['machine']}\n" in shown
    assert f"what the next plan does with it on {found['runs'][0]['machine']}\n" in shown
    stored = sorted((tmp_path / ".burnish" / "artifacts" / "adapter").glob("*.json"))[0]
    whole = stored.read_text(encoding="utf-8")
    seconds = re.compile(r'"seconds": [0-9.]+')
    below, none = (seconds.sub(f'"seconds": {value}', whole, count=1) for value in ("-5", "NaN"))
    for damage, told in ((whole[:300], "cannot be read"), (below, "damaged"), (none, "damaged")):
        assert damage != whole
        stored.write_text(damage, encoding="utf-8")
        assert main(["plan", "--calibration"]) == 8
        message = capsys.readouterr().err
        assert told in message
        assert stored.name in message
        assert "ove it away" in message
    stored.unlink()
    assert main(["plan", "--calibration", "--json"]) == 0
    assert {each["runs"] for each in json.loads(capsys.readouterr().out)["corrections"]} == {2}
