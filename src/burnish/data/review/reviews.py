"""What reviewers said, in a file to which lines are only ever added; a reviewer's last word on a row counts."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from burnish.core.errors import StoreError
from burnish.store.files import unwritable

REVIEWS = "reviews.jsonl"
Verdict = Literal["accept", "edit", "reject", "withdrawn"]
VERDICTS: tuple[str, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class Review:
    """One reviewer's word on one row. row: as it was shown; edited: as the reviewer wants it, of an edit alone. at: UTC."""

    id: str
    reviewer: str
    verdict: Verdict
    row: dict[str, Any]
    edited: dict[str, Any] | None = None
    note: str = ""
    at: str = ""


ByRow = Mapping[str, Mapping[str, Review]]
"""The last word of each reviewer, by row and reviewer."""


class Reviews:
    """The reviews of a folder."""

    def __init__(self, folder: Path) -> None:
        """Take a folder. Nothing is written before the first review."""
        self.path = folder / REVIEWS

    def add(self, review: Review) -> Review:
        """Write a review down, with the time, and flush it to the disk. Several processes may write at once."""
        stamped = replace(review, at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
        line = (json.dumps(asdict(stamped), ensure_ascii=False) + "\n").encode("utf-8", "replace")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a line that a crash cut off
                    line = b"\n" + line
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise unwritable(self.path, error) from error
        return stamped

    def read(self) -> list[Review]:
        """Return all reviews in the order they were given. Raises StoreError when a line in the middle is damaged."""
        if not self.path.exists():
            return []
        found: list[Review] = []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.split("\n"), start=1):
            if not line:
                continue
            try:
                review = Review(**cast("dict[str, Any]", json.loads(line)))
                if review.verdict not in VERDICTS:
                    raise ValueError(f"verdict {review.verdict!r}")
            except (ValueError, TypeError) as error:
                if line.startswith("{") and not line.endswith("}"):
                    continue  # cut off by a crash before anybody was told that it is written
                raise StoreError(f"{self.path}:{number} is damaged: {error}. Put the file back from a copy.") from error
            found.append(review)
        return found

    def last(self) -> dict[str, dict[str, Review]]:
        """Return the last word of each reviewer on each row; what was withdrawn is left out."""
        found: dict[str, dict[str, Review]] = {}
        for review in self.read():
            of_row = found.setdefault(review.id, {})
            of_row.pop(review.reviewer, None)
            if review.verdict != "withdrawn":
                of_row[review.reviewer] = review
        return {row: of_row for row, of_row in found.items() if of_row}
