"""What a model is asked and what it replies: the function that rooms without HTTP get from those that have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias


class Turn(NamedTuple):
    """One turn of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt. max_tokens: of the answer. seed: tells apart two asks of the same words, and is sent along."""

    turns: tuple[Turn, ...]
    max_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: a text, whole or cut off at the limit of tokens; or `trouble`, why there is none. Tokens as billed."""

    text: str = ""
    whole: bool = True
    trouble: str | None = None
    prompt_tokens: int = 0
    new_tokens: int = 0
    cached: bool = False


NO_BUDGET = "the budget is spent"
"""The trouble of an ask that was not sent because it might have cost more than is left."""

Complete: TypeAlias = Callable[[Sequence[Ask]], Iterator[Reply]]
"""complete(asks) -> a reply for each, in order. It may ask several at once; it never raises for a single ask."""
