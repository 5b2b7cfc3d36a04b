"""Seconds of a step of the plain loop: by hand, and held against two GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config
from burnish.plan.footprint import Job
from burnish.plan.gpus import get_gpu
from burnish.plan.step_time import StepSeconds, operations, step_seconds

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LLAMA = read_architecture(find_config("llama-3.1-8b-instruct"))
LINEARS, HEAD = 6_979_321_856, 128_256 * 4096


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (BENCHMARKS / "results" / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def plan_time(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plan_time  # pyright: ignore[reportMissingImports]

    return plan_time


def test_operations_by_hand() -> None:
    products, attention = operations(LLAMA, Job("full", 1, 2048))
    assert products == 2048 * 6 * (LINEARS + HEAD)
    assert attention == 2048 * 2048 / 2 * 4096 * 32 * 14
    products, attention = operations(LLAMA, Job("lora", 2, 1024, 32))
    assert products == 2048 * (6 * LINEARS + 4 * HEAD + 6 * 41_943_040), "recomputing everything: 6 for 4"
    assert attention == 2048 * 1024 / 2 * 4096 * 32 * 18


def test_the_slower_of_gpu_and_host_decides() -> None:
    assert StepSeconds(1.0, 0.1).total == pytest.approx(1.0, abs=1e-6)
    assert StepSeconds(0.1, 1.0).total == pytest.approx(1.0, abs=1e-6)
    assert StepSeconds(1.0, 1.0).total == pytest.approx(2 ** (1 / 6))


def test_more_work_takes_longer() -> None:
    h100, job = get_gpu("h100"), Job("lora", 1, 2048)
    plain = step_seconds(LLAMA, job, h100)
    for more in ({"method": "qlora"}, {"checkpointed_layers": 16}, {"rank": 256}, {"rows": 2}):
        found = step_seconds(LLAMA, replace(job, **more), h100)
        assert found.gpu > plain.gpu, more
        assert found.host >= plain.host
    assert step_seconds(LLAMA, job, get_gpu("a100")).gpu > plain.gpu
    assert step_seconds(LLAMA, job, get_gpu("h200")).gpu < plain.gpu, "the same arithmetic, more bandwidth"


@pytest.mark.parametrize(("part", "count", "least"), [("fit", 69, 0.9), ("held-out", 39, 0.85)])
def test_steps_on_an_h100_are_within_a_fifth(part: str, count: int, least: float, plan_time: Any) -> None:
    rows = [row for row in rows_of("plan_memory.jsonl") if row["part"] == part]
    off = [abs(plan_time.planned_plain(row, row["gpu"]) / row["seconds"] - 1) for row in rows]
    assert len(off) == count
    assert fmean(each <= 0.2 for each in off) >= least
    assert fmean(off) < 0.12


def test_steps_on_an_h200_that_no_formula_was_fitted_to(plan_time: Any) -> None:
    rows = [row for row in rows_of("plan_time_h200.jsonl") if row["loop"] == "plain"]
    for row in rows:
        row["planned"] = plan_time.planned_plain(row, row["gpu"])
        row["predicted_peak"] = sum(plan_time.plan_memory.predict(row).values())
    off = [plan_time.errors(row) for row in rows]
    assert sum(abs(each.planned) <= 0.2 for each in off) >= 7
    assert len(off) == 8
    assert max(abs(each.peak) for each in off) < 0.005
    assert fmean(abs(each.first) for each in off) < 0.1, (
        "the bar is 5% for nine tenths: missed where the host launches, and it is shared"
    )


def test_runs_that_do_not_wander_are_foretold_by_their_probe(plan_time: Any) -> None:
    rows = [row for row in rows_of("plan_time_probe_h200.jsonl") if row["loop"] == "plain"]
    steady = [plan_time.errors(row) for row in rows if abs(plan_time.wandered(row)) <= 0.05]
    assert (len(rows), len(steady)) == (53, 34)
    assert max(abs(each.first) for each in steady) <= 0.05
    assert sum(abs(each.probe) <= 0.05 for each in steady) >= 33
    waited = [plan_time.errors(row) for row in rows if plan_time.waited(row) >= plan_time.LEAST_WAIT]
    assert len(waited) == 30
    assert sum(abs(each.probe) <= 0.05 for each in waited) >= 29, "nine tenths, where the GPU decides"


def test_constants_are_found_again_from_rows_that_they_made(plan_time: Any) -> None:
    """Seconds made by other constants than ours lead the fit back to them, within the bounds that it is given."""
    import fit_constants  # pyright: ignore[reportMissingImports]

    shape = {"base": "llama-3.2-1b-instruct", "recomputed": "none", "gpu": "NVIDIA H100 80GB HBM3", "part": "fit"}
    rows = [shape | {"method": "lora", "rows": 1, "row_tokens": tokens} for tokens in (512, 8192)]
    truth = {"plain_launch_seconds": 1.2e-5, "plain_product_share": 0.45}
    with fit_constants.instead(truth):
        made = [row | {"seconds": fit_constants.planned(row)} for row in rows]
    assert fit_constants.off(made, truth) == pytest.approx([0.0, 0.0])
    bounds = {name: fit_constants.PLAIN[name] for name in truth}
    found = fit_constants.fit(bounds, lambda values: fmean(map(abs, fit_constants.off(made, values))))
    assert found == pytest.approx(truth, rel=0.02)
    narrow = fit_constants.fit({"plain_product_share": (0.5, 0.8)}, lambda values: values["plain_product_share"])
    assert narrow == {"plain_product_share": 0.5}, "no further than the bound"
