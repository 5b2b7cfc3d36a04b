"""The base model: its files, its tokenizer, its weights as a plan asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.core.artifacts import Plan, TrainPlan
from burnish.core.errors import Problem, RecipeError, did_you_mean
from burnish.core.events import Emit, Progress
from burnish.core.recipe_template import TEMPLATE_OWN

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from burnish.model.bases import BaseFiles
    from burnish.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Base:
    """A base model on disk: its files, and the tokenizer that belongs to it."""

    files: BaseFiles
    tokenizer: Tokenizer


def open_base(name: str, emit: Emit, variables: Mapping[str, Any] | None = None) -> Base:
    """Find the base model, fetching and checking it the first time. variables: of its chat template.

    A short name that the plan knows stands for its Hub id. Raises RecipeError for a variable that the template does not have.
    """
    from burnish.model.bases import BUNDLED, resolve_base
    from burnish.plan.bases import published_id
    from burnish.text.tokenizer import load_tokenizer

    files = resolve_base(name if name in BUNDLED or Path(name).is_dir() else published_id(name), emit=emit)
    tokenizer = load_tokenizer(files.folder, variables=variables or None)
    known = sorted(tokenizer.chat.names - set(TEMPLATE_OWN))
    unknown = [variable for variable in variables or {} if variable not in known]
    if unknown:
        says = f"the chat template of {name} has no such variable. It has: {', '.join(known) or 'none'}."
        raise RecipeError(
            f"the recipe on {name}",
            [
                Problem(f"template.{each}", repr((variables or {})[each]), says + did_you_mean(each, known))
                for each in unknown
            ],
        )
    return Base(files, tokenizer)


def load_planned(
    plan: Plan, base: Base, emit: Emit, *, folder: Path | None = None, alone: bool = False
) -> PreTrainedModel:
    """Load the base, or the weights of `folder` in its place, with the quantisation, devices and number type of the plan.

    alone: on the first device, whatever the plan places on others.
    """
    import torch

    from burnish.model.memory import trim_heap
    from burnish.model.place import load_placed
    from burnish.model.stream import load_streamed

    trim_heap()
    emit(Progress("train", "loading the base model", 0, 1, "models"))
    torch.set_num_threads(plan.train.threads)
    files, numbers = folder or base.files.folder, plan.train
    stored = {
        "quantisation": plan.method.quantisation, "double_quantisation": plan.method.double_quantisation,
        "dtype": getattr(torch, numbers.compute_dtype),
    }  # fmt: skip
    if numbers.layers_by_device is not None and not alone:
        devices = [f"{numbers.device}:{index}" for index in range(len(numbers.layers_by_device))]
        model = load_placed(
            files, devices=devices, layers_by_device=numbers.layers_by_device,
            streamed_layers=numbers.streamed_layers or 0, **stored,
        )  # fmt: skip
    else:
        model = load_streamed(files, streamed_layers=not_held(numbers), device=numbers.device, **stored)
    trim_heap()  # reading and quantising leave holes that activations do not fit: 0.4 GB for SmolLM2-135M
    emit(Progress("train", "loading the base model", 1, 1, "models"))
    return model


def not_held(numbers: TrainPlan) -> int:
    """Return how many layers the first device holds no weights of: those that are streamed, and those of the others."""
    streamed = numbers.streamed_layers or 0
    if numbers.layers_by_device is None:
        return streamed
    first, layers = numbers.layers_by_device[0], sum(numbers.layers_by_device)
    return layers - first + sum(number * layers // streamed < first for number in range(streamed))


def load_for_serving(base: Base, plan: Plan | None, emit: Emit) -> PreTrainedModel:
    """Load a base as `plan` trained on it (None: plain float32 on the CPU).

    On a CPU quantised weights are kept as the float32 values they stand for: the same numbers, decoded several times faster.
    """
    from burnish.model.load import dequantised, load_base

    if plan is None:
        return load_base(base.files.folder)
    model = load_planned(plan, base, emit, alone=True)
    return dequantised(model) if plan.train.device == "cpu" else model
