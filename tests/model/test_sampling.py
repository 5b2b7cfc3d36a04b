"""Sampling draws from the distribution that temperature, top-k and top-p describe."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from burnish.model.sampling import Sampling, choose_tokens

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))


def draw(count: int, **settings: float | int | None) -> Counter[int]:
    sampling = Sampling(max_new_tokens=1, **settings)  # pyright: ignore[reportArgumentType]
    generator = sampling.generator()
    return Counter(choose_tokens(LOGITS, [sampling], [generator])[0] for _ in range(count))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert draw(5) == {1: 5}


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
        generator = sampling.generator()
        return [choose_tokens(LOGITS, [sampling], [generator])[0] for _ in range(40)]

    assert sequence(5) == sequence(5) != sequence(6)
    assert sequence(None) != sequence(None)


def test_greedy_and_drawn_rows_stand_in_one_batch() -> None:
    greedy, drawn = Sampling(max_new_tokens=1), Sampling(max_new_tokens=1, temperature=1.0, top_k=1, seed=0)
    assert choose_tokens(LOGITS.repeat(2, 1), [greedy, drawn], [None, drawn.generator()]) == [1, 1]
