"""Which layers are computed again in backward, so that the peak fills a set share of the memory and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from burnish.core.artifacts import MethodPlan
from burnish.core.units import format_bytes
from burnish.plan.activations import Workload, is_fused
from burnish.plan.architecture import Architecture

Components = Callable[[int, int], Mapping[str, int]]
"""Bytes by component with so many layers computed again whole, and so many by their feed-forward half."""


@dataclass(frozen=True, slots=True)
class Again:
    """Layers computed again in backward: whole, or by their feed-forward half, which keeps attention's result.

    `layers`: how many whole layers that takes the time of. `offloaded`: so many of both leave on the host what they keep, which is
    `host_bytes` in all, `layer_bytes` of the layer that leaves most; `exposed_seconds` of a row are copies that nothing hides.
    `piece_tokens`: so many tokens of a long row are in a feed-forward half at once. `streamed`: so many layers have their frozen
    weights on the host, which `host_bytes` and `exposed_seconds` hold too. `layers_by_device`, `peaks`: of several GPUs.
    """

    whole: int
    feed_forward: int
    layers: float
    offloaded: int = 0
    host_bytes: int = 0
    layer_bytes: int = 0
    exposed_seconds: float = 0.0
    piece_tokens: int | None = None
    streamed: int = 0
    layers_by_device: tuple[int, ...] | None = None
    peaks: tuple[int, ...] | None = None


def choose_again(
    architecture: Architecture, method: MethodPlan, work: Workload, components: Components, limit: int | None, *,
    halves: bool = True,
) -> Again:  # fmt: skip
    """Return what costs about the least time of all that brings the peak below the limit; everything whole where nothing does.

    Time and memory are linear in both numbers, so the best is where two bounds meet: halves alone, whole layers alone, or both
    with no layer left (or one: when all are computed again, one is there twice on a GPU). No limit: nothing. Halves exist in
    fused layers alone; `halves` False takes none.
    """
    if limit is None or peak_of(components, 0, 0) <= limit:
        return Again(0, 0, 0.0)
    every, half = architecture.layers, half_share(architecture, method, work) if halves else None
    edges: list[Callable[[int], tuple[int, int]]] = [lambda count: (count, 0)]
    if half is not None:
        edges.append(lambda count: (0, count))
        edges.append(lambda count: (count, every - count))
        edges.append(lambda count: (count, max(0, every - 1 - count)))
    found: list[Again] = []
    for edge in edges:
        low, high = 0, every - 1
        while low < high:
            middle = (low + high) // 2
            if peak_of(components, *edge(middle)) <= limit:
                high = middle
            else:
                low = middle + 1
        whole, halved = edge(low)
        if peak_of(components, whole, halved) <= limit:
            found.append(Again(whole, halved, whole + halved * (half or 0.0)))
    return min(found, key=lambda again: again.layers) if found else Again(every, 0, float(every))


def half_share(architecture: Architecture, method: MethodPlan, work: Workload) -> float | None:
    """Return what the feed-forward half takes of the time of a whole layer, computed again; None where there are no halves.

    A layer that is computed again skips its last product, of which backward reads nothing (model/fused/functions.py).
    """
    block = architecture.blocks[0]
    last = sum(linear.weights for linear in block.linears if linear.reads == "mlp product")
    up = sum(linear.weights for linear in block.linears if linear.reads == "mlp norm")
    if not is_fused(architecture, method) or not up:
        return None
    attention = 2 * architecture.query_size * work.attended_pairs / max(1, work.row_tokens)
    return up / (block.linear_weights - last + attention)


def tell_again(again: Again, layers: int, peak: int, share: float) -> str:
    """Say in a sentence what is computed again, and why."""
    if not again.layers:
        return "all activations fit, so none is computed twice"
    if again.whole == layers:
        return f"every layer keeps its input alone, which brings the peak to {format_bytes(peak)}"
    brings = f"what takes the least time of all that brings the peak to {format_bytes(peak)}, within {share:.0%} of the memory"
    if not again.feed_forward:
        return f"{again.whole} of {layers}: {brings}"
    halves = f"of {again.feed_forward} more the feed-forward half, with attention's result kept"
    return f"{again.whole} of {layers}, and {halves}: {brings}"


def peak_of(components: Callable[..., Mapping[str, int]], *counts: int) -> int:
    """Return the sum of all components."""
    return sum(components(*counts).values())
