"""Check on a few tokens that a base computes what training assumes, before any time is spent on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from burnish.core.errors import BaseModelError
from burnish.model.attention import PackedLayout, Segment, packing
from burnish.model.losses import logits_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}
"""Largest relative difference between two ways to compute the same thing, by dtype. A wrong way is off by about 1."""


@torch.no_grad()
def check_base(model: PreTrainedModel) -> None:
    """Raise BaseModelError unless logits are what losses.py makes them, and a packed row gives each sample what it gets alone.

    The second fails for layers that mix tokens outside attention (state spaces, convolutions): packing would leak there. So it
    does for an attention of a model's own (Falcon's, sinks), or one that is not told of the row (StableLM's).
    """
    device = model.get_output_embeddings().weight.device
    vocabulary = model.get_output_embeddings().weight.shape[0]
    prefix, first, second = (
        [(start + 7 * i) % vocabulary for i in range(count)] for start, count in ((3, 3), (11, 4), (29, 5))
    )
    alone = [_hidden(model, torch.tensor(prefix + tail, device=device)) for tail in (first, second)]
    logits = model(input_ids=torch.tensor([prefix + first], device=device), use_cache=False).logits[0].float()
    form = logits_of(model)
    expected = form.raw(alone[0], model.get_output_embeddings().weight)
    if form.cap is not None:
        expected = torch.tanh(expected / form.cap) * form.cap
    _same(
        logits,
        expected.float(),
        f"{type(model).__name__} changes its logits after the output head in a way that is not known",
    )
    positions = [*range(7), *range(3, 8)]
    layout = PackedLayout(
        (Segment(0, 3), Segment(3, 7, 0, 3), Segment(7, 12, 0, 3)), torch.tensor(positions, device=device)
    )
    try:
        with packing(model):
            packed = _hidden(model, torch.tensor(prefix + first + second, device=device), layout)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # layers hand on to attention what they like, in any shape
        raise BaseModelError(
            f"{type(model).__name__} does not compute packed rows: {' '.join(str(error).split())[:200]}. burnish cannot train this "
            "base; use another one."
        ) from error
    mixes = (
        f"{type(model).__name__} mixes the samples of a packed row (layers other than attention look back, or its attention is not "
        "the one that transformers lets replace)"
    )
    _same(packed[:7], alone[0], mixes)
    _same(packed[7:], alone[1][3:], mixes)


def _hidden(model: PreTrainedModel, ids_T: torch.Tensor, layout: PackedLayout | None = None) -> torch.Tensor:
    packed = {} if layout is None else {"position_ids": layout.positions_T[None], "packed": layout}
    return model.base_model(input_ids=ids_T[None], use_cache=False, **packed).last_hidden_state[0]


def _same(found: torch.Tensor, expected: torch.Tensor, trouble: str) -> None:
    if not torch.isfinite(expected).all():
        raise BaseModelError(
            "the base gives values that are not finite for an ordinary input: its weights are damaged."
        )
    difference = ((found - expected).float().norm() / expected.float().norm()).item()
    if not difference <= TOLERANCE[expected.dtype]:
        raise BaseModelError(
            f"{trouble}: relative difference {difference:.2g}. burnish cannot train this base; use another one."
        )
