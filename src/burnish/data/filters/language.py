"""Which languages texts are in: English by its commonest words, others by py3langid's model, which lies in its wheel.

The model is a naive Bayes classifier over byte n-grams (Lui and Baldwin 2011, "Cross-domain feature selection for language
identification"), restricted to the languages of `LANGUAGES`. What it is worth on short texts, and why this one:
benchmarks/languages.py. Its automaton walks over all texts of a chunk at once, a byte of each at a time, which gives what the
library gives for each text at a fraction of the time.
"""

# py3langid ships no types.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from burnish.core.recipe_filters import LANGUAGES

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
ENGLISH = LANGUAGES.index("en") + 1
UNKNOWN = 0
"""Language of texts that are too short to tell; languages are numbered from 1 as `LANGUAGES` has them."""
LEAST_LETTERS = 20
"""Letters below which no language is told; scripts in which a letter says more need a fifth of that."""
LEAST_CONFIDENCE = 0.6
"""Names of places and numbers make any language likely: what is less sure than this is not told."""
MOST_CHARACTERS = 100
"""What of a text is looked at: more says no more, and costs (benchmarks/languages.py, benchmarks/filters.py)."""
_AT_ONCE = 256
_DENSE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]"
)


class _Model(NamedTuple):
    """The classifier: where the automaton goes from a state by a byte, which feature a state shows, weights by feature."""

    rows: I64
    moves: npt.NDArray[np.integer[Any]]
    features: npt.NDArray[np.integer[Any]]
    weights: npt.NDArray[np.float32]
    priors: F64
    languages: I64


def languages_of(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Return the number of each text's language, or UNKNOWN. What is said of a text does not depend on the others."""
    found = np.full(len(texts), UNKNOWN, np.uint8)
    cut = [text[:MOST_CHARACTERS] for text in texts]
    told = [at for at, text in enumerate(cut) if _says_enough(text)]
    for start in range(0, len(told), _AT_ONCE):
        some = told[start : start + _AT_ONCE]
        found[some] = _classified([_encoded(cut[at]) for at in some])
    return found


def _says_enough(text: str) -> bool:
    first = text[: 2 * LEAST_LETTERS].replace(" ", "")
    if len(first) >= LEAST_LETTERS and first.isalpha():
        return True
    letters = sum(map(str.isalpha, text))
    return letters >= LEAST_LETTERS or letters + 4 * len(_DENSE.findall(text)) >= LEAST_LETTERS


def _encoded(text: str) -> bytes:
    """Return a text as the model was trained on it: composed, not in capitals alone, in UTF-8."""
    text = text.lower() if text.isupper() else text
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")


def _classified(texts: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    """Return the languages of some texts: the posterior over sqrt(bytes), as py3langid calibrates it."""
    model = _model()
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    text, feature = _features(texts, sizes, model)
    width = len(model.features)
    pairs, counts = np.unique(text * width + feature, return_counts=True)
    text, feature = np.divmod(pairs, width)
    times = np.log1p(counts.astype(np.float32))
    bounds = np.searchsorted(text, np.arange(len(texts) + 1)).tolist()
    scores = np.tile(model.priors, (len(texts), 1))
    for at, (first, end) in enumerate(
        pairwise(bounds)
    ):  # the weights of one text fit into a cache, those of many do not
        scores[at] += times[first:end] @ model.weights.take(feature[first:end], axis=0)
    none = np.bincount(text, minlength=len(texts)) == 0
    scores /= np.sqrt(sizes)[:, None]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    likely = np.zeros((len(texts), len(LANGUAGES) + 1))
    np.add.at(likely.T, model.languages, scores.T)  # the model has two classes for one language in two scripts
    best = likely.argmax(axis=1)
    sure = (likely[np.arange(len(texts)), best] >= LEAST_CONFIDENCE) & ~none
    return np.where(sure, best, UNKNOWN).astype(np.uint8)


def _features(texts: Sequence[bytes], sizes: I64, model: _Model) -> tuple[I64, I64]:
    """Return each feature that a text shows, as often as it does: the text's place, the feature."""
    order = np.argsort(-sizes, kind="stable")
    padded = np.zeros((int(sizes.max()), len(texts)), np.uint8)
    for place, at in enumerate(order.tolist()):
        padded[: sizes[at], place] = np.frombuffer(texts[at], np.uint8)
    longer = np.searchsorted(-sizes[order], -np.arange(1, len(padded) + 1), side="right")
    shown = np.full(padded.shape, -1, np.int64)
    state = np.zeros(len(texts), np.int64)
    for byte, active in enumerate(longer.tolist()):
        state = model.moves[model.rows[state[:active]] + padded[byte, :active]]
        shown[byte, :active] = model.features[state]
    at, place = np.nonzero(shown >= 0)
    return order[place], shown[at, place]


@cache
def _model() -> _Model:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    numbers = {code: number for number, code in enumerate(LANGUAGES, start=1)}
    return _Model(
        rows=np.asarray(identifier.tk_row, np.int64) << 8,
        moves=np.asarray(identifier.tk_nextmove),
        features=np.asarray(identifier.tk_output),
        weights=np.ascontiguousarray(identifier.nb_ptc, np.float32),
        priors=np.asarray(identifier.nb_pc, np.float64),
        languages=np.array([numbers[code] for code in identifier.nb_classes], np.int64),
    )
