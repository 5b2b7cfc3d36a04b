"""How many threads of a CPU are worth having: where other programs use its cores, several are slower than one."""

from __future__ import annotations

import statistics
import time

import torch

ROUNDS, ROUND_SECONDS = 3, 0.05
TOKENS = 256
"""Rows of the product that is timed: those of a short packed row."""


def gain_of_threads(threads: int, hidden: int, dtype: torch.dtype) -> float:
    """Return how many times as fast `threads` threads multiply as one does now, by turns of a tenth of a second.

    The threads of a product wait for the last of them: one that shares its core with another program holds up all, which can make
    two threads ten times slower than one. hidden: size of the square matrix. Leaves torch with some number of threads.
    """
    x_TD, w_DD = torch.ones(TOKENS, hidden, dtype=dtype), torch.ones(hidden, hidden, dtype=dtype)
    turns: dict[int, list[float]] = {1: [], threads: []}
    for _ in range(ROUNDS):
        for count, found in turns.items():
            torch.set_num_threads(count)
            found.append(_seconds_of_a_product(x_TD, w_DD))
    return statistics.median(turns[1]) / statistics.median(turns[threads])


def _seconds_of_a_product(x_TD: torch.Tensor, w_DD: torch.Tensor) -> float:
    products, began = 0, time.perf_counter()
    while True:
        torch.mm(x_TD, w_DD)
        products += 1
        seconds = time.perf_counter() - began
        if seconds >= ROUND_SECONDS:
            return seconds / products
