from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from burnish.core.artifacts import Plan
from burnish.train.optim import adamw, learning_rate, loss_scale, update

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
    weight = nn.Parameter(torch.tensor([[2.0, -3.0]]))
    weight.grad = torch.tensor([[0.5, -0.1]])
    optimizer = adamw(plan(weight_decay=0.1).train, [weight])
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    torch.testing.assert_close(
        weight.detach(), torch.tensor([[2.0 * 0.999 - 0.01, -3.0 * 0.999 + 0.01]]), rtol=1e-6, atol=1e-6
    )
    assert optimizer.state[weight]["exp_avg"].dtype == torch.float32


def moved(gradient: list[float], limit: float, scale: float) -> tuple[torch.Tensor, float]:
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    weight.grad = torch.tensor(gradient)
    optimizer = torch.optim.AdamW([weight], lr=0.1, eps=1.0, weight_decay=0.1, fused=True)
    norm = update([optimizer], [weight], limit, scale).item()
    return weight.detach(), norm


def test_a_step_clips_the_norm_and_returns_the_one_that_was_there() -> None:
    clipped, norm = moved([3.0, 4.0], 1.0, 1.0)
    assert norm == 5.0
    torch.testing.assert_close(clipped, moved([0.6, 0.8], 10.0, 1.0)[0], rtol=1e-5, atol=1e-6)
    reference = nn.Parameter(torch.zeros(2))
    reference.grad = torch.tensor([3.0, 4.0])
    assert nn.utils.clip_grad_norm_([reference], 1.0).item() == norm
    torch.testing.assert_close(moved(reference.grad.tolist(), 10.0, 1.0)[0], clipped, rtol=1e-5, atol=1e-6)


def test_copies_of_a_weight_are_known_to_be_old_after_a_fused_step() -> None:
    """torch's own fused step leaves a weight's version as it was."""
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    before = weight._version
    update([torch.optim.AdamW([weight], lr=0.1, fused=True)], [weight], 1.0, 1.0)
    assert weight._version > before


def test_a_scaled_loss_gives_the_step_of_an_unscaled_one() -> None:
    plain, scaled = moved([0.3, 0.4], 10.0, 1.0), moved([0.3 * 1024, 0.4 * 1024], 10.0, 1024.0)
    torch.testing.assert_close(plain[0], scaled[0])
    assert plain[1] == pytest.approx(scaled[1])


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    weight, norm = moved([bad, 1.0], 1.0, 1.0)
    assert weight.tolist() == [1.0, 1.0]
    assert not math.isfinite(norm)


def test_the_scale_of_a_float16_loss_halves_at_an_overflow_and_doubles_after_quiet_steps(plan: MakePlan) -> None:
    scale = loss_scale(plan(compute_dtype="float16").train)
    scale.patience = 3
    followed = []
    for finite in (True, False, False, True, True, True, True):
        scale.follow(finite)
        followed.append(scale.value / 2.0**16)
    assert followed == [1.0, 0.5, 0.25, 0.25, 0.25, 0.5, 0.5]
    assert loss_scale(plan(compute_dtype="bfloat16").train).fixed
