"""What is decided about a run before its memory and time are counted: device, number type, method, how its rows are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass

from burnish.core.artifacts import MethodPlan, Probe
from burnish.core.ids import Id, short
from burnish.core.mix import MixPlan, RunOrder
from burnish.core.recipe import Recipe
from burnish.plan.activations import Device, Dtype, Workload
from burnish.plan.architecture import Architecture
from burnish.plan.device import choose_device, choose_dtype
from burnish.plan.hardware import Hardware
from burnish.plan.memory import trained_tensors
from burnish.plan.method import check_optimizer, method_plan
from burnish.plan.probe import Measured
from burnish.plan.work import Dataset, Steps, cut


@dataclass(frozen=True, slots=True)
class Decided:
    """A run as decided; memory and time are counted from it alone. Bytes are None where what is free is not known."""

    recipe: Recipe
    architecture: Architecture
    hardware: Hardware
    device: Device
    dtype: Dtype
    method: MethodPlan
    data: Dataset
    steps: Steps
    mix: MixPlan | None
    measured: Measured | None
    start: Id | None

    @property
    def reference_copy(self) -> bool:
        """Whether the adapter that training goes on from is kept a second time, as the reference of preferences."""
        return self.recipe.objective.pairs and self.start is not None and not self.full

    @property
    def full(self) -> bool:
        """Whether every weight trains."""
        return self.method.kind == "full"

    @property
    def trainable(self) -> int:
        """Numbers that are trained."""
        if self.full:
            return self.architecture.parameters
        return sum(each.count * each.numbers for each in trained_tensors(self.architecture, self.method))

    @property
    def work(self) -> Workload:
        """What the fullest step holds at once."""
        steps, data = self.steps, self.data
        trained = min(steps.fullest_row, math.ceil(steps.fullest_row * data.trained / max(1, data.tokens)))
        return Workload(steps.fullest_row, steps.most_pairs, trained, steps.row_shapes, steps.segment_shapes)

    @property
    def available_bytes(self) -> int | None:
        """Memory of the device that is free to use."""
        return self.hardware.ram_bytes if self.device == "cpu" else self.hardware.gpu_bytes

    @property
    def limit_bytes(self) -> int | None:
        """The share of it that the recipe lets training take."""
        available = self.available_bytes
        return None if available is None else math.floor(self.recipe.train.memory_share * available)


def decide(
    recipe: Recipe,
    architecture: Architecture,
    hardware: Hardware,
    data: Dataset,
    order: RunOrder | None,
    probe: Probe | None,
    start: Id | None,
    because: dict[str, str],
) -> Decided:
    """Decide about a run and say why.

    order, probe, start: as `make_plan` takes them. Raises RecipeError for targets, optimizers and sizes that cannot be.
    """
    device = choose_device(recipe, hardware, because)
    dtype = choose_dtype(device, hardware, because)
    method = method_plan(recipe, architecture, device, dtype, because)
    check_optimizer(recipe, device, dtype, because)
    steps = cut(recipe, data, device, architecture.context, order)
    because.update(steps.because)
    mix = None if order is None else order.mix
    measured = None if probe is None else Measured(probe, device)
    if start is not None:
        because["start"] = f"goes on from adapter {short(start)}, which the recipe calls {recipe.start_from}"
    return Decided(recipe, architecture, hardware, device, dtype, method, data, steps, mix, measured, start)
