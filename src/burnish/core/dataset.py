"""What a manifest is made of: files that were read, the ledger, splits, and what turned text into token ids."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from burnish.core.records import Count, FileRef, Histogram, Record


class SourceFile(Record):
    """One raw file that was read; `source` is the recipe's name for the source it belongs to, where there are several."""

    OUTSIDE_ID: ClassVar[frozenset[str]] = frozenset({"path"})
    WHEN_SET: ClassVar[frozenset[str]] = frozenset({"source"})
    source: str | None = None
    path: str
    sha256: str
    size_bytes: Count
    lines: Count
    formats: dict[str, Count]


class SourceLedger(Record):
    """The ledger of one source: rows in = rows kept + rows rejected."""

    rows_in: Count
    rows_kept: Count
    rejected: dict[str, Count]

    @model_validator(mode="after")
    def _balances(self) -> SourceLedger:
        rejected = sum(self.rejected.values())
        if self.rows_in != self.rows_kept + rejected:
            raise ValueError(f"rows in ({self.rows_in}) is not rows kept ({self.rows_kept}) + rejected ({rejected})")
        return self


class Ledger(Record):
    """Nothing is dropped silently: rows in = rows kept + rows rejected, each with a reason.

    `sources`: the same by named source of the data; what is missing in their sum are the rows of tasks.
    """

    WHEN_SET: ClassVar[frozenset[str]] = frozenset({"sources"})
    rows_in: Count
    rows_kept: Count
    rejected: dict[str, Count]
    changed: dict[str, Count] = Field(default_factory=dict[str, Count])
    sources: dict[str, SourceLedger] | None = None

    @model_validator(mode="after")
    def _balances(self) -> Ledger:
        rejected = sum(self.rejected.values())
        if self.rows_in != self.rows_kept + rejected:
            raise ValueError(f"rows in ({self.rows_in}) is not rows kept ({self.rows_kept}) + rejected ({rejected})")
        if sum(source.rows_in for source in (self.sources or {}).values()) > self.rows_in:
            raise ValueError("the sources have more rows than came in")
        return self


class SplitShard(Record):
    """Some rows of a split and their token ids, each a Parquet file that is named by its content."""

    rows: Count
    file: FileRef
    token_file: FileRef


class SplitSource(Record):
    """What a named source has in a split."""

    rows: Count
    tokens: Count
    trained_tokens: Count


class Split(Record):
    """One split of a dataset: canonical rows and their token ids, in Parquet files that datasets share (`shards`, in order).

    `file` and `token_file` are the indices by which they are read; each may be a Parquet file itself.

    `tokens` counts every token of every row once; `unique_tokens` counts a prefix that several rows share (their system
    prompt) only once, which is what training and evaluation compute; `trained_tokens` are those with loss. `sources`: what
    each named source has of it.
    """

    WHEN_SET: ClassVar[frozenset[str]] = frozenset({"sources", "shards"})
    rows: Count
    tokens: Count
    unique_tokens: Count
    trained_tokens: Count
    longest_tokens: Count
    longest_answer_tokens: Count
    lengths: Histogram
    file: FileRef
    token_file: FileRef
    sources: dict[str, SplitSource] | None = None
    shards: tuple[SplitShard, ...] | None = None


class TextFingerprint(Record):
    """What turned text into token ids. A server must match it to serve the adapter as it was trained.

    `variables`: those of the chat template that the recipe set, such as enable_thinking; they count in `template_sha256`.
    """

    WHEN_SET: ClassVar[frozenset[str]] = frozenset({"variables"})
    tokenizer_sha256: str
    template_sha256: str
    system: str | None
    variables: dict[str, Any] | None = None
