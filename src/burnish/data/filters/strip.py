"""Lines of boilerplate cut out of texts, where the recipe asks for that."""

from __future__ import annotations

import re
from functools import cache

from burnish.data.filters.lexicon import lines_of

LONGEST_LINE = 300
"""Characters of a line that may go as a whole: a longer one holds more than boilerplate."""


def without_boilerplate(text: str) -> str:
    """Return the text without its lines that hold a phrase of the list; a text of nothing else stays as it is."""
    pattern = _pattern()
    if pattern.search(text) is None:
        return text
    kept = [line for line in text.split("\n") if len(line) > LONGEST_LINE or pattern.search(line) is None]
    stripped = "\n".join(kept).strip("\n")
    return stripped if stripped.strip() else text


@cache
def _pattern() -> re.Pattern[str]:
    phrases = sorted(lines_of("boilerplate"), key=len, reverse=True)
    between = r"[^\w\n]+"
    either = "|".join(between.join(map(re.escape, phrase.split())) for phrase in phrases)
    return re.compile(rf"\b(?:{either})\b", re.IGNORECASE)
