"""Which rows are used: what the checks kept or reviewers accepted, with their edits, written for `prepare` to read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from burnish.core.recipe_data import SYNTHETIC
from burnish.data.review.reviews import ByRow, Review, Reviews
from burnish.data.synthesize.pool import KEPT, Entry
from burnish.store.files import write_bytes

ROWS, PAIRS = "rows.jsonl", "pairs.jsonl"
"""Conversations, and preference pairs: one objective trains on one of both."""
Policy = Literal["none", "one", "two"]
"""How many reviewers must accept a row; with none, what the checks kept is used unless somebody rejects it."""


@dataclass(frozen=True, slots=True)
class Used:
    """What is used: the rows as they are written, and how many wait for a review, are in dispute, were rejected."""

    rows: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    waiting: int
    disputed: int
    rejected: int


def state_of(
    entry: Entry, reviews: Mapping[str, Review], policy: Policy
) -> Literal["used", "waiting", "disputed", "rejected"]:
    """Return what becomes of a row by what was said of it.

    disputed: one wants it and another does not, or two want it in different words. It is not used before they agree.
    """
    verdicts = [review.verdict for review in reviews.values()]
    wanted = sum(verdict != "reject" for verdict in verdicts)
    if wanted and (wanted < len(verdicts) or len(_edits(reviews)) > 1):
        return "disputed"
    if verdicts and not wanted:
        return "rejected"
    if wanted >= {"none": 1, "one": 1, "two": 2}[policy]:
        return "used"
    if policy == "none":
        return "used" if entry.verdict == KEPT else "rejected"
    return "waiting" if entry.verdict == KEPT or verdicts else "rejected"


def used(entries: Sequence[Entry], last: ByRow, policy: Policy) -> Used:
    """Return the rows that are used, in the order of the entries."""
    found: dict[str, list[dict[str, Any]]] = {"used": [], "waiting": [], "disputed": [], "rejected": []}
    for entry in entries:
        reviews = last.get(entry.id, {})
        found[state_of(entry, reviews, policy)].append(_final(entry, reviews))
    rows = [row for row in found["used"] if "chosen" not in row]
    pairs = [row for row in found["used"] if "chosen" in row]
    return Used(rows, pairs, *(len(found[state]) for state in ("waiting", "disputed", "rejected")))


def write_used(folder: Path, entries: Sequence[Entry], policy: Policy) -> Used:
    """Write rows.jsonl and pairs.jsonl of a folder from its entries and reviews. The same input gives the same bytes."""
    made = used(entries, Reviews(folder).last(), policy)
    for name, rows in ((ROWS, made.rows), (PAIRS, made.pairs)):
        if rows or (folder / name).exists() or name == ROWS:
            write_bytes(folder / name, _lines(rows))
    return made


def _final(entry: Entry, reviews: Mapping[str, Review]) -> dict[str, Any]:
    """Return the row as it was edited, or as it is, with who looked at it. An edited synthetic row stays one."""
    edits = _edits(reviews)
    row = dict(edits[0]) if edits else dict(entry.row)
    if SYNTHETIC in entry.row:
        about = dict(cast("dict[str, Any]", entry.row[SYNTHETIC]))
        if reviews:
            about |= {"reviewers": len(reviews), "edited": bool(edits)}
        kept = {
            key: value for key, value in entry.row.items() if key not in ("messages", "prompt", "chosen", "rejected")
        }
        row = {**row, **kept, SYNTHETIC: about}
    return row


def _edits(reviews: Mapping[str, Review]) -> list[dict[str, Any]]:
    """Return the different rows that reviewers want instead."""
    found: dict[str, dict[str, Any]] = {}
    for review in reviews.values():
        if review.edited is not None:
            found.setdefault(json.dumps(review.edited, sort_keys=True), review.edited)
    return list(found.values())


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")
