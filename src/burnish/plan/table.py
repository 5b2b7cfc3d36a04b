"""A plan as rows for the terminal and the page: what, value, because."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from burnish.core.artifacts import Interval, Plan
from burnish.core.ids import short
from burnish.core.units import format_bytes, format_count, format_seconds
from burnish.plan.memory import COMPONENTS
from burnish.plan.reasons import reasons

if TYPE_CHECKING:
    from burnish.plan.bases import KnownModel
    from burnish.plan.calibrate import Correction, RunError
    from burnish.plan.gpus import Gpu
    from burnish.plan.methods import MethodRow
    from burnish.plan.solve import GpuRow, Solution


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
        "memory.peak_bytes": _peak(plan),
        "fits": {True: "yes", False: "NO", None: "unknown"}[plan.fits],
        "time.train": _band(plan.time.train),
        "time.evaluate": _band(plan.time.evaluate),
        "time.total": _band(plan.time.total),
        "cost.usd": cost_text(plan),
    }
    for section, record in (("method", plan.method), ("train", plan.train)):
        for key, value in record.model_dump().items():
            values.setdefault(f"{section}.{key}", _value(value))
    if plan.train.mix is not None:
        values["train.mix"] = str(plan.train.mix)
    if plan.train.preference is not None:
        values["train.preference"] = plan.train.preference.kind
    if plan.start is not None:
        values["start"] = short(plan.start)
    return [Row(what, value, plan.because[what]) for what, value in values.items() if what in plan.because]


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return the plan as `burnish plan --json` prints it: the artifact with its id, and the keys of docs/plan.md."""
    value = plan.model_dump(mode="json")
    value["time"]["seconds"] = value["time"]["total"]
    value["cost"] = value["cost"] or {"usd": None}
    value["because"] = reasons(plan)
    return {"id": plan.id, **value}


def _peak(plan: Plan) -> str:
    """The peak with its band, where one is told."""
    peak, band = plan.memory.peak_bytes, plan.memory.peak_band
    return format_bytes(peak) + ("" if band is None else f" (give or take {band:.0%})")


def cost_text(plan: Plan) -> str:
    """Dollars as people read them."""
    usd = None if plan.cost is None else plan.cost.usd
    return "unknown" if usd is None else f"{usd.mid:.2f} USD ({usd.low:.2f} to {usd.high:.2f})"


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


def planned_document(
    plan: Plan, solution: Solution | None, context: tuple[int, str] | None, model: tuple[KnownModel, str] | None
) -> dict[str, Any]:
    """Return the plan with what was chosen to keep to the limits, and the largest that would fit, as JSON."""
    value = plan_document(plan)
    if solution is not None:
        value["solution"] = solution_document(solution)
    because: dict[str, str] = value["because"]
    if context is not None:
        value["largest_context"], because["largest_context"] = context
    if model is not None:
        value["largest_model"], because["largest_model"] = model[0].name, model[1]
    return value


def solution_document(solution: Solution) -> dict[str, Any]:
    """Return which changes were chosen and why, or which limits bind and by how much, as JSON."""
    return {
        "changes": None if solution.option is None else dict(solution.option.changes),
        "because": dict(solution.because),
        "binding": [
            {"limit": each.limit, "needed": each.needed, "allowed": each.allowed, "because": each.text}
            for each in solution.binding
        ],
        "tried": solution.tried,
    }


def gpus_document(rows: Sequence[GpuRow]) -> dict[str, Any]:
    """Return a table of GPUs as JSON: each with whether it keeps to the limits, its solution and its whole plan."""
    return {
        "gpus": [
            {
                "gpu": row.gpu.name,
                "fits": row.solution.option is not None,
                "solution": solution_document(row.solution),
                "plan": planned_document(row.plan, None, row.context, row.model),
            }
            for row in rows
        ]
    }


def methods_document(gpu: Gpu, rows: Sequence[MethodRow]) -> dict[str, Any]:
    """Return the table of methods as JSON."""
    return {"gpu": gpu.name, "methods": [{**asdict(row), "components": dict(row.components)} for row in rows]}


def calibration_document(errors: Sequence[RunError], known: Sequence[Correction]) -> dict[str, Any]:
    """Return predicted against measured of each run, and the corrections, as JSON."""
    return {
        "runs": [
            {
                "run": error.run,
                "device": error.device,
                "machine": error.machine,
                **asdict(error.compared),
                "within": error.compared.within,
                "ratio_to_formulas": error.ratio,
            }
            for error in errors
        ],
        "corrections": [asdict(each) | {"because": each.because} for each in known],
    }
