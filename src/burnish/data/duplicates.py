"""Duplicates: exact ones, and near ones that a set-similarity join finds and verifies.

What is a duplicate in data of requests and answers? Two rows teach the same thing twice when they ask nearly the same
and answer the same. So a pair is a near duplicate when
  1. the Jaccard similarity of the word 3-gram sets of their requests (all user turns) reaches the threshold, and
  2. their answers are equal: as JSON values where they are JSON, else without regard to case, space and punctuation.
The second condition is what keeps templated rows: "flights from Paris to Rome under $300" and "... under $400" share
most 3-grams, but their answers differ, and a model needs both. Rows with the same answer to a different phrasing stay
too: variety of phrasing is what such data is for. The system prompt does not count; it is the same for most rows. Nor
do the 3-grams of a template: a long instruction that many rows share, with a short text to classify after it and few
answers to choose from, would make everything alike. A 3-gram that is in more than 5% of the rows (and more than 20) is
taken for one.

Candidates come from prefix filtering, which is exact: two sets with Jaccard similarity >= t must share an element among
the |x| - ceil(t |x|) + 1 rarest of each (Chaudhuri et al. 2006, "A Primitive Operator for Similarity Joins in Data
Cleaning"; Bayardo et al. 2007, "Scaling Up All Pairs Similarity Search"). MinHash would find the same pairs only with
some probability; since answers must be equal, few sets are compared, and exactness costs nothing.

A row is removed only against a row that is kept, never through a chain of rows that are each similar to the next.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from burnish.text.messages import Message, Role

SHINGLE_WORDS = 3
TEMPLATE_SHARE = 0.05
TEMPLATE_ROWS = 20
_WORD = re.compile(r"\w+")
Kind = Literal["duplicate", "near duplicate", "same request"]


@dataclass(frozen=True, slots=True)
class Signature:
    """What of a row counts for duplicates: its requests and answers in canonical form, and the requests' shingles."""

    request: str
    answer: str
    system: str
    shingles: frozenset[str]

    @property
    def key(self) -> str:
        """Equal for exact duplicates; the same as `exact_key`."""
        return f"{self.request}\0{self.answer}"


def sign(messages: Sequence[Message]) -> Signature:
    """Return the signature of a conversation."""
    request, answer = _request_and_answer(messages)
    return Signature(
        request=request,
        answer=answer,
        system="\n".join(_said_by("system", messages)),
        shingles=shingles(" ".join(_said_by("user", messages))),
    )


def exact_key(messages: Sequence[Message]) -> str:
    """Return what exact duplicates have in common, without the cost of the shingles."""
    return "\0".join(_request_and_answer(messages))


def shingles(text: str) -> frozenset[str]:
    """Return the set of word 3-grams, lower case, without punctuation; a shorter text is one shingle."""
    words = _WORD.findall(_plain(text))
    last = max(1, len(words) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(words[start : start + SHINGLE_WORDS]) for start in range(last))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Return |a and b| / |a or b|; two empty sets have nothing in common: 0."""
    both = len(a & b)
    return both / max(1, len(a) + len(b) - both)


def without_template(signatures: Sequence[Signature]) -> list[Signature]:
    """Return the signatures without the shingles that so many rows have that they must come from a template."""
    frequency = shingle_frequency(signatures)
    most = max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(signatures))
    template = {shingle for shingle, rows in frequency.items() if rows > most}
    return [replace(signature, shingles=signature.shingles - template) for signature in signatures]


class KeptRows:
    """The rows kept so far, by number, with an index that finds those that a new row duplicates."""

    def __init__(self, threshold: float, frequency: Counter[str]) -> None:
        """Start empty. `frequency` says in how many rows a shingle occurs: an index of the rare ones is small."""
        self._threshold = threshold
        self._frequency = frequency
        self._signatures: dict[int, Signature] = {}
        self._exact: dict[str, int] = {}
        self._requests: dict[tuple[str, str], int] = {}
        self._index: dict[tuple[str, str], list[int]] = defaultdict(list)

    def add(self, number: int, signature: Signature) -> None:
        """Keep a row."""
        self._signatures[number] = signature
        self._exact.setdefault(signature.key, number)
        self._requests.setdefault((signature.system, signature.request), number)
        for shingle in self._prefix(signature.shingles):
            self._index[signature.answer, shingle].append(number)

    def duplicate_of(self, signature: Signature) -> tuple[int, Kind] | None:
        """Return the first kept row that this one duplicates."""
        exact = self._exact.get(signature.key)
        if exact is not None:
            return exact, "duplicate"
        candidates = {n for s in self._prefix(signature.shingles) for n in self._index.get((signature.answer, s), ())}
        for number in sorted(candidates):
            if jaccard(signature.shingles, self._signatures[number].shingles) >= self._threshold:
                return number, "near duplicate"
        return None

    def same_request(self, signature: Signature) -> tuple[int, Kind] | None:
        """Return the first kept row that asks exactly the same under the same system prompt, whatever its answer."""
        number = self._requests.get((signature.system, signature.request))
        return None if number is None else (number, "same request")

    def _prefix(self, shingles: frozenset[str]) -> Iterable[str]:
        rare_first = sorted(shingles, key=lambda shingle: (self._frequency[shingle], shingle))
        # The small number keeps a product such as 0.8 * 5 = 4.000000000000001 from being rounded up to 5.
        return rare_first[: len(rare_first) - math.ceil(self._threshold * len(rare_first) - 1e-9) + 1]


def shingle_frequency(signatures: Iterable[Signature]) -> Counter[str]:
    """Return in how many rows each shingle occurs."""
    return Counter(shingle for signature in signatures for shingle in signature.shingles)


def _said_by(role: Role, messages: Sequence[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == role]


def _request_and_answer(messages: Sequence[Message]) -> tuple[str, str]:
    return (
        "\n".join(_plain(text) for text in _said_by("user", messages)),
        "\n".join(_canonical_answer(text) for text in _said_by("assistant", messages)),
    )


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _canonical_answer(text: str) -> str:
    json_text = _canonical_json(text)
    if json_text is not None:
        return json_text
    plain = _plain(text)
    return " ".join(_WORD.findall(plain)) or plain


def _canonical_json(text: str) -> str | None:
    """One spelling of a JSON object or list; None for any other text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
