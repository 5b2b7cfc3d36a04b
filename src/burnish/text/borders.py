"""Encode texts that grow piece by piece, many at once, each character about once.

A special token splits a text before anything else looks at it, so what stands before one and what begins with it are
encoded apart: `encode(a + b) == encode(a) + encode(b)` where b begins with such a token. So a text is cut there, each
part is encoded once, in batches, and parts that many rows share (a system turn, a generation prompt) once for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import tokenizers


class Encodes(Protocol):
    """What is needed of a tokenizer."""

    @property
    def borders(self) -> re.Pattern[str] | None:
        """Tokens before which a text may be cut."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts."""
        ...

    def token(self, token_id: int) -> str:
        """How the vocabulary writes an id."""
        ...


def clean_borders(backend: tokenizers.Tokenizer) -> re.Pattern[str] | None:
    """Return a pattern of the added tokens before which a text may be cut without a change of its ids, or None.

    Left out are tokens that take white space or letters before them into account, that are found only after
    normalising, and that another added token overlaps, as the longer one would win.
    """
    added = list(backend.get_added_tokens_decoder().values())
    texts = [token.content for token in added]
    clean = [
        token.content
        for token in added
        if token.content
        and not token.content[0].isspace()
        and not (token.lstrip or token.single_word)
        and (not token.normalized or backend.normalizer is None)
        and not any(_overlaps(other, token.content) for other in texts)
    ]
    return re.compile("|".join(map(re.escape, clean))) if clean else None


def _overlaps(other: str, token: str) -> bool:
    """Whether an occurrence of `other` can hide the beginning of `token`, or `other` is a longer `token`."""
    if other != token and other.startswith(token):
        return True
    tails = (other[at:] for at in range(1, len(other)))
    return any(tail.startswith(token) or token.startswith(tail) for tail in tails)


@dataclass(frozen=True, slots=True)
class _Step:
    """One piece: the last part of the text before it, and the parts of the text from there on with it."""

    piece: str
    head: str
    parts: list[str]


def encode_pieces(
    tokenizer: Encodes, chains: Sequence[Sequence[str]], memo: dict[str, list[int]]
) -> list[tuple[list[int], list[int]]]:
    """Encode chains of pieces; return for each chain its ids, and how many they are after each piece.

    The ids of a piece never depend on those that follow: where the tokenizer would merge across a border, the ids
    before it stay, and the piece is encoded alone. Elsewhere the ids are those of the text encoded as one.
    `memo` keeps the ids of parts from call to call.
    """
    plans = [_plan(tokenizer.borders, pieces) for pieces in chains]
    wanted = {part for plan in plans for step in plan for part in (step.head, *step.parts)}
    missing = [part for part in wanted if part not in memo]
    memo.update(zip(missing, tokenizer.encode_batch(missing), strict=True))
    return [_assemble(tokenizer, plan, memo) for plan in plans]


def _plan(borders: re.Pattern[str] | None, pieces: Iterable[str]) -> list[_Step]:
    steps: list[_Step] = []
    tail = ""  # the text from its last clean border on
    for piece in pieces:
        parts = _parts(borders, tail + piece)
        steps.append(_Step(piece, tail, parts))
        tail = parts[-1]
    return steps


def _parts(borders: re.Pattern[str] | None, text: str) -> list[str]:
    starts = [match.start() for match in borders.finditer(text)] if borders is not None else []
    if not starts or starts[0] != 0:
        starts.insert(0, 0)
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _assemble(tokenizer: Encodes, plan: Sequence[_Step], memo: dict[str, list[int]]) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    ends: list[int] = []
    text = ""
    whole = True  # the ids are those of the text encoded as one
    for step in plan:
        text += step.piece
        if whole:
            head = memo[step.head]
            tail = [token_id for part in step.parts for token_id in memo[part]]
            whole = tail[: len(head)] == head
            added = tail[len(head) :]
        else:
            found = tokenizer.encode(text)
            whole = found[: len(ids)] == ids
            added = found[len(ids) :]
        ids += added if whole else _alone(tokenizer, step.piece)
        ends.append(len(ids))
    return ids, ends


def _alone(tokenizer: Encodes, piece: str) -> list[int]:
    """The ids of a piece that is not the beginning of a text."""
    # A special token in front: vocabularies with a word-start mark would add one at the beginning of a text.
    guard = min(tokenizer.special_ids, default=None)
    if guard is None:
        return tokenizer.encode(piece)
    return tokenizer.encode(tokenizer.token(guard) + piece)[1:]
