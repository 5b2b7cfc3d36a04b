"""The sections about the run itself: predicted against measured, the plan with its reasons, and where all came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from burnish.core.artifacts import Adapter, EvalReport, Interval, Manifest, Plan, Release
from burnish.core.plan_parts import unmeasured_bytes
from burnish.core.units import format_bytes, format_count, format_seconds
from burnish.page.plots import Forecast, forecast_plot
from burnish.page.svg import both_widths


class PlanRow(NamedTuple):
    """One number of the plan as people read it, and why it is so."""

    key: str
    value: str
    because: str


def forecasts(plan: Plan, adapter: Adapter, report: EvalReport, seconds: Mapping[str, float]) -> dict[str, Any] | None:
    """Return predicted against measured memory, time and speed; None when training was not measured."""
    measured = adapter.measured
    if measured is None:
        return None
    plan = adapter.plan_then(plan)
    whole = measured.resumed_at_step == 0
    peak = measured.peak_device_bytes if plan.train.device == "cuda" else measured.peak_rss_bytes
    predicted = plan.memory.peak_bytes - unmeasured_bytes(plan.memory.components, plan.train.device)
    rows = [_bytes("peak memory of training", predicted, peak)]
    if whole:
        rows.append(_seconds("training", plan.time.train, measured.seconds))
    if report.measured_seconds:
        rows.append(_seconds("evaluation", plan.time.evaluate, report.measured_seconds))
    if whole and "total" in seconds:
        rows.append(_seconds("whole run", plan.time.total, seconds["total"]))
    rows.append(_speed(plan, measured.tokens_per_second))
    return {
        "title": (
            f"Training took {_times(measured.seconds, plan.time.train.mid)} the predicted time and "
            if whole
            else f"Training went on from step {measured.resumed_at_step}, so its time is not held against the plan; it took "
        )
        + f"{_times(peak, predicted)} the predicted memory",
        "plot": both_widths(lambda width: forecast_plot(rows, width)),
        "fits": plan.fits,
    }


def _weight_bytes(adapter: Adapter) -> int:
    """Return the size of an adapter's weights, or of all shards of a model."""
    shards = [file for file in adapter.model_files or () if file.path.endswith(".safetensors")]
    return sum(file.size_bytes for file in shards) or adapter.weights_file.size_bytes


def _times(measured: float, predicted: float) -> str:
    return f"{measured / predicted:.2f}×" if predicted else "an unknown part of"


def _bytes(label: str, predicted: float, measured: float) -> Forecast:
    return Forecast(label, predicted, None, None, measured, format_bytes(predicted), format_bytes(measured))


def _seconds(label: str, band: Interval, measured: float) -> Forecast:
    says = f"{format_seconds(band.mid)} ({format_seconds(band.low)} to {format_seconds(band.high)})"
    return Forecast(f"time of {label}", band.mid, band.low, band.high, measured, says, format_seconds(measured))


def _speed(plan: Plan, measured: float) -> Forecast:
    band = plan.time.train
    low, mid, high = (plan.tokens.total / s if s else 0.0 for s in (band.high, band.mid, band.low))
    says = f"{mid:,.0f} tokens/s ({low:,.0f} to {high:,.0f})"
    return Forecast("training speed", mid, low, high, measured, says, f"{measured:,.0f} tokens/s")


def plan_rows(plan: Plan) -> list[PlanRow]:
    """Return every number of the plan that is set, with its because; reasons for anything else come last, so that none is lost."""
    values = {
        "parameters.total": format_count(plan.parameters.total),
        "parameters.trainable": format_count(plan.parameters.trainable),
        **{f"method.{key}": _write(value) for key, value in plan.method if value is not None},
        **{f"train.{key}": _write(value) for key, value in plan.train if value is not None},
        "tokens.per_epoch": format_count(plan.tokens.per_epoch),
        "tokens.total": format_count(plan.tokens.total),
        "tokens.trained": format_count(plan.tokens.trained),
        "tokens.exact": _write(plan.tokens.exact),
        "memory.weights_bytes": format_bytes(plan.memory.weights_bytes),
        "memory.peak_bytes": format_bytes(plan.memory.peak_bytes),
        **{f"memory.components.{part}": format_bytes(size) for part, size in plan.memory.components.items()},
        **{f"time.{key}": _span(band) for key, band in plan.time},
        "fits": {True: "yes", False: "no", None: "unknown"}[plan.fits],
    }
    if plan.memory.available_bytes is not None:
        values["memory.available_bytes"] = format_bytes(plan.memory.available_bytes)
    rows = [PlanRow(key, value, plan.because.get(key, "")) for key, value in values.items()]
    return rows + [PlanRow(key, "", why) for key, why in plan.because.items() if key not in values]


def _span(band: Interval) -> str:
    return f"{format_seconds(band.mid)} ({format_seconds(band.low)} to {format_seconds(band.high)})"


def _write(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case int():
            return f"{value:,}"
        case tuple():
            return ", ".join(_write(item) for item in value)
        case _:
            return str(value)


def lineage(
    manifest: Manifest, plan: Plan, adapter: Adapter, report: EvalReport, release: Release | None
) -> list[dict[str, str]]:
    """Return what led to the result, first things first: kind, what it is, full id."""
    data = [
        {
            "kind": "data",
            "says": f"{source.path}, {source.lines:,} lines, {format_bytes(source.size_bytes)}",
            "id": source.sha256,
        }
        for source in manifest.sources
    ]
    steps = [
        ("base model", plan.base.name, plan.base.digest),
        ("manifest", f"{manifest.ledger.rows_kept:,} rows in {len(manifest.splits)} splits", manifest.id),
        ("plan", f"{plan.train.steps:,} steps, seed {plan.train.seed}", plan.id),
        ("adapter", f"{adapter.method.kind}, {format_bytes(_weight_bytes(adapter))}", adapter.id),
        ("report", f"{len(report.scores)} scores; rows in {report.rows_file.path}", report.id),
    ]
    if release is not None:
        made = f", {release.created_at}" if release.created_at else ""
        steps.append(("release", f"{release.alias} version {release.version}{made}", release.id))
    return [*data, *({"kind": kind, "says": says, "id": id_} for kind, says, id_ in steps)]
