"""Layers over several GPUs, in order: how many each holds, what that takes of its memory, and what handing on costs in time."""

from __future__ import annotations

from collections.abc import Mapping
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
from burnish.plan.memory import streamed
from burnish.plan.recompute import Components

OF_LAYERS = frozenset({"quantisation_constants", "adapter", "reference", "gradients", "optimizer"})
"""Components that are spread over the devices as the layers are."""


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


def check_devices(recipe: Recipe, method: MethodPlan, device: Device, hardware: Hardware) -> int:
    """Return over how many devices the recipe places layers. Raises RecipeError where it cannot."""
    asked = recipe.train.devices
    says = None
    if asked > 1 and device == "cpu":
        says = "places layers over GPUs, and this trains on the CPU. Leave it out."
    elif asked > hardware.gpus:
        says = f"there {'is' if hardware.gpus == 1 else 'are'} {hardware.gpus} here. Use as many at most."
    elif asked > 1 and is_full(method):
        says = "places frozen layers; with full every weight trains. Use lora or qlora."
    elif asked > 1 and recipe.train.streamed_layers not in ("auto", 0):
        says = "layers lie on devices or are streamed to one. Leave train.streamed_layers out."
    if says is not None:
        raise RecipeError(f"recipe {recipe.name}", [Problem("train.devices", str(asked), says)])
    return asked


def placed(
    architecture: Architecture, method: MethodPlan, dtype: Dtype, components: Components, whole: int, halves: int, devices: int
) -> Placed:  # fmt: skip
    """Return the layers of each device such that the fullest holds as little as can be, and what each holds.

    Embeddings, last norm, head and loss are on the first. Recomputation begins with the first layers of all.
    """
    count = architecture.layers
    held = _activations(count, components, whole, halves)

    def at(layers: tuple[int, ...]) -> Placed:
        ends = list(accumulate(layers))
        spans = [slice(end - own, end) for end, own in zip(ends, layers, strict=True)]
        together = components(whole, halves)
        of_layer = streamed(architecture, method, dtype, count).weights // count
        return Placed(
            layers, tuple(_of_device(together, held, of_layer, span, first=span.start == 0) for span in spans)
        )

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


def _activations(count: int, components: Components, whole: int, halves: int) -> list[int]:
    """Bytes that each layer keeps."""
    kept, inputs = (components(layers, 0)["activations"] // count for layers in (0, count))
    half = components(0, count)["activations"] // count if halves else 0
    return [inputs] * whole + [half] * halves + [kept] * (count - whole - halves)


def _of_device(
    together: Mapping[str, int], held: list[int], of_layer: int, span: slice, *, first: bool
) -> dict[str, int]:
    own = held[span]
    share = len(own) / len(held)
    found = dict(together)
    for name in OF_LAYERS & found.keys():
        found[name] = round(share * found[name])
    outside = together["weights"] - of_layer * len(held)
    found["weights"] = of_layer * len(own) + (outside if first else 0)
    found["activations"] = sum(own)
    found["loss"] = together["loss"] if first else 0
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
