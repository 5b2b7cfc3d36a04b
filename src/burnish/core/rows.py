"""One row as token ids: what data makes, and train and evaluate read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class TokenRow(NamedTuple):
    """A rendered row.

    ids:    token ids of the whole conversation.
    mask:   1 where the token is predicted with loss (answers and their end-of-turn token), else 0; as long as ids.
    prefix: leading tokens of the system turn, the same for every row with the same system prompt, always without loss.
    prompt: leading tokens before the last answer, generation prompt included.
    """

    row_id: str
    ids: tuple[int, ...]
    mask: tuple[int, ...]
    prefix: int
    prompt: int


class TokenPair(NamedTuple):
    """A prompt, generation prompt included, and two answers to it, each with its end-of-turn token, as token ids.

    A mask is 1 where a token of the answer counts, else 0; None for all of them. It is needed where an answer has several
    turns: what users and tools say between them does not count.
    """

    pair_id: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    chosen_mask: tuple[int, ...] | None = None
    rejected_mask: tuple[int, ...] | None = None


def pairs_of(rows: Iterable[TokenRow]) -> Iterator[TokenPair]:
    """Yield the pairs that lie in a dataset as two rows each: first the rejected rendering, then the chosen one."""
    waiting: TokenRow | None = None
    for row in rows:
        if waiting is None:
            waiting = row
            continue
        prompt = row.ids[: row.mask.index(1)]
        chosen, chosen_mask = _answer(row)
        rejected, rejected_mask = _answer(waiting)
        yield TokenPair(row.row_id, prompt, chosen, rejected, chosen_mask, rejected_mask)
        waiting = None
    if waiting is not None:
        raise ValueError(f"row {waiting.row_id} is half a pair")


def _answer(row: TokenRow) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the ids from the first to the last token with loss, and their mask unless all of them have it."""
    first, last = row.mask.index(1), len(row.mask) - row.mask[::-1].index(1)
    mask = row.mask[first:last]
    return row.ids[first:last], None if all(mask) else mask
