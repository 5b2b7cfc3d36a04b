"""Dollars of a run: the machine by the hour, what is stored, and the electricity of a machine of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from burnish.core.artifacts import CostPlan, Interval
from burnish.plan.constants import constant
from burnish.plan.gpus import find_gpu
from burnish.plan.hardware import Hardware
from burnish.plan.prices import Prices

HOUR, DAY_HOURS, MONTH_DAYS = 3600, 24, 30
GB = 10**9


@dataclass(frozen=True, slots=True)
class Spending:
    """What is paid for: seconds of the machine, bytes on its disk meanwhile, bytes kept for a month afterwards.

    `checkpoint_seconds`: work that is lost at most when a spot machine is taken away.
    """

    seconds: Interval
    checkpoint_seconds: float
    disk_bytes: int
    kept_bytes: int


def cost_of(spending: Spending, hardware: Hardware, device: str, prices: Prices, today: date) -> tuple[CostPlan, str]:
    """Return the cost of a run and why. A machine that is not rented costs its electricity.

    Spot machines are cheaper by the hour and are taken away: with L interruptions an hour, each losing half of what lies
    between two checkpoints and a restart, the time grows by 1 + L (half + restart) (Young 1974, first order).
    """
    hours = _times(spending.seconds, 1 / HOUR)
    kwh = _times(hours, _watts(hardware, device) / 1000)
    electricity = _times(kwh, prices.rates["usd_per_kwh"])
    months = hours.mid / (DAY_HOURS * MONTH_DAYS)
    stored = (spending.disk_bytes * months + spending.kept_bytes) / GB * prices.rates["usd_per_gb_month"]
    if not hardware.rented:
        cost = CostPlan(
            usd=electricity, usd_per_hour=None, spot_usd=None, energy_kwh=kwh, parts={"energy": electricity.mid}
        )
        return cost, (
            f"a machine of your own: {_watts(hardware, device):.0f} W for {hours.mid:.2f} hours at "
            f"{prices.rates['usd_per_kwh']:g} USD a kWh; what the machine cost is not counted"
        )
    gpu = find_gpu(hardware.gpu_name).name
    found = prices.per_hour(gpu, today)
    if found is None:
        return CostPlan(usd=None, usd_per_hour=None, spot_usd=None, energy_kwh=kwh, parts={}), (
            f"no price of {gpu} is in the table: give one with --prices"
        )
    rate, source = found
    usd = _plus(_product(hours, rate), stored)
    spot = prices.per_hour(gpu, today, spot=True)
    spot_usd = None
    if spot is not None:
        longer = spot_factor(spending.checkpoint_seconds, prices)
        spot_usd = _plus(_times(_product(hours, spot[0]), longer), stored)
    parts = {"compute": hours.mid * rate.mid, "storage": stored}
    return CostPlan(usd=usd, usd_per_hour=rate, spot_usd=spot_usd, energy_kwh=kwh, parts=parts), (
        f"{gpu} at {source}; with {stored:.2f} USD for {spending.disk_bytes / GB:.1f} GB of disk meanwhile and the adapter "
        "for a month"
    )


def spot_factor(checkpoint_seconds: float, prices: Prices) -> float:
    """Return by how much interruptions lengthen a run."""
    lost = checkpoint_seconds / 2 + prices.rates["spot_restart_seconds"]
    return 1 + prices.rates["spot_interruptions_per_hour"] * lost / HOUR


def _watts(hardware: Hardware, device: str) -> float:
    host = constant("cpu_watts_per_core") * hardware.cores
    return (find_gpu(hardware.gpu_name).watts if device == "cuda" else 0.0) + host


def _product(a: Interval, b: Interval) -> Interval:
    return Interval(low=a.low * b.low, mid=a.mid * b.mid, high=a.high * b.high)


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(low=interval.low * factor, mid=interval.mid * factor, high=interval.high * factor)


def _plus(interval: Interval, amount: float) -> Interval:
    return Interval(low=interval.low + amount, mid=interval.mid + amount, high=interval.high + amount)
