"""What a run says about its plan before it begins."""

from __future__ import annotations

from burnish.core.artifacts import Interval, Plan
from burnish.core.events import Emit, Note
from burnish.core.ids import short
from burnish.core.units import format_bytes, format_count, format_seconds
from burnish.store.home import Home


def tell_plan(plan: Plan, home: Home, emit: Emit, *, fresh: bool) -> None:
    """Say before training what the run will need, and of a fresh plan what it sets otherwise than the last one."""
    memory, time, tokens = plan.memory, plan.time, plan.tokens
    emit(Note("plan", (
        f"{format_count(plan.parameters.trainable)} of {format_count(plan.parameters.total)} parameters trained, "
        f"{tokens.total:,} tokens in {plan.train.steps} steps"
    )))  # fmt: skip
    emit(Note("plan", (
        f"peak memory {format_bytes(memory.peak_bytes)}; train {_band(time.train)}, evaluate {_band(time.evaluate)}, "
        f"in all {_band(time.total)}. Why: burnish show {short(plan.id)}"
    )))  # fmt: skip
    if fresh:
        _tell_difference(plan, home, emit)


def _tell_difference(plan: Plan, home: Home, emit: Emit) -> None:
    """Say why work on the same data begins anew: what this plan sets otherwise than the last one of its name."""
    earlier = [p for p in home.all(Plan) if p.name == plan.name and p.parents == plan.parents and p.id != plan.id]
    if not earlier:
        return
    before, now = (
        {**p.train.model_dump(), **{f"method.{k}": v for k, v in p.method.model_dump().items()}, "base": p.base.digest}
        for p in (earlier[-1], plan)
    )
    changed = [f"{key} {now[key]} instead of {before[key]}" for key in now if now[key] != before[key]]
    if changed:
        emit(Note("plan", f"another plan than the last one ({', '.join(changed)}), so it is trained by itself"))


def _band(interval: Interval) -> str:
    return f"{format_seconds(interval.mid)} ({format_seconds(interval.low)} to {format_seconds(interval.high)})"
