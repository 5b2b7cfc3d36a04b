"""Which formats a row's keys allow: the spellings people use, as tables, and every reading of a set of keys."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

TURNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")
PAIRS: dict[str, tuple[str, str]] = {
    "instruction-response": ("instruction", "response"),
    "alpaca": ("instruction", "output"),
    "prompt-completion": ("prompt", "completion"),
}
"""The pairs that have a name of their own; any other request and answer are question-answer."""
REQUESTS = ("instruction", "prompt", "question", "query", "problem", "q", "user", "human", "input")
ANSWERS = ("response", "output", "completion", "answer", "solution", "reply", "a", "assistant", "bot")
CONTEXTS = ("input", "context")
"""What belongs to a request and follows it, as in Alpaca, Dolly and SQuAD."""
PREFERENCES = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("accepted", "rejected"),
)
TEXTS = ("text",)
DOCUMENTS = ("document", "content", "page_content", "body")
LABELS = ("label", "labels", "target", "summary", "class")
"""Beside a text alone these say that it is not there to be continued."""

_KNOWN = frozenset(
    [
        *TURNS,
        *REQUESTS,
        *ANSWERS,
        *CONTEXTS,
        *(key for pair in PREFERENCES for key in pair),
        *TEXTS,
        *DOCUMENTS,
        *LABELS,
    ]
)


class Reading(NamedTuple):
    """One way to read a row: the format, and which of the row's keys it uses, in the format's order."""

    format: str
    keys: tuple[str, ...]


def readings(keys: Iterable[str]) -> tuple[Reading, ...]:
    """Return every reading that a row's keys allow, the most telling first."""
    return _readings(_KNOWN.intersection(keys))


@lru_cache(maxsize=4096)
def _readings(keys: frozenset[str]) -> tuple[Reading, ...]:
    found = [Reading("turns", (key,)) for key in TURNS if key in keys]
    found += _preferences(keys)
    found += _pairs(keys)
    if not found:
        found = [Reading("text", (key,)) for key in TEXTS if key in keys]
        found += [Reading("document", (key,)) for key in DOCUMENTS if key in keys]
    return tuple(found)


def _pairs(keys: frozenset[str]) -> list[Reading]:
    requests = [key for key in REQUESTS if key in keys]
    if "input" in requests and len(requests) > 1:
        requests.remove("input")  # the input of an instruction
    answers = [key for key in ANSWERS if key in keys]
    names = {pair: name for name, pair in PAIRS.items()}
    pairs = [(request, answer) for request in requests for answer in answers]
    found: list[Reading] = []
    for pair in pairs:
        contexts = [key for key in CONTEXTS if key in keys and key != pair[0] and pair[0] != "prompt"]
        found.append(Reading(names.get(pair, "question-answer"), (*pair, *contexts[:1])))
    if "label" in keys:
        found = [Reading("kto?", reading.keys) for reading in found]
    return found


def _preferences(keys: frozenset[str]) -> list[Reading]:
    prompts = [key for key in (*REQUESTS, *TURNS) if key in keys]
    found: list[Reading] = []
    for better, worse in PREFERENCES:
        if better in keys and worse in keys:
            found += [Reading("preference", (better, worse, prompt)) for prompt in prompts]
            if not prompts:
                found.append(Reading("preference", (better, worse)))
    return found
