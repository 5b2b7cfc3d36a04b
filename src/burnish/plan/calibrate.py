"""Learning from runs: what was predicted against what was measured, and what that says about the next prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burnish.core.artifacts import Adapter, EvalReport, Interval, Memory, Plan
from burnish.core.units import format_bytes
from burnish.plan.compare import Compared, compare, measured_peak, measurements
from burnish.plan.constants import constant
from burnish.plan.fits import fits, tell_fits

PRIOR_RUNS = 2
"""Runs without any error that stand behind the formulas: one run moves a prediction by a third of its error."""
BAND_RUNS = 3
"""Fewer runs do not narrow a band."""
LEAST_BAND = 0.03
TIMES = ("time.train", "time.evaluate")
PEAK = "memory.peak_bytes"


@dataclass(frozen=True, slots=True)
class RunError:
    """One number of one run: `compared` is what its plan said, `ratio` measured over what the formulas alone had said.

    `machine`: the processor that it was measured on; None for runs of before that was kept.
    """

    run: str
    device: str
    compared: Compared
    ratio: float
    machine: str | None = None


@dataclass(frozen=True, slots=True)
class Correction:
    """What the runs of a processor say about one number: the formulas' value times `factor`, and the band's ends as such factors.

    `ratio`: what the runs measured over what the formulas say, their geometric mean. `factor` is between it and 1, the
    nearer to it the more runs there are. A peak is never lowered: its factor is 1 or more.
    """

    what: str
    device: str
    machine: str | None
    runs: int
    ratio: float
    factor: float
    low: float | None
    high: float | None
    mean_error: float
    within: float

    @property
    def because(self) -> str:
        """One sentence."""
        runs = f"{self.runs} run{'s' if self.runs > 1 else ''}"
        taken = f"taken as {self.factor:.2f}"
        if self.what == PEAK and self.factor == 1.0 > self.ratio:
            taken = "and a peak is not lowered"
        said = f"{runs} here measured {self.ratio:.2f} times what the formulas say, {taken}"
        return said if self.low is None else f"{said}, the band from {self.low:.2f} to {self.high:.2f}"


def run_errors(runs: Sequence[tuple[Plan, Adapter, EvalReport | None]]) -> list[RunError]:
    """Return predicted against measured of each stored run, in the order given.

    Held against the run is what its plan said when it began. Seconds of an evaluation on another processor than the one that
    trained are left out.
    """
    found: list[RunError] = []
    for plan, adapter, report in runs:
        said, machine = adapter.plan_then(plan), None
        if adapter.foretold is not None:
            machine = adapter.foretold.machine
            report = report if report is not None and report.machine in (None, machine) else None
        for row in compare(said, measurements(said, adapter, report)):
            if row.what in (*TIMES, PEAK) and row.predicted > 0 and row.measured > 0:
                plain = row.predicted / (said.correction or {}).get(row.what, 1.0)
                name = f"{plan.name} {adapter.id[:8]}"
                found.append(RunError(name, plan.train.device, row, row.measured / plain, machine))
    return found


def machines(errors: Sequence[RunError]) -> tuple[str | None, ...]:
    """Return the processors of runs in the order of their first, or None alone where no run has one."""
    return tuple(dict.fromkeys(error.machine for error in errors if error.machine is not None)) or (None,)


def corrections(errors: Sequence[RunError], machine: str | None) -> dict[tuple[str, str], Correction]:
    """Return a correction for each device and number that was measured on this processor.

    Runs whose processor was not kept count for each. factor: the geometric mean of the ratios, with PRIOR_RUNS runs of
    ratio 1 among them. band: from BAND_RUNS on, by the largest distance of a run from that mean, a little wider the fewer they
    are ((n + 1) / n, the split conformal quantile of all n; Lei et al. 2018, arXiv:1604.04173), and never under LEAST_BAND.
    """
    found: dict[tuple[str, str], Correction] = {}
    here = [error for error in errors if error.machine in (None, machine)]
    for device, what in sorted({(error.device, error.compared.what) for error in here}):
        rows = [error for error in here if (error.device, error.compared.what) == (device, what)]
        logs, count = [math.log(error.ratio) for error in rows], len(rows)
        middle = sum(logs) / (count + PRIOR_RUNS)
        low = high = None
        if count >= BAND_RUNS:
            spread = max(math.log1p(LEAST_BAND), max(abs(each - middle) for each in logs) * (count + 1) / count)
            low, high = math.exp(middle - spread), math.exp(middle + spread)
        errors_here = [abs(error.compared.predicted / error.compared.measured - 1) for error in rows]
        within = sum(error.compared.within for error in rows) / count
        mean = sum(errors_here) / count
        factor = max(1.0, math.exp(middle)) if what == PEAK else math.exp(middle)
        ratio = math.exp(sum(logs) / count)
        found[device, what] = Correction(
            what, device, machine, count, ratio, factor, low, high, mean_error=mean, within=within
        )
    return found


def calibrated(plan: Plan, known: Mapping[tuple[str, str], Correction]) -> Plan:
    """Return the plan with times corrected, and the peak raised where runs here took more than the formulas say.

    The peak is never lowered: arithmetic that is too high costs some speed, too low ends a run. A plan that a probe of its
    own shape stands behind is left as it is.
    """
    if plan.correction is not None:
        return plan
    here = {what: known[plan.train.device, what] for what in (*TIMES, PEAK) if (plan.train.device, what) in known}
    if not here:
        return plan
    because, applied = dict(plan.because), {what: each.factor for what, each in here.items()}
    time, old = plan.time, plan.time.total
    train, evaluate = (
        _corrected(interval, here.get(what)) for what, interval in zip(TIMES, (time.train, time.evaluate), strict=True)
    )
    total = Interval(
        low=old.low - time.train.low - time.evaluate.low + train.low + evaluate.low,
        mid=old.mid - time.train.mid - time.evaluate.mid + train.mid + evaluate.mid,
        high=old.high - time.train.high - time.evaluate.high + train.high + evaluate.high,
    )
    for what in TIMES:
        if what in here:
            because[what] += f"; {here[what].because}"
    memory = plan.memory if PEAK not in here else _corrected_peak(plan, here[PEAK], because)
    because["fits"] = tell_fits(memory, plan.method.kind)
    return plan.model_copy(
        update={
            "time": time.model_copy(update={"train": train, "evaluate": evaluate, "total": total}),
            "cost": _scaled_cost(plan, total),
            "memory": memory,
            "fits": fits(memory),
            "because": because,
            "correction": applied,
        }
    )


def _corrected(interval: Interval, correction: Correction | None) -> Interval:
    if correction is None:
        return interval
    mid = interval.mid * correction.factor
    if correction.low is None or correction.high is None:
        return Interval(low=interval.low * correction.factor, mid=mid, high=interval.high * correction.factor)
    return Interval(low=interval.mid * correction.low, mid=mid, high=interval.mid * correction.high)


def _corrected_peak(plan: Plan, correction: Correction, because: dict[str, str]) -> Memory:
    """Return the memory with what runs took more as a component, and their band. Says so."""
    memory = plan.memory
    extra = round((correction.factor - 1) * measured_peak(plan))
    because[PEAK] += f"; {correction.because}" + (f", so {format_bytes(extra)} more" if extra else "")
    if correction.low is not None:
        because["memory.peak_band"] = f"what {correction.runs} runs here were off by"
    changed: dict[str, object] = {"peak_band": memory_band(correction)}
    if extra:
        changed |= {
            "peak_bytes": memory.peak_bytes + extra, "components": memory.components | {"calibration": extra},
        }  # fmt: skip
    return memory.model_copy(update=changed)


def _scaled_cost(plan: Plan, total: Interval) -> object:
    """Scale what is paid by the hour as the time was scaled; disks are paid by the month."""
    cost, old = plan.cost, plan.time.total
    if cost is None:
        return None
    stored = cost.parts.get("storage", 0.0)
    ratio = {end: getattr(total, end) / getattr(old, end) for end in ("low", "mid", "high")}

    def scale(interval: Interval | None, fixed: float) -> Interval | None:
        if interval is None:
            return None
        ends = {end: (getattr(interval, end) - fixed) * each + fixed for end, each in ratio.items()}
        return Interval(**ends)

    parts = {name: value * (1.0 if name == "storage" else ratio["mid"]) for name, value in cost.parts.items()}
    return cost.model_copy(
        update={
            "usd": scale(cost.usd, stored),
            "spot_usd": scale(cost.spot_usd, stored),
            "energy_kwh": scale(cost.energy_kwh, 0.0),
            "parts": parts,
        }
    )


def memory_band(correction: Correction) -> float:
    """Return the band of the peak as a share either way: that of the runs, once there are enough, else the bundled constant."""
    if correction.low is None or correction.high is None:
        return constant("memory_band")
    return max(correction.high / correction.factor - 1, 1 - correction.low / correction.factor)
