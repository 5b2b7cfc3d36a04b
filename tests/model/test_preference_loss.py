"""Losses of preference pairs against arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.core.errors import TrainingError
from burnish.model.preference_loss import PairRewards, pair_rewards, preference_losses

POLICY = torch.tensor([[-4.0, -6.0], [-7.0, -5.0]], dtype=torch.float64)
REFERENCE = torch.tensor([[-5.0, -5.5], [-6.0, -5.5]], dtype=torch.float64)
LENGTHS = torch.tensor([[2, 5], [4, 1]])
# log ratios: chosen +1.0 and -0.5, rejected -1.0 and +0.5; with beta 0.5 the margins are 1.0 and -0.5


def test_the_sigmoid_loss_is_the_softplus_of_minus_the_margin() -> None:
    found = preference_losses(POLICY, REFERENCE, LENGTHS, beta=0.5)
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-1.0)), math.log(1 + math.exp(0.5))], rel=1e-12)


def test_smoothing_mixes_in_the_loss_of_the_pair_turned_around() -> None:
    found = preference_losses(POLICY, REFERENCE, LENGTHS, beta=0.5, smoothing=0.1)
    right, wrong = math.log(1 + math.exp(-1.0)), math.log(1 + math.exp(1.0))
    assert found[0].item() == pytest.approx(0.9 * right + 0.1 * wrong, rel=1e-12)


def test_the_hinge_loss_ends_at_a_margin_of_one() -> None:
    assert preference_losses(POLICY, REFERENCE, LENGTHS, kind="hinge", beta=0.5).tolist() == [0.0, 1.5]


def test_ipo_asks_for_a_gap_of_means_and_punishes_more() -> None:
    # means: 1/2 + 1/4 = 0.75 and -0.5/5 - 0.5/1 = -0.6; the gap asked for is 1 / (2 * 0.5) = 1
    found = preference_losses(POLICY, REFERENCE, LENGTHS, kind="ipo", beta=0.5)
    assert found.tolist() == pytest.approx([0.0625, 2.56], rel=1e-12)


def test_a_policy_equal_to_the_reference_loses_log_two() -> None:
    assert preference_losses(POLICY, POLICY, LENGTHS, beta=0.1).tolist() == pytest.approx([math.log(2)] * 2)


def test_rewards_are_scaled_log_ratios() -> None:
    found = pair_rewards(POLICY, REFERENCE, beta=0.5)
    assert found == PairRewards(chosen=0.125, rejected=-0.125, margin=0.25, accuracy=0.5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beta": 0.0}, "beta is 0.0; it must be more than 0"),
        ({"beta": 0.1, "smoothing": 0.5}, "from 0 to below 0.5"),
        ({"beta": 0.1, "smoothing": 0.1, "kind": "ipo"}, "only the sigmoid loss has it, not ipo"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        preference_losses(POLICY, REFERENCE, LENGTHS, **settings)  # pyright: ignore[reportArgumentType]
