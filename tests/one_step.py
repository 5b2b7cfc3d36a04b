"""One forward and backward pass of a tiny adapted model: what tests of fast, streamed, offloaded and placed layers compare."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.model.full import train_every_weight, trained_weights
from burnish.model.lora import attach_lora, lora_parameters

IDS = torch.tensor([[5, 17, 90, 3, 44, 8, 101, 2, 9, 9, 30], [7, 7, 12, 60, 61, 62, 1, 0, 5, 100, 31]])


def adapted(model: PreTrainedModel, method: MethodPlan) -> PreTrainedModel:
    """Return the model in training mode with an adapter none of whose numbers is zero."""
    attach_lora(model, method, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.train()


def whole_trained(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model in training mode, every weight of it trained."""
    train_every_weight(model)
    return model.train()


def loss_and_gradients(model: PreTrainedModel, *, keep: bool = False) -> tuple[float, torch.Tensor]:
    """Return the loss of IDS and the gradients of all that trains as one vector; dropout is the same each time.

    keep: the next pass adds to these gradients.
    """
    torch.manual_seed(11)
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    parameters = trained_weights(model).values()
    gradients = torch.cat([_gradient(parameter).flatten() for parameter in parameters])
    for parameter in () if keep else parameters:
        parameter.grad = None
    return loss.item(), gradients


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None, "backward did not reach a parameter"
    return parameter.grad
