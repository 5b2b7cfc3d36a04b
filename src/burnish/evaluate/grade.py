"""Grades of one answer against the expected one. Pure functions of two texts.

Where the expected answer is a JSON object or array (a structured row):

- json_valid: the whole answer, apart from white space around it, parses as one JSON object (or array, if that is
  expected);
- exact_match: both are equal after parsing: key order and white space do not matter, 800 equals 800.0, `true` is
  not 1;
- field_f1: with E and A the sets of (path, value) leaves of the expected and the given answer, precision |E & A| /
  |A|, recall |E & A| / |E|, F1 = 2 |E & A| / (|E| + |A|). An answer that is not valid JSON gets 0.

Any other expected answer, a bare number or word included, is a text row:

- exact_match: both are equal once stripped;
- field_f1: F1 over the words as SQuAD counts them (Rajpurkar et al. 2016, arXiv 1606.05250): lower case, without
  punctuation and articles, each word as often as it occurs;
- json_valid: left out.

A score is the mean over rows (macro: each row weighs the same). The counts `matched`, `expected` and `answered` go
into the rows file, so that the micro F1, 2 sum(matched) / (sum(expected) + sum(answered)), which weighs long
answers more, can be had from it: `micro_f1`.
"""

from __future__ import annotations

import enum
import json
import re
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

Path = tuple[str | int, ...]
Leaf = tuple[str, str | int | float | None]
"""The JSON type of a leaf and its value. The type keeps `true` from being equal to 1."""
ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Ending(enum.StrEnum):
    """What an answer to a structured row turned out to be."""

    VALID = "valid"
    """One JSON value of the expected kind, and nothing else."""
    OTHER_JSON = "other_json"
    """One JSON value of another kind, such as a bare string where an object is expected."""
    SURROUNDED = "surrounded"
    """JSON of the expected kind with other text before or after it."""
    UNFINISHED = "unfinished"
    """Begins like the expected kind and is no JSON: cut off, or wrong somewhere inside."""
    PROSE = "prose"
    """Anything else."""
    EMPTY = "empty"
    """Nothing but white space."""


@dataclass(frozen=True, slots=True)
class Grade:
    """How one answer did. `ending` is None for a text row, which is not asked to be JSON.

    matched, expected, answered: |E & A|, |E| and |A|, of leaves or of words.
    """

    ending: Ending | None
    exact: bool
    matched: int
    expected: int
    answered: int

    @property
    def json_valid(self) -> bool | None:
        """Whether the answer is valid JSON; None for a text row."""
        return None if self.ending is None else self.ending is Ending.VALID

    @property
    def field_f1(self) -> float:
        """F1 of this row. Two texts without a word (in SQuAD's sense) are as good as equal: 1."""
        both = self.expected + self.answered
        return 2 * self.matched / both if both else 1.0


def grade(expected: str, answer: str) -> Grade:
    """Grade an answer. Whether the row is structured is decided by the expected answer alone."""
    wanted = parse(expected)
    if not isinstance(wanted, dict | list):
        return _grade_text(expected, answer)
    leaves = flatten(wanted)
    ending, given = read_answer(answer, type(wanted))
    answered = flatten(given) if ending is Ending.VALID else {}
    matched = len(leaves.items() & answered.items())
    return Grade(ending, matched == len(leaves) == len(answered), matched, len(leaves), len(answered))


def micro_f1(grades: Iterable[Grade]) -> float:
    """Return 2 sum(matched) / (sum(expected) + sum(answered)) over all rows; 1 when there is nothing to match."""
    graded = list(grades)
    return Grade(
        None, False, sum(g.matched for g in graded), sum(g.expected for g in graded), sum(g.answered for g in graded)
    ).field_f1


class NotJson:
    """What `parse` returns for text that is no JSON: its own type, because None is a JSON value."""


NOT_JSON = NotJson()


def parse(text: str) -> Any:
    """Return the JSON value that the whole text is, or NOT_JSON.

    Stricter than Python's parser, as RFC 8259 and RFC 7493 (I-JSON) ask: NaN, Infinity and an object with the same
    key twice are no JSON, nor is a value nested deeper than the parser goes.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    except (ValueError, RecursionError):
        return NOT_JSON


def read_answer(answer: str, kind: type[dict[str, Any]] | type[list[Any]]) -> tuple[Ending, Any]:
    """Say what an answer is where a JSON value of `kind` is expected, and return the value if it is one."""
    text = answer.strip()
    if not text:
        return Ending.EMPTY, NOT_JSON
    value = parse(text)
    if value is not NOT_JSON:
        return (Ending.VALID if isinstance(value, kind) else Ending.OTHER_JSON), value
    opening, closing = "{}" if kind is dict else "[]"
    inside = text[text.find(opening) : text.rfind(closing) + 1]
    if isinstance(parse(inside), kind):
        return Ending.SURROUNDED, NOT_JSON
    return (Ending.UNFINISHED if text.startswith(opening) else Ending.PROSE), NOT_JSON


def flatten(value: Any) -> dict[Path, Leaf]:
    """Return the leaves of a parsed JSON value by path. Keys are text, places in an array are numbers.

    An empty object or array is a leaf itself, so that two values are equal exactly when their leaves are.
    """
    leaves: dict[Path, Leaf] = {}
    open_: list[tuple[Path, Any]] = [((), value)]
    while open_:  # a loop, because the parser goes deeper than Python's recursion does
        path, item = open_.pop()
        if isinstance(item, dict) and item:
            open_ += [((*path, key), below) for key, below in item.items()]
        elif isinstance(item, list) and item:
            open_ += [((*path, place), below) for place, below in enumerate(item)]
        else:
            leaves[path] = _leaf(item)
    return leaves


def _leaf(item: Any) -> Leaf:
    match item:
        case dict() | list():
            return ("empty", type(item).__name__)
        case bool():
            return ("boolean", item)
        case int() | float():
            return ("number", item)
        case str():
            return ("string", item)
        case _:
            return ("null", None)


def _grade_text(expected: str, answer: str) -> Grade:
    wanted, given = Counter(words(expected)), Counter(words(answer))
    matched = (wanted & given).total()
    return Grade(None, expected.strip() == answer.strip(), matched, wanted.total(), given.total())


def words(text: str) -> list[str]:
    """Return the words of a text as SQuAD counts them: lower case, without punctuation and the articles a, an, the."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON (RFC 8259, section 6)")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key occurs twice in one object (RFC 7493, section 2.3)")
    return value
