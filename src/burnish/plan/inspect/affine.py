"""Scale and zero point: how a range of real numbers is laid on whole numbers, worked through step by step.

x is stored as q = clip(round(x / scale) + zero_point, low, high) and read as scale * (q - zero_point), with
scale = (x_max - x_min) / (high - low) and zero_point = round(low - x_min / scale) (Jacob et al. 2018, arXiv:1712.05877, 2.1;
ONNX QuantizeLinear: round half to even, then add the zero point). Symmetric: zero_point = 0, scale = max|x| / high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from burnish.core.errors import UsageError
from burnish.plan.inspect.formats import INT8, UINT8, IntegerFormat


@dataclass(frozen=True, slots=True)
class Affine:
    """A mapping of real numbers to codes."""

    scale: float
    zero_point: int
    format: IntegerFormat

    def quantise(self, value: float) -> int:
        """Return the code of a value; values outside the range get the code at its end."""
        return min(self.format.high, max(self.format.low, round(value / self.scale) + self.zero_point))

    def dequantise(self, code: int) -> float:
        """Return the value that a code stands for."""
        return self.scale * (code - self.zero_point)


def asymmetric(low: float, high: float, form: IntegerFormat = UINT8) -> Affine:
    """Return the mapping that lays low..high on all codes. The range is widened to hold 0, which then is exact.

    Raises UsageError for a range that is empty or not finite.
    """
    _check(low, high)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (form.high - form.low)
    return Affine(scale, min(form.high, max(form.low, round(form.low - low / scale))), form)


def symmetric(low: float, high: float, form: IntegerFormat = INT8) -> Affine:
    """Return the mapping with zero point 0 that holds the larger end. Of signed codes the lowest is left unused."""
    _check(low, high)
    return Affine(max(abs(low), abs(high)) / form.high, 0, form)


def _check(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"a range needs two finite ends, the lower first; found {low:g} to {high:g}.")


@dataclass(frozen=True, slots=True)
class Step:
    """One value on its way through a mapping."""

    value: float
    divided: float
    code: int
    bits: str
    back: float

    @property
    def error(self) -> float:
        """What is lost."""
        return self.back - self.value


@dataclass(frozen=True, slots=True)
class Worked:
    """An example worked through: the range, the mapping, its formulas with numbers, and some values."""

    title: str
    low: float
    high: float
    mapping: Affine
    lines: tuple[str, ...]
    steps: tuple[Step, ...]

    def as_json(self) -> dict[str, object]:
        """Return the example as plain values."""
        return {
            "title": self.title,
            "range": [self.low, self.high],
            "format": self.mapping.format.name,
            "scale": self.mapping.scale,
            "zero_point": self.mapping.zero_point,
            "lines": list(self.lines),
            "steps": [
                {
                    "value": s.value,
                    "divided": s.divided,
                    "code": s.code,
                    "bits": s.bits,
                    "back": s.back,
                    "error": s.error,
                }
                for s in self.steps
            ],
        }


def work_through(low: float, high: float, values: tuple[float, ...], *, kind: str = "asymmetric") -> Worked:
    """Return an example: a range laid on UINT8 (asymmetric) or INT8 (symmetric), and what becomes of some values."""
    if kind == "asymmetric":
        mapping = asymmetric(low, high)
        form = mapping.format
        first, last = min(low, 0.0), max(high, 0.0)
        lines = (
            "scale = (x_max - x_min) / (q_max - q_min) = "
            f"({last:g} - {first:g}) / ({form.high} - {form.low}) = {mapping.scale:.6g}",
            "zero point = round(q_min - x_min / scale) = "
            f"round({form.low} - {first:g} / {mapping.scale:.6g}) = {mapping.zero_point}",
            f"q = round(x / scale) + {mapping.zero_point}, and back: x = {mapping.scale:.6g} * (q - {mapping.zero_point})",
        )
    else:
        mapping = symmetric(low, high)
        most, used = mapping.format.high, mapping.quantise(high) - mapping.quantise(low) + 1
        lines = (
            f"scale = max|x| / q_max = {max(abs(low), abs(high)):g} / {most} = {mapping.scale:.6g}; zero point = 0",
            f"the range reaches only {used} of the 255 codes from -{most} to {most}",
        )
    steps = tuple(
        Step(value, value / mapping.scale, code, mapping.format.encode(code), mapping.dequantise(code))
        for value in values
        for code in [mapping.quantise(value)]
    )
    return Worked(f"{low:g} to {high:g} as {mapping.format.name}, {kind}", low, high, mapping, lines, steps)


def worked_examples() -> tuple[Worked, ...]:
    """Return the two textbook ranges, each with and without a zero point."""
    return (
        work_through(0.0, 1000.0, (0.0, 250.0, 500.0, 1000.0)),
        work_through(-20.0, 1000.0, (-20.0, 0.0, 250.0, 1000.0)),
        work_through(-20.0, 1000.0, (-20.0, 0.0, 250.0, 1000.0), kind="symmetric"),
    )
