"""What can be said of a draft by itself: does it go round in circles, keep its numbers, stand in its document."""

from __future__ import annotations

import re
from functools import cache

from burnish.data.filters.lexicon import Lexicon, lines_of
from burnish.data.near.canonical import plain, words_only
from burnish.data.near.semantic import details
from burnish.data.near.shingle import words_of
from burnish.data.synthesize.draft import Draft, Quote
from burnish.data.synthesize.material import Piece
from burnish.data.synthesize.rouge import words

LOOP_WORDS, LOOP_DISTINCT = 40, 0.35
"""A text of so many words of whose 3-grams fewer than this share are different goes round in circles."""
SHORTEST_QUOTE = 12
GROUNDED = 0.5
"""Share of an answer's longer words that its passage must hold."""
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def problem_of(draft: Draft) -> tuple[str, str] | None:
    """Return why a draft cannot be used, and what exactly is wrong; None when it can. Finds the quote of a question."""
    for text in filter(None, (draft.request, draft.answer, draft.rejected)):
        if goes_round(text):
            return "goes round in circles", text[:80]
        said = evasions(text)
        if "self_reference" in said:
            return "speaks of being a model", text[:200]
        if "refusal" in said and draft.kind != "adversarial":  # to refuse is what some hard cases ask for
            return "a refusal", text[:200]
    if draft.kind in ("paraphrase", "style") and draft.like is not None:
        before, after = details(draft.like.request), details(draft.request)
        if before != after:
            return "says something else", f"numbers and negations were {before}, and are {after}"
    if draft.piece is not None:
        return _ground(draft, draft.piece)
    return None


def goes_round(text: str) -> bool:
    """Return whether a text repeats itself over and over, as models do that find no end."""
    own = words(text)
    if len(own) < LOOP_WORDS:
        return False
    grams = list(zip(own, own[1:], own[2:], strict=False))
    return len(set(grams)) < LOOP_DISTINCT * len(grams)


def evasions(text: str) -> set[str]:
    """Return which of `refusal` and `self_reference` a text has, by the phrases that the filters look for."""
    hits = _phrases().hits(words_of([words_only(plain(text))]))
    return {_phrases().names[entry] for entry in hits.entries.tolist()}


@cache
def _phrases() -> Lexicon:
    return Lexicon({name: lines_of(name) for name in ("refusal", "self_reference")})


def _ground(draft: Draft, piece: Piece) -> tuple[str, str] | None:
    """Find the quote in the document itself, and the answer's numbers and words in the passage."""
    said = (draft.said_quote or "").strip()
    place = find_quote(piece.text, said)
    if place is None:
        return "quote not in the document", said[:200]
    start, end = place
    if end - start < min(SHORTEST_QUOTE, len(piece.text)):
        return "quote too short", said[:200]
    numbers = set(_NUMBER.findall(piece.text))
    if missing := [number for number in _NUMBER.findall(draft.answer) if number not in numbers]:
        return "number not in the document", ", ".join(missing)
    long = [word for word in words(draft.answer) if len(word) > 3]
    there = set(words(piece.text))
    if long and sum(word in there for word in long) < GROUNDED * len(long):
        return "answer not in the document", draft.answer[:200]
    draft.quote = Quote(piece.file, piece.line, piece.start + start, piece.start + end, piece.text[start:end])
    return None


def find_quote(text: str, quote: str) -> tuple[int, int] | None:
    """Return where a quote stands in a text, letter by letter but for the spaces and line ends between its words."""
    parts = quote.split()
    if not parts:
        return None
    found = re.search(r"\s+".join(map(re.escape, parts)), text)
    return None if found is None else (found.start(), found.end())
