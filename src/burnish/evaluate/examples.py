"""Ten rows before and after, chosen so that a reader sees failures as well as successes."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable

from burnish.core.artifacts import Example

SHOWN = 10


def choose_examples(candidates: Iterable[tuple[str, Example]], seed: int) -> tuple[Example, ...]:
    """Return up to ten examples: every task in turn, rows the tuned model got right and wrong in turn.

    A task that has run out of one kind gives the other, so that the mix is even where it can be and never flattering.
    Which rows is a matter of a hash of seed and row id, not of their order in the file, and not of how nice they
    look.

    candidates: (row id, example) of every row of every task.
    """
    found = list(candidates)
    queues: dict[str, dict[bool, deque[Example]]] = {e.task: {True: deque(), False: deque()} for _, e in found}
    for _, example in sorted(found, key=lambda item: _place(seed, *item)):
        queues[example.task][example.tuned_exact].append(example)
    chosen: list[Example] = []
    right = True
    while len(chosen) < SHOWN and any(rows for queue in queues.values() for rows in queue.values()):
        for queue in queues.values():  # in the order of the tasks
            rows = queue[right] or queue[not right]
            if rows and len(chosen) < SHOWN:
                chosen.append(rows.popleft())
        right = not right
    order = list(queues)
    return tuple(sorted(chosen, key=lambda example: order.index(example.task)))


def _place(seed: int, row_id: str, example: Example) -> str:
    return hashlib.sha256(f"{seed}\0{example.task}\0{row_id}".encode()).hexdigest()
