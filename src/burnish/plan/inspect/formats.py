"""Number formats bit by bit: what the bits of a value are, and what range and steps a format has.

Floating point: value = (-1)^sign * 2^(exponent - bias) * (1 + mantissa / 2^m), and without the leading 1 where the exponent
bits are 0 (IEEE 754-2019; FP8: Micikevicius et al. 2022, arXiv:2209.05433, where E4M3 has no infinity and one NaN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A binary floating-point format: one sign bit, then exponent bits, then mantissa bits.

    `finite_only`: all exponent bits set is an ordinary exponent, and only the highest code is NaN (FP8 E4M3).
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    finite_only: bool = False

    @property
    def bits(self) -> int:
        """All bits of a value."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent bits."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def largest(self) -> float:
        """The largest finite value."""
        if self.finite_only:
            return 2.0 ** (2**self.exponent_bits - 1 - self.bias) * (2 - 2.0 ** (1 - self.mantissa_bits))
        return 2.0 ** (2**self.exponent_bits - 2 - self.bias) * (2 - 2.0**-self.mantissa_bits)

    @property
    def smallest_normal(self) -> float:
        """The smallest positive value with a leading 1."""
        return 2.0 ** (1 - self.bias)

    @property
    def smallest(self) -> float:
        """The smallest positive value."""
        return 2.0 ** (1 - self.bias - self.mantissa_bits)

    @property
    def epsilon(self) -> float:
        """The step from 1 to the next value."""
        return 2.0**-self.mantissa_bits

    @property
    def digits(self) -> float:
        """Decimal digits that a value carries."""
        return (self.mantissa_bits + 1) * math.log10(2)

    def round(self, value: float) -> float:
        """Return the nearest value of the format, ties to even; beyond the largest, the largest (saturating)."""
        if math.isnan(value) or value == 0.0:
            return value
        exponent = max(math.frexp(abs(value))[1] - 1, 1 - self.bias)
        step = 2.0 ** (exponent - self.mantissa_bits)
        rounded = round(abs(value) / step) * step if math.isfinite(value) else self.largest
        return math.copysign(min(rounded, self.largest), value)

    def encode(self, value: float) -> tuple[str, str, str]:
        """Return sign, exponent and mantissa of the nearest value, as strings of 0 and 1. Raises ValueError for NaN."""
        if math.isnan(value):
            raise ValueError("NaN has no nearest value")
        near = self.round(value)
        sign = "1" if math.copysign(1.0, near) < 0 else "0"
        near = abs(near)
        if near < self.smallest_normal:
            exponent, mantissa = 0, round(near / self.smallest)
        else:
            power = math.frexp(near)[1] - 1
            exponent = power + self.bias
            mantissa = round((near / 2.0**power - 1) * 2**self.mantissa_bits)
        return sign, f"{exponent:0{self.exponent_bits}b}", f"{mantissa:0{self.mantissa_bits}b}"

    def decode(self, bits: str) -> float:
        """Return the value of a string of bits: sign, exponent, mantissa."""
        sign, exponent = bits[0], int(bits[1 : 1 + self.exponent_bits], 2)
        mantissa = int(bits[1 + self.exponent_bits :], 2)
        if exponent == 2**self.exponent_bits - 1:
            if not self.finite_only:
                return math.nan if mantissa else math.copysign(math.inf, -1.0 if sign == "1" else 1.0)
            if mantissa == 2**self.mantissa_bits - 1:
                return math.nan
        share = mantissa / 2**self.mantissa_bits
        value = 2.0 ** (1 - self.bias) * share if exponent == 0 else 2.0 ** (exponent - self.bias) * (1 + share)
        return -value if sign == "1" else value


FLOATS = (
    FloatFormat("fp32", 8, 23),
    FloatFormat("fp16", 5, 10),
    FloatFormat("bf16", 8, 7),
    FloatFormat("fp8 e4m3", 4, 3, finite_only=True),
    FloatFormat("fp8 e5m2", 5, 2),
)
E4M3 = FLOATS[3]

NF4_VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 values of 4-bit NormalFloat: quantiles of a normal distribution, scaled to -1..1, with an exact zero
(Dettmers et al. 2023, QLoRA, arXiv:2305.14314, appendix E)."""


@dataclass(frozen=True, slots=True)
class IntegerFormat:
    """Whole numbers of some bits; a scale beside them says what one step is worth."""

    name: str
    bits: int
    signed: bool

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    def encode(self, code: int) -> str:
        """Return the bits of a code, negative ones as two's complement. Raises ValueError outside the range."""
        if not self.low <= code <= self.high:
            raise ValueError(f"{code} is no {self.name}: from {self.low} to {self.high}")
        return f"{code % 2**self.bits:0{self.bits}b}"


INT8, UINT8, INT4 = IntegerFormat("int8", 8, True), IntegerFormat("uint8", 8, False), IntegerFormat("int4", 4, True)
INTEGERS = (INT8, UINT8, INT4)

LAYOUT_EXAMPLES = (1.0, 0.1, -2.5, 3.14159)
"""Values whose bits are shown."""


def format_table() -> list[dict[str, Any]]:
    """Return a row for each format: its bits and what they are for, its range, its step at 1, and examples bit by bit."""
    rows: list[dict[str, Any]] = [
        {
            "format": each.name,
            "bits": each.bits,
            "sign": 1,
            "exponent": each.exponent_bits,
            "mantissa": each.mantissa_bits,
            "largest": each.largest,
            "smallest_normal": each.smallest_normal,
            "step_at_1": each.epsilon,
            "decimal_digits": round(each.digits, 1),
            "examples": [
                {"value": value, "stored": each.round(value), "bits": " ".join(each.encode(value))}
                for value in LAYOUT_EXAMPLES
            ],
        }
        for each in FLOATS
    ]
    rows += [
        {"format": each.name, "bits": each.bits, "lowest": each.low, "highest": each.high, "codes": 2**each.bits}
        for each in INTEGERS
    ]
    rows.append({"format": "nf4", "bits": 4, "lowest": -1.0, "highest": 1.0, "codes": 16, "values": list(NF4_VALUES)})
    return rows
