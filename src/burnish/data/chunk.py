"""Some rows on their way through `prepare`: made by a worker, spooled as bytes, taken apart again when they are written.

A chunk has parts, so that each reader touches only what it needs: the rows as they will be written, the refusals, the texts of
requests and answers, their words as hashes, by which duplicates and leakage are found, and columns of numbers, one record a row,
that are kept for all rows at once.
"""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from burnish.data.examples import Changed
from burnish.data.filters.columns import SIGNALS
from burnish.data.near.shingle import Words

Array = npt.NDArray[Any]

OWN_COLUMNS = np.dtype([
    ("row", "V16"),  # the first half of the row's id
    ("words", "<u8"),  # of the words of what is asked and answered: what the leakage proof calls exact
    ("request", "<u8"),  # of the system prompt and the request
    ("answer", "<u8"),  # of the answer, in canonical form
    ("position", "<u8"),  # where the row lies in an assignment by its own content
    ("group", "<u8"),  # of the group the row says it belongs to; 0 for none
    ("day", "<i4"),  # days since 1970; NO_DAY for none
    ("line", "<i8"),
    ("file", "<u4"),  # number of the file, in order of reading
    ("tokens", "<i4"),
    ("tokens_in", "<i4"),  # before anything was cut
    ("said", "i1"),  # the split the row asks for: a side, or NOTHING_SAID
    ("synthetic", "?"),  # whether a model wrote it
    ("parent", "<u8"),  # of a synthetic row: `words` of the row it was made from; 0 for none
])  # fmt: skip
"""What is known of a row by itself: 90 bytes."""
COLUMNS = np.dtype([*OWN_COLUMNS.descr, *SIGNALS.descr])
"""What is known of every row at once, with the signals of filters and audit: 115 bytes a row, in a file."""
NO_DAY = np.iinfo(np.int32).min
NOTHING_SAID = -1


class Rendering(NamedTuple):
    """Token ids and loss mask of one rendering; see `text.render.Rendered`."""

    ids: Array
    mask: Array
    prefix: int
    prompt: int


@dataclass(frozen=True, slots=True)
class Row:
    """A row that may be kept. `messages` and `tools` are JSON; `day` is YYYY-MM-DD."""

    line: int
    start: int
    end: int
    file: str
    row_id: str
    messages: str
    tools: str | None
    date: str | None
    format: str
    group: str | None
    created_at: str | None
    license: str | None
    renderings: tuple[Rendering, ...]
    tokens: int
    tokens_in: int
    source_name: str | None = None
    difficulty: float | None = None
    synthetic: str | None = None
    teacher: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that became no row. `text` is the line without personal data; `tokens` what it was rendered to, if it was."""

    line: int
    file: str
    reason: str
    detail: str
    text: str
    tokens: int = 0


@dataclass(slots=True)
class Overlong:
    """What is too long, and what each policy would cost."""

    rows: int = 0
    tokens: int = 0
    over: int = 0
    hopeless: int = 0
    longest: int = 0
    named: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def add(self, other: Overlong, *, names: int) -> None:
        """Add what another chunk found; keep the first few names."""
        self.rows += other.rows
        self.tokens += other.tokens
        self.over += other.over
        self.hopeless += other.hopeless
        self.longest = max(self.longest, other.longest)
        self.named = (self.named + other.named)[:names]


@dataclass(slots=True)
class Counts:
    """What a chunk adds to the account of the whole."""

    lines: Counter[str] = field(default_factory=Counter[str])
    formats: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    changed: Counter[str] = field(default_factory=Counter[str])
    personal: Counter[str] = field(default_factory=Counter[str])
    unused: Counter[str] = field(default_factory=Counter[str])
    rendered: int = 0
    tokens: int = 0
    tokens_in: Counter[str] = field(default_factory=Counter[str])
    rows_in: Counter[str] = field(default_factory=Counter[str])
    overlong: Overlong = field(default_factory=Overlong)
    examples: dict[str, list[Changed]] = field(default_factory=dict[str, list[Changed]])
    """Of each change, some before and after."""


@dataclass(slots=True)
class Chunk:
    """What became of some raw rows: the rows and the refusals; and what is known of the rows."""

    rows: bytes
    """`tables.Tables` of the rows, in their order, frozen."""
    refusals: bytes
    """Every refusal with how many rows came before it, packed."""
    texts: bytes
    words: Words
    """Of the request and of the answer of each row, in turn."""
    columns: Array
    files: list[str]
    counts: Counts
    refused: list[Refused]
    """The first refusal of each reason."""
    reasons: Counter[str]


def packed(value: Any) -> bytes:
    """Return the value as compressed bytes, for our own spool."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(8, "big") + pa.Codec("zstd", 1).compress(data, asbytes=True)


def unpacked(data: bytes) -> Any:
    """Return what was packed, from our own spool."""
    size = int.from_bytes(data[:8], "big")
    return pickle.loads(pa.Codec("zstd").decompress(data[8:], size, asbytes=True))


def small(ids: Sequence[int], vocabulary: int) -> Array:
    """Return token ids in the smallest type that holds them all."""
    return np.array(ids, np.uint16 if vocabulary <= 1 << 16 else np.int32)
