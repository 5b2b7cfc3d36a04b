"""Layers over several GPUs: how many on each, what each holds, and that handing on stands in the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from burnish.core.artifacts import Plan
from burnish.core.errors import RecipeError
from burnish.plan.hardware import Hardware
from burnish.wiring.base import not_held

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


def test_layers_on_devices_are_streamed_and_offloaded_where_they_do_not_fit_otherwise(
    plan_of: PlanOf, pair: Hardware
) -> None:
    small = replace(pair, gpu_bytes=7 * 2**30)
    never = plan_of(BASE, small, recipe={"method": "lora", "train": {"devices": 2, "streamed_layers": 0}})
    assert never.fits is False
    plan = plan_of(BASE, small, recipe={"method": "lora", "train": {"devices": 2}})
    count, limit = plan.train.streamed_layers, plan.memory.limit_bytes
    assert plan.fits
    assert count
    assert limit
    assert plan.memory.by_device
    assert max(plan.memory.by_device) == plan.memory.peak_bytes <= limit
    assert plan.memory.host_bytes
    fewer = {"method": "lora", "train": {"devices": 2, "streamed_layers": count - 1}}
    assert plan_of(BASE, small, recipe=fewer).memory.peak_bytes > limit
    assert plan.time.train.mid > never.time.train.mid
    assert f"{32 - count} of 32 layers are resident" in plan.because["train.streamed_layers"]


@pytest.mark.parametrize(("method", "gib"), [("lora", 15), ("full", 90)])
def test_rows_that_no_device_holds_wait_on_the_host_of_every_device(
    plan_of: PlanOf, pair: Hardware, method: str, gib: int
) -> None:
    found = {}
    for asked in ("never", "auto", "always"):
        train = {"devices": 2, "row_tokens": 32768, "activation_offload": asked}
        recipe = {"method": method, "train": train | ({} if method == "full" else {"streamed_layers": 0})}
        found[asked] = plan_of(BASE, replace(pair, gpu_bytes=gib * 2**30), data_bytes=4_000_000, recipe=recipe)
    limit = found["auto"].memory.limit_bytes
    assert limit
    assert found["never"].train.offloaded_layers is None
    assert found["never"].memory.peak_bytes > limit
    for plan in (found["auto"], found["always"]):
        assert plan.memory.peak_bytes <= limit
        assert plan.train.layers_by_device
        assert plan.train.offloaded_layers
        assert plan.memory.host_bytes
        assert "train.offloaded_layers" in plan.because
    assert found["always"].train.offloaded_layers == found["always"].train.checkpointed_layers


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "muon", "adafactor"])
@pytest.mark.parametrize("in_backward", [False, True])
def test_with_every_weight_trained_devices_hold_together_what_one_would(
    plan_of: PlanOf, pair: Hardware, optimizer: str, in_backward: bool
) -> None:
    """Weights, what they train by and activations; each device has its own context, its layer being computed, its holes."""
    train = {"optimizer": optimizer, "optimizer_in_backward": in_backward, "memory_share": 1.0}
    roomy = replace(pair, gpu_bytes=300 * 2**30)
    one = plan_of(BASE, roomy, recipe={"method": "full", "train": train})
    two = plan_of(BASE, roomy, recipe={"method": "full", "train": train | {"devices": 2}})
    assert two.memory.by_device
    shared = [one.memory.components[name] for name in ("context", "layer_gradients") if name in one.memory.components]
    beside = sum(shared) + one.memory.components["allocator"]
    if in_backward:  # one layer's, on each
        beside += 4 * 2**30
    assert sum(two.memory.by_device) == pytest.approx(one.memory.peak_bytes, abs=beside)
    assert max(two.memory.by_device) < 0.6 * one.memory.peak_bytes
    assert two.train.layers_by_device
    assert two.train.layers_by_device[0] < 16, "embeddings, head and loss, and what they train by, are on the first"


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"method": "lora", "train": {"devices": 3}}, "there are 2 here"),
        ({"method": "full", "train": {"devices": 2, "streamed_layers": 4}}, "with full every weight trains"),
    ],
)
def test_what_cannot_be_placed_is_refused(plan_of: PlanOf, pair: Hardware, recipe: dict, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        plan_of(BASE, pair, recipe=recipe)


def test_a_cpu_places_nothing(plan_of: PlanOf) -> None:
    with pytest.raises(RecipeError, match="trains on the CPU"):
        plan_of(recipe={"train": {"devices": 2}})


def test_the_first_device_alone_streams_what_the_others_hold_and_what_was_streamed_to_it(
    plan_of: PlanOf,
) -> None:
    def held_elsewhere(**numbers: object) -> int:
        return not_held(plan_of().train.model_copy(update=numbers))

    assert held_elsewhere() == 0
    assert held_elsewhere(streamed_layers=5) == 5
    assert held_elsewhere(layers_by_device=(3, 5)) == 5
    assert held_elsewhere(layers_by_device=(3, 5), streamed_layers=4) == 5 + 2, "layers 0, 2, 4 and 6 are streamed"
    assert held_elsewhere(layers_by_device=(3, 5), streamed_layers=8) == 8
