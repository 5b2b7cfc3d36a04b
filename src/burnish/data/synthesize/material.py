"""What synthetic rows are made from: examples of the user's own training rows, and pieces of documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from burnish.data.rows import MessageRow
from burnish.data.sources.read import read
from burnish.data.versions.forgotten import row_hash
from burnish.text.messages import Message

_WORDS = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Seed:
    """A training row with one request and one answer. parent: the hash of its words, by which `prepare` knows it again.

    own_system: whether the row brings a system prompt that is not the recipe's.
    """

    request: str
    answer: str
    system: str | None
    own_system: bool
    date: str | None
    license: str | None
    parent: str

    @property
    def instructions(self) -> str:
        """What the assistant is told first, for prompts; may be empty."""
        return self.system or ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a document. start, end: characters within the text that the source gave for `line` of `file`."""

    file: str
    line: int
    start: int
    end: int
    text: str

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return PurePosixPath(self.file).name


def seeds_of(rows: Iterable[MessageRow], system_of: Callable[[str | None], str | None]) -> tuple[list[Seed], int]:
    """Return the rows that can be seeds, and how many others there are: several turns, tools.

    system_of: from a row's date to the recipe's system prompt; to None where the recipe has none.
    """
    seeds: list[Seed] = []
    others = 0
    for row in rows:
        seed = None if row.synthetic is not None else _seed(row, system_of)
        if seed is None:
            others += 1
        else:
            seeds.append(seed)
    return seeds, others


def _seed(row: MessageRow, system_of: Callable[[str | None], str | None]) -> Seed | None:
    messages: Sequence[Message] = row.messages
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
    said = messages[1:] if system is not None else messages
    if [message["role"] for message in said] != ["user", "assistant"] or row.tools or "tool_calls" in said[1]:
        return None
    own = system is not None and system != system_of(row.date)
    parent = f"{row_hash(messages):016x}"
    return Seed(said[0]["content"], said[1]["content"], system, own, row.date, row.license, parent)


def pieces_of(sources: Sequence[str], words: int) -> Iterator[Piece]:
    """Yield pieces of documents: whole paragraphs up to so many words; a longer paragraph is cut at a word.

    Raises DataError when a source is not there or has no text.
    """
    for source in sources:
        for raw in read(source):
            text = None if raw.value is None else raw.value.get("text")
            if isinstance(text, str):
                for start, end in _cuts(text, words):
                    yield Piece(raw.origin.file, raw.origin.line, start, end, text[start:end])


def _cuts(text: str, words: int) -> Iterator[tuple[int, int]]:
    """Yield where pieces begin and end."""
    begin: int | None = None
    last = count = 0
    for start, end in _paragraphs(text, words):
        size = len(_WORDS.findall(text[start:end]))
        if begin is not None and count + size > words:
            yield begin, last
            begin, count = None, 0
        begin = start if begin is None else begin
        last, count = end, count + size
    if begin is not None:
        yield begin, last


def _paragraphs(text: str, words: int) -> Iterator[tuple[int, int]]:
    for found in re.finditer(r"(?:.*\S.*\n?)+", text):
        places = list(_WORDS.finditer(text, found.start(), found.end()))
        for first in range(0, len(places), words):
            part = places[first : first + words]
            yield part[0].start(), part[-1].end()
