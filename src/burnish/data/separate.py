"""Splits without duplicates inside, and without leakage between what is trained on and what is tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from burnish.core.events import Emit
from burnish.core.ids import content_id
from burnish.data.candidates import Candidate, every
from burnish.data.duplicates import KeptRows, Signature, exact_key, shingle_frequency, sign, without_template
from burnish.data.ledger import Book
from burnish.data.split import is_test
from burnish.data.tokens import TokenisedRow

TRAIN, TEST = "train", "test"


class _Signed(NamedTuple):
    row: TokenisedRow
    signature: Signature


@dataclass(frozen=True, slots=True)
class Separated:
    """Rows by split, and how many training rows leaked from tested ones, by kind."""

    splits: dict[str, list[TokenisedRow]]
    leakage: dict[str, int]


def held_out(candidates: Sequence[Candidate], test_share: float) -> tuple[list[Candidate], list[Candidate]]:
    """Return test and train rows: as the rows say where any row says so, else by hash of what is asked and answered."""
    if any(candidate.row.split is not None for candidate in candidates):
        flags = [candidate.row.split == TEST for candidate in candidates]
    else:
        flags = [is_test(exact_key(candidate.messages), test_share) for candidate in candidates]
    test = [candidate for candidate, flag in zip(candidates, flags, strict=True) if flag]
    train = [candidate for candidate, flag in zip(candidates, flags, strict=True) if not flag]
    return test, train


def separate(splits: Mapping[str, Sequence[TokenisedRow]], *, threshold: float, book: Book, emit: Emit) -> Separated:
    """Remove duplicates, test rows first, so that a test row never gives way to a training row.

    A training row goes when it is a duplicate or near duplicate of a row of a task or of the test split, or asks just
    the same under the same system prompt. Rows of a task are its author's choice: only a conversation that is there
    twice, letter by letter, goes.
    """
    signed = _signed(splits, emit)
    frequency = shingle_frequency(item.signature for group in signed.values() for item in group)
    kept = {name: _without_copies(group, book) for name, group in signed.items() if name not in (TRAIN, TEST)}
    kept[TEST] = _without_duplicates(signed[TEST], KeptRows(threshold, frequency), TEST, book, emit)
    tested = [item for group in kept.values() for item in group]
    firewall = KeptRows(threshold, frequency)
    for number, item in enumerate(tested):
        firewall.add(number, item.signature)
    clean, leakage = _without_leaks(signed[TRAIN], firewall, tested, book, emit)
    kept[TRAIN] = _without_duplicates(clean, KeptRows(threshold, frequency), TRAIN, book, emit)
    return Separated({name: [item.row for item in group] for name, group in kept.items()}, leakage)


def _signed(splits: Mapping[str, Sequence[TokenisedRow]], emit: Emit) -> dict[str, list[_Signed]]:
    everything = [row for rows in splits.values() for row in rows]
    signatures = iter(without_template([sign(row.candidate.messages) for row in every(everything, "3-grams", emit)]))
    return {name: [_Signed(row, next(signatures)) for row in rows] for name, rows in splits.items()}


def _without_copies(items: Sequence[_Signed], book: Book) -> list[_Signed]:
    kept: dict[str, _Signed] = {}
    for item in items:
        twin = kept.setdefault(content_id(item.row.candidate.messages), item)
        if twin is not item:
            book.reject(item.row.candidate.place, "duplicate", f"of {twin.row.candidate.place}")
    return list(kept.values())


def _without_duplicates(items: Sequence[_Signed], index: KeptRows, split: str, book: Book, emit: Emit) -> list[_Signed]:
    kept: list[_Signed] = []
    for item in every(items, f"duplicates in {split}", emit):
        twin = index.duplicate_of(item.signature)
        if twin is not None:
            number, kind = twin
            book.reject(item.row.candidate.place, kind, f"of {kept[number].row.candidate.place}")
            continue
        index.add(len(kept), item.signature)
        kept.append(item)
    return kept


def _without_leaks(
    items: Sequence[_Signed], firewall: KeptRows, tested: Sequence[_Signed], book: Book, emit: Emit
) -> tuple[list[_Signed], dict[str, int]]:
    kept: list[_Signed] = []
    leakage: dict[str, int] = dict.fromkeys(("duplicate", "near duplicate", "same request"), 0)
    for item in every(items, "leakage into train", emit):
        leak = firewall.duplicate_of(item.signature) or firewall.same_request(item.signature)
        if leak is None:
            kept.append(item)
            continue
        number, kind = leak
        leakage[kind] += 1
        book.reject(item.row.candidate.place, f"{kind} of a test row", f"of {tested[number].row.candidate.place}")
    return kept, leakage
