"""Some steps of the loop as a run would make them, to know its speed and its memory before it begins."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from burnish.core.artifacts import Plan
from burnish.core.errors import Interrupted
from burnish.core.events import Emit, Event, Progress, StepDone
from burnish.model.fused.paths import Paths
from burnish.train.loop import train
from burnish.train.objective import Objective, P

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
STEPS, WARM_UP = 20, 5
"""Steps that are made, and the first of them, which are not timed: kernels are chosen and compiled, memory is taken."""
MOST_STEPS, MORE_SECONDS = 200, 30.0
"""A probe whose steps wander goes on up to so many steps, as long as it has not taken so many seconds."""
BLOCK, KNOWN = 5, 0.01
"""Steps whose mean counts as one observation, and the standard error at which the mean of a probe is known."""


def probe_steps(
    plan: Plan, objective: Objective[P], model: PreTrainedModel, *, folder: Path, emit: Emit, stop: Callable[[], bool],
    paths: Paths | None = None,
) -> list[StepDone]:  # fmt: skip
    """Train the first STEPS steps of the run that `plan` describes and return them; what was trained is thrown away.

    Where those do not say what a step takes, since they wander, more are made (`enough`). The loop is that of training, on
    the paths that the run will take; the longest packed row is held first as it is there.
    folder: where checkpoints are written, and removed. Raises what `train` raises, and Interrupted when `stop()` is true.
    """
    done: list[StepDone] = []
    began = time.perf_counter()

    def note(event: Event) -> None:
        if isinstance(event, StepDone):
            done.append(event)
            emit(Progress("plan", "probe", event.step, min(max(STEPS, event.step), event.steps), "steps"))

    def ended() -> bool:
        return stop() or enough(seconds_of_tokens(done), time.perf_counter() - began)

    with tempfile.TemporaryDirectory(dir=folder, prefix="probe-") as scratch:
        try:
            train(plan, objective, model, folder=Path(scratch), emit=note, stop=ended, paths=paths)
        except Interrupted:
            if len(done) < STEPS:
                raise Interrupted("the probe was stopped; nothing is kept of it.") from None
    return done


def enough(each: Sequence[float], seconds: float, longest: float = MORE_SECONDS) -> bool:
    """Return whether steps that took `each` (per token) tell what a step takes: STEPS of them, and more while they wander.

    On a host that others share, steps that launching decides are slow or fast some ten at a time, so twenty may all be slow
    ones. seconds: those since the probe began; longest: after how many no more are made.
    """
    if len(each) < STEPS:
        return False
    return len(each) >= MOST_STEPS or seconds >= longest or error_of_mean(timed(each)) <= KNOWN


def error_of_mean(each: Sequence[float]) -> float:
    """Return the standard error of the mean as a share of it, neighbours being alike.

    By the means of blocks of BLOCK steps (Conway 1963, "Some tactical problems in digital simulation", Management Science
    10(1)); the steps before the first whole block are left out.
    """
    blocks = [statistics.fmean(each[end - BLOCK : end]) for end in range(len(each), BLOCK - 1, -BLOCK)]
    if len(blocks) < 2:
        return math.inf
    return statistics.stdev(blocks) / math.sqrt(len(blocks)) / statistics.fmean(blocks)


def timed(steps: Sequence[T]) -> Sequence[T]:
    """Return the steps that count: without the first WARM_UP, or fifth of a longer probe; of short runs without the first half."""
    return steps[min(max(WARM_UP, len(steps) // 5), len(steps) // 2) :]


def seconds_of_tokens(steps: Sequence[StepDone]) -> list[float]:
    """Return the seconds of a token in each step."""
    return [step.seconds / step.tokens for step in steps]


def spread(steps: Sequence[StepDone]) -> float:
    """Return the standard deviation of the seconds of a token, as a share of their mean; 0 for a single step."""
    each = seconds_of_tokens(steps)
    return statistics.stdev(each) / statistics.fmean(each) if len(each) > 1 else 0.0


def waited(steps: Sequence[StepDone]) -> float:
    """Return the share of the steps' seconds in which the host waited for the GPU: 0 on a CPU, or where launching decides."""
    return sum(step.waited_seconds for step in steps) / sum(step.seconds for step in steps)
