"""One reviewer's desk: which row is next, what was said of it, and how far everybody is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from burnish.core.errors import UsageError, did_you_mean
from burnish.data.review.agreement import agreements
from burnish.data.review.reviews import Review, Reviews, Verdict
from burnish.data.review.turns import problem_of_row, turns_of, with_texts
from burnish.data.review.use import Policy, Used, state_of, write_used
from burnish.data.synthesize.pool import KEPT, Entry

Show = Literal["kept", "refused", "all", "disputed"]
LONGEST_NAME, LONGEST_NOTE = 60, 2000


class Desk:
    """Reviewers do not see each other's verdicts, but for rows in dispute, which is what `disputed` shows."""

    def __init__(
        self, folder: Path, entries: Sequence[Entry], reviewer: str, policy: Policy, *,
        show: Show = "kept", share: float = 1.0,
    ) -> None:  # fmt: skip
        """share: of the rows that is looked at, the same rows for every reviewer. Raises UsageError for a bad name."""
        name = " ".join(reviewer.split())
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise UsageError(
                f"a reviewer's name has 1 to {LONGEST_NAME} signs that can be printed; found {reviewer[:80]!r}"
            )
        self.folder, self.reviewer = folder, name
        self.policy: Policy = policy
        self.show: Show = show
        self._entries = list(entries)
        self._by_id = {entry.id: entry for entry in entries}
        self._share = share
        self._reviews = Reviews(folder)
        self._skipped: set[str] = set()
        self._said: list[str] = []

    def next(self) -> Entry | None:
        """Return the first row of the queue that this reviewer has not judged; skipped ones come last."""
        last = self._reviews.last()
        waiting = [entry for entry in self._queue() if not self._done(entry, last)]
        return next((entry for entry in waiting if entry.id not in self._skipped), None)

    def judge(self, row_id: str, verdict: Verdict, texts: Sequence[str] | None = None, note: str = "") -> None:
        """Write a verdict down; `texts` are those of an edit. Then the rows that are used are written anew.

        Raises UsageError for a row that there is not, an edit without texts or without a change, and an accepted row that is empty.
        """
        entry = self.entry(row_id)
        edited = None
        if verdict == "edit":
            if texts is None:
                raise UsageError("an edit needs the texts of the row's turns")
            edited = with_texts(entry.row, texts)
            if edited == entry.row:
                raise UsageError("nothing was changed; accept the row, or change a text")
        if verdict in ("accept", "edit") and (problem := problem_of_row(edited or entry.row)):
            raise UsageError(f"the row cannot be used: {problem}. Edit it, or reject it.")
        self._reviews.add(Review(entry.id, self.reviewer, verdict, entry.row, edited, note[:LONGEST_NOTE]))
        self._said.append(entry.id)
        self.write()

    def skip(self, row_id: str) -> None:
        """Leave a row for another day; nothing is written down."""
        self._skipped.add(self.entry(row_id).id)

    def undo(self) -> str | None:
        """Take this session's last verdict back, and return the row's id; None when there is none."""
        if not self._said:
            return None
        row_id = self._said.pop()
        self._reviews.add(Review(row_id, self.reviewer, "withdrawn", self._by_id[row_id].row))
        self._skipped.discard(row_id)
        self.write()
        return row_id

    @property
    def can_undo(self) -> bool:
        """Whether this session said anything that may be taken back."""
        return bool(self._said)

    def entry(self, beginning: str) -> Entry:
        """Return the row whose id begins so. Raises UsageError when there is none, or several."""
        if beginning in self._by_id:
            return self._by_id[beginning]
        found = [row_id for row_id in self._by_id if beginning and row_id.startswith(beginning)]
        if len(found) != 1:
            many = "no row" if not found else f"{len(found)} rows"
            raise UsageError(
                f'{many} of {self.folder} has an id that begins with "{beginning[:40]}".{did_you_mean(beginning, self._by_id)}'
            )
        return self._by_id[found[0]]

    def write(self) -> Used:
        """Write the rows that are used, as the reviews have it now."""
        return write_used(self.folder, self._entries, self.policy)

    def status(self) -> dict[str, Any]:
        """Return how far the review is: for this reviewer, for all, and how far two agree."""
        last = self._reviews.last()
        queue = self._queue()
        states = [state_of(entry, last.get(entry.id, {}), self.policy) for entry in self._entries]
        return {
            "folder": str(self.folder),
            "reviewer": self.reviewer,
            "show": self.show,
            "queue": len(queue),
            "done": sum(self._done(entry, last) for entry in queue),
            "skipped": len(self._skipped),
            "rows": {name: states.count(name) for name in ("used", "waiting", "disputed", "rejected")},
            "reviewers": {name: sum(name in of_row for of_row in last.values())
                          for name in sorted({name for of_row in last.values() for name in of_row})},
            "agreement": [asdict(agreement) for agreement in agreements(last)],
            "needed": {"none": 0, "one": 1, "two": 2}[self.policy],
        }  # fmt: skip

    def shown(self, entry: Entry) -> dict[str, Any]:
        """Return a row for a reviewer's eyes; others' verdicts only where they are in dispute."""
        others: list[dict[str, Any]] = []
        if self.show == "disputed":
            for review in self._reviews.last().get(entry.id, {}).values():
                edited = None if review.edited is None else [text for _, text in turns_of(review.edited)]
                others.append(
                    {"reviewer": review.reviewer, "verdict": review.verdict, "note": review.note, "edited": edited}
                )
        about = entry.row.get("synthetic")
        return {
            "id": entry.id,
            "kind": entry.kind,
            "verdict": entry.verdict,
            "detail": entry.detail,
            "turns": [{"label": label, "text": text} for label, text in turns_of(entry.row)],
            "shown": entry.shown,
            "quote": about["quote"]["text"] if isinstance(about, dict) and "quote" in about else None,
            "others": others,
        }

    def _queue(self) -> list[Entry]:
        if self.show == "disputed":
            last = self._reviews.last()
            return [
                e
                for e in self._entries
                if state_of(e, last.get(e.id, {}), self.policy) == "disputed" or e.id in self._said
            ]
        wanted = {"kept": (True,), "refused": (False,), "all": (True, False)}[self.show]
        return [e for e in self._entries if (e.verdict == KEPT) in wanted and _place(e.id) < self._share]

    def _done(self, entry: Entry, last: dict[str, dict[str, Review]]) -> bool:
        if self.show == "disputed":
            return entry.id in self._said
        return self.reviewer in last.get(entry.id, {})


def _place(row_id: str) -> float:
    """Return a number from 0 to 1 that follows from an id alone."""
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:7], "big") / 2**56
