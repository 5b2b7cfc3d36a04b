"""A plan as rows for the terminal and the page: what, value, because."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from burnish.core.artifacts import Interval, Plan
from burnish.core.units import format_bytes, format_count, format_seconds
from burnish.plan.memory import COMPONENTS


class Row(NamedTuple):
    """One line of the table."""

    what: str
    value: str
    because: str


def plan_rows(plan: Plan) -> list[Row]:
    """Return the plan's numbers in the order a person asks for them, each with its reason."""
    values = {
        "parameters.total": format_count(plan.parameters.total),
        "parameters.trainable": format_count(plan.parameters.trainable),
        "tokens.total": format_count(plan.tokens.total),
        "memory.weights_bytes": format_bytes(plan.memory.weights_bytes),
        "memory.peak_bytes": format_bytes(plan.memory.peak_bytes),
        "fits": {True: "yes", False: "NO", None: "unknown"}[plan.fits],
        "time.train": _band(plan.time.train),
        "time.evaluate": _band(plan.time.evaluate),
        "time.total": _band(plan.time.total),
    }
    for section, record in (("method", plan.method), ("train", plan.train)):
        for key, value in record.model_dump().items():
            values.setdefault(f"{section}.{key}", _value(value))
    if plan.train.mix is not None:
        values["train.mix"] = str(plan.train.mix)
    return [Row(what, value, plan.because[what]) for what, value in values.items() if what in plan.because]


def component_rows(plan: Plan) -> list[Row]:
    """Return the components of the memory's peak, largest first."""
    ordered = sorted(plan.memory.components.items(), key=lambda item: -item[1])
    return [Row(f"memory.{name}", format_bytes(size), COMPONENTS[name]) for name, size in ordered if size]


def _band(interval: Interval) -> str:
    return f"{format_seconds(interval.mid)} ({format_seconds(interval.low)} to {format_seconds(interval.high)})"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_value, cast("tuple[Any, ...]", value)))
    return (
        f"{value:g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value)
    )
