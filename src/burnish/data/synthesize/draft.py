"""A row in the making, and the row that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from burnish.core.ids import content_id
from burnish.data.synthesize.material import Piece, Seed

MADE_FROM_A_ROW = ("paraphrase", "style", "translation", "preference")
"""Kinds that say again what one row says: they go with it where it goes."""


@dataclass(frozen=True, slots=True)
class Quote:
    """Words of a document that answer a question. start, end: characters in the text of `line` of `file`."""

    file: str
    line: int
    start: int
    end: int
    text: str


@dataclass(slots=True)
class Draft:
    """What a model wrote. like: the row whose system prompt and date it shares. by: persona, style, language, hard case.

    rejected: the worse answer of a preference pair; `answer` is then the better. notes: what checks and judge say of it.
    """

    kind: str
    request: str
    answer: str
    like: Seed | None = None
    by: str | None = None
    piece: Piece | None = None
    said_quote: str | None = None
    quote: Quote | None = None
    rejected: str | None = None
    notes: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def parent(self) -> Seed | None:
        """The row that this one says again."""
        return self.like if self.kind in MADE_FROM_A_ROW else None

    @property
    def id(self) -> str:
        """The id by which reviews know it: what it asks and answers, under which system prompt."""
        system = self.like.system if self.like is not None else None
        return content_id([self.kind, system, self.request, self.answer, self.rejected])[:32]

    def row(self, teacher: str, license: str | None) -> dict[str, Any]:
        """Return the row as `prepare` reads it. teacher: the model that wrote it, license: of what it writes."""
        turns: list[dict[str, str]] = []
        if self.like is not None and self.like.own_system and self.like.system is not None:
            turns.append({"role": "system", "content": self.like.system})
        turns.append({"role": "user", "content": self.request})
        answer = {"role": "assistant", "content": self.answer}
        if self.rejected is None:
            row: dict[str, Any] = {"messages": [*turns, answer]}
        else:
            worse = {"role": "assistant", "content": self.rejected}
            row = {"prompt": turns, "chosen": [answer], "rejected": [worse]}
        if self.like is not None and self.like.date is not None:
            row["date"] = self.like.date
        if self.quote is not None:
            row["group"] = self.quote.file
        if named := _licenses(self.parent.license if self.parent is not None else None, license):
            row["license"] = named
        return row | {"synthetic": self._about(teacher, license)}

    def _about(self, teacher: str, license: str | None) -> dict[str, Any]:
        about: dict[str, Any] = {"kind": self.kind, "teacher": teacher, "id": self.id}
        if license is not None:
            about["teacher_license"] = license
        if self.parent is not None:
            about["parent"] = self.parent.parent
        if self.by is not None:
            about["by"] = self.by
        if self.quote is not None:
            quote = self.quote
            about["quote"] = {
                "file": quote.file, "line": quote.line, "start": quote.start, "end": quote.end, "text": quote.text,
            }  # fmt: skip
        return about


def _licenses(of_parent: str | None, of_teacher: str | None) -> str | None:
    """Return both licences as an SPDX expression; what is made of two things stands under both."""
    named = list(dict.fromkeys(filter(None, (of_parent, of_teacher))))
    return " AND ".join(named) or None
