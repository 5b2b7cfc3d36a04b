"""Losses of preference pairs: pure functions of the log-probabilities that a policy and a reference give two answers.

Shapes: row 0 of a (2, P) tensor belongs to the chosen answers of P pairs, row 1 to the rejected ones.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.core.errors import TrainingError

PreferenceKind = Literal["sigmoid", "ipo", "hinge"]


def preference_losses(
    policy_2P: Tensor,
    reference_2P: Tensor,
    lengths_2P: Tensor,
    *,
    kind: PreferenceKind = "sigmoid",
    beta: float,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the loss of each pair (P,) from the summed log-probabilities of its answers in nats.

    With r = log policy - log reference of an answer, m = beta (r_chosen - r_rejected) and s = `smoothing`:

    sigmoid: -(1 - s) log sigmoid(m) - s log sigmoid(-m). Rafailov et al. 2023, arXiv:2305.18290, equation 7; s > 0 says
             that a share s of the labels is wrong (Mitchell 2023, "A note on DPO with noisy preferences", equation 3).
    ipo:     (r_chosen / n_chosen - r_rejected / n_rejected - 1 / (2 beta))^2. Azar et al. 2023, arXiv:2310.12036v2, equation 17,
             with r a mean over an answer's `lengths` n in tokens, as TRL does after asking the authors; beta is their tau.
    hinge:   max(0, 1 - m). Liu et al. 2023, arXiv:2309.06657, their "hinge-norm" loss, after Zhao et al. 2023, arXiv:2305.10425.

    Raises TrainingError for a beta that is not positive, and for smoothing outside 0..0.5 or with another loss than sigmoid.
    """
    if not beta > 0.0:
        raise TrainingError(f"beta is {beta}; it must be more than 0. Typical: 0.05 to 0.5.")
    if not 0.0 <= smoothing < 0.5:
        raise TrainingError(
            f"label smoothing is {smoothing}; it must be from 0 to below 0.5 (half of the labels wrong)."
        )
    if smoothing and kind != "sigmoid":
        raise TrainingError(
            f"label smoothing is {smoothing}, but only the sigmoid loss has it, not {kind}. Set it to 0."
        )
    ratios_2P = policy_2P - reference_2P
    if kind == "ipo":
        means_2P = ratios_2P / lengths_2P
        return (means_2P[0] - means_2P[1] - 1.0 / (2.0 * beta)).square()
    margins_P = beta * (ratios_2P[0] - ratios_2P[1])
    if kind == "hinge":
        return torch.relu(1.0 - margins_P)
    return -(1.0 - smoothing) * F.logsigmoid(margins_P) - smoothing * F.logsigmoid(-margins_P)


class PairRewards(NamedTuple):
    """Means over pairs, each a float64 scalar.

    A reward is beta (log policy - log reference) of an answer, in nats (arXiv:2305.18290, section 4).
    """

    chosen: Tensor
    rejected: Tensor
    margin: Tensor
    accuracy: Tensor


def pair_rewards(policy_2P: Tensor, reference_2P: Tensor, *, beta: float) -> PairRewards:
    """Return the mean rewards, their margin, and the share of pairs whose chosen answer has the larger one (ties lose)."""
    rewards_2P = beta * (policy_2P.detach() - reference_2P.detach())
    chosen, rejected = rewards_2P.mean(dim=1).double()
    accuracy = (rewards_2P[0] > rewards_2P[1]).double().mean()
    return PairRewards(chosen, rejected, chosen - rejected, accuracy)
