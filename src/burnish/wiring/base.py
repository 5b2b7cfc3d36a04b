"""The base model: its files, its tokenizer, its weights as a plan asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish.core.artifacts import Plan
from burnish.core.events import Emit, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from burnish.model.bases import BaseFiles
    from burnish.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Base:
    """A base model on disk: its files, and the tokenizer that belongs to it."""

    files: BaseFiles
    tokenizer: Tokenizer


def open_base(name: str, emit: Emit) -> Base:
    """Find the base model, fetching and checking it the first time."""
    from burnish.model.bases import resolve_base
    from burnish.text.tokenizer import load_tokenizer

    files = resolve_base(name, emit=emit)
    return Base(files, load_tokenizer(files.folder))


def load_planned(plan: Plan, base: Base, emit: Emit) -> PreTrainedModel:
    """Load the base with the quantisation, device and number type of the plan."""
    import torch

    from burnish.model.load import load_base
    from burnish.model.memory import trim_heap

    trim_heap()
    emit(Progress("train", "loading the base model", 0, 1, "models"))
    torch.set_num_threads(plan.train.threads)
    model = load_base(
        base.files.folder,
        quantisation=plan.method.quantisation,
        double_quantisation=plan.method.double_quantisation,
        device=plan.train.device,
        dtype=getattr(torch, plan.train.compute_dtype),
    )
    emit(Progress("train", "loading the base model", 1, 1, "models"))
    return model


def load_for_serving(base: Base, plan: Plan | None, emit: Emit) -> PreTrainedModel:
    """Load a base as `plan` trained on it (None: plain float32 on the CPU).

    On a CPU quantised weights are kept as the float32 values they stand for: the same numbers, decoded several times faster.
    """
    from burnish.model.load import dequantised, load_base

    if plan is None:
        return load_base(base.files.folder)
    model = load_planned(plan, base, emit)
    return dequantised(model) if plan.train.device == "cpu" else model
