"""The stage that makes a dataset: read and clean, hold out, render, remove duplicates and leakage, write, account."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.core.artifacts import FileRef, Manifest, Split
from burnish.core.errors import DataError
from burnish.core.events import Emit, Note
from burnish.core.ids import content_id
from burnish.core.recipe import Recipe
from burnish.core.rows import TokenRow
from burnish.core.units import format_count
from burnish.data.candidates import Candidate, Reader, Source, every
from burnish.data.histogram import histogram
from burnish.data.ledger import Book
from burnish.data.rows import MessageRow, rows_path, tokens_path, write_message_rows, write_token_rows
from burnish.data.separate import TEST, TRAIN, held_out, separate
from burnish.data.sources.fingerprint import fingerprint
from burnish.data.sources.spec import shown
from burnish.data.tokens import TokenisedRow, fit, tokenise
from burnish.store.files import file_ref
from burnish.text.system import needs_day, system_format
from burnish.text.tokenizer import Tokenizer


def prepare(recipe: Recipe, *, tokenizer: Tokenizer, folder: Path, root: Path, emit: Emit) -> Manifest:
    """Make the dataset of a recipe: two Parquet files for each split, the rejected rows, and the manifest.

    Splits are `train`, `test`, and one for each task of `recipe.evaluate.tasks`. Everything is written into `folder`;
    the manifest names it relative to `root`.

    Raises DataError when a file is missing, empty or without a usable row, when no row is left to train or to test on,
    and when rows are too long for the recipe's policy.
    """
    limit = _token_limit(recipe, tokenizer)
    book = Book()
    reader = Reader(recipe, book, emit)
    data = reader.read(recipe.data)
    tasks = {name: reader.read(path) for name, path in recipe.evaluate.tasks.items()}
    _check_usable([data, *tasks.values()], book)
    _note_unused_keys(reader, emit)

    test, train = held_out(data.candidates, recipe.prepare.test_share)
    candidates = {TRAIN: train, TEST: test, **{name: source.candidates for name, source in tasks.items()}}
    rows = _tokenise(candidates, tokenizer, book, emit)
    rows = fit(tokenizer, rows, limit, recipe.prepare.overlong, book)
    separated = separate(
        {name: [row for row in rows if row.split == name] for name in candidates},
        threshold=recipe.prepare.near_duplicate,
        book=book,
        emit=emit,
    )
    _check_splits(separated.splits, recipe, book)

    rejected = folder / "rejected.jsonl"
    book.write_rejected(rejected)
    return Manifest(
        sources=(*data.files, *(file for source in tasks.values() for file in source.files)),
        fingerprint=tokenizer.fingerprint(recipe.system),
        ledger=book.ledger(sum(len(rows) for rows in separated.splits.values())),
        splits={name: _write(name, separated.splits[name], folder, root) for name in candidates},
        personal_data=dict(sorted(reader.personal.items())),
        leakage=separated.leakage,
        rejected_file=file_ref(rejected, root),
        settings=_settings(recipe, limit, tokenizer, fingerprint(recipe.data)),
    )


def _token_limit(recipe: Recipe, tokenizer: Tokenizer) -> int:
    limit = recipe.prepare.max_tokens or tokenizer.context_length
    if limit > tokenizer.context_length:
        raise DataError(
            f"prepare.max_tokens is {limit}, but the base model's context is {tokenizer.context_length} tokens. "
            f"Set it to {tokenizer.context_length} or less, or leave it out."
        )
    return limit


def _check_usable(sources: Sequence[Source], book: Book) -> None:
    for source in sources:
        if source.candidates:
            continue
        lines = "1 line" if source.lines == 1 else f"{source.lines} lines"
        reasons = book.reasons(tuple(file.path for file in source.files))
        array = source.begins.startswith("[") and source.name.endswith("l")
        advice = "\nIt looks like one JSON array: give the file a name that ends in .json" if array else ""
        raise DataError(f"{shown(source.name)} has no usable row in {lines}:\n{reasons}{advice}")


def _note_unused_keys(reader: Reader, emit: Emit) -> None:
    if reader.unused_keys:
        keys = ", ".join(f"{key} ({format_count(count)} rows)" for key, count in sorted(reader.unused_keys.items()))
        emit(Note("prepare", f"Keys of rows that burnish does not use: {keys}."))


def _tokenise(
    splits: Mapping[str, Sequence[Candidate]], tokenizer: Tokenizer, book: Book, emit: Emit
) -> list[TokenisedRow]:
    rows: list[TokenisedRow] = []
    for split, candidates in splits.items():
        for candidate in every(candidates, f"tokens of {split}", emit):
            try:
                rows.append(tokenise(tokenizer, candidate, split))
            except DataError as error:
                book.reject(candidate.place, "does not fit the chat template", str(error))
    if not rows:
        raise DataError(f"no row fits the base model's chat template:\n{book.reasons()}")
    return rows


def _check_splits(splits: Mapping[str, Sequence[TokenisedRow]], recipe: Recipe, book: Book) -> None:
    """Raise DataError unless every split has rows and there is something to learn."""
    for name, rows in splits.items():
        if rows:
            continue
        advice = {
            TRAIN: "Add rows, or hold fewer out.",
            TEST: f"Raise prepare.test_share (now {recipe.prepare.test_share}), add rows, "
            'or mark some rows with "split": "test".',
        }.get(name, f"Look at {recipe.evaluate.tasks.get(name)}.")
        reasons = book.reasons()
        rejected = f"\nRejected so far:\n{reasons}" if reasons else ""
        raise DataError(f"no row is left in the split {name}. {advice}{rejected}")
    if not any(any(row.rendered.mask) for row in splits[TRAIN]):
        raise DataError("no token of any training row has loss; nothing can be learned from answers without tokens")


def _write(name: str, rows: Sequence[TokenisedRow], folder: Path, root: Path) -> Split:
    ids = [content_id(row.candidate.messages) for row in rows]
    rows_file, tokens_file = rows_path(folder, name), tokens_path(folder, name)
    write_message_rows(rows_file, [_message_row(row_id, row) for row_id, row in zip(ids, rows, strict=True)])
    write_token_rows(tokens_file, [_token_row(row_id, row) for row_id, row in zip(ids, rows, strict=True)])
    return _split(rows, file_ref(rows_file, root), file_ref(tokens_file, root))


def _message_row(row_id: str, row: TokenisedRow) -> MessageRow:
    place, day = row.candidate.place, row.candidate.day
    date = None if day is None else day.isoformat()
    return MessageRow(
        row_id, row.candidate.messages, date, Path(place.file).name, place.line, row.candidate.row.meta["format"]
    )


def _token_row(row_id: str, row: TokenisedRow) -> TokenRow:
    rendered = row.rendered
    return TokenRow(row_id, tuple(rendered.ids), tuple(rendered.mask), rendered.prefix, rendered.prompt)


def _split(rows: Sequence[TokenisedRow], file: FileRef, token_file: FileRef) -> Split:
    lengths = [row.tokens for row in rows]
    prefixes = {tuple(row.rendered.ids[: row.rendered.prefix]) for row in rows}
    own = sum(row.tokens - row.rendered.prefix for row in rows)
    return Split(
        rows=len(rows),
        tokens=sum(lengths),
        unique_tokens=own + sum(len(prefix) for prefix in prefixes),
        trained_tokens=sum(sum(row.rendered.mask) for row in rows),
        longest_tokens=max(lengths),
        longest_answer_tokens=max(row.answer_tokens for row in rows),
        lengths=histogram(lengths),
        file=file,
        token_file=token_file,
    )


def _settings(recipe: Recipe, limit: int, tokenizer: Tokenizer, data_sha256: str) -> dict[str, Any]:
    """What decides the dataset besides the files and the tokenizer. Not the recipe's seed: nothing here is random."""
    settings: dict[str, Any] = {
        **recipe.prepare.model_dump(),
        "data_sha256": data_sha256,
        "max_tokens": limit,
        "system": recipe.system,
        "tasks": sorted(recipe.evaluate.tasks),
    }
    if needs_day(recipe.system):
        settings["system_format"] = system_format()
    if tokenizer.chat.uses_clock:  # rows without a date show the template the day they were prepared on
        settings["prepared_on"] = datetime.date.today().isoformat()
    return settings
