"""What goes in and what comes out: rows, the rules for them, removals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import DataError
from burnish.data.near.canonical import canonical_value, plain_answer
from burnish.data.near.shingle import I64

Kind = Literal["duplicate", "near duplicate", "semantic duplicate"]
KINDS: tuple[Kind, ...] = ("duplicate", "near duplicate", "semantic duplicate")


class Row(NamedTuple):
    """A row as the search for duplicates sees it.

    number: what the caller calls the row. text: what is compared. answer: what must be equal besides, letter by letter
    (`conversation` gives both), "" for documents.
    rank: of two duplicates the one of lower rank stays, else the one that came first. fixed: stays whatever it resembles.
    """

    number: int
    text: str
    answer: str = ""
    source: str = ""
    rank: int = 0
    fixed: bool = False


class Removal(NamedTuple):
    """A row that is removed, the kept row it duplicates, how similar they are (0 to 1), and in what way."""

    row: int
    kept: int
    score: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as a duplicate, and when there are suspiciously many.

    threshold: Jaccard similarity of the sets of word n-grams, from 0 (not included) to 1. words: n.
    template_share: an n-gram in more than this share of the rows, or of the rows of a source, belongs to a template and does
    not count; nor is any counted out that is in `template_rows` rows or fewer. 1 turns this off.
    prefer: which of two rows of one rank stays: the first, or the one with more n-grams.
    stop_share, stop_rows: a source of `stop_rows` rows or more that loses more than this share stops the preparation.
    """

    threshold: float = 0.85
    words: int = 3
    template_share: float = 0.05
    template_rows: int = 20
    prefer: Literal["first", "longer"] = "first"
    stop_share: float = 0.5
    stop_rows: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise DataError(
                f"threshold = {self.threshold}: the Jaccard similarity of duplicates is above 0 and at most 1"
            )
        if self.words < 1:
            raise DataError(f"words = {self.words}: an n-gram has 1 word or more")


REQUESTS = Rules()
"""For requests with answers: the answers must be equal, so little is at stake, and requests are short."""
DOCUMENTS = Rules(threshold=0.8, words=5, template_share=0.25)
"""For documents, which stand alone: longer n-grams, and a boilerplate must be in a quarter of the documents."""


class Removals(Sequence[Removal]):
    """Removals in the order of the rows; 25 bytes each."""

    def __init__(self, rows: I64, kept: I64, scores: NDArray[np.float64], kinds: NDArray[np.uint8]) -> None:
        """Take the four columns. kinds: places in `KINDS`."""
        self._columns = (rows, kept, scores, kinds)

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[Removal]:
        return (self[place] for place in range(len(self)))

    @property
    def exact(self) -> NDArray[np.bool_]:
        """Which of them are exact duplicates."""
        return self._columns[3] == 0

    @overload
    def __getitem__(self, index: int) -> Removal: ...
    @overload
    def __getitem__(self, index: slice) -> list[Removal]: ...
    def __getitem__(self, index: int | slice) -> Removal | list[Removal]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        rows, kept, scores, kinds = self._columns
        return Removal(int(rows[index]), int(kept[index]), float(scores[index]), KINDS[int(kinds[index])])


def conversation(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return text and answer of a conversation for a `Row`.

    The text is what the users say. The answer is what must be equal: all that the assistant says, the tools it calls with
    their arguments, and what the tools return. So rows that differ in one argument of a call are never duplicates.
    System prompts do not count.
    """
    asked = [str(message.get("content") or "") for message in messages if message["role"] == "user"]
    answered: list[str] = []
    for message in messages:
        if message["role"] in ("assistant", "tool"):
            answered.append(plain_answer(str(message.get("content") or "")))
            answered += [_call(call) for call in message.get("tool_calls") or ()]
    return "\n".join(asked), "\n".join(answered)


def _call(call: Mapping[str, Any]) -> str:
    """One spelling of a tool call without its identifier, whether the arguments come as JSON text or as an object."""
    function: Mapping[str, Any] = call.get("function") or call
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else canonical_value(arguments)
    return f"{function.get('name')}({_exact_json(text)})"


def _exact_json(text: str) -> str:
    answer = plain_answer(text)
    return answer if answer.startswith(("{", "[")) else text
