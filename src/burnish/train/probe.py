"""A few steps of the loop as a run would make them, to know its speed and its memory before it begins."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.artifacts import Plan
from burnish.core.errors import Interrupted
from burnish.core.events import Emit, Event, Progress, StepDone
from burnish.model.fused.paths import Paths
from burnish.train.loop import train
from burnish.train.objective import Objective, P

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEPS, WARM_UP = 20, 5
"""Steps that are made, and the first of them, which are not timed: kernels are chosen and compiled, memory is taken."""


def probe_steps(
    plan: Plan, objective: Objective[P], model: PreTrainedModel, *, folder: Path, emit: Emit, stop: Callable[[], bool],
    paths: Paths | None = None,
) -> list[StepDone]:  # fmt: skip
    """Train the first STEPS steps of the run that `plan` describes and return them; what was trained is thrown away.

    The loop is that of training, on the paths that the run will take; the longest packed row is held first as it is there.
    folder: where checkpoints are written, and removed. Raises what `train` raises, and Interrupted when `stop()` is true.
    """
    done: list[StepDone] = []

    def note(event: Event) -> None:
        if isinstance(event, StepDone):
            done.append(event)
            emit(Progress("plan", "probe", event.step, min(STEPS, event.steps), "steps"))

    def enough() -> bool:
        return len(done) >= STEPS or stop()

    with tempfile.TemporaryDirectory(dir=folder, prefix="probe-") as scratch:
        try:
            train(plan, objective, model, folder=Path(scratch), emit=note, stop=enough, paths=paths)
        except Interrupted:
            if len(done) < STEPS:
                raise Interrupted("the probe was stopped; nothing is kept of it.") from None
    return done


def timed(steps: Sequence[StepDone]) -> Sequence[StepDone]:
    """Return the steps that count: without the first WARM_UP, of short runs without the first half."""
    return steps[min(WARM_UP, len(steps) // 2) :]


def spread(steps: Sequence[StepDone]) -> float:
    """Return the standard deviation of the seconds of a token, as a share of their mean; 0 for a single step."""
    each = [step.seconds / step.tokens for step in steps]
    return statistics.stdev(each) / statistics.fmean(each) if len(each) > 1 else 0.0


def waited(steps: Sequence[StepDone]) -> float:
    """Return the share of the steps' seconds in which the host waited for the GPU: 0 on a CPU, or where launching decides."""
    return sum(step.waited_seconds for step in steps) / sum(step.seconds for step in steps)
