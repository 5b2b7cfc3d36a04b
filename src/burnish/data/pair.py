"""Preference pairs on their way through `prepare`: one row with two renderings, first the rejected answer, then the chosen one.

Only what the two answers say has loss. Whatever counts and writes renderings counts and writes pairs so, and needs to know
nothing of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from burnish.core.errors import DataError
from burnish.data.near.rows import conversation
from burnish.data.record import Record
from burnish.text.messages import Message
from burnish.text.pieces import Conversation
from burnish.text.render import Rendered


def said_in_pair(row: Record, prompt: Sequence[Message]) -> tuple[Conversation, Conversation]:
    """Return the rejected and the chosen conversation of a pair. prompt: its messages, system prompt included."""
    assert row.chosen is not None
    assert row.rejected is not None
    day = row.day()
    rejected, chosen = (Conversation((*prompt, *answer), row.tools, day) for answer in (row.rejected, row.chosen))
    return rejected, chosen


def pair_renderings(said: Sequence[Conversation], rendered: Sequence[Sequence[Rendered]], turns: int) -> list[Rendered]:
    """Return the rejected and the chosen rendering, with loss on the two answers alone. turns: messages of the prompt.

    Raises DataError where the template writes the prompt differently for the two, or rewrites turns within an answer.
    """
    found = [_answer_alone(each, answers, turns) for each, answers in zip(said, rendered, strict=True)]
    first, second = (one.ids[: one.mask.index(1)] for one in found)
    if first != second:
        raise DataError(
            "the chat template writes the prompt differently before the chosen and the rejected answer, so it cannot be shared"
        )
    return found


def _answer_alone(said: Conversation, answers: Sequence[Rendered], turns: int) -> Rendered:
    own = sum(message["role"] == "assistant" for message in said.messages[turns:])
    last = answers[-1]
    if own > 1 and len(answers) > 1:
        raise DataError(
            f"the chat template rewrites earlier turns, so an answer of {own} turns is no one sequence. Give pairs whose "
            "answers are one message each."
        )
    starts = [at for at, trained in enumerate(last.mask) if trained and (at == 0 or not last.mask[at - 1])]
    begin = last.prompt if own == 1 else starts[-own]
    return replace(last, mask=[0] * begin + last.mask[begin:])


def pair_content(said: Sequence[Conversation], turns: int) -> dict[str, Any]:
    """Return a pair as its row is written: prompt, chosen and rejected, each a list of messages."""
    rejected, chosen = (list(each.messages[turns:]) for each in said)
    return {"prompt": list(said[-1].messages[:turns]), "chosen": chosen, "rejected": rejected}


def pair_texts(chosen: Iterable[Mapping[str, Any]], rejected: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """Return what is asked and what is answered, by which duplicates are found: both answers count."""
    (asked, better), (_, worse) = conversation(list(chosen)), conversation(list(rejected))
    return asked, f"{better}\n{worse}"


def read_content(text: str) -> tuple[list[Message], list[Message] | None]:
    """Return a row's conversation; of a pair the one with the chosen answer, and the one with the rejected answer."""
    value: Any = json.loads(text)
    if isinstance(value, list):
        return cast(list[Message], value), None
    return [*value["prompt"], *value["chosen"]], [*value["prompt"], *value["rejected"]]


def content_line(text: str) -> str:
    """Return the JSON object that a row's content is: a pair is one already, a conversation is put under `messages`."""
    return text if text.startswith("{") else f'{{"messages":{text}}}'
