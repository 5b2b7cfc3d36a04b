"""One vector for a text from a causal language model: the mean of its last layer's states."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from burnish.model.banked_linear import BankedModel
from burnish.model.cached_attention import Piece, StepLayout, cached_attention_on
from burnish.model.kv_cache import Prefix, Rows

BATCH_TOKENS = 2048


@torch.no_grad()
def mean_hidden(
    banked: BankedModel, prompts: Sequence[Sequence[int]], adapter: Hashable | None, limit: int = BATCH_TOKENS
) -> Tensor:
    """Return the mean over tokens of the states that the output head would read: float32 (prompts, hidden), on the CPU.

    Of the first prompts alone, those that have at most `limit` tokens together; of one, however long it is. They are laid end to
    end without padding, each attending to itself alone; one adapter of the bank, or None.
    """
    end, tokens = 1, len(prompts[0])
    while end < len(prompts) and tokens + len(prompts[end]) <= limit:
        tokens += len(prompts[end])
        end += 1
    return _batch(banked, prompts[:end], adapter)


def _batch(banked: BankedModel, prompts: Sequence[Sequence[int]], adapter: Hashable | None) -> Tensor:
    model = banked.model
    nothing = torch.zeros(0, dtype=torch.int64, device=model.device)
    layout = StepLayout(Rows(), nothing, nothing, own_tokens=0, past_tokens=0, readers=[], pieces=[])
    ids: list[int] = []
    positions: list[int] = []
    for prompt in prompts:
        layout.pieces.append(Piece(len(ids), len(prompt), Prefix(prompt), 0))
        ids += prompt
        positions += range(len(prompt))
    with cached_attention_on(model), banked.step([], [(adapter, slice(0, len(ids)))]):
        states_NH = model.base_model(
            input_ids=torch.tensor([ids], device=model.device),
            position_ids=torch.tensor([positions], device=model.device),
            use_cache=False,
            burnish_step=layout,
        ).last_hidden_state[0]
    parts = states_NH.float().split([len(prompt) for prompt in prompts])
    return torch.stack([part.mean(dim=0) for part in parts]).cpu()
