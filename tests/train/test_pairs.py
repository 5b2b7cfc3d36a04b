"""A prompt computed once for two answers gives what four rows one by one give."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.errors import TrainingError
from burnish.core.packing import pack
from burnish.core.rows import TokenPair
from burnish.model.attention import packing
from burnish.model.fused.replace import fused
from burnish.model.lora import adapter_off, lora_parameters
from burnish.model.preference_loss import PreferenceKind, preference_losses
from burnish.train.pairs import lay_pairs, log_probabilities, pair_lengths, reference_log_probabilities

CPU = torch.device("cpu")
Adapted = Callable[..., PreTrainedModel]


def some_pairs(count: int, *, prompts: int | None = None) -> list[TokenPair]:
    draw = random.Random(0)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 131) for _ in range(draw.randrange(1, most)))

    starts = [tokens(12) for _ in range(prompts or count)]
    return [TokenPair(f"pair-{i}", starts[i % len(starts)], tokens(9), tokens(9)) for i in range(count)]


def alone(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """transformers' own forward over one prompt and one answer."""
    ids = torch.tensor([*prompt, *answer])
    logits = model(input_ids=ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
    return -F.cross_entropy(logits, ids[len(prompt) :], reduction="sum")


def unshared(model: PreTrainedModel, pairs: Sequence[TokenPair]) -> Tensor:
    chosen = torch.stack([alone(model, pair.prompt, pair.chosen) for pair in pairs])
    return torch.stack([chosen, torch.stack([alone(model, pair.prompt, pair.rejected) for pair in pairs])])


def gradients(model: PreTrainedModel) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in lora_parameters(model).values()])


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge"])
def test_shared_prompts_give_the_loss_and_gradients_of_unshared_ones(
    make_adapted: Adapted, architecture: str, kind: PreferenceKind
) -> None:
    pairs = some_pairs(5)
    ours, theirs = make_adapted(architecture), make_adapted(architecture)
    row = lay_pairs(pairs, CPU)
    with packing(ours), fused(ours):
        policy, reference = log_probabilities(ours, row), reference_log_probabilities(ours, row)
        found = preference_losses(policy, reference, row.lengths_2P, kind=kind, beta=0.1).sum()
        found.backward()
    with torch.no_grad(), adapter_off(theirs):
        plain_reference = unshared(theirs, pairs)
    plain = unshared(theirs, pairs)
    lengths = torch.tensor([[len(pair.chosen) for pair in pairs], [len(pair.rejected) for pair in pairs]])
    expected = preference_losses(plain, plain_reference, lengths, kind=kind, beta=0.1).sum()
    expected.backward()
    assert (policy - reference).abs().min() > 1e-4  # the adapter makes a difference, and the reference is without it
    torch.testing.assert_close(reference, plain_reference, rtol=1e-5, atol=1e-5)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert ((gradients(ours) - gradients(theirs)).abs().max() / gradients(theirs).abs().max()).item() < 1e-5


def test_pairs_of_one_prompt_share_it(make_adapted: Adapted) -> None:
    pairs = some_pairs(6, prompts=2)
    row = lay_pairs(pairs, CPU)
    prompts = {pair.prompt for pair in pairs}
    assert row.tokens == sum(map(len, prompts)) + sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    model = make_adapted()
    by_id = {pair.pair_id: pair for pair in pairs}
    with packing(model), torch.no_grad():
        found = log_probabilities(model, row)
    with torch.no_grad():
        torch.testing.assert_close(found, unshared(model, [by_id[i] for i in row.row_ids]), rtol=1e-5, atol=1e-5)


def test_every_pair_lies_in_one_packed_row_that_it_fits() -> None:
    pairs = some_pairs(30, prompts=7)
    rows = pack(pair_lengths(pairs), 40, 0)
    assert sorted(index for row in rows for index in row) == list(range(30))
    assert all(lay_pairs([pairs[index] for index in row], CPU).tokens <= 40 for row in rows)


def test_an_empty_pair_is_refused() -> None:
    with pytest.raises(TrainingError, match="pair none has an empty prompt or answer"):
        lay_pairs([TokenPair("none", (3,), (), (4,))], CPU)
