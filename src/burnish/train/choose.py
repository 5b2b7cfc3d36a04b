"""Which paths a run takes: measured on its own longest row, checked against the plain path, remembered for the next run.

Twenty passes in all: five of each of four candidates. A candidate that fails or computes something else is left out, and
that is told. Nothing is measured on a CPU, where there is one way, nor with a float8 base, whose weights are made once.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WARM, TIMED = 2, 3
LEAST_COSINE = {torch.float32: 0.9999, torch.bfloat16: 0.98, torch.float16: 0.98}
"""Of all gradients with those of the plain path, by the dtype of the computation."""
WORTH = 20
"""A run is measured when its own passes are so many times those of the measurement."""
USUAL, CHOICES = "usual", "engine.json"


def candidates(usual: Paths) -> dict[str, Paths]:
    """Return what is worth measuring on a GPU, by name; `usual` first."""
    return {
        USUAL: usual,
        "varlen attention": replace(usual, attention="varlen"),
        "flex attention": replace(usual, attention="flex"),
        "formulas as written": replace(usual, compiled=False),
    }


def choose(plan: Plan, objective: Objective[P], model: PreTrainedModel, *, home: Path | None, emit: Emit) -> Paths:
    """Return the paths of a run: plain ones where the plan asks, remembered ones, or the fastest of those measured now.

    home: the folder that verdicts are remembered in; None remembers none.
    """
    if plan.method.plain:
        return PLAIN
    usual = usual_paths(model)
    passes = plan.train.steps * plan.train.rows_per_step
    if (
        plan.train.device == "cpu"
        or plan.method.base_dtype is not None
        or passes < WORTH * len(candidates(usual)) * (WARM + TIMED)
    ):
        return usual
    row = objective.longest()
    key, known = shape_id(plan, model, row.tokens, torch.cuda.get_device_name(model.device)), _remembered(home)
    if key in known:
        emit(Note("train", f"paths as measured before: {known[key]['name']}"))
        return Paths(**known[key]["paths"])
    try:
        name, paths = measured(plan, objective, model, row, candidates(usual), emit)
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
        }
    )  # fmt: skip


def measured(
    plan: Plan, objective: Objective[P], model: PreTrainedModel, row: P, among: Mapping[str, Paths], emit: Emit
) -> tuple[str, Paths]:
    """Return the fastest of some paths, by name, that gives what the plain path gives. Plain ones if none does."""
    training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            every = model.config.num_hidden_layers, 0
            plain = _passes(plan, objective, model, row, PLAIN, every, count=1)
            planned = plan.train.checkpointed_layers, plan.train.feed_forward_again or 0
            verdicts: dict[str, float] = {}
            for name, paths in among.items():
                try:
                    mine = _passes(plan, objective, model, row, paths, planned, WARM + TIMED)
                except (
                    RuntimeError,
                    AssertionError,
                ) as error:  # a compiler that is missing, a kernel that does not fit
                    emit(Note("train", f"{name}: left out, {type(error).__name__}: {str(error).splitlines()[0][:120]}"))
                    continue
                trouble = _differs(mine, plain, LEAST_COSINE[model.dtype])
                if trouble is None:
                    verdicts[name] = statistics.median(mine.seconds[WARM:])
                else:
                    emit(Note("train", f"{name}: left out, {trouble}"))
    finally:
        model.train(training)
        for parameter in trained_weights(model).values():
            parameter.grad = None
    if not verdicts:
        emit(Note("train", "no fast path gives what the plain one gives: training takes the plain one"))
        return "plain", PLAIN
    best = min(verdicts, key=lambda name: verdicts[name])
    told = ", ".join(
        f"{name} {verdicts[name] * 1000:.0f} ms" for name in sorted(verdicts, key=lambda name: verdicts[name])
    )
    emit(Note("train", f"paths by measurement: {best} ({told} for a row)"))
    return best, among[best]


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
    again: tuple[int, int],
    count: int,
) -> _Passes:
    """Run a row forward and backward `count` times. again: layers computed again whole, and by their feed-forward half."""
    seconds, loss, parameters = [], 0.0, list(trained_weights(model).values())
    with on_paths(model, paths), Recomputation(model, *again):
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
