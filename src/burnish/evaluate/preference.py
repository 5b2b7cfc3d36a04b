"""What a model makes of pairs of a better and a worse answer. Pure functions of the losses of both.

- preference_accuracy: share of pairs whose chosen answer the model finds more likely, per token, so that a shorter answer
  has no advantage;
- preference_margin: by how much, in nats per token: log p(chosen) / n_chosen - log p(rejected) / n_rejected, mean over pairs.

Against a reference (the model that training began as), with the reward beta (log p - log p_reference) of an answer as a whole
(Rafailov et al. 2023, arXiv:2305.18290, section 4):

- reward_accuracy: share of pairs whose chosen answer has the larger reward;
- reward_margin: reward of the chosen less that of the rejected answer, in nats, mean over pairs.

A tie counts as not preferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from burnish.evaluate.stats import Floats


class RowLoss(NamedTuple):
    """Summed negative log-likelihood of a row's tokens with loss, in nats, and how many tokens those are."""

    nats: float
    tokens: int


class PairLoss(NamedTuple):
    """The losses of the two answers of a pair."""

    chosen: RowLoss
    rejected: RowLoss


def margins(pairs: Sequence[PairLoss]) -> Floats:
    """Return by how many nats per token the chosen answer of each pair is more likely than the rejected one."""
    return np.array([r.nats / r.tokens - c.nats / c.tokens for c, r in pairs], dtype=np.float64)


def reward_margins(tuned: Sequence[PairLoss], reference: Sequence[PairLoss], beta: float) -> Floats:
    """Return the reward of the chosen less that of the rejected answer of each pair, in nats."""
    found = [
        (before.chosen.nats - after.chosen.nats) - (before.rejected.nats - after.rejected.nats)
        for before, after in zip(reference, tuned, strict=True)
    ]
    return beta * np.array(found, dtype=np.float64)
