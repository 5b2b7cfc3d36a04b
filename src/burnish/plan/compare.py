"""What was predicted against what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from burnish.core.artifacts import Adapter, EvalReport, Interval, Plan
from burnish.core.plan_parts import unmeasured_bytes
from burnish.plan.constants import constant


@dataclass(frozen=True, slots=True)
class Compared:
    """One number. `ratio` is measured / predicted; `unit` is bytes, seconds, tokens or steps."""

    what: str
    unit: str
    predicted: float
    low: float
    high: float
    measured: float

    @property
    def ratio(self) -> float | None:
        """Measured over predicted; None when nothing was predicted."""
        return self.measured / self.predicted if self.predicted else None

    @property
    def within(self) -> bool:
        """Whether the measured value lies in the predicted band."""
        return self.low <= self.measured <= self.high


def predictions(plan: Plan) -> dict[str, tuple[str, Interval]]:
    """Return what a plan predicts that can be measured, by name: the unit and the band."""
    peak, band = measured_peak(plan), plan.memory.peak_band
    band = constant("memory_band") if band is None else band
    return {
        "memory.peak_bytes": ("bytes", Interval(low=(1 - band) * peak, mid=peak, high=(1 + band) * peak)),
        "time.train": ("seconds", plan.time.train),
        "time.evaluate": ("seconds", plan.time.evaluate),
        "train.steps": ("steps", Interval(low=plan.train.steps, mid=plan.train.steps, high=plan.train.steps)),
    }


def measured_peak(plan: Plan) -> float:
    """Return the predicted peak of what a run measures: on a GPU that is what torch allocates, on a CPU all of the process."""
    return float(plan.memory.peak_bytes - unmeasured_bytes(plan.memory.components, plan.train.device))


def compare(plan: Plan, measured: Mapping[str, float]) -> list[Compared]:
    """Return a row for each prediction that was measured. Raises KeyError for a name that is no prediction."""
    known = predictions(plan)
    unknown = sorted(set(measured) - set(known))
    if unknown:
        raise KeyError(f"no prediction is called {', '.join(unknown)}. Known: {', '.join(known)}")
    rows: list[Compared] = []
    for what, (unit, band) in known.items():
        if what in measured:
            rows.append(Compared(what, unit, band.mid, band.low, band.high, float(measured[what])))
    return rows


def measurements(plan: Plan, adapter: Adapter | None = None, report: EvalReport | None = None) -> dict[str, float]:
    """Return what an adapter and a report measured, by the names of `predictions`; no time of a resumed run."""
    found: dict[str, float] = {}
    if adapter is not None and adapter.measured is not None:
        took = adapter.measured
        found["memory.peak_bytes"] = float(
            took.peak_rss_bytes if plan.train.device == "cpu" else took.peak_device_bytes
        )
        found["train.steps"] = float(took.steps)
        if took.resumed_at_step == 0:
            found["time.train"] = took.seconds
    if report is not None and report.measured_seconds > 0:
        found["time.evaluate"] = report.measured_seconds
    return found
