"""Packed rows give the loss and gradients of samples one by one: each objective, each family of layers, fused and plain.

One by one is transformers' own forward pass of each sequence alone, with the loss written out. The contract: 1e-5 of the loss, and
of the largest gradient, in float32.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.artifacts import Plan
from burnish.core.packing import count_steps, pack
from burnish.core.rows import TokenPair, TokenRow
from burnish.model.fused.paths import ON_CPU, PLAIN, on_paths
from burnish.model.lora import adapter_off
from burnish.train import dpo, sft
from burnish.train.objective import Objective
from burnish.train.pairs import pair_lengths
from one_by_one import assert_same, gradients, one_by_one

Adapted = Callable[..., PreTrainedModel]
MakePlan = Callable[..., Plan]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")
PATHS = {"fused": ON_CPU, "plain": PLAIN}


def packed(model: PreTrainedModel, objective: Objective, paths: str) -> tuple[float, Tensor]:
    total = 0.0
    rows = [row for batch in objective.batches(0) for row in batch]
    with on_paths(model.train(), PATHS[paths]) as alone:
        assert not alone
        for row in rows:
            loss = objective.loss(model, row).total
            loss.backward()
            total += loss.item()
    assert len(rows) > 1
    return total, gradients(model)


@pytest.mark.parametrize("paths", PATHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_conversations(
    make_adapted: Adapted, make_rows: Callable[..., list[TokenRow]], make_plan: MakePlan, family: str, paths: str
) -> None:
    rows, model = make_rows(14), make_adapted(family)
    plan = make_plan(rows, row_tokens=90)
    expected = one_by_one(model, rows)
    assert_same(packed(model, sft.objective(plan.train, rows), paths), expected)


def some_pairs(count: int) -> list[TokenPair]:
    """Return pairs; every third shares its prompt with another."""
    draw = random.Random(3)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 131) for _ in range(draw.randrange(least, most)))

    prompts = [tokens(4, 10) for _ in range(count - count // 3)]
    return [TokenPair(f"pair-{i}", prompts[i % len(prompts)], tokens(2, 8), tokens(2, 8)) for i in range(count)]


def of_answer(model: PreTrainedModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    """Return the log-probability of an answer after its prompt, alone."""
    logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(answer)[:, None]).sum()


@contextmanager
def as_base(model: PreTrainedModel) -> Iterator[None]:
    with torch.no_grad(), adapter_off(model):
        yield


def loss_of_pair(model: PreTrainedModel, pair: TokenPair, kind: str, beta: float) -> Tensor:
    ratios = []
    for answer in (pair.chosen, pair.rejected):
        with as_base(model):
            reference = of_answer(model, pair.prompt, answer)
        ratios.append(of_answer(model, pair.prompt, answer) - reference)
    if kind == "ipo":
        chosen, rejected = ratios[0] / len(pair.chosen), ratios[1] / len(pair.rejected)
        return (chosen - rejected - 1 / (2 * beta)) ** 2
    margin = beta * (ratios[0] - ratios[1])
    return torch.relu(1 - margin) if kind == "hinge" else -F.logsigmoid(margin)


@pytest.mark.parametrize("paths", PATHS)
@pytest.mark.parametrize(
    ("family", "kind"), [*((family, "sigmoid") for family in FAMILIES), ("llama", "ipo"), ("qwen3", "hinge")]
)
def test_preference_pairs(make_adapted: Adapted, make_plan: MakePlan, family: str, kind: str, paths: str) -> None:
    pairs, model = some_pairs(9), make_adapted(family)
    preference = {"kind": "dpo", "beta": 0.3, "loss": kind, "label_smoothing": 0.0}
    steps = count_steps(len(pack(pair_lengths(pairs), 70, 0)), 1.0, 2)
    plan = make_plan([], steps=steps, row_tokens=70, preference=preference)
    total = 0.0
    for pair in pairs:
        loss = loss_of_pair(model, pair, kind, 0.3)
        loss.backward()
        total += loss.item()
    expected = total, gradients(model)
    assert_same(packed(model, dpo.objective(plan.train, pairs), paths), expected)
