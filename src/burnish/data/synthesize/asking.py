"""Asking until the reply has the asked form: what is wrong is told to the model, a bounded number of times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from burnish.core.completion import NO_BUDGET, Ask, Complete, Reply, Turn
from burnish.data.synthesize.prompts import correction
from burnish.data.synthesize.shape import Misshapen

T = TypeVar("T")
CUT_OFF = "cut off at the limit of tokens"
MISSHAPEN = "not in the asked form"
NO_REPLY = "no reply"
_SHOWN_BACK = 2000
"""Characters of a bad reply that the model is shown again."""


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """What a reply was read as; or `reason` and `detail`, why there is nothing."""

    value: T | None
    reason: str = ""
    detail: str = ""


def ask_checked(
    complete: Complete,
    clean: Callable[[str], str],
    asks: Sequence[tuple[Ask, Callable[[str], T]]],
    repairs: int,
) -> list[Answered[T]]:
    """Ask, read each reply, and ask again where it cannot be read, up to `repairs` times. Returns what came of each ask.

    clean: what every text passes before it leaves.
    """
    found: dict[int, Answered[T]] = {}
    waiting = {number: _cleaned(ask, clean) for number, (ask, _) in enumerate(asks)}
    for left in range(repairs, -1, -1):
        if not waiting:
            break
        numbers = list(waiting)
        for number, reply in zip(numbers, complete([waiting[number] for number in numbers]), strict=True):
            answered = _read(reply, asks[number][1])
            found[number] = answered
            if answered.reason in (CUT_OFF, MISSHAPEN) and left:
                waiting[number] = _corrected(waiting[number], reply, answered, clean)
            else:
                del waiting[number]
    return [found[number] for number in range(len(asks))]


def _read(reply: Reply, read: Callable[[str], T]) -> Answered[T]:
    if reply.trouble is not None:
        return Answered(None, NO_BUDGET if reply.trouble == NO_BUDGET else NO_REPLY, reply.trouble)
    if not reply.whole:
        return Answered(None, CUT_OFF, reply.text[-80:])
    try:
        return Answered(read(reply.text))
    except Misshapen as error:
        return Answered(None, MISSHAPEN, str(error))


def _cleaned(ask: Ask, clean: Callable[[str], str]) -> Ask:
    return replace(ask, turns=tuple(Turn(turn.role, _utf8(clean(turn.content))) for turn in ask.turns))


def _utf8(text: str) -> str:
    """Return the text without halves of surrogate pairs, which no request can hold."""
    return text.encode("utf-8", "replace").decode()


def _corrected(ask: Ask, reply: Reply, answered: Answered[T], clean: Callable[[str], str]) -> Ask:
    problem = "it was too long and was cut off; write less" if answered.reason == CUT_OFF else answered.detail
    shown = clean(reply.text[:_SHOWN_BACK]) or "(nothing)"
    # The first turns alone come again: a model that is shown all its bad replies copies them.
    turns = (*ask.turns[: _first(ask)], Turn("assistant", shown), Turn("user", clean(correction(problem).content)))
    return replace(ask, turns=turns)


def _first(ask: Ask) -> int:
    """Return how many turns the ask had before any correction."""
    roles = [turn.role for turn in ask.turns]
    return roles.index("assistant") if "assistant" in roles else len(roles)
