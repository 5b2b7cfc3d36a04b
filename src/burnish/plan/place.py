"""Layers over several GPUs, in order: how many each holds, what that takes of its memory, and what handing on costs in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import Problem, RecipeError
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes
from burnish.plan.activations import ITEM_BYTES, Device, Dtype, Workload, is_full
from burnish.plan.architecture import Architecture
from burnish.plan.constants import constant
from burnish.plan.hardware import Hardware
from burnish.plan.memory import BUFFERS, TRAINED_BYTES, Streamed, streamed
from burnish.plan.optimizers import (
    Optimizer,
    all_tensors,
    gradient_bytes,
    layer_tensors,
    outside_tensors,
    state_bytes,
)

OF_LAYERS = frozenset({
    "quantisation_constants", "rounded_weights", "master_weights", "adapter", "reference", "gradients", "optimizer",
})  # fmt: skip
"""Components that are spread over the devices as the layers are; what belongs to none of the layers is on the first."""
Counted = Callable[..., dict[str, int]]
"""Bytes by component with so many layers computed again whole, by halves, of both on the host; `streamed`: without weights."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Layers of each device, and its bytes by component."""

    layers: tuple[int, ...]
    components: tuple[dict[str, int], ...]

    @property
    def peaks(self) -> tuple[int, ...]:
        """The sum of each device."""
        return tuple(sum(each.values()) for each in self.components)

    @property
    def fullest(self) -> dict[str, int]:
        """The components of the device that holds most."""
        return max(self.components, key=lambda each: sum(each.values()))


def check_devices(recipe: Recipe, device: Device, hardware: Hardware) -> int:
    """Return over how many devices the recipe places layers. Raises RecipeError where it cannot."""
    asked = recipe.train.devices
    says = None
    if asked > 1 and device == "cpu":
        says = "places layers over GPUs, and this trains on the CPU. Leave it out."
    elif asked > hardware.gpus:
        says = f"there {'is' if hardware.gpus == 1 else 'are'} {hardware.gpus} here. Use as many at most."
    if says is not None:
        raise RecipeError(f"recipe {recipe.name}", [Problem("train.devices", str(asked), says)])
    return asked


@dataclass(frozen=True, slots=True)
class Placing:
    """What is spread over `devices`, and by which optimizer it trains."""

    architecture: Architecture
    method: MethodPlan
    dtype: Dtype
    components: Counted
    devices: int
    optimizer: Optimizer = "adamw"
    optimizer_in_backward: bool = False

    def outside(self) -> dict[str, int]:
        """Bytes of what trains in no layer; of gradients that come and go by how much more than a layer's the largest is."""
        if not is_full(self.method):
            return {}
        tensors, count = outside_tensors(self.architecture), self.architecture.layers
        gradients = gradient_bytes(tensors, TRAINED_BYTES, layers=count)
        if self.optimizer_in_backward:
            every, of_layers = all_tensors(self.architecture), layer_tensors(self.architecture)
            largest, own = (
                gradient_bytes(each, TRAINED_BYTES, layers=count, in_backward=True) for each in (every, of_layers)
            )
            gradients = largest - own
        return {
            "gradients": gradients,
            "optimizer": state_bytes(self.optimizer, tensors, TRAINED_BYTES).device,
            "master_weights": TRAINED_BYTES * sum(each.count * each.numbers for each in tensors),
        }


def placed(what: Placing, whole: int, halves: int, offloaded: int, streamed_layers: int) -> Placed:
    """Return the layers of each device such that the fullest holds as little as can be, and what each holds.

    Embeddings, last norm, head and loss are on the first. Recomputation begins with the first layers of all, and so does what the
    host keeps; layers whose weights are streamed are spread evenly over all.
    """
    count, devices = what.architecture.layers, what.devices
    held = _held(what, whole, halves, offloaded, streamed_layers)

    def at(layers: tuple[int, ...]) -> Placed:
        ends = list(accumulate(layers))
        spans = [slice(end - own, end) for end, own in zip(ends, layers, strict=True)]
        return Placed(layers, tuple(_of_device(what, held, span) for span in spans))

    best = at(tuple(count // devices + (number < count % devices) for number in range(devices)))
    while True:
        peaks = best.peaks
        full, free = peaks.index(max(peaks)), peaks.index(min(peaks))
        if best.layers[full] <= 1:
            return best
        moved = tuple(own - (number == full) + (number == free) for number, own in enumerate(best.layers))
        tried = at(moved)
        if max(tried.peaks) >= max(peaks):
            return best
        best = tried


@dataclass(frozen=True, slots=True)
class _Held:
    """What there is before it is spread: `together` with nothing on the host, and layer by layer.

    `activations`: bytes that each layer keeps on its device; `streamed`: which have no weights there; `offloaded`, `again`: so many
    of the first layers leave activations on the host, and are computed again. `part`: bytes of one that is.
    """

    together: Mapping[str, int]
    outside: Mapping[str, int]
    activations: Sequence[int]
    streamed: Sequence[bool]
    of_layer: Streamed
    offloaded: int
    offload_buffers: int
    again: int
    part: int


def _held(what: Placing, whole: int, halves: int, offloaded: int, streamed_layers: int) -> _Held:
    count, components = what.architecture.layers, what.components
    kept, inputs = (components(layers, 0, 0)["activations"] // count for layers in (0, count))
    half = components(0, count, 0)["activations"] // count if halves else 0
    activations = [inputs] * whole + [half] * halves + [kept] * (count - whole - halves)

    def leaves(number: int) -> int:
        """Bytes that a layer leaves on the host."""
        here, there = (components(whole, halves, moved)["activations"] for moved in (number, number + 1))
        return here - there

    of_whole, of_half = leaves(0) if whole else 0, leaves(whole) if halves else 0
    for number in range(offloaded):
        activations[number] -= of_whole if number < whole else of_half
    chosen = {number * count // streamed_layers for number in range(streamed_layers)}
    all_again = components(count, 0, 0) if whole else components(0, count, 0)
    return _Held(
        together=components(whole, halves, 0),
        outside=what.outside(),
        activations=activations,
        streamed=[number in chosen for number in range(count)],
        of_layer=streamed(what.architecture, what.method, what.dtype, count),
        offloaded=offloaded,
        offload_buffers=components(whole, halves, offloaded).get("offload_buffers", 0),
        again=whole + halves,
        part=all_again["recomputed_layer"],
    )


def _of_device(what: Placing, held: _Held, span: slice) -> dict[str, int]:
    count, own = what.architecture.layers, held.activations[span]
    share, first = len(own) / count, span.start == 0
    gone = sum(held.streamed[span])
    found = dict(held.together)
    for name in OF_LAYERS & found.keys():
        outside = held.outside.get(name, 0)
        of_layers = found[name] - outside
        comes_and_goes = name == "gradients" and what.optimizer_in_backward
        found[name] = (of_layers if comes_and_goes else round(share * of_layers)) + (outside if first else 0)
    of_layer = held.of_layer.weights // count
    outside = held.together["weights"] - of_layer * count
    found["weights"] = of_layer * (len(own) - gone) + (outside if first else 0)
    if gone:
        found["quantisation_constants"] -= gone * held.of_layer.scales // count
        found["stream_buffers"] = min(BUFFERS, gone) * held.of_layer.largest
    found["activations"] = sum(own)
    if span.start < held.offloaded:
        found["offload_buffers"] = held.offload_buffers
    # All of this device's layers computed again: one of them is there twice, when its inputs are there still.
    found["recomputed_layer"] = held.part if span.stop <= held.again else 0
    found["loss"] = held.together["loss"] if first else 0
    asked = sum(found.values()) - found["context"] - found["allocator"]
    return found | {"allocator": round(constant("cuda_allocator_share") * asked)}


def handing_seconds(
    architecture: Architecture, dtype: Dtype, work: Workload, devices: int, bytes_per_second: float
) -> float:
    """Return the seconds in which hidden states of a packed row, and their gradients, go from device to device and back."""
    return 2 * devices * ITEM_BYTES[dtype] * architecture.hidden * work.row_tokens / bytes_per_second


def tell_placed(found: Placed, seconds: float, bytes_per_second: float) -> str:
    """Say in a sentence what is where, and what that costs. seconds: of handing on, a packed row."""
    counts = ", ".join(str(layers) for layers in found.layers)
    peaks = ", ".join(format_bytes(peak) for peak in found.peaks)
    return (
        f"{counts} layers on {len(found.layers)} devices, which hold {peaks}; one computes at a time, so it is no faster than one "
        f"would be, and handing hidden states on takes {1000 * seconds:.1f} ms of a packed row at {bytes_per_second / 1e9:.0f} GB/s"
    )
