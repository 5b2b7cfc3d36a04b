"""Formats bit by bit, against struct, NumPy and torch; scale and zero point, against ONNX's rule and arithmetic by hand."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import UsageError
from burnish.plan.inspect.affine import asymmetric, symmetric, work_through, worked_examples
from burnish.plan.inspect.formats import FLOATS, INT4, INT8, NF4_VALUES, UINT8, format_table

TORCH = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8 e4m3": torch.float8_e4m3fn,
    "fp8 e5m2": torch.float8_e5m2,
}
BY_NAME = {each.name: each for each in FLOATS}


@pytest.mark.parametrize("name", list(TORCH))
def test_range_and_steps_are_those_of_torch(name: str) -> None:
    info, mine = torch.finfo(TORCH[name]), BY_NAME[name]
    assert (mine.bits, mine.largest, mine.smallest_normal, mine.epsilon) == (info.bits, info.max, info.tiny, info.eps)


@pytest.mark.parametrize("name", list(TORCH))
@given(value=st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_rounding_is_that_of_torch_and_bits_read_back(name: str, value: float) -> None:
    mine = BY_NAME[name]
    theirs = torch.tensor(value, dtype=torch.float32).clamp(-mine.largest, mine.largest).to(TORCH[name]).float().item()
    assert mine.round(value) == theirs
    bits = "".join(mine.encode(value))
    assert len(bits) == mine.bits
    assert mine.decode(bits) == theirs


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_fp32_bits_are_those_in_memory(value: float) -> None:
    (word,) = struct.unpack(">I", struct.pack(">f", value))
    assert "".join(BY_NAME["fp32"].encode(value)) == f"{word:032b}"


def test_special_codes_and_wrong_values() -> None:
    assert BY_NAME["fp16"].decode("0111110000000000") == math.inf
    assert math.isnan(BY_NAME["bf16"].decode("0111111111000000"))
    assert BY_NAME["fp8 e4m3"].decode("01111110") == 448.0
    assert math.isnan(BY_NAME["fp8 e4m3"].decode("01111111"))
    assert BY_NAME["fp16"].round(1e9) == 65504.0
    with pytest.raises(ValueError, match="NaN"):
        BY_NAME["fp16"].encode(math.nan)
    assert (INT8.encode(-3), UINT8.encode(255), INT4.encode(-8)) == ("11111101", "11111111", "1000")
    with pytest.raises(ValueError, match="from -8 to 7"):
        INT4.encode(8)


def test_nf4_values_are_those_of_bitsandbytes() -> None:
    from bitsandbytes.functional import get_4bit_type

    assert get_4bit_type("nf4", device="cpu").tolist() == pytest.approx(list(NF4_VALUES), abs=0)
    assert [row["format"] for row in format_table()][-1] == "nf4"


def test_0_to_1000_on_uint8_by_hand() -> None:
    mapping = asymmetric(0.0, 1000.0)
    assert mapping.scale == pytest.approx(1000 / 255)
    assert mapping.zero_point == 0
    assert [mapping.quantise(x) for x in (0, 250, 1000)] == [0, 64, 255]  # 250 / 3.9216 = 63.75
    assert mapping.dequantise(64) == pytest.approx(250.980, abs=1e-3)


def test_minus_20_to_1000_on_uint8_by_hand() -> None:
    mapping = asymmetric(-20.0, 1000.0)
    assert (mapping.scale, mapping.zero_point) == (4.0, 5)
    assert [mapping.quantise(x) for x in (-20, 0, 250, 1000, -500, 9000)] == [
        0,
        5,
        67,
        255,
        0,
        255,
    ]  # 62.5 rounds to 62
    assert mapping.dequantise(5) == 0.0
    without = symmetric(-20.0, 1000.0)
    assert (without.zero_point, without.quantise(-20), without.quantise(1000)) == (0, -3, 127)
    assert [example.title for example in worked_examples()] == [
        "0 to 1000 as uint8, asymmetric",
        "-20 to 1000 as uint8, asymmetric",
        "-20 to 1000 as int8, symmetric",
    ]
    assert work_through(-20.0, 1000.0, (250.0,)).steps[0].error == -2.0


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0, 1))
def test_a_value_in_the_range_comes_back_within_half_a_step_and_zero_is_exact(
    low: float, width: float, at: float
) -> None:
    mapping = asymmetric(low, low + width)
    value = low + at * width
    back = mapping.dequantise(mapping.quantise(value))
    # Half a step of rounding, and up to half a step by which the rounded zero point shifts the ends.
    assert abs(back - value) <= mapping.scale * 1.001
    assert mapping.dequantise(mapping.quantise(0.0)) == 0.0


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=50, unique=True))
def test_codes_are_those_of_torchs_quantised_tensors(values: list[float]) -> None:
    low, high = min(values), max(values)
    mapping = asymmetric(low, high)
    if mapping.scale < 1e-6:
        return
    theirs = torch.quantize_per_tensor(torch.tensor(values), mapping.scale, mapping.zero_point, torch.quint8).int_repr()
    mine = np.array([mapping.quantise(value) for value in values])
    assert (
        np.abs(mine - theirs.numpy()).max() <= 1
    )  # torch multiplies by 1 / scale in float32: ties may fall the other way


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_ranges_that_are_none_are_refused(low: float, high: float) -> None:
    for make in (asymmetric, symmetric):
        with pytest.raises(UsageError, match="two finite ends"):
            make(low, high)
