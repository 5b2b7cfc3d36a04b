"""What a GPU leaves in its host's memory, and what that costs in time: activations of layers that are computed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import Problem, RecipeError
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes, format_seconds
from burnish.plan.activations import Device, Dtype, Workload, moved_bytes
from burnish.plan.architecture import Architecture
from burnish.plan.constants import constant
from burnish.plan.gpus import find_gpu
from burnish.plan.hardware import Hardware
from burnish.plan.recompute import Again, choose_again, peak_of
from burnish.plan.time import ATTENTION_FORWARD, FORWARD, Rates

OffloadedComponents = Callable[[int, int, int], Mapping[str, int]]
"""The same, with so many of both leaving on the host what they keep."""
WORTH_OFFLOADING = 0.05
"""Share of a step's time that offloading must save where a row fits without."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the host can hold for a GPU: bytes that may be pinned (None: not known), bytes a second, and the GPU's operations."""

    bytes: int | None
    bytes_per_second: float
    operations_per_second: float

    def without(self, taken: int) -> Host:
        """Return the host with so many bytes less that may be pinned."""
        return self if self.bytes is None else replace(self, bytes=max(0, self.bytes - taken))


def host_of(hardware: Hardware, rates: Rates, *, fused: bool) -> Host:
    """Return the host of a machine's GPU, which computes at these rates; fused layers compute faster, and hide less."""
    free, gpu = hardware.ram_bytes, find_gpu(hardware.gpu_name)
    return Host(
        bytes=None if free is None else round(constant("pinned_share") * free),
        bytes_per_second=gpu.host_gigabytes_per_second * 1e9 * constant("cuda_host_copy_share"),
        operations_per_second=rates.train.mid * (constant("cuda_fused_gain") if fused else 1.0),
    )


def check_offload(recipe: Recipe, device: Device) -> None:
    """Raise RecipeError where a recipe asks for what there is no host for."""
    if recipe.train.activation_offload == "always" and device == "cpu":
        says = "activations wait in the memory of a GPU's host, and this trains on the CPU. Leave it out."
        raise RecipeError(f"recipe {recipe.name}", [Problem("train.activation_offload", "always", says)])


def choose_offloaded(
    architecture: Architecture, method: MethodPlan, work: Workload, components: OffloadedComponents, limit: int | None,
    host: Host, dtype: Dtype, asked: Literal["auto", "always", "never"],
) -> Again:  # fmt: skip
    """Return what is computed again, and of how many of those layers the host holds what they keep.

    Of two ways, without the host and with all of those layers on it: that which fits; where both do, the host's if it saves a
    share of the time that is worth it. Then no more layers go there than the limit asks for. Halves leave several times what
    whole layers do, so they must be worth it too, and fit into the host's memory (without a number for it, everything fits).
    """
    alone = choose_again(architecture, method, work, lambda whole, halves: components(whole, halves, 0), limit)
    if asked == "never" or limit is None:
        return alone

    def all_moved(whole: int, halves: int) -> Mapping[str, int]:
        return components(whole, halves, whole + halves)

    told = partial(_on_host, architecture, method, work, host, dtype)
    found = choose_again(architecture, method, work, all_moved, limit)
    every = told(found, found.whole + found.feed_forward)
    inputs = choose_again(architecture, method, work, all_moved, limit, halves=False)
    saved = inputs.layers - found.layers
    if _over(every, host) or saved < WORTH_OFFLOADING * (2 * architecture.layers + inputs.layers):
        found, every = inputs, told(inputs, inputs.whole)
    if not every.offloaded or _over(every, host):
        return alone
    if asked == "always":
        return every
    if peak_of(components, alone.whole, alone.feed_forward, 0) <= limit:
        whole_step = 2 * architecture.layers + alone.layers
        lost = every.exposed_seconds / layer_seconds(architecture, work, host)
        if alone.layers - every.layers - lost < WORTH_OFFLOADING * whole_step:
            return alone
    low, high = 0, every.offloaded
    while low < high:
        middle = (low + high) // 2
        if peak_of(components, every.whole, every.feed_forward, middle) <= limit:
            high = middle
        else:
            low = middle + 1
    return told(found, low)


def _on_host(
    architecture: Architecture, method: MethodPlan, work: Workload, host: Host, dtype: Dtype, again: Again, offloaded: int
) -> Again:  # fmt: skip
    """Return what is computed again with so many of its layers on the host, and what that takes.

    A layer's copy runs while the next is computed; what is longer than that is waited for, once forward and once backward.
    """
    held, most = moved_bytes(
        architecture, dtype, work, whole=again.whole, halves=again.feed_forward, offloaded=offloaded
    )
    waited = max(0.0, most / host.bytes_per_second - layer_seconds(architecture, work, host))
    return replace(
        again, offloaded=offloaded, host_bytes=held, layer_bytes=most, exposed_seconds=2 * waited * offloaded
    )


def _over(again: Again, host: Host) -> bool:
    return host.bytes is not None and again.host_bytes > host.bytes


def layer_seconds(architecture: Architecture, work: Workload, host: Host) -> float:
    """Return the seconds of one layer forward, over a packed row."""
    products = FORWARD * architecture.computed_weights / architecture.layers * work.row_tokens
    attention = ATTENTION_FORWARD * architecture.query_size * work.attended_pairs / 2
    return (products + attention) / host.operations_per_second


def tell_offloaded(again: Again, host: Host) -> str:
    """Say in a sentence what the host holds, and what that costs in time."""
    most = again.layer_bytes
    seconds = most / host.bytes_per_second
    says = (
        f"what {again.offloaded} of the layers computed again keep waits in the host's memory, {format_bytes(again.host_bytes)}: "
        f"{format_bytes(most)} a layer, {1000 * seconds:.0f} ms each way at {host.bytes_per_second / 1e9:.0f} GB/s"
    )
    if again.exposed_seconds:
        return f"{says}, of which {format_seconds(again.exposed_seconds)} of a row are waited for"
    return f"{says}, while other layers are computed"
