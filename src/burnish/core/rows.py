"""One row as token ids: what data makes, and train and evaluate read."""

from __future__ import annotations

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
