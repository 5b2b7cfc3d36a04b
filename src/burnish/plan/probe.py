"""What a probe says about a plan: seconds and bytes that were measured instead of those that formulas give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from burnish.core.artifacts import Interval, Plan, Probe, ProbeMeasured
from burnish.core.ids import content_id
from burnish.core.plan_parts import unmeasured_bytes
from burnish.plan.architecture import Architecture
from burnish.plan.constants import constant
from burnish.plan.hardware import Hardware
from burnish.plan.time import FORWARD, Rates

SHAPE_OF_LOOP = ("row_tokens", "rows_per_step", "checkpointed_layers", "device", "compute_dtype", "threads")
"""Keys of `train` that speed and memory depend on."""
SHAPE_WHERE_SET = (
    "optimizer", "optimizer_in_backward", "feed_forward_again", "offloaded_layers", "piece_tokens", "streamed_layers",
    "layers_by_device",
)  # fmt: skip
"""Others, which count where they are set, so that probes made before they were there stay what they were."""


def probe_shape(plan: Plan, architecture: Architecture, hardware: Hardware) -> dict[str, Any]:
    """Return everything that the speed and the memory of a run depend on: two runs of one shape share a probe.

    The weights of the base do not matter, its architecture does.
    """
    numbers = plan.train.model_dump(mode="json")
    return {
        "architecture": content_id(asdict(architecture)),
        "method": plan.method.model_dump(mode="json"),
        **{key: numbers[key] for key in SHAPE_OF_LOOP},
        **{key: numbers[key] for key in SHAPE_WHERE_SET if numbers[key] is not None},
        **({} if plan.train.preference is None else {"pairs": True, "reference_copy": plan.start is not None}),
        "machine": hardware.gpu_name if plan.train.device == "cuda" else hardware.cpu_name,
        "torch": version("torch"),
    }


SPREADS = 2
"""A band holds so many standard deviations from step to step: a host that others share drifts for seconds at a time."""


LEAST_WAIT = 0.05
"""A host that waits for the GPU for less of a step than this launches slower than the GPU computes."""
LAUNCHING = (
    "launching decides and the GPU stands idle, so longer packed rows (train.row_tokens) would cost next to nothing"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """A probe as the plan uses it: seconds of a run's tokens, rates of evaluation, bytes."""

    probe: Probe
    device: str

    @property
    def took(self) -> ProbeMeasured:
        """What was measured."""
        return self.probe.measured

    @property
    def because(self) -> str:
        """One sentence."""
        took = self.took
        told = (
            f"a probe here: {took.steps} steps of {took.seconds / took.steps:.3g} s, "
            f"{took.tokens / took.seconds:,.0f} tokens/s, from step to step {took.spread:.0%} apart"
        )
        return f"{told}; {LAUNCHING}" if 0 < took.waited < LEAST_WAIT else told

    def train_seconds(self, tokens: int) -> Interval:
        """Seconds of a run over so many tokens."""
        return self._band(tokens * self.took.seconds / self.took.tokens)

    def rates(self, architecture: Architecture, planned: Rates) -> Rates:
        """Return the operations a second of reading and generating in evaluation; as planned where none was measured."""
        took, head = self.took, architecture.vocabulary * architecture.hidden
        read, generated = planned.train, planned.decode
        if took.read_seconds > 0:
            operations = FORWARD * (architecture.computed_weights * took.read_tokens + head * took.read_trained)
            read = self._band(operations / took.read_seconds)
        if took.generate_seconds > 0:
            operations = FORWARD * (architecture.computed_weights + head) * took.generated_tokens
            generated = self._band(operations / took.generate_seconds)
        return Rates(read, generated, self.because)

    def _band(self, middle: float) -> Interval:
        band = min(0.9, max(constant(f"{self.device}_probe_band"), SPREADS * self.took.spread))
        return Interval(low=middle * (1 - band), mid=middle, high=middle * (1 + band))


def with_measured_peak(components: Mapping[str, int], measured_bytes: int, device: str) -> dict[str, int]:
    """Return components that sum to the peak that was measured: the difference to arithmetic stands by itself.

    On a GPU torch was asked what it allocated, without CUDA's own memory and the holes of the allocator; these stay. Where
    less was held than counted, it is taken from the holes first and then from the activations.
    """
    found = dict(components)
    difference = measured_bytes - (sum(found.values()) - unmeasured_bytes(found, device))
    if difference >= 0:
        return found | {"probe": difference}
    for name in ("allocator", "activations", "loss", "loading", "process", "weights"):
        if name == "allocator" and device == "cuda":
            continue
        taken = min(-difference, found.get(name, 0))
        found[name] = found.get(name, 0) - taken
        difference += taken
    return found
