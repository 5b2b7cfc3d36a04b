"""The training loop: begin or go on; for each step forward, backward, clip, update, note, save."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from burnish.core.artifacts import Plan, TrainMeasured, TrainPlan
from burnish.core.errors import Interrupted, TrainingError
from burnish.core.events import Checkpointed, Emit, Note, StepDone
from burnish.model.attention import attention_dropout
from burnish.model.fused.paths import PLAIN, Paths, on_paths, usual_paths
from burnish.model.memory import MemoryPeak, trim_heap
from burnish.model.probe import check_base
from burnish.model.recompute import Recomputation
from burnish.model.threads import gain_of_threads
from burnish.train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from burnish.train.events import EventFile
from burnish.train.launched import LaunchedSteps, Read
from burnish.train.objective import Objective, P, Packed
from burnish.train.optim import LossScale, learning_rate, loss_scale
from burnish.train.room import Room, planned_layers
from burnish.train.trained import Trained, trained_of
from burnish.train.updates import Updates, updates_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMALLEST_SCALE = 1.0
"""A float16 loss that overflows even so is no matter of its scale."""
STEPS_BEHIND = {"cuda": 1}
"""By the type of a device: steps that it may be given before the one before them is read."""


def train(
    plan: Plan, objective: Objective[P], model: PreTrainedModel, *, folder: Path, emit: Emit, stop: Callable[[], bool],
    paths: Paths | None = None,
) -> TrainMeasured:  # fmt: skip
    """Train what the plan says of `model`, and write it to `folder/adapter`, or every weight to `folder/model`.

    objective: what is learned from which rows (`sft.objective`, `dpo.objective`). paths: the ways the parts of a step take;
    those that suit the device unless said.

    Goes on from the last checkpoint in `folder`; the final weights are then bit-identical to those of an undisturbed
    run with the same threads (one, where those of the plan are slower as it begins). `stop()` is asked after each step:
    when true, the state is saved and Interrupted raised.
    Raises TrainingError when there is nothing to train or the loss or a gradient is not finite.
    """
    numbers, trained = plan.train, trained_of(model, plan)
    check_base(model)
    device = model.get_output_embeddings().weight.device
    updates = updates_of(numbers, trained)
    events = EventFile(folder / "events.jsonl")
    scale = loss_scale(numbers)
    peak = MemoryPeak(device)
    paths = PLAIN if plan.method.plain else paths or usual_paths(model)
    with _ready(model, plan, paths, device, updates, emit) as layers, updates.listening():
        objective.begin(model)
        first_step = _go_on(plan, folder / "checkpoints", trained, updates, scale, events, emit)
        room = Room(plan, layers, peak, emit)
        if first_step < numbers.steps:
            room.hold_longest(model, objective)
        launched, behind = LaunchedSteps(device), _steps_behind(device, scale)
        for step, batch in enumerate(objective.batches(first_step), start=first_step):
            began = launched.begin()
            updates.begin(learning_rate(numbers, step))
            seed = numbers.seed * 1_000_003 + step  # dropout of a step is the same in a run that was resumed
            work = partial(_accumulate, model, objective, batch, seed, scale.value, peak)
            total, told = room.within(work, updates.restart)
            launched.add(step, batch, began, total, updates.finish(scale.value), told, peak)
            for read in launched.read(leaving=behind):
                _settle(read, numbers, scale, events, emit)
            done = step + 1
            stopping = stop() and done < numbers.steps
            if stopping or done % numbers.checkpoint_every == 0 or done == numbers.steps:
                for read in launched.read(leaving=0):  # what is written is of steps whose numbers are known
                    _settle(read, numbers, scale, events, emit)
                size = events.flush()
                saved = save_checkpoint(
                    folder / "checkpoints", trained.exact, updates.states(), step=done, plan=plan.id, events_bytes=size,
                    loss_scale=(scale.value, scale.clean),
                )  # fmt: skip
                emit(Checkpointed("train", step=done, folder=str(saved)))
                trim_heap()
            if stopping:
                raise Interrupted(f"stopped after step {done} of {numbers.steps}; start again to go on from there.")
    trained.save(folder)
    return _summary(events.steps(), first_step)


def _go_on(
    plan: Plan, folder: Path, trained: Trained, updates: Updates, scale: LossScale, events: EventFile, emit: Emit
) -> int:
    """Put the last checkpoint back, if there is one, and return the steps done."""
    found = latest_checkpoint(folder, plan.id)
    if found is None:
        events.cut(0)
        return 0
    path, state = found
    updates.put_back(load_checkpoint(path, trained.exact))
    scale.value, scale.clean = state.loss_scale
    events.cut(state.events_bytes)
    emit(Note("train", f"going on after step {state.step} of {plan.train.steps}"))
    return state.step


@contextmanager
def _ready(
    model: PreTrainedModel, plan: Plan, paths: Paths, device: torch.device, updates: Updates, emit: Emit
) -> Iterator[Recomputation]:
    """Within the block the model trains: packed rows on the chosen paths, chosen layers recomputed, threads as planned.

    What exists before is out of the collector's sight: a pass over all of transformers' objects is a step that takes longer.
    """
    numbers = plan.train
    threads = torch.get_num_threads()
    torch.set_num_threads(_threads(numbers, model, device, emit))
    layers = planned_layers(model, numbers)
    gc.collect()
    gc.freeze()
    try:
        with (
            on_paths(model, paths, fp8=plan.method.base_dtype, adds=updates.holds_gradients) as alone,
            layers,
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            if alone:
                emit(Note("train", f"plain path for {len(alone)} layers, such as {alone[0]}"))
            if (dropped := attention_dropout(model)) > 0.0:
                emit(
                    Note(
                        "train",
                        f"no attention weights are dropped: the base's {dropped:g} is not computed in packed rows",
                    )
                )
            model.train()
            yield layers
    finally:
        gc.unfreeze()
        model.eval()
        torch.set_num_threads(threads)


def _threads(numbers: TrainPlan, model: PreTrainedModel, device: torch.device, emit: Emit) -> int:
    """Return the threads of the plan; one where several are slower now, which is told."""
    if device.type != "cpu" or numbers.threads == 1:
        return numbers.threads
    hidden = model.get_input_embeddings().weight.shape[1]
    gain = gain_of_threads(numbers.threads, hidden, model.dtype)
    if gain >= 1.0:
        return numbers.threads
    others = "other programs use the cores"
    emit(Note("train", f"one thread: {numbers.threads} are {gain:.2f} times as fast as one now, so {others}"))
    return 1


def _accumulate(
    model: PreTrainedModel, objective: Objective[P], batch: Sequence[P], seed: int, scale: float, peak: MemoryPeak
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the gradients of a step's rows, times `scale`; return its loss and what else is told of it, as means over its units."""
    torch.manual_seed(seed)
    units = max(1, sum(row.units for row in batch))
    loss, told = torch.zeros((), dtype=torch.float64, device=peak.device), dict[str, Tensor]()
    for row in batch:
        found = objective.loss(model, row)
        mean = found.total / units
        peak.look()
        (mean * scale if scale != 1.0 else mean).backward()
        loss += mean.detach()
        for name, total in found.told.items():
            told[name] = total / units + told.get(name, 0.0)
    return loss, told


def _steps_behind(device: torch.device, scale: LossScale) -> int:
    """Return how many steps are computed while the numbers of those before are read.

    A GPU has the next step to compute then when it ends one. A scale that follows the gradients must be known before that.
    """
    return STEPS_BEHIND.get(device.type, 0) if scale.fixed else 0


def _settle(read: Read, numbers: TrainPlan, scale: LossScale, events: EventFile, emit: Emit) -> None:
    """Check a step's numbers, and tell them."""
    launched, batch = read.launched, read.launched.batch
    _check_finite(read.loss, read.norm, scale, launched.step, batch, emit)
    done = StepDone(
        "train",
        step=launched.step + 1,
        steps=numbers.steps,
        loss=read.loss,
        learning_rate=learning_rate(numbers, launched.step),
        gradient_norm=read.norm,
        tokens=sum(row.tokens for row in batch),
        trained_tokens=sum(row.trained_tokens for row in batch),
        seconds=read.seconds,
        rss_bytes=launched.rss_bytes,
        device_bytes=launched.device_bytes,
        told=read.told,
        waited_seconds=read.waited_seconds,
    )
    events.add(done)
    emit(done)


def _check_finite(loss: float, norm: float, scale: LossScale, step: int, batch: Sequence[Packed], emit: Emit) -> None:
    """Raise TrainingError for a loss or a gradient that is not finite, unless a smaller scale of the loss may help; say so then."""
    finite = math.isfinite(loss) and math.isfinite(norm)
    if not scale.fixed and math.isfinite(loss):
        scale.follow(finite)
        if not finite:
            emit(
                Note(
                    "train",
                    f"step {step + 1} skipped: a float16 gradient overflowed. The loss is now scaled by {scale.value:g}",
                )
            )
        if scale.value > SMALLEST_SCALE:
            return
    if not finite:
        names = ", ".join(row_id[:12] for row in batch for row_id in row.row_ids)
        raise TrainingError(
            f"step {step + 1}: the loss is {loss} and the gradient norm {norm}, which are not finite numbers. "
            f"Its rows: {names}. Look at them, or lower train.learning_rate. The last checkpoint is kept."
        )


def _summary(steps: Sequence[StepDone], first_step: int) -> TrainMeasured:
    seconds = sum(step.seconds for step in steps)
    return TrainMeasured(
        seconds=seconds,
        peak_rss_bytes=max(step.rss_bytes for step in steps),
        peak_device_bytes=max(step.device_bytes for step in steps),
        tokens_per_second=sum(step.tokens for step in steps) / seconds,
        first_loss=steps[0].loss,
        last_loss=steps[-1].loss,
        steps=len(steps),
        resumed_at_step=first_step,
    )
