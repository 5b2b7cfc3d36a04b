"""What rounding loses: against bitsandbytes and torch, and what must hold of every scheme."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from burnish.core.errors import BaseModelError
from burnish.plan.inspect.rounding import (
    LARGEST,
    Scheme,
    asymmetric_error,
    relative_error,
    round_e4m3,
    round_weights,
    schemes,
)
from burnish.plan.inspect.weights import Matrix, layer_rows, look, pooled_errors, sampled_rows, scheme_rows

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(0, 0.02, (48, 192)).astype(np.float32)
HEAVY = (RANDOM.standard_t(3, (48, 192)) * 0.02).astype(np.float32)


@pytest.mark.parametrize("weights", [NORMAL, HEAVY])
@pytest.mark.parametrize("double", [False, True])
def test_nf4_is_that_of_bitsandbytes(weights: np.ndarray, double: bool) -> None:
    from burnish.model.inspect import round_nf4

    mine, theirs = round_weights(weights, Scheme("nf4", "group", "absmax")), round_nf4(double)(weights)
    if double:
        assert relative_error(theirs, mine) < 0.02, "double quantisation rounds the scales too"
    else:
        np.testing.assert_array_equal(mine, theirs)


@given(arrays(np.float32, 64, elements=st.floats(-1000, 1000, width=32)))
def test_e4m3_is_that_of_torch(values: np.ndarray) -> None:
    theirs = torch.from_numpy(values).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(round_e4m3(values), theirs)


def test_int8_rows_are_those_of_bitsandbytes() -> None:
    from bitsandbytes.functional import int8_vectorwise_quant

    half = torch.from_numpy(NORMAL).half()
    codes, scales, _ = int8_vectorwise_quant(half)
    step = (scales[:, None] / 127).numpy()
    mine = round_weights(half.float().numpy(), Scheme("int8", "channel", "absmax")) / step
    apart = np.abs(mine - codes.numpy())
    assert apart.max() < 1.01, "bitsandbytes divides in float16, so a tie may fall to the neighbouring code"
    assert (apart > 0.5).mean() < 0.01


def test_there_are_44_schemes_and_none_is_entropy_over_groups() -> None:
    labels = [scheme.label for scheme in schemes()]
    assert len(labels) == len(set(labels)) == 44
    assert "int4 group entropy" not in labels
    assert Scheme("int4", "group", "absmax").bits_per_weight(128, 256) == 4.5
    assert Scheme("int8", "channel", "absmax").bits_per_weight(128, 256) == 8 + 32 / 256


@pytest.mark.parametrize("scheme", list(schemes()), ids=lambda scheme: scheme.label)
def test_every_scheme_gives_finite_weights_of_the_same_shape_within_the_range(scheme: Scheme) -> None:
    for weights in (NORMAL, HEAVY, np.zeros((3, 70), np.float32), NORMAL[:, :100], np.full((2, 64), 5e-41, np.float32)):
        rounded = round_weights(weights, scheme)
        assert rounded.shape == weights.shape
        assert np.isfinite(rounded).all()
        assert np.abs(rounded).max() <= np.abs(weights).max() * (1 + 1e-5) + 1e-37


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["int8", "int4", "nf4", "fp8"]),
    st.sampled_from(["tensor", "channel", "group"]),
)
def test_mse_is_never_worse_than_absmax_and_stored_weights_round_to_themselves(
    seed: int, form: str, granularity: str
) -> None:
    weights = np.random.default_rng(seed).standard_t(4, (16, 128)).astype(np.float32)
    plain = Scheme(form, granularity, "absmax")  # type: ignore[arg-type]
    once = round_weights(weights, plain)
    best = round_weights(weights, Scheme(form, granularity, "mse"))  # type: ignore[arg-type]
    assert relative_error(weights, best) <= relative_error(weights, once) * (1 + 1e-6)
    if form != "nf4":  # the largest weight keeps its value, so the scale is found again
        np.testing.assert_allclose(round_weights(once, plain), once, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("form", ["int8", "int4", "nf4"])
def test_finer_scales_lose_less(form: str) -> None:
    errors = [
        relative_error(HEAVY, round_weights(HEAVY, Scheme(form, granularity, "absmax")))  # type: ignore[arg-type]
        for granularity in ("tensor", "channel", "group")
    ]
    assert errors == sorted(errors, reverse=True)
    assert LARGEST["int4"] == 7.0


def test_uniform_rounding_error_is_that_of_the_textbook() -> None:
    weights = RANDOM.uniform(-1, 1, (64, 1024)).astype(np.float32)
    step = np.abs(weights).max() / 127
    expected = step / np.sqrt(12) / np.sqrt(np.mean(weights**2))
    assert relative_error(weights, round_weights(weights, Scheme("int8", "tensor", "absmax"))) == pytest.approx(
        expected, rel=0.02
    )


def test_entropy_and_percentile_clip_a_lone_outlier() -> None:
    weights = RANDOM.normal(0, 1, (64, 512)).astype(np.float32)
    weights[0, 0] = 100.0
    plain = relative_error(weights[1:], round_weights(weights, Scheme("int8", "tensor", "absmax"))[1:])
    for calibration in ("percentile", "entropy"):
        clipped = round_weights(weights, Scheme("int8", "tensor", calibration))  # type: ignore[arg-type]
        assert clipped.max() < 60.0, "the threshold lies below the outlier"
        assert relative_error(weights[1:], clipped[1:]) < 0.7 * plain


def test_a_zero_point_helps_skewed_weights_only() -> None:
    plain, shifted = asymmetric_error(np.abs(NORMAL))
    assert shifted < 0.55 * plain
    symmetrical = np.concatenate([NORMAL, -NORMAL])
    plain, shifted = asymmetric_error(symmetrical)
    assert shifted == pytest.approx(plain, rel=0.05)


def layer_of(name: str) -> int:
    return int(name.split(".")[1])


def test_looking_at_matrices_counts_every_weight_and_pools_errors() -> None:
    matrices = look([("layers.0.q", NORMAL), ("layers.0.v", np.abs(HEAVY)), ("layers.1.q", HEAVY)], layer_of)
    assert [sum(matrix.histogram) for matrix in matrices] == [NORMAL.size] * 3
    assert [matrix.fits for matrix in matrices][:2] == ["symmetric", "asymmetric"]
    assert matrices[2].kurtosis > 4 > matrices[0].kurtosis > 2.5
    rows = layer_rows(matrices)
    assert [row["layer"] for row in rows] == [0, 1]
    assert sum(rows[0]["histogram"]) == 2 * NORMAL.size
    assert rows[1]["errors"] == pytest.approx(matrices[2].errors)
    label = "int4 tensor absmax"
    parts = [(m.errors[label] ** 2 * m.power, m.power) for m in matrices]
    assert pooled_errors(matrices)[label] == pytest.approx(np.sqrt(sum(e for e, _ in parts) / sum(p for _, p in parts)))
    found = {f"{row['format']} {row['granularity']} {row['calibration']}": row for row in scheme_rows(matrices)}
    assert found["int8 tensor absmax"]["bits_per_weight"] == pytest.approx(8 + 32 / NORMAL.size)
    assert found[label]["decibels"] == pytest.approx(-20 * np.log10(found[label]["relative_error"]))


def test_samples_are_whole_rows_and_0_takes_all() -> None:
    weights = np.arange(100 * 8, dtype=np.float32).reshape(100, 8)
    assert sampled_rows(weights, 0).shape == (100, 8)
    assert sampled_rows(weights, 10**6).shape == (100, 8)
    some = sampled_rows(weights, 80)
    assert some.shape == (10, 8)
    assert (some[0] == weights[0]).all()
    assert (some[-1] == weights[-1]).all()


def test_weights_that_are_not_finite_are_an_error_that_names_the_matrix() -> None:
    broken = NORMAL.copy()
    broken[3, 3] = np.nan
    with pytest.raises(BaseModelError, match=r"layers\.0\.q holds values that are not finite"):
        look([("layers.0.q", broken)], layer_of)


def test_a_constant_matrix_has_no_deviation_and_no_error() -> None:
    (matrix,) = look([("layers.0.q", np.zeros((4, 64), np.float32))], layer_of)
    assert isinstance(matrix, Matrix)
    assert matrix.deviation == 0.0
    assert set(matrix.errors.values()) == {0.0}
