"""What packed training is held against: transformers' own forward pass of each row alone, with the loss written out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.rows import TokenRow
from burnish.model.full import trained_weights


def one_by_one(model: PreTrainedModel, rows: Sequence[TokenRow]) -> tuple[float, Tensor]:
    """Return the summed loss of the rows in nats, and the gradients of all that trains as one vector."""
    total = 0.0
    for row in rows:
        ids = torch.tensor(row.ids)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        keep = torch.tensor(row.mask[1:], dtype=torch.bool)
        loss = F.cross_entropy(logits[keep], ids[1:][keep], reduction="sum")
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def gradients(model: PreTrainedModel) -> Tensor:
    """Return the gradients of all that trains as one vector, and forget them."""
    found = []
    for name, parameter in trained_weights(model).items():
        assert parameter.grad is not None, f"backward did not reach {name}"
        found.append(parameter.grad.flatten())
        parameter.grad = None
    return torch.cat(found)


def assert_same(found: tuple[float, Tensor], expected: tuple[float, Tensor]) -> None:
    """Equal to 1e-5 of the loss, and of the largest gradient."""
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert ((found[1] - expected[1]).abs().max() / expected[1].abs().max()).item() < 1e-5
