"""The certificate: invented personal data planted in the user's own texts, and how much of it the pass took away.

Recall is measured where it matters, among the user's words and layout, and comes with Wilson's 95% interval. It says
nothing about names and addresses of people, which are not planted.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from burnish.core.proportions import wilson
from burnish.data.private.canaries import PLANTED, Canary, canary
from burnish.data.private.kinds import Kind
from burnish.data.private.replace import replace

PER_KIND = 100
"""Canaries of each kind. When all 100 are found, the lower limit of Wilson's interval is 0.963."""
_SHOWN_MISSES = 20
_MOST_CHARACTERS = 4000
"""Of a text a canary is planted in: longer ones are cut around the place, so that the cost is known."""

_LEAST_HALF = 4
"""Characters of half a value that are telling."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_JSON_VALUE = re.compile(r'(?<=: )"(?:[^"\\]|\\.)*"|(?<=:)"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class Recall:
    """Of `planted` canaries of a kind, `found` were gone afterwards; low and high are Wilson's 95% limits."""

    kind: str
    planted: int
    found: int
    recall: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Miss:
    """A canary that was still there: the invented value and its sentence, never the user's text."""

    kind: str
    value: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was measured: recall of each kind, the first misses of each, and what makes it repeatable."""

    seed: int
    texts: int
    kinds: tuple[Recall, ...]
    misses: tuple[Miss, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "seed": self.seed,
            "texts": self.texts,
            "kinds": [asdict(recall) for recall in self.kinds],
            "misses": [asdict(miss) for miss in self.misses],
        }

    def below(self, least: float) -> list[str]:
        """Return the kinds whose lower limit is under `least`, for a gate."""
        return [recall.kind for recall in self.kinds if recall.low < least]


def certificate(
    texts: Sequence[str],
    seed: int,
    clean: Callable[[str], str] = lambda text: replace(text).text,
    kinds: Iterable[Kind] = PLANTED,
    per_kind: int = PER_KIND,
) -> Certificate:
    """Plant canaries of each kind in the texts, clean them, and return what was found.

    clean: what is certified, from a text to the text that would be trained on. A canary is found when neither its value
    nor half of it is left. Each canary is planted in a text of its own choosing, one at a time, so none can hide another.

    Raises ValueError when there is no text or per_kind is below 1.
    """
    if not texts or per_kind < 1:
        raise ValueError(f"{len(texts)} texts and {per_kind} canaries a kind: a certificate needs one of each at least")
    recalls: list[Recall] = []
    misses: list[Miss] = []
    for kind in kinds:
        chance = random.Random(f"{seed} {kind}")
        missed: list[Canary] = []
        for _ in range(per_kind):
            planted = canary(kind, chance)
            text = texts[chance.randrange(len(texts))]
            if _is_left(planted.value, clean(plant(text, planted, chance)), text):
                missed.append(planted)
        found = per_kind - len(missed)
        recalls.append(Recall(kind.value, per_kind, found, *wilson(found, per_kind)))
        misses += (Miss(kind.value, m.value, m.sentence) for m in missed[:_SHOWN_MISSES])
    return Certificate(seed, len(texts), tuple(recalls), tuple(misses))


def _is_left(value: str, cleaned: str, before: str) -> bool:
    """Whether the value, or half of it that the user's text did not have anyway, can still be read."""
    middle = len(value) // 2
    halves = (half for half in (value[:middle], value[middle:]) if len(half) >= _LEAST_HALF and half not in before)
    return value in cleaned or any(half in cleaned for half in halves)


def plant(text: str, planted: Canary, chance: random.Random) -> str:
    """Return the text with the canary's sentence where a sentence could stand: a JSON string value, or between sentences."""
    if text.lstrip().startswith(("{", "[")):
        values = [match.span() for match in _JSON_VALUE.finditer(text[:_MOST_CHARACTERS])]
        if values:
            start, end = chance.choice(values)
            return text[:start] + json.dumps(planted.sentence) + text[end:]
    places = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    at = chance.choice(places)
    before, after = text[max(0, at - _MOST_CHARACTERS // 2) : at], text[at : at + _MOST_CHARACTERS // 2]
    gap = "" if not before or before[-1].isspace() else " "
    return f"{before}{gap}{planted.sentence}{' ' if after else ''}{after}"
