from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from burnish.core.artifacts import Plan
from burnish.train.optim import adamw, clip, learning_rate

MakePlan = Callable[..., Plan]


@pytest.fixture
def plan(make_rows: Callable[..., list], make_plan: MakePlan) -> Callable[..., Plan]:
    return lambda **changes: make_plan(make_rows(3), steps=100, learning_rate=1.0, **changes)


def test_the_rate_rises_then_falls_as_written_by_hand(plan: MakePlan) -> None:
    numbers = plan(warmup_steps=3, schedule="linear").train
    assert [learning_rate(numbers, step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(numbers, 3 + 97 // 2) == pytest.approx(1 - 48 / 97)
    cosine = plan(warmup_steps=0, schedule="cosine").train
    assert learning_rate(cosine, 50) == pytest.approx(0.5)
    assert learning_rate(plan(warmup_steps=5, schedule="constant").train, 99) == 1.0


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 10, 100])
def test_the_rate_is_continuous_positive_and_never_over_the_peak(plan: MakePlan, schedule: str, warmup: int) -> None:
    numbers = plan(warmup_steps=warmup, schedule=schedule).train
    rates = [learning_rate(numbers, step) for step in range(100)]
    assert all(0 < rate <= 1 for rate in rates)
    steepest = max(1 / (warmup + 1), 1.6 / max(1, 100 - warmup))
    assert max(abs(a - b) for a, b in pairwise(rates)) <= steepest + 1e-9


@pytest.mark.parametrize(
    ("schedule", "theirs"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)]
)
def test_without_warm_up_the_schedule_is_that_of_transformers(plan: MakePlan, schedule: str, theirs: Callable) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = theirs(optimizer, 0, 100)
    for step in range(100):
        assert learning_rate(plan(warmup_steps=0, schedule=schedule).train, step) == pytest.approx(
            reference.get_last_lr()[0]
        )
        optimizer.step()
        reference.step()


def test_the_first_update_equals_adamw_by_hand(plan: MakePlan) -> None:
    # step 1 of Adam moves each weight by lr * sign(gradient) (up to epsilon), decay takes lr * decay * weight before
    weight = nn.Parameter(torch.tensor([2.0, -3.0]))
    weight.grad = torch.tensor([0.5, -0.1])
    optimizer = adamw(plan(weight_decay=0.1).train, [weight])
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    torch.testing.assert_close(
        weight.detach(), torch.tensor([2.0 * 0.999 - 0.01, -3.0 * 0.999 + 0.01]), rtol=1e-6, atol=1e-6
    )
    assert optimizer.state[weight]["exp_avg"].dtype == torch.float32


def test_clipping_returns_the_norm_and_keeps_the_direction() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert clip([weight], 1.0).item() == 5.0
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8]))
