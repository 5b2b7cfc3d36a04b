"""Losses of rows in batches equal those computed one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from burnish.core.errors import BaseModelError
from burnish.core.rows import TokenRow
from burnish.model.row_losses import read_rows

VOCABULARY = 300


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_losses_of_a_base_that_caps_scores_and_logits_are_those_one_by_one() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, head_dim=16,
        num_key_value_heads=2, max_position_embeddings=2048, sliding_window=12, query_pre_attn_scalar=16,
        attn_logit_softcapping=3.0, final_logit_softcapping=5.0, attn_implementation="eager",
    )  # fmt: skip
    capped = Gemma2ForCausalLM(config).eval()
    for parameter in capped.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    rows = draw_rows(0, 12)
    assert_equal(losses(capped, rows), one_by_one(capped, rows))


def row(prompt: list[int], answer: list[int]) -> TokenRow:
    return TokenRow("", (*prompt, *answer), (*[0] * len(prompt), *[1] * len(answer)), 0, len(prompt))


def losses(model: PreTrainedModel, rows: list[TokenRow], **asked: Any) -> list[tuple[float, int]]:
    return [(read.nats, read.tokens) for read in read_rows(model, rows, **asked)]


def one_by_one(model: PreTrainedModel, rows: list[TokenRow]) -> list[tuple[float, int]]:
    found = []
    for item in rows:
        with torch.no_grad():
            logits = model(torch.tensor([item.ids])).logits[0, :-1]
        each = cross_entropy(logits, torch.tensor(item.ids[1:]), reduction="none")
        found.append((float((each * torch.tensor(item.mask[1:])).sum()), sum(item.mask[1:])))
    return found


def assert_equal(got: list[tuple[float, int]], want: list[tuple[float, int]]) -> None:
    assert [count for _, count in got] == [count for _, count in want]
    for (a, _), (b, _) in zip(got, want, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-4)


def draw_rows(seed: int, count: int) -> list[TokenRow]:
    draw = random.Random(seed)

    def tokens(most: int) -> list[int]:
        return [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, most))]

    starts = [[draw.randrange(VOCABULARY) for _ in range(length)] for length in (30, 60, 700)] + [[]]
    return [row(starts[i % 4] + tokens(30), tokens(60)) for i in range(count)]


def test_losses_equal_those_computed_one_by_one(model: PreTrainedModel) -> None:
    rows = draw_rows(0, 40)
    assert_equal(losses(model, rows), one_by_one(model, rows))


@pytest.mark.gpu
def test_losses_on_a_gpu_equal_those_on_a_cpu(model: PreTrainedModel) -> None:
    rows = draw_rows(0, 12)
    want = one_by_one(model, rows)
    model.to("cuda")
    try:
        assert_equal(losses(model, rows), want)
    finally:
        model.to("cpu")


def test_a_row_longer_than_one_pass_is_whole(model: PreTrainedModel) -> None:
    draw = random.Random(1)
    rows = [row([1, 2, 3], [draw.randrange(VOCABULARY) for _ in range(1400)]), row([1, 2, 3], [5, 6])]
    assert_equal(losses(model, rows), one_by_one(model, rows))


def test_answers_that_begin_alike_are_counted_in_each_row(model: PreTrainedModel) -> None:
    prompt, answer = list(range(40)), list(range(100, 140))
    rows = [row(prompt, [*answer, 7]), row(prompt, [*answer, 8]), row(prompt, answer)]
    assert_equal(losses(model, rows), one_by_one(model, rows))


def test_loss_in_several_places_of_a_row(model: PreTrainedModel) -> None:
    ids = tuple(range(50, 80))
    mask = tuple(int(i % 7 in (2, 3)) for i in range(30))
    rows = [TokenRow("", ids, mask, 0, 0), TokenRow("", ids[::-1], mask, 0, 0)]
    assert_equal(losses(model, rows), one_by_one(model, rows))


def test_rows_without_targets_and_a_masked_first_token_count_nothing(model: PreTrainedModel) -> None:
    rows = [
        TokenRow("", (1, 2, 3), (0, 0, 0), 0, 0),
        TokenRow("", (4,), (1,), 0, 0),
        TokenRow("", (1, 2, 3), (1, 1, 1), 0, 0),
    ]
    got = losses(model, rows)
    assert got[:2] == [(0.0, 0), (0.0, 0)]
    assert_equal(got[2:], one_by_one(model, rows[2:]))
    assert losses(model, []) == []


def test_no_gradients_and_no_training_mode(model: PreTrainedModel) -> None:
    model.train()
    try:
        with pytest.raises(BaseModelError, match="training mode"):
            losses(model, draw_rows(0, 2))
    finally:
        model.eval()


def test_progress_reaches_the_total(model: PreTrainedModel) -> None:
    seen: list[tuple[int, int]] = []
    losses(model, draw_rows(2, 5), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 5) for i in range(5)]


def greedy(model: PreTrainedModel, prompt: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """The most likely tokens after a prompt, one after the other."""
    ids = prompt
    for _ in range(tokens):
        with torch.no_grad():
            ids = (*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("agreed", [0, 1, 5, 12])
@pytest.mark.parametrize("start", [3, 600])
def test_what_the_model_would_write_itself_ends_at_the_first_other_token(
    model: PreTrainedModel, agreed: int, start: int
) -> None:
    prompt = tuple(i % 250 for i in range(start))
    own = greedy(model, prompt, 12)
    other = tuple((token + (at == agreed)) % VOCABULARY for at, token in enumerate(own))
    turns, answers = (0,) * start, (1,) * 12
    plain = TokenRow("", (*prompt, *other), (*turns, *answers), 0, start)
    cut = TokenRow("", (*prompt, *own, 1), (*turns, *answers[1:], 0, 0), 0, start)
    earlier = TokenRow("", (*prompt, *other), (0, 1, *turns[2:], *answers), 0, start)
    got = [read.agreed for read in read_rows(model, [plain, cut, earlier])]
    assert got == [agreed, 11, agreed], "the count goes to the first other token, or to the end of what has loss"


def test_a_row_without_a_prompt_is_no_answer(model: PreTrainedModel) -> None:
    own = (5, *greedy(model, (5,), 4))
    assert read_rows(model, [TokenRow("", own, (0, 1, 1, 1, 1), 0, 0)])[0].agreed == 0
