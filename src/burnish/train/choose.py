"""Which paths a run takes: measured on its own longest row, checked against the plain path, remembered for the next run.

Twenty passes in all: four on the usual paths, and four for each other way of a part: attention first, then the loss, then the
formulas between products, each beside the best of the parts before it. A way that fails or computes something else is left out,
and that is told. Nothing is measured on a CPU, where there is one way, nor with a float8 base, whose weights are made once.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import torch
import transformers
from torch import Tensor, nn

from burnish.core.artifacts import Plan
from burnish.core.events import Emit, Note
from burnish.core.ids import content_id
from burnish.model.full import trained_weights
from burnish.model.fused.paths import PLAIN, Paths, on_paths, usual_paths
from burnish.model.recompute import Recomputation
from burnish.store.files import write_json
from burnish.train.objective import Objective, P
from burnish.train.room import planned_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WARM, TIMED = 1, 3
LEAST_COSINE = {torch.float32: 0.9999, torch.bfloat16: 0.98, torch.float16: 0.98}
"""Of all gradients with those of the plain path, by the dtype of the computation."""
WORTH = 20
"""A run is measured when its own passes are so many times those of the measurement."""
CLEARLY = 0.98
"""Another way is taken where it needs at most this share of the time: less is noise of three passes."""
USUAL, CHOICES = "usual", "engine.json"
Stages = Sequence[Mapping[str, Mapping[str, Any]]]
ON_A_GPU: Stages = (
    {"varlen attention": {"attention": "varlen"}, "flex attention": {"attention": "flex"}},
    {"loss as written": {"loss_compiled": False}},
    {"formulas as written": {"compiled": False}},
)
"""What is worth measuring, part by part: names of other ways, and what they change of the paths."""
PASSES = (WARM + TIMED) * (1 + sum(len(stage) for stage in ON_A_GPU))


def choose(plan: Plan, objective: Objective[P], model: PreTrainedModel, *, home: Path | None, emit: Emit) -> Paths:
    """Return the paths of a run: plain ones where the plan asks, remembered ones, or the fastest of those measured now.

    home: the folder that verdicts are remembered in; None remembers none.
    """
    if plan.method.plain:
        return PLAIN
    usual = usual_paths(model)
    passes = plan.train.steps * plan.train.rows_per_step
    if plan.train.device == "cpu" or plan.method.base_dtype is not None or passes < WORTH * PASSES:
        return usual
    row = objective.longest()
    key, known = shape_id(plan, model, row.tokens, torch.cuda.get_device_name(model.device)), _remembered(home)
    verdict = _verdict(known.get(key))
    if verdict is not None:
        emit(Note("train", f"paths as measured before: {verdict[0]}"))
        return verdict[1]
    try:
        name, paths = measured(plan, objective, model, row, usual, ON_A_GPU, emit)
    except torch.OutOfMemoryError:
        emit(Note("train", "no room to compare the ways a step can take: the usual one is taken"))
        return usual
    finally:
        torch.cuda.empty_cache()
    if home is not None:
        write_json(home / CHOICES, {**known, key: {"name": name, "paths": asdict(paths)}})
    return paths


def shape_id(plan: Plan, model: PreTrainedModel, tokens: int, device: str) -> str:
    """Return what stands for everything that speeds depend on: two runs of one shape share a verdict."""
    return content_id(
        {
            "device": device, "torch": torch.__version__, "transformers": transformers.__version__, "tokens": tokens,
            "model": model.config.to_diff_dict(), "method": plan.method.identity(),
            "layers": [plan.train.checkpointed_layers, plan.train.feed_forward_again], "dtype": plan.train.compute_dtype,
            "ways": [list(stage) for stage in ON_A_GPU], "offloaded": plan.train.offloaded_layers,
            "streamed": plan.train.streamed_layers, "layers_by_device": plan.train.layers_by_device,
        }
    )  # fmt: skip


def measured(
    plan: Plan, objective: Objective[P], model: PreTrainedModel, row: P, usual: Paths, stages: Stages, emit: Emit
) -> tuple[str, Paths]:
    """Return the fastest paths, by name, that give what the plain path gives: `usual`, changed part by part where that is faster.

    Plain ones if none does.
    """
    training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            name, paths, seconds = _best(_Trial(plan, objective, model, row, emit), usual, stages)
    finally:
        model.train(training)
        for parameter in trained_weights(model).values():
            parameter.grad = None
    if not seconds:
        emit(Note("train", "no fast path gives what the plain one gives: training takes the plain one"))
        return "plain", PLAIN
    told = ", ".join(f"{way} {seconds[way] * 1000:.0f} ms" for way in sorted(seconds, key=lambda way: seconds[way]))
    emit(Note("train", f"paths by measurement: {name} ({told} for a row)"))
    return name, paths


def _best(trial: _Trial, usual: Paths, stages: Stages) -> tuple[str, Paths, dict[str, float]]:
    """Return the name of what is fastest, its paths, and the seconds of all that were right."""
    name, best, seconds = USUAL, usual, dict[str, float]()
    least = trial.seconds(USUAL, usual)
    if least is not None:
        seconds[USUAL] = least
    for stage in stages:
        before, stage_best = best, name
        for way, change in stage.items():
            paths = replace(before, **change)
            took = trial.seconds(way, paths)
            if took is None:
                continue
            seconds[way] = took
            if least is None or took < CLEARLY * least:
                stage_best, best, least = way, paths, took
        if stage_best != name:
            name = stage_best if name == USUAL else f"{name}, {stage_best}"
    return name, best, seconds


class _Trial(Generic[P]):
    """One row on several paths, beside the plain path, which computes every layer again so that it fits."""

    def __init__(self, plan: Plan, objective: Objective[P], model: PreTrainedModel, row: P, emit: Emit) -> None:
        self.plan, self.objective, self.model, self.row, self.emit = plan, objective, model, row, emit
        held = plan.train.offloaded_layers or 0
        every = Recomputation(model, model.config.num_hidden_layers, offloaded=held)
        self.plain = _passes(plan, objective, model, row, PLAIN, every, count=1)

    def seconds(self, name: str, paths: Paths) -> float | None:
        """Return the median seconds of a pass; None, which is told, where the path fails or gives other numbers."""
        planned = planned_layers(self.model, self.plan.train)
        try:
            mine = _passes(self.plan, self.objective, self.model, self.row, paths, planned, WARM + TIMED)
        except (RuntimeError, AssertionError) as error:  # a compiler that is missing, a kernel that does not fit
            says = (str(error).splitlines() or [""])[0][:120]
            self.emit(Note("train", f"{name}: left out, {type(error).__name__}: {says}"))
            return None
        trouble = _differs(mine, self.plain, LEAST_COSINE[self.model.dtype])
        if trouble is None:
            return statistics.median(mine.seconds[WARM:])
        self.emit(Note("train", f"{name}: left out, {trouble}"))
        return None


class _Passes(NamedTuple):
    """Seconds of each pass, the loss of the last in nats per unit, and its gradients as one vector."""

    seconds: list[float]
    loss: float
    gradient: Tensor


def _passes(
    plan: Plan,
    objective: Objective[P],
    model: PreTrainedModel,
    row: P,
    paths: Paths,
    layers: Recomputation,
    count: int,
) -> _Passes:
    """Run a row forward and backward `count` times."""
    seconds, loss, parameters = [], 0.0, list(trained_weights(model).values())
    with on_paths(model, paths), layers:
        for _ in range(count):
            for parameter in parameters:
                parameter.grad = None
            torch.manual_seed(plan.train.seed)  # dropout is the same on every path
            began = time.perf_counter()
            found = objective.loss(model, row).total / max(1, row.units)
            found.backward()
            loss = found.item()
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            seconds.append(time.perf_counter() - began)
    empty = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
    return _Passes(seconds, loss, torch.cat([gradient.flatten() for gradient in empty]))


def _differs(mine: _Passes, plain: _Passes, least: float) -> str | None:
    """Return by how much a path's numbers are off, or None where they are near enough. B is zero at first, so A's gradients are."""
    cosine = nn.functional.cosine_similarity(mine.gradient, plain.gradient, dim=0).item()
    if abs(mine.loss - plain.loss) <= 0.02 * abs(plain.loss) and cosine >= least:
        return None
    return f"loss {mine.loss:.4g} beside the plain path's {plain.loss:.4g}, cosine of the gradients {cosine:.4f}"


def _remembered(home: Path | None) -> dict[str, Any]:
    """Return the verdicts of earlier runs. A file that cannot be read is one that nothing is known from."""
    if home is None:
        return {}
    try:
        found = json.loads((home / CHOICES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _verdict(found: Any) -> tuple[str, Paths] | None:
    """Return a remembered name and its paths; None for none, and for one that a version with other paths wrote."""
    try:
        return found["name"], Paths(**found["paths"])
    except (KeyError, TypeError):
        return None
