"""Which layers are streamed: none where the base fits, else as few as make it fit; what that costs stands in the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.errors import RecipeError
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config
from burnish.plan.hardware import Hardware
from burnish.plan.memory import streamed

GIB = 2**30
BASE = "llama-3.1-8b-instruct"
LAYER = 4096 * (4096 + 2 * 1024 + 4096) + 3 * 4096 * 14336
"""Numbers in the linear weights of one layer."""
PlanOf = Callable[..., Plan]


@pytest.fixture
def small(machines: dict[str, Hardware]) -> Hardware:
    """A GPU that does not hold 16 GB of weights."""
    return replace(machines["h100"], gpu_bytes=10 * GIB)


def test_bytes_are_those_of_the_linears_and_of_their_scales() -> None:
    architecture = read_architecture(find_config(BASE))
    method = MethodPlan(
        kind="lora",
        rank=16,
        alpha=32.0,
        dropout=0.0,
        targets=("q_proj",),
        quantisation="none",
        double_quantisation=True,
    )
    half = streamed(architecture, method, "bfloat16", 16)
    assert (half.weights, half.scales, half.largest) == (16 * 2 * LAYER, 0, 2 * LAYER)
    assert half.buffers == 2 * 2 * LAYER
    assert half.pinned == 16 * 512 * 2**20, "416 MiB are rounded up"
    nf4 = streamed(architecture, method.model_copy(update={"quantisation": "nf4"}), "bfloat16", 1)
    assert nf4.weights == LAYER // 2
    assert nf4.scales == LAYER // 64 + 4 * (LAYER // 64 // 256)
    assert nf4.buffers == nf4.bytes
    assert streamed(architecture, method, "bfloat16", 0).buffers == 0


def test_a_base_that_fits_streams_nothing(plan_of: PlanOf, machines: dict[str, Hardware]) -> None:
    plan = plan_of(BASE, machines["h100"], recipe={"method": "lora"})
    assert plan.train.streamed_layers is None
    assert "train.streamed_layers" not in plan.because


def test_a_base_that_does_not_fit_streams_as_few_layers_as_make_it_fit(plan_of: PlanOf, small: Hardware) -> None:
    plan = plan_of(BASE, small, recipe={"method": "lora"})
    count, components = plan.train.streamed_layers, plan.memory.components
    assert count
    assert 2 < count < 32
    assert plan.fits
    assert plan.memory.limit_bytes
    assert plan.memory.peak_bytes <= plan.memory.limit_bytes
    assert components["stream_buffers"] == 2 * 2 * LAYER
    assert plan.memory.weights_bytes == pytest.approx(2 * (8.03e9 - count * LAYER), rel=0.01)
    assert plan.memory.host_bytes
    assert plan.memory.host_bytes >= count * 2 * LAYER
    assert f"{32 - count} of 32 layers are resident" in plan.because["train.streamed_layers"]
    fewer = plan_of(BASE, small, recipe={"method": "lora", "train": {"streamed_layers": count - 1}})
    assert fewer.memory.peak_bytes > plan.memory.limit_bytes


def test_waiting_for_copies_stands_in_the_time(plan_of: PlanOf, small: Hardware) -> None:
    """Short rows compute less than the copies take; long ones hide them."""
    never = {"method": "lora", "train": {"row_tokens": 512, "streamed_layers": 0}}
    short = plan_of(BASE, small, recipe=never | {"train": {"row_tokens": 512}})
    plain = plan_of(BASE, small, recipe=never)
    assert "are waited for" in short.because["train.streamed_layers"]
    assert short.time.train.mid > plain.time.train.mid + 1
    long = plan_of(BASE, small, data_bytes=4_000_000, recipe={"method": "lora", "train": {"row_tokens": 16384}})
    assert "nothing waits for it" in long.because["train.streamed_layers"]


def test_a_host_that_cannot_hold_the_layers_or_is_not_known_streams_nothing(plan_of: PlanOf, small: Hardware) -> None:
    for ram in (2 * GIB, None):
        plan = plan_of(BASE, replace(small, ram_bytes=ram), recipe={"method": "lora"})
        assert plan.train.streamed_layers is None
        assert plan.fits is False


@pytest.mark.parametrize(
    ("method", "trouble"),
    [
        ("full", "with full every weight trains"), ({"kind": "lora", "dora": True}, "dora"),
        ({"kind": "lora", "base_dtype": "fp8"}, "base_dtype"),
    ],
)  # fmt: skip
def test_what_cannot_be_streamed_is_refused_with_the_reason(
    plan_of: PlanOf, machines: dict[str, Hardware], method: object, trouble: str
) -> None:
    with pytest.raises(RecipeError, match=trouble):
        plan_of(BASE, machines["h100"], recipe={"method": method, "train": {"streamed_layers": 4}})


def test_a_cpu_and_more_layers_than_there_are_are_refused(plan_of: PlanOf, machines: dict[str, Hardware]) -> None:
    with pytest.raises(RecipeError, match="trains on the CPU"):
        plan_of(recipe={"train": {"streamed_layers": 4}})
    with pytest.raises(RecipeError, match="the base has 32 layers"):
        plan_of(BASE, machines["h100"], recipe={"train": {"streamed_layers": 33}})
