"""How the next token is chosen from its logits: greedy, or drawn with temperature, top-k and top-p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """What one request asks of its answer.

    temperature:    0 takes the most likely token; otherwise logits are divided by it.
    top_p:          keep the smallest set of most likely tokens whose probabilities sum to at least this (1 keeps all).
    top_k:          keep this many most likely tokens (0 keeps all).
    seed:           draws of the same request with the same seed are the same; None draws afresh.
    max_new_tokens: the answer's length limit in tokens.
    stop_ids:       tokens that end the answer; they are not part of it.
    """

    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def generator(self) -> torch.Generator | None:
        """Return the request's own source of randomness (on the CPU), or None when it is greedy."""
        if self.temperature == 0:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def choose_tokens(
    logits_NV: Tensor, samplings: Sequence[Sampling], generators: Sequence[torch.Generator | None]
) -> list[int]:
    """Return one token id for each row of logits."""
    chosen: list[int] = logits_NV.argmax(dim=-1).tolist()
    for row, (sampling, generator) in enumerate(zip(samplings, generators, strict=True)):
        if generator is not None:
            chosen[row] = _draw(logits_NV[row], sampling, generator)
    return chosen


def _draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one token: temperature first, then top-k, then top-p (Holtzman et al. 2020, arXiv:1904.09751)."""
    scores_V = logits_V.float().cpu() / sampling.temperature
    kept = sampling.top_k if 0 < sampling.top_k < scores_V.numel() else scores_V.numel()
    scores_K, tokens_K = torch.topk(scores_V, kept)
    probabilities_K = torch.softmax(scores_K, dim=-1)
    if sampling.top_p < 1:
        before_K = probabilities_K.cumsum(dim=-1) - probabilities_K
        probabilities_K = torch.where(before_K < sampling.top_p, probabilities_K, 0.0)
    return int(tokens_K[torch.multinomial(probabilities_K, 1, generator=generator)])
