"""How well an answer speaks, by the words of VADER's lexicon (Hutto and Gilbert 2014, ICWSM), which lies in its wheel.

The valences of an answer's words are added up, turned where one of the three words before is a negation, and normalised
as VADER does, s / sqrt(s^2 + 15). Its rules about capitals, exclamation marks, degree words and emoticons are left out: what
is compared here are means of many answers.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from burnish.data.filters.columns import NO_SENTIMENT
from burnish.data.filters.lexicon import Lexicon
from burnish.data.near.shingle import Words

_ALPHA = 15.0
_TURNED = -0.74
"""VADER's factor of a valence after a negation."""
_BEFORE = 3
_NEGATIONS = (
    "not", "no", "never", "none", "nor", "neither", "nothing", "nowhere", "without", "cannot", "hardly", "rarely", "seldom",
    "don t", "doesn t", "didn t", "won t", "wouldn t", "can t", "couldn t", "shouldn t", "isn t", "aren t", "wasn t", "weren t",
    "hasn t", "haven t", "hadn t", "mustn t", "needn t", "ain t", "dont", "doesnt", "didnt", "cant", "wont", "isnt",
)  # fmt: skip


@cache
def _valences() -> tuple[Lexicon, npt.NDArray[np.float64]]:
    """VADER's words, and the valence of each from -4 to 4."""
    text = (files("vaderSentiment") / "vader_lexicon.txt").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines())
    found = {row[0].lower(): float(row[1]) for row in rows if row[0].isalpha()}
    found.pop("no", None)  # it is a negation here
    return Lexicon({word: (word,) for word in found}), np.array(list(found.values()))


@cache
def _negations() -> Lexicon:
    return Lexicon({"negation": _NEGATIONS})


def sentiment_of(words: Words) -> npt.NDArray[np.int16]:
    """Return the sentiment of each text in thousandths from -1,000 to 1,000; NO_SENTIMENT where no word has a valence."""
    lexicon, valences = _valences()
    hits, negations = lexicon.hits(words), _negations().hits(words)
    own = valences[hits.entries]
    turns = np.sort(negations.places)
    if len(turns):
        last = np.searchsorted(turns, hits.places) - 1
        nearest = turns[np.maximum(last, 0)]
        # A negation at the end of one text says nothing of the next.
        near = (last >= 0) & (hits.places - nearest <= _BEFORE) & (nearest >= words.starts[hits.texts])
        own = np.where(near, _TURNED * own, own)
    texts = len(words.starts) - 1
    sums = np.bincount(hits.texts, own, minlength=texts)
    found = np.round(1000 * sums / np.sqrt(sums**2 + _ALPHA)).astype(np.int16)
    return np.where(np.bincount(hits.texts, minlength=texts) > 0, found, NO_SENTIMENT).astype(np.int16)
