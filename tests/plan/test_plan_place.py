"""Layers over several GPUs: how many on each, what each holds, and that handing on stands in the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from burnish.core.artifacts import Plan
from burnish.core.errors import RecipeError
from burnish.plan.hardware import Hardware

BASE = "llama-3.1-8b-instruct"
PlanOf = Callable[..., Plan]


@pytest.fixture
def pair(machines: dict[str, Hardware]) -> Hardware:
    """Two GPUs, neither of which holds 16 GB of weights."""
    return replace(machines["h100"], gpu_bytes=14 * 2**30, gpus=2)


def test_two_devices_hold_what_one_does_not(plan_of: PlanOf, pair: Hardware) -> None:
    one = plan_of(BASE, pair, recipe={"method": "lora", "train": {"streamed_layers": 0}})
    assert one.fits is False
    two = plan_of(BASE, pair, recipe={"method": "lora", "train": {"devices": 2}})
    assert two.fits
    assert two.train.layers_by_device
    assert sum(two.train.layers_by_device) == 32
    assert two.train.layers_by_device[0] < two.train.layers_by_device[1], "embeddings, head and loss are on the first"
    assert two.memory.by_device
    assert max(two.memory.by_device) == two.memory.peak_bytes
    assert min(two.memory.by_device) > 0.8 * max(two.memory.by_device)
    assert two.train.streamed_layers is None
    assert "one computes at a time" in two.because["train.layers_by_device"]


def test_more_devices_hold_less_each_and_take_longer(plan_of: PlanOf, pair: Hardware) -> None:
    plans = [
        plan_of(
            BASE, replace(pair, gpu_bytes=60 * 2**30, gpus=8), recipe={"method": "lora", "train": {"devices": count}}
        )
        for count in (1, 2, 4)
    ]
    assert plans[0].train.layers_by_device is None
    assert plans[0].memory.peak_bytes > plans[1].memory.peak_bytes > plans[2].memory.peak_bytes
    assert plans[0].time.train.mid < plans[1].time.train.mid < plans[2].time.train.mid


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"method": "lora", "train": {"devices": 3}}, "there are 2 here"),
        ({"method": "full", "train": {"devices": 2}}, "every weight trains"),
        ({"method": "lora", "train": {"devices": 2, "streamed_layers": 4}}, "streamed to one"),
    ],
)
def test_what_cannot_be_placed_is_refused(plan_of: PlanOf, pair: Hardware, recipe: dict, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        plan_of(BASE, pair, recipe=recipe)


def test_a_cpu_places_nothing(plan_of: PlanOf) -> None:
    with pytest.raises(RecipeError, match="trains on the CPU"):
        plan_of(recipe={"train": {"devices": 2}})
