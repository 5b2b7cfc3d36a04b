from __future__ import annotations

import math
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from burnish.model.losses import Logits, LossForm, answer_losses, likelihood, losses_as, target_loss, target_losses


def test_the_loss_of_two_tokens_equals_arithmetic_by_hand() -> None:
    # head: three words along the axes; hidden states (1, 0) and (0, 2)
    # logits: (1, 0, 1) and (0, 2, 2); -log softmax: log(2e + 1) - 1 for word 0, log(1 + 2 e^2) - 2 for word 2
    hidden = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    head = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    expected = (math.log(2 * math.e + 1) - 1) + (math.log(1 + 2 * math.e**2) - 2)
    assert target_loss(hidden, head, torch.tensor([0, 2])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_loss_and_gradient_equal_cross_entropy_for_every_chunk(chunk: int) -> None:
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(7, 16), torch.randn(50, 16), torch.randint(0, 50, (7,))
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    loss = target_loss(ours, head, targets, chunk)
    expected = F.cross_entropy(theirs @ head.t(), targets, reduction="sum")
    (loss / 7).backward()
    (expected / 7).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
def test_logits_of_one_chunk_are_gone_before_those_of_the_next_are_made(frozen: bool) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def watched(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert all(earlier() is None for earlier in made)
        nats, gradient = likelihood(logits, targets)
        made.append(weakref.ref(gradient))
        return nats, gradient

    with losses_as(LossForm(2, watched)):
        target_loss(torch.randn(7, 4, requires_grad=not frozen), torch.randn(9, 4), torch.randint(0, 9, (7,)))
    assert len(made) == 4


def test_the_gradient_passes_gradcheck() -> None:
    torch.manual_seed(1)
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    head, targets = torch.randn(9, 4, dtype=torch.float64), torch.randint(0, 9, (5,))
    reference = hidden.detach().clone().requires_grad_()
    target_loss(hidden, head, targets, 2).backward()
    F.cross_entropy(reference @ head.t(), targets, reduction="sum").backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, reference.grad, rtol=1e-6, atol=1e-6)


def test_very_large_logits_stay_finite() -> None:
    loss = target_loss(torch.tensor([[1e4, 0.0]]), torch.eye(2), torch.tensor([1]))
    assert loss.item() == pytest.approx(1e4)


def test_no_target_costs_nothing_and_has_a_gradient_of_zero() -> None:
    hidden = torch.randn(0, 4, requires_grad=True)
    loss = target_loss(hidden, torch.randn(9, 4), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.25, None), (1.0, 2.0), (3.0, 2.0)])
@pytest.mark.parametrize("biased", [False, True])
def test_logits_that_are_more_than_products_and_their_gradients_equal_the_formula(
    chunk: int, scale: float, cap: float | None, biased: bool
) -> None:
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(7, 5), torch.randn(9, 5) * 3, torch.randint(0, 9, (7,))
    bias, found, expected = torch.randn(9), [], []
    for compute in (found, expected):
        h, w, b = (each.clone().double().requires_grad_() for each in (hidden, head, bias))
        logits = Logits(b if biased else None, scale, cap)
        if compute is found:
            loss = target_loss(h, w, targets, chunk, logits=logits)
            each = target_losses(h, w, targets, chunk, logits=logits)
            assert each.sum().item() == pytest.approx(loss.item(), rel=1e-12)
            weights = [h, w, *([b] if biased else [])]
            for mine, other in zip(
                torch.autograd.grad(loss, weights), torch.autograd.grad(each.sum(), weights), strict=True
            ):
                torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)
            loss = target_loss(h, w, targets, chunk, logits=logits)
        else:
            raw = scale * (h @ w.t() + (b if biased else 0.0))
            raw = raw if cap is None else torch.tanh(raw / cap) * cap
            loss = torch.nn.functional.cross_entropy(raw, targets, reduction="sum")
        loss.backward()
        compute += [loss.detach(), h.grad, w.grad, *([b.grad] if biased else [])]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cap", [None, 5.0])
def test_losses_of_answers_are_those_of_each_alone_in_as_many_operations_as_one(cap: float | None) -> None:
    torch.manual_seed(4)
    head, targets, logits = torch.randn(9, 4), torch.randint(0, 9, (12,)), Logits(cap=cap)
    ours, theirs = (torch.randn(12, 4, generator=torch.Generator().manual_seed(5)).requires_grad_() for _ in range(2))
    sizes, weights = [5, 0, 1, 6], torch.tensor([0.3, -2.0, 1.0, -0.7])
    owners = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    form = LossForm(5, likelihood)
    asked: list[Counter[str]] = []

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked[-1][func.name()] += 1
            return func(*args, **(kwargs or {}))

    with losses_as(form):
        for whose, answers in ((owners, 4), (torch.zeros_like(owners), 1)):
            asked.append(Counter())
            with Counted():
                found = answer_losses(ours, head, targets, whose, answers, logits=logits)
                (found @ weights[:answers]).backward()
            if answers == 4:
                expected = torch.stack([
                    target_loss(hidden, head, some, logits=logits)
                    for hidden, some in zip(theirs.split(sizes), targets.split(sizes), strict=True)
                ])  # fmt: skip
                (expected @ weights).backward()
                torch.testing.assert_close(found, expected)
                assert ours.grad is not None
                torch.testing.assert_close(ours.grad, theirs.grad)
                ours.grad = None
    assert asked[0] == asked[1]
