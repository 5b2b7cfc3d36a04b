"""Sampling draws from the distribution that temperature, penalties and cuts describe, which is transformers' one."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from burnish.model.sampling import Chooser, Sampling, choose_tokens, kept_tokens

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))


def draw(count: int, **asked: float | int | None) -> Counter[int]:
    sampling = Sampling(max_new_tokens=1, **asked)  # pyright: ignore[reportArgumentType]
    chooser = Chooser(sampling, [])
    return Counter(choose_tokens(LOGITS, [chooser])[0].token for _ in range(count))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert draw(5) == {1: 5}


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-7])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_a_temperature_near_zero_takes_the_most_likely_token(temperature: float, top_p: float) -> None:
    chooser = Chooser(Sampling(max_new_tokens=1, temperature=temperature, top_p=top_p, seed=0), [])
    logits = torch.tensor([[-40.0, 33.0, 32.9, -90.0]])
    assert [choose_tokens(logits, [chooser])[0].token for _ in range(5)] == [1] * 5


def test_temperature_one_draws_the_models_own_probabilities() -> None:
    counts = draw(4000, temperature=1.0, seed=0)
    for token, share in enumerate((0.1, 0.4, 0.2, 0.3)):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)


def test_half_the_temperature_squares_the_odds() -> None:
    counts = draw(4000, temperature=0.5, seed=1)  # 0.01 : 0.16 : 0.04 : 0.09, in all 0.30
    assert counts[1] / 4000 == pytest.approx(0.16 / 0.30, abs=0.03)
    assert counts[0] / 4000 == pytest.approx(0.01 / 0.30, abs=0.02)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    assert set(draw(300, temperature=1.0, top_p=0.4, seed=2)) == {1}
    assert set(draw(300, temperature=1.0, top_p=0.41, seed=2)) == {1, 3}
    assert set(draw(300, temperature=1.0, top_p=0.9, seed=2)) == {1, 3, 2}


def test_top_k_keeps_the_k_most_likely() -> None:
    assert set(draw(300, temperature=1.0, top_k=2, seed=3)) == {1, 3}
    assert set(draw(600, temperature=1.0, top_k=99, seed=3)) == {0, 1, 2, 3}


def test_the_same_seed_draws_the_same_and_another_one_does_not() -> None:
    def sequence(seed: int | None) -> list[int]:
        sampling = Sampling(max_new_tokens=1, temperature=1.0, seed=seed)
        chooser = Chooser(sampling, [])
        return [choose_tokens(LOGITS, [chooser])[0].token for _ in range(40)]

    assert sequence(5) == sequence(5) != sequence(6)
    assert sequence(None) != sequence(None)


def test_greedy_and_drawn_rows_stand_in_one_batch() -> None:
    greedy, drawn = Sampling(max_new_tokens=1), Sampling(max_new_tokens=1, temperature=1.0, top_k=1, seed=0)
    chosen = choose_tokens(LOGITS.repeat(2, 1), [Chooser(greedy, []), Chooser(drawn, [])])
    assert [each.token for each in chosen] == [1, 1]


settings_of_a_request = st.builds(
    dict,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 7, 300, 2000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
)


def by_transformers(logits_1V: Tensor, prompt: list[int], asked: dict[str, Any]) -> Tensor:
    """Return the probabilities that transformers' generate would draw from."""
    processors: list[Any] = []
    if asked["repetition_penalty"] != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(asked["repetition_penalty"]))
    processors.append(TemperatureLogitsWarper(asked["temperature"]))
    if asked["top_k"]:
        processors.append(TopKLogitsWarper(asked["top_k"]))
    if asked["top_p"] < 1:
        processors.append(TopPLogitsWarper(asked["top_p"]))
    if asked["min_p"]:
        processors.append(MinPLogitsWarper(asked["min_p"]))
    scores = logits_1V.clone()
    for processor in processors:
        scores = processor(torch.tensor([prompt]), scores)
    return torch.softmax(scores, dim=-1)[0]


@settings(max_examples=150, deadline=None)
@given(st.lists(settings_of_a_request, min_size=1, max_size=4), st.integers(0, 5))
def test_the_distribution_is_that_of_transformers_for_every_row_of_a_batch(
    asked: list[dict[str, Any]], seed: int
) -> None:
    vocabulary = 1500
    generator = torch.Generator().manual_seed(seed)
    logits_NV = torch.randn(len(asked), vocabulary, generator=generator) * 3
    prompt = torch.randint(0, vocabulary, (200,), generator=generator).tolist()
    samplings = [Sampling(max_new_tokens=1, seed=0, **each) for each in asked]
    adjusted_NV = logits_NV.clone()
    for row, sampling in zip(adjusted_NV, samplings, strict=True):
        Chooser(sampling, prompt).adjust(row)
    tokens_NC, weights_NC = kept_tokens(adjusted_NV, samplings)
    ours_NV = (
        weights_NC if tokens_NC is None else torch.zeros(len(asked), vocabulary).scatter_(1, tokens_NC, weights_NC)
    )
    ours_NV = ours_NV / ours_NV.sum(dim=-1, keepdim=True)
    for row, each in enumerate(asked):
        theirs_V = by_transformers(logits_NV[row : row + 1], prompt, each)
        # A token on the very edge of top-p may fall on either side.
        assert (ours_NV[row] - theirs_V).abs().sum() < 2e-3


def test_draws_follow_the_distribution_that_is_left() -> None:
    """A goodness-of-fit test over tokens with an expected count of 5 or more, at a level of one in a million."""
    logits_1V = torch.randn(1, 400, generator=torch.Generator().manual_seed(1)) * 2
    sampling = Sampling(max_new_tokens=1, temperature=0.9, top_p=0.95, min_p=0.01, seed=3)
    tokens_1C, weights_1C = kept_tokens(logits_1V, [sampling])
    assert tokens_1C is not None
    chooser = Chooser(sampling, [])
    counts = Counter(choose_tokens(logits_1V, [chooser])[0].token for _ in range(3000))
    expected = dict(zip(tokens_1C[0].tolist(), (3000 * weights_1C[0] / weights_1C.sum()).tolist(), strict=True))
    assert all(expected[token] > 0 for token in counts)
    large = {token: count for token, count in expected.items() if count >= 5}
    statistic = sum((counts[token] - count) ** 2 / count for token, count in large.items())
    assert statistic < chi2.ppf(1 - 1e-6, len(large))


def test_draws_do_not_depend_on_who_runs_beside() -> None:
    logits_1V = torch.randn(1, 3000, generator=torch.Generator().manual_seed(1))
    others = [{"temperature": 1.0}, {"temperature": 0.5, "top_k": 900}, {}, {"temperature": 1.0, "top_p": 0.99}]
    for mine in ({"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.8}, {"temperature": 1.0, "top_k": 5}):
        alone, crowded = (Chooser(Sampling(max_new_tokens=1, seed=9, **mine), []) for _ in range(2))
        beside = [Chooser(Sampling(max_new_tokens=1, seed=1, **each), []) for each in others]
        want = [choose_tokens(logits_1V, [alone])[0].token for _ in range(30)]
        assert [choose_tokens(logits_1V.repeat(5, 1), [*beside, crowded])[4].token for _ in range(30)] == want


def chosen_with(counts: dict[int, int], **asked: Any) -> Tensor:
    chooser = Chooser(Sampling(max_new_tokens=1, **asked), [0, 1])
    for token, times in counts.items():
        for _ in range(times):
            chooser.take(token)
    logits_V = torch.tensor([2.0, -1.0, 1.0, 0.0])
    chooser.adjust(logits_V)
    return logits_V


def test_presence_and_frequency_count_the_answer_and_not_the_prompt() -> None:
    assert chosen_with({}, presence_penalty=1.0, frequency_penalty=0.5).tolist() == [2.0, -1.0, 1.0, 0.0]
    assert chosen_with({2: 3, 3: 1}, presence_penalty=1.0, frequency_penalty=0.5).tolist() == [2.0, -1.0, -1.5, -1.5]


def test_repetition_counts_both_and_never_makes_a_token_more_likely() -> None:
    assert chosen_with({2: 1}, repetition_penalty=2.0).tolist() == [1.0, -2.0, 0.5, 0.0]


def test_a_bias_is_added() -> None:
    assert chosen_with({}, logit_bias={3: 5.0, 0: -1.0}).tolist() == [1.0, -1.0, 1.0, 5.0]


def test_log_probabilities_are_the_models_own_before_any_change() -> None:
    chooser = Chooser(Sampling(max_new_tokens=1, logprobs=2, logit_bias={2: 9.0}), [])
    (chosen,) = choose_tokens(LOGITS, [chooser])
    assert chosen.token == 2
    assert chosen.likelihood is not None
    assert chosen.likelihood.logprob == pytest.approx(math.log(0.2))
    assert [token for token, _ in chosen.likelihood.best] == [1, 3]
    assert [logprob for _, logprob in chosen.likelihood.best] == pytest.approx([math.log(0.4), math.log(0.3)])


class OnlyOdd:
    """Allows odd tokens, three times."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def allowed(self, vocabulary: int) -> Tensor:
        return torch.arange(vocabulary) % 2 == 1

    def accept(self, token: int) -> None:
        self.taken.append(token)

    @property
    def finished(self) -> bool:
        return len(self.taken) == 3

    @property
    def failure(self) -> str | None:
        return None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_is_kept_and_told_what_came(temperature: float) -> None:
    constraint = OnlyOdd()
    chooser = Chooser(Sampling(max_new_tokens=1, temperature=temperature, seed=0), [], constraint)
    tokens = [choose_tokens(torch.log(torch.tensor([[0.5, 0.1, 0.2, 0.2]])), [chooser])[0].token for _ in range(50)]
    assert set(tokens) <= {1, 3}
    chooser.take(3)
    assert constraint.taken == [3]
