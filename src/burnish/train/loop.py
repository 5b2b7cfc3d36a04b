"""The training loop, read from top to bottom: begin or resume; for each step forward, backward, clip, update, note, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from burnish.core.artifacts import Plan, TrainMeasured, TrainPlan
from burnish.core.errors import Interrupted, TrainingError
from burnish.core.events import Checkpointed, Emit, Note, StepDone
from burnish.core.rows import TokenRow
from burnish.model.attention import packing
from burnish.model.lean import lean
from burnish.model.lora import lora_parameters, save_adapter
from burnish.model.memory import checkpoint_layers
from burnish.model.probe import check_base
from burnish.train import sft
from burnish.train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from burnish.train.events import EventFile
from burnish.train.optim import adamw, clip, learning_rate
from burnish.train.pack import PackedRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train(
    plan: Plan, rows: Sequence[TokenRow], model: PreTrainedModel, *, folder: Path, emit: Emit, stop: Callable[[], bool]
) -> TrainMeasured:
    """Train the adapter on `model` as the plan says and write it to `folder/adapter`.

    Goes on from the last checkpoint in `folder`; the final weights are then bit-identical to those of an undisturbed run
    with the same threads. `stop()` is asked after each step: when true, the state is saved and Interrupted raised.
    Raises TrainingError when there is nothing to train or the loss or a gradient is not finite.
    """
    numbers = plan.train
    parameters = lora_parameters(model)
    if not parameters:
        raise TrainingError("the model has no adapter to train; call attach_lora(model, plan.method, seed=...) first.")
    check_base(model)
    device = next(iter(parameters.values())).device
    optimizer = adamw(numbers, parameters.values())
    events = EventFile(folder / "events.jsonl")
    found = latest_checkpoint(folder / "checkpoints", plan.id)
    first_step = 0
    if found is not None:
        path, state = found
        load_checkpoint(path, parameters, optimizer)
        first_step = state.step
        emit(Note("train", f"going on after step {first_step} of {numbers.steps}"))
    events.cut(0 if found is None else found[1].events_bytes)
    measured = _Measured()
    with _ready(model, numbers):
        for step, batch in enumerate(
            sft.batches(numbers, rows, first_step=first_step, device=device), start=first_step
        ):
            began = time.perf_counter()
            torch.manual_seed(_step_seed(numbers.seed, step))
            trained = sum(row.trained_tokens for row in batch)
            loss = 0.0
            for row in batch:
                nats = sft.loss(model, row) / max(1, trained)
                measured.look(device)
                nats.backward()
                loss += nats.item()
            norm = clip(parameters.values(), numbers.max_gradient_norm).item()
            _check_finite(loss, norm, step, batch)
            rate = learning_rate(numbers, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = StepDone(
                "train", step=step + 1, steps=numbers.steps, loss=loss, learning_rate=rate, gradient_norm=norm,
                tokens=sum(row.tokens for row in batch), trained_tokens=trained, seconds=time.perf_counter() - began,
                rss_bytes=measured.rss_of_step(), device_bytes=measured.device_bytes,
            )  # fmt: skip
            events.add(done)
            emit(done)
            stopping = stop() and step + 1 < numbers.steps
            if stopping or (step + 1) % numbers.checkpoint_every == 0 or step + 1 == numbers.steps:
                saved = save_checkpoint(
                    folder / "checkpoints",
                    parameters,
                    optimizer,
                    step=step + 1,
                    plan=plan.id,
                    events_bytes=events.flush(),
                )
                emit(Checkpointed("train", step=step + 1, folder=str(saved)))
            if stopping:
                raise Interrupted(
                    f"stopped after step {step + 1} of {numbers.steps}; the state is saved in {saved}. Start again to go on."
                )
    save_adapter(model, folder / "adapter", plan.method, plan.base.name)
    return _summary(events.steps(), measured, first_step)


@contextmanager
def _ready(model: PreTrainedModel, numbers: TrainPlan) -> Iterator[None]:
    """Within the block the model trains: packed attention, chosen layers recomputed, threads as planned."""
    threads = torch.get_num_threads()
    torch.set_num_threads(numbers.threads)
    try:
        with (
            packing(model),
            lean(model),
            checkpoint_layers(model, numbers.checkpointed_layers),
            torch.random.fork_rng(),
        ):
            model.train()
            yield
    finally:
        model.eval()
        torch.set_num_threads(threads)


def _step_seed(seed: int, step: int) -> int:
    """Return the seed of what is random in a step, so that a resumed run draws what an undisturbed one would."""
    return seed * 1_000_003 + step


def _check_finite(loss: float, norm: float, step: int, batch: Sequence[PackedRow]) -> None:
    if not (torch.isfinite(torch.tensor(loss)) and torch.isfinite(torch.tensor(norm))):
        names = [row_id[:12] for row in batch for row_id in row.row_ids]
        raise TrainingError(
            f"step {step + 1}: the loss is {loss} and the gradient norm {norm}, not finite numbers. The rows of the step: "
            f"{', '.join(names)}. Look at them, or lower train.learning_rate. The last checkpoint is kept."
        )


class _Measured:
    """Peaks of memory. Looked at after a forward pass, when all activations are held."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.peak_rss = 0
        self.step_rss = 0
        self.device_bytes = 0

    def look(self, device: torch.device) -> None:
        self.step_rss = max(self.step_rss, self.process.memory_info().rss)
        self.peak_rss = max(self.peak_rss, self.step_rss)
        if device.type == "cuda":
            self.device_bytes = torch.cuda.max_memory_allocated(device)

    def rss_of_step(self) -> int:
        rss, self.step_rss = self.step_rss, 0
        return rss


def _summary(steps: Sequence[StepDone], measured: _Measured, first_step: int) -> TrainMeasured:
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
