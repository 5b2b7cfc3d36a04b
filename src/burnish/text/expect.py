"""What a recipe expects of its dataset: `expect:` is read with all problems at once, and checked over the rendered rows.

    expect: {rows: ">= 1000", trained_share: "0.2..0.8", longest_tokens: "<= 512", contains_in_prompt: "Today is",
             contains_in_answer: "search_flights", last_trained_token: "<|im_end|>", max_truncated_share: 0}

Numbers: "=", "<", "<=", ">", ">=" and a number, "low..high" (both included), or a number alone (exactly that; for
max_truncated_share: at most that).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from burnish.core.errors import Problem, did_you_mean
from burnish.text.check import TokenIds, answer_spans
from burnish.text.tokenizer import Tokenizer

NUMBERS = {
    "rows": "rows of the split",
    "tokens": "tokens of all rows",
    "trained_tokens": "tokens with loss of all rows",
    "trained_share": "share of tokens with loss, 0 to 1",
    "longest_tokens": "tokens of the longest row",
    "longest_answer_tokens": "tokens of the longest answer",
    "max_truncated_share": "share of rows that were shortened, 0 to 1",
}
TEXTS = {
    "contains_in_prompt": "text that every row's prompt has",
    "contains_in_answer": "text that every row's last answer has",
    "absent_in_prompt": "text that no row's prompt has",
    "absent_in_answer": "text that no row's last answer has",
    "last_trained_token": "the token each row's loss ends with",
}
KNOWN = {**NUMBERS, **TEXTS}
"""Every key with what it is about."""

_SHARES = ("trained_share", "max_truncated_share")
_NUMBER = r"[+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_COMPARED = re.compile(rf"\s*(<=|>=|==|=|<|>)?\s*({_NUMBER})\s*")
_BETWEEN = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": lambda found, asked: found < asked,
    "<=": lambda found, asked: found <= asked,
    ">": lambda found, asked: found > asked,
    ">=": lambda found, asked: found >= asked,
    "=": lambda found, asked: math.isclose(found, asked, rel_tol=1e-12),
}
_ALLOWED = 'a number, "= 5", "< 5", "<= 5", "> 5", ">= 5" or "2..5"'


@dataclass(frozen=True, slots=True)
class Bound:
    """What a number must be: every comparison holds. `said` is how the recipe says it."""

    said: str
    tests: tuple[tuple[str, float], ...]

    def holds(self, found: float) -> bool:
        """Return whether a number is as asked."""
        return all(_COMPARE[sign](found, asked) for sign, asked in self.tests)

    def too_large(self, found: float) -> bool:
        """Return whether a number fails because it is too large."""
        return any(sign in ("<", "<=") and not _COMPARE[sign](found, asked) for sign, asked in self.tests)


@dataclass(frozen=True, slots=True)
class Expectations:
    """What is asked: bounds of numbers, and texts, by key."""

    numbers: Mapping[str, Bound] = field(default_factory=dict[str, Bound])
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What expectations look at in one rendered row. Lengths in tokens; `answer` is the last one, without special tokens."""

    place: str
    tokens: int
    trained: int
    answer_tokens: int
    prompt: str
    answer: str
    last_trained_token: str
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that does not hold: what was asked and found, and a row that shows it, where one does."""

    key: str
    asked: str
    found: str
    place: str | None = None

    def __str__(self) -> str:
        """Return the sentence for people."""
        row = f", for example {self.place}" if self.place else ""
        return f"expect.{self.key}: asked for {self.asked} ({KNOWN[self.key]}), found {self.found}{row}"


def read(value: Any) -> tuple[Expectations, list[Problem]]:
    """Read the recipe's `expect:`. Returns what could be read, and every problem with its key and what is allowed."""
    if not isinstance(value, Mapping):
        return Expectations(), [Problem("expect", repr(value), f"must be a table of {', '.join(KNOWN)}")]
    numbers: dict[str, Bound] = {}
    texts: dict[str, tuple[str, ...]] = {}
    problems: list[Problem] = []
    for name, said in cast(Mapping[Any, Any], value).items():
        key = str(name)
        try:
            if key in NUMBERS:
                numbers[key] = _bound(key, said)
            elif key in TEXTS:
                texts[key] = _texts(key, said)
            else:
                raise ValueError(f"unknown. Known: {', '.join(KNOWN)}.{did_you_mean(key, KNOWN)}")
        except ValueError as error:
            problems.append(Problem(f"expect.{key}", repr(said), str(error)))
    return Expectations(numbers, texts), problems


def _bound(key: str, said: Any) -> Bound:
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        raise ValueError(f"must be {_ALLOWED}")
    sign = "<=" if key.startswith("max_") else "="
    text = said if isinstance(said, str) else f"{sign} {said}"
    between, compared = _BETWEEN.fullmatch(text), _COMPARED.fullmatch(text)
    if between:
        tests = ((">=", _number(between[1])), ("<=", _number(between[2])))
    elif compared:
        tests = (((compared[1] or sign).replace("==", "="), _number(compared[2])),)
    else:
        raise ValueError(f"must be {_ALLOWED}")
    if between and tests[0][1] > tests[-1][1]:
        raise ValueError("the first number of a range must not be larger than the second")
    if key in _SHARES and not all(0 <= asked <= 1 for _, asked in tests):
        raise ValueError("a share is between 0 and 1")
    return Bound(" ".join(text.split()), tests)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"must be {_ALLOWED}")
    return number


def _texts(key: str, said: Any) -> tuple[str, ...]:
    given = cast(list[Any], said if isinstance(said, list) else [said])
    if key == "last_trained_token" and len(given) != 1:
        raise ValueError("must be one token, written as the vocabulary writes it")
    if not given or not all(isinstance(text, str) and text for text in given):
        raise ValueError("must be a text, or a list of texts, none empty; quote what YAML would read as a number")
    return tuple(given)


def facts(tokenizer: Tokenizer, row: TokenIds, place: str, *, truncated: bool = False) -> RowFacts:
    """Return what expectations look at in a row; `place` is how people find it (file:line)."""
    spans = answer_spans(row.mask)
    start, end = spans[-1] if spans else (len(row.ids), len(row.ids))
    return RowFacts(
        place=place,
        tokens=len(row.ids),
        trained=sum(row.mask),
        answer_tokens=end - start,
        prompt=tokenizer.backend.decode(list(row.ids[:start]), skip_special_tokens=False),
        answer=tokenizer.decode(row.ids[start:end]),
        last_trained_token=tokenizer.token(row.ids[end - 1]) if spans else "",
        truncated=truncated,
    )


def evaluate(expectations: Expectations, rows: Iterable[RowFacts]) -> list[Failure]:
    """Return every expectation that the rows do not meet, in the recipe's order; rows are read once, none is kept."""
    sums = _Sums()
    texts = [_TextTally(key, text) for key, asked in expectations.texts.items() for text in asked]
    for row in rows:
        sums.add(row)
        for tally in texts:
            tally.add(row)
    failures: list[Failure] = []
    for key, bound in expectations.numbers.items():
        value = sums.value(key)
        if not bound.holds(value):
            place = sums.place(key, too_large=bound.too_large(value))
            failures.append(Failure(key, f'"{bound.said}"', _shown(value, share=key in _SHARES), place))
    return failures + [failure for tally in texts if (failure := tally.failure(sums.rows)) is not None]


def _shown(value: float, *, share: bool) -> str:
    return f"{value:.4g}" if share else f"{value:,.0f}"


class _Sums:
    """Running totals, with the row that stands out in each."""

    def __init__(self) -> None:
        self.rows = self.tokens = self.trained = self.truncated = 0
        self._longest: tuple[int, str | None] = (0, None)
        self._longest_answer: tuple[int, str | None] = (0, None)
        self._most: tuple[float, str | None] = (-1.0, None)
        self._least: tuple[float, str | None] = (2.0, None)
        self._cut: str | None = None

    def add(self, row: RowFacts) -> None:
        self.rows += 1
        self.tokens += row.tokens
        self.trained += row.trained
        share = row.trained / row.tokens if row.tokens else 0.0
        if row.tokens > self._longest[0]:
            self._longest = (row.tokens, row.place)
        if row.answer_tokens > self._longest_answer[0]:
            self._longest_answer = (row.answer_tokens, row.place)
        if share > self._most[0]:
            self._most = (share, row.place)
        if share < self._least[0]:
            self._least = (share, row.place)
        if row.truncated:
            self.truncated += 1
            self._cut = self._cut or row.place

    def value(self, key: str) -> float:
        """The number that a key is about."""
        found: dict[str, float] = {
            "rows": self.rows,
            "tokens": self.tokens,
            "trained_tokens": self.trained,
            "trained_share": self.trained / self.tokens if self.tokens else 0.0,
            "longest_tokens": self._longest[0],
            "longest_answer_tokens": self._longest_answer[0],
            "max_truncated_share": self.truncated / self.rows if self.rows else 0.0,
        }
        return found[key]

    def place(self, key: str, *, too_large: bool) -> str | None:
        """The row that shows best why a number is too large, or too small."""
        found = {
            "trained_share": (self._most if too_large else self._least)[1],
            "longest_tokens": self._longest[1],
            "longest_answer_tokens": self._longest_answer[1],
            "max_truncated_share": self._cut,
        }
        return found.get(key)


class _TextTally:
    """How many rows do not meet one text, and the first of them."""

    def __init__(self, key: str, text: str) -> None:
        self._key = key
        self._text = text
        self._missed = 0
        self._first: RowFacts | None = None

    def add(self, row: RowFacts) -> None:
        if not self._met(row):
            self._missed += 1
            self._first = self._first or row

    def failure(self, rows: int) -> Failure | None:
        if not rows:
            return Failure(self._key, repr(self._text), "no rows")
        if self._first is None:
            return None
        what = (
            "that in" if self._key.startswith("absent") else "something else in" if self._looks_at_token else "none in"
        )
        found = f"{what} {self._missed:,} of {rows:,} rows"
        return Failure(self._key, repr(self._text), found, f"{self._first.place}: {self._seen(self._first)!r}")

    @property
    def _looks_at_token(self) -> bool:
        return self._key == "last_trained_token"

    def _met(self, row: RowFacts) -> bool:
        if self._looks_at_token:
            return row.last_trained_token == self._text
        return (self._text in self._where(row)) != self._key.startswith("absent")

    def _where(self, row: RowFacts) -> str:
        return row.prompt if self._key.endswith("prompt") else row.answer

    def _seen(self, row: RowFacts) -> str:
        if self._looks_at_token:
            return row.last_trained_token
        text = self._where(row)
        at = max(0, text.find(self._text) - 20) if self._text in text else 0
        return text[at : at + 80]


def sentences(failures: Sequence[Failure]) -> str:
    """Return all failures, a line each, under how many they are."""
    many = "1 expectation" if len(failures) == 1 else f"{len(failures)} expectations"
    verb = "does" if len(failures) == 1 else "do"
    return "\n".join([f"{many} of the recipe {verb} not hold:", *(f"  {failure}" for failure in failures)])
