"""What `prepare` says on its way, besides what it counts: what it was not asked for, what it took no notice of."""

from __future__ import annotations

from typing import Any

import numpy as np

from burnish.core.events import Emit, Note
from burnish.core.recipe import Recipe
from burnish.core.units import format_count
from burnish.data.ledger import Book
from burnish.data.splits.told import is_held_out
from burnish.data.spool import Spool


def note_reading(recipe: Recipe, spool: Spool, book: Book, emit: Emit) -> None:
    """Say what was not used of what was read, and not looked for in it."""
    _note_unused_keys(book, emit)
    _note_splits(recipe, spool, emit)
    _note_off(recipe, emit)


def _note_unused_keys(book: Book, emit: Emit) -> None:
    if book.counts.unused:
        keys = ", ".join(f"{key} ({format_count(count)} rows)" for key, count in sorted(book.counts.unused.items()))
        emit(Note("prepare", f"Keys of rows that burnish does not use: {keys}."))


def _note_splits(recipe: Recipe, spool: Spool, emit: Emit) -> None:
    """Say what the recipe says of splits in vain, and which files look like a test split by their names and are none."""
    data = spool.sources < spool.data_sources
    if spool.said_splits:
        said = [name for name in ("split_by", "stratify", "test_from") if name in recipe.prepare.model_fields_set]
        if said:
            emit(
                Note("prepare", f"Rows or sources say their split, so {', '.join(said)} of `prepare` say nothing here.")
            )
        return
    files: list[int] = np.unique(spool.columns["file"][data]).tolist()
    named = [spool.files[at] for at in files if is_held_out(spool.files[at])]
    if named:
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        emit(
            Note(
                "prepare",
                f"{named[0]}{more} may be a test split, by the name; the rows are split like all others. If it is one, make it "
                "a source of its own with `split: test`, or a task under evaluate.tasks.",
            )
        )


def _note_off(recipe: Recipe, emit: Emit) -> None:
    """Say what was not looked for, because it needs a model and nobody asked for it."""
    off: list[str] = []
    if not recipe.prepare.personal_data.names:
        off.append("names of people, places and organisations (prepare.personal_data.names)")
    if recipe.prepare.semantic_duplicate is None:
        off.append("rows that say the same in other words (prepare.semantic_duplicate)")
    if not recipe.prepare.filters.needs_embeddings:
        off.append("rows far from all others, and groups of too many (prepare.filters.outlier, balance)")
    if off:
        emit(Note("prepare", f"Not looked for, as it needs a model: {'; '.join(off)}."))


def note_filters(found: dict[str, Any], emit: Emit) -> None:
    """Say which filters mark rows that are still in the dataset."""
    marked = [each for each in found["filters"] if each["in_dataset"] and each["action"] == "report"]
    told = ", ".join(f"{each['name'].replace('_', ' ')} {each['in_dataset']:,}" for each in marked)
    if told:
        emit(Note("prepare", f"Filters mark rows that stay, of {found['kept']:,}: {told}. Look: burnish data show."))
