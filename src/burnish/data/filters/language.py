"""Which language a text is in: English by its commonest words, others by py3langid's model, which lies in its wheel.

The model is a naive Bayes classifier over byte n-grams (Lui and Baldwin 2011, "Cross-domain feature selection for language
identification"), restricted to the languages of `LANGUAGES`. What it is worth on short texts, and why this one:
benchmarks/languages.py.
"""

# py3langid ships no types.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

import re
from functools import cache

from burnish.core.recipe_filters import LANGUAGES

UNKNOWN = 0
"""Language of texts that are too short to tell; languages are numbered from 1 as `LANGUAGES` has them."""
LEAST_LETTERS = 20
"""Letters below which no language is told; scripts in which a letter says more need a fifth of that."""
LEAST_CONFIDENCE = 0.6
"""Names of places and numbers make any language likely: what is less sure than this is not told."""
MOST_CHARACTERS = 100
"""What of a text is looked at: more says no more, and costs (benchmarks/languages.py, benchmarks/filters.py)."""
_DENSE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]"
)


def language_of(text: str) -> int:
    """Return the number of a text's language, or UNKNOWN."""
    text = text[:MOST_CHARACTERS]
    letters = sum(map(str.isalpha, text))
    if letters < LEAST_LETTERS and letters + 4 * len(_DENSE.findall(text)) < LEAST_LETTERS:
        return UNKNOWN
    code: str
    code, confidence = _identifier().classify(text)  # pyright: ignore[reportUnknownVariableType]
    return _numbers()[code] if confidence >= LEAST_CONFIDENCE else UNKNOWN


@cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier


@cache
def _numbers() -> dict[str, int]:
    return {code: number for number, code in enumerate(LANGUAGES, start=1)}
