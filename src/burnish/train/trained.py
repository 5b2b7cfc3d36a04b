"""What of a model is trained, as the loop sees it: float32 weights by name, and what is written of them in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from burnish.core.artifacts import Plan
from burnish.core.errors import TrainingError
from burnish.model.full import embedding_names, save_model, trained_weights
from burnish.model.lora import lora_parameters, save_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Parameters = Mapping[str, nn.Parameter]
ADAPTER, MODEL = "adapter", "model"
"""Folders of a run: of an adapter, of a model whose every weight was trained."""


@dataclass(frozen=True, slots=True)
class Trained:
    """`own`: the model's weights, which get gradients. `exact`: the float32 weights that are optimised and kept in checkpoints.

    They are the same objects, but where the model computes in fewer bits: then each step works on `exact`, and `own` are copies
    of them (Micikevicius et al. 2018, arXiv:1710.03740, section 3.1). `embeddings`: names of those that embed tokens or predict
    them. `save` writes what was trained into the folder of a run. `small`: they are many and small, as an adapter's are.
    """

    own: Parameters
    exact: Parameters
    save: Callable[[Path], None]
    embeddings: frozenset[str] = field(default_factory=frozenset[str])
    small: bool = False

    @torch.no_grad()
    def show(self, name: str) -> None:
        """Let the model compute with the value that a weight has now."""
        if self.own[name] is not self.exact[name]:
            self.own[name].copy_(self.exact[name])


def trained_of(model: PreTrainedModel, plan: Plan) -> Trained:
    """Return what is trained of a model as training begins. Raises TrainingError when nothing is."""
    if plan.method.kind == "full":
        return _every_weight(model)
    parameters = lora_parameters(model)
    if not parameters:
        raise TrainingError("the model has no adapter to train; call attach_lora(model, plan.method, seed=...) first.")
    return Trained(
        parameters,
        parameters,
        lambda folder: save_adapter(model, folder / ADAPTER, plan.method, plan.base.name),
        small=True,
    )


def _every_weight(model: PreTrainedModel) -> Trained:
    own = trained_weights(model)
    if not own:
        raise TrainingError("no weight of the model has a gradient; call train_every_weight(model) first.")
    exact = {
        name: nn.Parameter(weight.detach().float()) if weight.dtype.itemsize < torch.float32.itemsize else weight
        for name, weight in own.items()
    }
    return Trained(own, exact, lambda folder: save_model(model, folder / MODEL), embedding_names(model))
