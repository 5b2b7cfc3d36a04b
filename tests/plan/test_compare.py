"""Predicted against measured, and the plan as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from burnish.core.artifacts import Plan
from burnish.plan.compare import compare, measurements, predictions
from burnish.plan.constants import constants
from burnish.plan.hardware import Hardware
from burnish.plan.memory import COMPONENTS
from burnish.plan.table import component_rows, plan_rows

MakePlan = Callable[..., Plan]


def test_a_measured_number_stands_beside_its_prediction(plan_of: MakePlan) -> None:
    plan = plan_of()
    peak, seconds = plan.memory.peak_bytes * 1.1, plan.time.train.mid * 9
    rows = {row.what: row for row in compare(plan, {"memory.peak_bytes": peak, "time.train": seconds})}
    assert set(rows) == {"memory.peak_bytes", "time.train"}
    assert rows["memory.peak_bytes"].ratio == pytest.approx(1.1)
    assert rows["memory.peak_bytes"].within
    assert rows["time.train"].ratio == pytest.approx(9)
    assert not rows["time.train"].within


def test_a_number_that_nobody_predicted_is_refused(plan_of: MakePlan) -> None:
    with pytest.raises(KeyError, match=r"no prediction is called time\.trian"):
        compare(plan_of(), {"time.trian": 1.0})


def test_nothing_measured_gives_nothing_to_compare(plan_of: MakePlan) -> None:
    assert measurements(plan_of()) == {}
    assert compare(plan_of(), {}) == []


def test_predictions_lie_in_their_own_band(plan_of: MakePlan) -> None:
    for _, band in predictions(plan_of()).values():
        assert band.low <= band.mid <= band.high


def test_the_table_says_what_value_and_because_for_every_reason(plan_of: MakePlan) -> None:
    plan = plan_of()
    rows = plan_rows(plan)
    assert {row.what for row in rows} == set(plan.because)
    values = {row.what: row.value for row in rows}
    assert values["parameters.total"] == "134.5 M"
    assert values["fits"] == "yes"
    assert values["train.row_tokens"] == f"{plan.train.row_tokens:,}"


def test_components_are_listed_largest_first(plan_of: MakePlan) -> None:
    plan = plan_of()
    rows = component_rows(plan)
    assert [row.what for row in rows] == [
        f"memory.{name}" for name, size in sorted(plan.memory.components.items(), key=lambda i: -i[1]) if size
    ]


def test_every_component_says_what_it_is(plan_of: MakePlan, machines: dict[str, Hardware]) -> None:
    pairs = plan_of(recipe={"objective": "dpo", "start_from": "flight-search"}, start="a" * 64)
    full = plan_of(hardware=machines["h100"], recipe={"method": "full"})
    bf16 = plan_of(hardware=replace(machines["laptop"], cpu_bf16=True))
    fp8 = plan_of(hardware=machines["h100"], recipe={"method": {"kind": "lora", "base_dtype": "fp8"}})
    long = plan_of(
        "llama-3.1-8b-instruct",
        machines["h100"],
        data_bytes=2_000_000,
        recipe={"train": {"row_tokens": 120_000, "memory_share": 0.3}},
    )
    dora = plan_of(recipe={"method": {"kind": "lora", "dora": True}})
    small = replace(machines["h100"], gpu_bytes=9 * 2**30)
    streamed = plan_of("llama-3.1-8b-instruct", small, recipe={"method": "lora"})
    plans = [
        *(plan_of(hardware=machine) for machine in machines.values()),
        pairs,
        full,
        bf16,
        fp8,
        long,
        dora,
        streamed,
    ]
    parts = {name for plan in plans for name in plan.memory.components}
    assert parts | {"calibration", "probe"} == set(COMPONENTS), "these two are there only after runs and probes"
    assert all(row.because for row in component_rows(plan_of()))


def test_every_constant_says_where_it_comes_from() -> None:
    for name, constant in constants().items():
        assert constant.value >= 0, name
        assert len(constant.source) > 10, name
        assert constant.date >= "2026-11-22", name
        assert "placeholder" not in constant.source, name
