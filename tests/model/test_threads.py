"""Threads are compared by the clock, in turns."""

from __future__ import annotations

import pytest
import torch

from burnish.model import threads
from burnish.model.threads import ROUNDS, gain_of_threads


def test_medians_of_turns_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 4.0, 9.0, 2.0, 1.0, 2.0])  # one thread: 1, 9, 1; two: 4, 2, 2
    counts: list[int] = []

    def timed(x: torch.Tensor, w: torch.Tensor) -> float:
        counts.append(torch.get_num_threads())
        return next(seconds)

    monkeypatch.setattr(threads, "_seconds_of_a_product", timed)
    assert gain_of_threads(2, 8, torch.float32) == 0.5
    assert counts == [1, 2] * ROUNDS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gain_is_a_positive_number_on_this_machine(dtype: torch.dtype) -> None:
    assert 0.0 < gain_of_threads(2, 64, dtype) < 100.0
