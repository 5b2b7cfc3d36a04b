"""Larger than the card: how many layers' frozen weights lie in the host's memory, and what that costs in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import Problem, RecipeError
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes
from burnish.plan.activations import Device, Dtype, is_full
from burnish.plan.architecture import Architecture
from burnish.plan.host import Host
from burnish.plan.memory import BUFFERS, Streamed, streamed
from burnish.plan.recompute import Again


def choose_streamed(
    recipe: Recipe, architecture: Architecture, method: MethodPlan, device: Device, *, most: int, peak: Callable[[int], int],
    limit: int | None,
) -> int:  # fmt: skip
    """Return how many layers are streamed: what the recipe says, else as few as bring the peak below the limit, if that is over it.

    most: so many fit into the host's memory. peak: with so many, everything else chosen as well as can be. Raises RecipeError where
    streaming is asked for and cannot be had.
    """
    asked = recipe.train.streamed_layers
    trouble = _trouble(architecture, method, device)
    if asked != "auto":
        if asked and trouble:
            raise RecipeError(f"recipe {recipe.name}", [Problem("train.streamed_layers", str(asked), trouble)])
        if asked > architecture.layers:
            says = f"the base has {architecture.layers} layers."
            raise RecipeError(f"recipe {recipe.name}", [Problem("train.streamed_layers", str(asked), says)])
        return asked
    if trouble or limit is None or most <= BUFFERS or peak(0) <= limit or peak(most) > limit:
        return 0
    low, high = BUFFERS + 1, most
    while low < high:
        middle = (low + high) // 2
        if peak(middle) <= limit:
            high = middle
        else:
            low = middle + 1
    return low


def most_on_host(architecture: Architecture, method: MethodPlan, dtype: Dtype, host: Host) -> int:
    """Return how many layers' frozen weights fit into the host's memory; none where that is not known."""
    if host.bytes is None:
        return 0
    counts = range(architecture.layers, 0, -1)
    return next((count for count in counts if streamed(architecture, method, dtype, count).pinned <= host.bytes), 0)


def _trouble(architecture: Architecture, method: MethodPlan, device: Device) -> str | None:
    """Return why layers cannot be streamed."""
    if device == "cpu":
        return "layers are streamed from the host's memory to a GPU, and this trains on the CPU. Leave it out."
    if is_full(method):
        return "streamed weights are frozen, and with full every weight trains. Leave it out, or use lora or qlora."
    if method.base_dtype is not None or method.dora:
        return "weights are streamed as they are loaded: with method.base_dtype or dora they cannot be. Leave one of the two out."
    if any(block.experts is not None for block in architecture.blocks):
        return "experts cannot be streamed. Leave it out, or use qlora."
    return None


def with_streamed(
    architecture: Architecture, again: Again, gone: Streamed, host: Host, seconds: float, *, devices: int = 1
) -> Again:
    """Return what gives way with what is streamed: its bytes on the host, and the seconds of a packed row that wait for weights.

    Each way copies all but the layers that the way before left there, on each of the devices; activations on the host come back in
    backward too. seconds: of one layer forward; backward takes as long again, and layers computed again are computed twice.
    """
    copied = gone.bytes * max(0, gone.layers - devices * BUFFERS) / max(1, gone.layers)
    forward = copied / host.bytes_per_second - architecture.layers * seconds
    backward = (copied + again.host_bytes) / host.bytes_per_second - (architecture.layers + again.layers) * seconds
    return replace(
        again,
        streamed=gone.layers,
        host_bytes=again.host_bytes + gone.pinned,
        exposed_seconds=max(again.exposed_seconds, max(0.0, forward) + max(0.0, backward)),
    )


def tell_streamed(
    architecture: Architecture, again: Again, gone: Streamed, host: Host, seconds: float, *, asked: bool
) -> str:
    """Say in a sentence what is streamed, why, and what it costs. seconds: of one layer forward, over a packed row."""
    why = "the recipe says so" if asked else "the base does not fit the device otherwise"
    moved = 2 * gone.bytes / host.bytes_per_second
    computed = (2 * architecture.layers + again.layers) * seconds
    says = (
        f"{why}: {architecture.layers - gone.layers} of {architecture.layers} layers are resident; frozen weights of "
        f"{gone.layers}, {format_bytes(gone.bytes)}, lie in the host's memory, and copying them forward and backward takes "
        f"{moved:.2g} s of a packed row at {host.bytes_per_second / 1e9:.0f} GB/s, beside {computed:.2g} s of computing"
    )
    waited = again.exposed_seconds
    return f"{says}; {waited:.2g} s are waited for" if waited else f"{says}, so nothing waits for it"
