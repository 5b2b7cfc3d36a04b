"""The stage that makes a dataset: read and clean, hold out, remove duplicates and leakage, write, prove, account.

Rows pass in three streams, so that memory does not grow with their text: once from the sources through the workers into a
spool; once more their compact texts, to decide about all of them together; and once from the spool into the files.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from burnish.core.artifacts import PAIRS, Manifest
from burnish.core.errors import DataError, RecipeError
from burnish.core.events import Emit, Progress
from burnish.core.recipe import Recipe
from burnish.data.alike import Alike, Remembered
from burnish.data.chunk import Chunk
from burnish.data.decide import Wanted, decide
from burnish.data.fates import FIRST_TASK, KEPT, Fates
from burnish.data.filters.audit import audit
from burnish.data.filters.marks import Marks
from burnish.data.filters.report import filter_report
from burnish.data.fit import overlong_message
from burnish.data.formats.columns import compile_mapping
from burnish.data.ledger import Book
from burnish.data.near.semantic import Embed
from burnish.data.notes import note_filters, note_reading
from burnish.data.personal import certify, treatment
from burnish.data.private.cleaner import Treatment
from burnish.data.proof import prove
from burnish.data.record import RawRow
from burnish.data.row_maker import Making, Settings, chunk_maker
from burnish.data.sources.fingerprint import data_fingerprint
from burnish.data.sources.read import read, stored_bytes
from burnish.data.sources.spec import shown
from burnish.data.sources.told import source_files
from burnish.data.splits.assign import TEST, TRAIN
from burnish.data.splits.positions import U64
from burnish.data.spool import Spool
from burnish.data.tables import release_unused
from burnish.data.workers import processes_for, spread
from burnish.data.write import Written, write
from burnish.store.files import file_ref, write_json
from burnish.text.expect import Expectations, RowFacts, evaluate, facts, sentences
from burnish.text.expect import read as read_expectations
from burnish.text.system import needs_day, system_format
from burnish.text.tokenizer import Tokenizer

CHUNK_ROWS, CHUNK_CHARACTERS = 1024, 1 << 20
"""What one worker gets at a time: so much that passing it on costs nothing, so little that none waits for the last."""


def prepare(
    recipe: Recipe,
    *,
    tokenizer: Tokenizer,
    folder: Path,
    root: Path,
    emit: Emit,
    forgotten: U64 | None = None,
    key: bytes | None = None,
    vault: Path | None = None,
    embed: Embed | None = None,
) -> Manifest:
    """Make the dataset of a recipe: two Parquet files for each split, the rejected rows, the leakage proof, the manifest.

    Splits are `train`, `test`, and one for each task of `recipe.evaluate.tasks`. Everything is written into `folder`;
    the manifest names it relative to `root`. forgotten: hashes of rows to leave out (`versions.forgotten`). key, vault: what
    personal data is hashed, replaced or locked away with, where the recipe asks for that. embed: texts to rows of length 1, with
    which semantic duplicates are found, where the recipe asks for them.

    Raises DataError when a file is missing, empty or without a usable row, when no row is left to train or to test on,
    and when rows are too long for the recipe's policy.
    """
    limit = _token_limit(recipe, tokenizer)
    data, tasks = recipe.sources(), recipe.evaluate.tasks
    names = [] if isinstance(recipe.data, str) else list(data)
    paths = [*(source.path for source in data.values()), *tasks.values()]
    sides = {"train": TRAIN, "test": TEST, **{name: FIRST_TASK + n for n, name in enumerate(recipe.evaluate.tasks)}}
    expected = _expected(recipe)
    personal = treatment(recipe.prepare.personal_data, key, vault)
    settings = _settings_of(recipe, _settings_for(recipe, personal, limit))
    book = Book()
    first_rows = [read(name, at=_progress(name, emit)) for name in paths]  # a missing file is told first
    with Spool(folder, len(data)) as spool:
        for number, (name, raws, own) in enumerate(zip(paths, first_rows, settings, strict=True)):
            begins = _read_into(spool, book, number, raws, own, tokenizer, stored_bytes(name) or 0)
            _check_usable(name, begins, number, book)
        spool.finish()
        _check_lengths(recipe, limit, tokenizer, book)
        note_reading(recipe, spool, book, emit)
        alike = _alike(recipe, embed, folder)
        marks = Marks(spool, recipe.prepare.filters, embed)
        fates = decide(spool, wanted(recipe, forgotten), _teller(emit, "comparing rows", 3), alike, marks)
        _check_expected(expected, spool, fates, tokenizer)
        certified = certify(spool, fates, personal, recipe.prepare.personal_data.recall)
        with ThreadPoolExecutor(1) as threads:  # the proof reads what the files are written from
            proving = threads.submit(prove, spool, fates, sides, alike)
            written = write(spool, fates, sides, folder, root, book, emit, clean=personal.leaves_nothing, names=names)
            _check_splits(written, recipe, book, said=spool.said_splits)
            proof = proving.result()
        found = filter_report(spool, fates, marks, names, book.examples(len(data)))
        note_filters(found, emit)
        audited = audit(spool, fates, marks, sides, names)
    beside = {"leakage": proof.as_json(), "certificate": certified.to_json(), "filters": found, "audit": audited}
    release_unused()
    return Manifest(
        sources=tuple(
            file
            for number, path in enumerate(paths)
            for file in source_files(path, book.of(number), (names + [None] * len(paths))[number])
        ),
        fingerprint=tokenizer.fingerprint(recipe.system),
        ledger=book.ledger(sum(split.rows for split in written.splits.values()), _kept_of(written, names)),
        splits=written.splits,
        personal_data=dict(sorted(book.counts.personal.items())),
        leakage=fates.leaks(semantic=alike is not None),
        **_written_beside(beside, folder, root),
        rejected_file=written.rejected_file,
        account=written.account,
        settings=_settings(recipe, limit, tokenizer, data_fingerprint(recipe)),
    )


def _written_beside(values: Mapping[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    """Write JSON files beside the manifest, and return its fields that name them."""
    for name, value in values.items():
        write_json(folder / f"{name}.json", value)
    return {f"{name}_file": file_ref(folder / f"{name}.json", root) for name in values}


def _settings_of(recipe: Recipe, settings: Settings) -> list[Settings]:
    """Return the settings of each source of the data, then of each task."""
    settings = replace(settings, strip_boilerplate=recipe.prepare.filters.boilerplate == "strip")
    told = f"the recipe of {recipe.name}"
    of_data = [
        replace(
            settings,
            columns=None
            if source.columns is None
            else compile_mapping(source.columns, key=_columns_key(recipe, name), source=told),
            source_name=None if isinstance(recipe.data, str) else name,
            license=source.license,
            split=source.split,
        )
        for name, source in recipe.sources().items()
    ]
    mapping = None if recipe.columns is None else compile_mapping(recipe.columns, source=told)
    of_task = replace(settings, columns=mapping, columns_may_lack=True, rows=settings.rows | {"conversation"})
    return of_data + [of_task] * len(recipe.evaluate.tasks)


def _settings_for(recipe: Recipe, personal: Treatment, limit: int) -> Settings:
    kind: Literal["conversation", "pair"] = "pair" if recipe.objective.pairs else "conversation"
    return Settings(recipe.system, personal, limit, recipe.prepare.overlong, rows=frozenset({kind}))


def _columns_key(recipe: Recipe, name: str) -> str:
    return "columns" if isinstance(recipe.data, str) or recipe.data[name].columns is None else f"data.{name}.columns"


def _kept_of(written: Written, names: Sequence[str]) -> dict[str, int]:
    """Return the rows that each named source has in all splits."""
    splits = [split.sources or {} for split in written.splits.values()]
    return {name: sum(split[name].rows for split in splits) for name in names}


def wanted(recipe: Recipe, forgotten: U64 | None = None) -> Wanted:
    """Return how the recipe holds rows out, and what it takes for a duplicate."""
    said = recipe.prepare
    return Wanted(
        said.test_share,
        said.split_by,
        said.stratify,
        said.test_from,
        said.embargo_days,
        said.near_duplicate,
        said.stop_share,
        np.empty(0, np.uint64) if forgotten is None else forgotten,
        tuple(source.path for source in recipe.sources().values()),
    )


def _alike(recipe: Recipe, embed: Embed | None, folder: Path) -> Alike | None:
    threshold = recipe.prepare.semantic_duplicate
    if threshold is None:
        return None
    if embed is None:
        raise ValueError("semantic duplicates need `embed`")
    return Alike(Remembered(embed, folder), threshold)


def _expected(recipe: Recipe) -> Expectations:
    """Return what the recipe expects. Raises RecipeError with every problem in it."""
    expected, problems = read_expectations({} if recipe.expect is None else recipe.expect)
    if problems:
        raise RecipeError(f"the recipe of {recipe.name}", problems)
    return expected


def _check_expected(expected: Expectations, spool: Spool, fates: Fates, tokenizer: Tokenizer) -> None:
    """Raise DataError unless the training rows are as the recipe expects them."""
    if not expected.numbers and not expected.texts:
        return

    def found() -> Iterator[RowFacts]:
        for _, first, rows, _ in spool.tables():
            numbers = np.arange(first, first + len(rows))
            places = np.flatnonzero((fates.sides[numbers] == TRAIN) & (fates.reasons[numbers] == KEPT))
            columns = spool.columns[numbers[places]]
            cut = columns["tokens"] < columns["tokens_in"]
            for number, row, shorter in zip(
                numbers[places].tolist(), rows.taken(places).last_renderings(), cut, strict=True
            ):
                yield facts(tokenizer, row, ":".join(map(str, spool.place(number))), truncated=bool(shorter))

    failures = evaluate(expected, found())
    if failures:
        raise DataError(sentences(failures))


def _read_into(
    spool: Spool, book: Book, number: int, raws: Iterable[RawRow], settings: Settings, tokenizer: Tokenizer, size: int
) -> str:
    """Read a source through the workers into the spool. Returns how its first row begins."""
    begins: list[str] = []

    def chunks() -> Iterator[list[RawRow]]:
        for chunk in _chunked(raws):
            if not begins:
                begins.append(chunk[0].text[:80])
            yield chunk

    processes = processes_for(size)
    made: Iterable[Chunk]
    if processes < 2:
        made = map(chunk_maker(tokenizer, settings), chunks())
    else:
        made = spread(Making(settings, tokenizer.folder, tokenizer.variables), chunks(), processes)
    for chunk in made:
        book.enter(number, chunk)
        spool.add(number, chunk)
    return begins[0] if begins else ""


def _chunked(raws: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    chunk: list[RawRow] = []
    characters = 0
    for raw in raws:
        chunk.append(raw)
        characters += len(raw.text)
        if len(chunk) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _progress(name: str, emit: Emit) -> Callable[[int], None]:
    total = stored_bytes(name) or 0
    what = f"reading {Path(shown(name)).name}"
    told = 0

    def at(done: int) -> None:
        nonlocal told
        if done - told >= max(1, total // 200) or (done >= total and done > told):
            told = done
            emit(Progress("prepare", what, done, max(total, done), "bytes"))

    return at


def _teller(emit: Emit, what: str, steps: int) -> Callable[[], None]:
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        emit(Progress("prepare", what, done, steps, "steps"))

    return tell


def _token_limit(recipe: Recipe, tokenizer: Tokenizer) -> int:
    limit = recipe.prepare.max_tokens or tokenizer.context_length
    if limit > tokenizer.context_length:
        raise DataError(
            f"prepare.max_tokens is {limit}, but the base model's context is {tokenizer.context_length} tokens. "
            f"Set it to {tokenizer.context_length} or less, or leave it out."
        )
    return limit


def _check_usable(name: str, begins: str, number: int, book: Book) -> None:
    """Raise DataError when nothing of a source is left before rows are compared with each other."""
    if book.usable(number):
        return
    lines = book.lines(number)
    array = begins.startswith("[") and shown(name).endswith("l")
    advice = "\nIt looks like one JSON array: give the file a name that ends in .json" if array else ""
    said = "1 line" if lines == 1 else f"{lines} lines"
    raise DataError(f"{shown(name)} has no usable row in {said}:\n{book.reasons(number)}{advice}")


def _check_lengths(recipe: Recipe, limit: int, tokenizer: Tokenizer, book: Book) -> None:
    counts = book.counts
    if not counts.rendered:
        raise DataError(f"no row fits the base model's chat template:\n{book.reasons()}")
    if counts.overlong.rows and recipe.prepare.overlong == "error":
        raise DataError(
            overlong_message(counts.overlong, counts.rendered, counts.tokens, limit, tokenizer.context_length)
        )


def _check_splits(written: Written, recipe: Recipe, book: Book, *, said: bool) -> None:
    """Raise DataError unless every split has rows and there is something to learn."""
    for name, split in written.splits.items():
        if split.rows:
            continue
        advice = {
            "train": "Add rows, or hold fewer out.",
            "test": 'Rows or sources say their split, and none of those that are left says "test".'
            if said
            else f"Raise prepare.test_share (now {recipe.prepare.test_share}), add rows, "
            'or mark some rows with "split": "test". Synthetic rows are never tested.',
        }.get(name, f"Look at {recipe.evaluate.tasks.get(name)}.")
        reasons = book.reasons()
        rejected = f"\nRejected so far:\n{reasons}" if reasons else ""
        raise DataError(f"no row is left in the split {name}. {advice}{rejected}")
    if not written.splits["train"].trained_tokens:
        raise DataError("no token of any training row has loss; nothing can be learned from answers without tokens")


def _settings(recipe: Recipe, limit: int, tokenizer: Tokenizer, data_sha256: str) -> dict[str, Any]:
    """What decides the dataset besides the files and the tokenizer. Not the recipe's seed: nothing here is random."""
    settings: dict[str, Any] = {
        **recipe.prepare.model_dump(mode="json", exclude=None if recipe.prepare.test_from else {"test_from"}),
        "data_sha256": data_sha256,
        "max_tokens": limit,
        "system": recipe.system,
        "tasks": sorted(recipe.evaluate.tasks),
    }
    if recipe.objective.pairs:
        settings["rows"] = PAIRS
    if not isinstance(recipe.data, str):
        settings["sources"] = {
            name: {"columns": source.columns, "license": source.license}
            | ({"split": source.split} if source.split else {})
            for name, source in recipe.data.items()
        }
    for name, said in (("columns", recipe.columns), ("expect", recipe.expect)):
        if said is not None:
            settings[name] = said
    if needs_day(recipe.system):
        settings["system_format"] = system_format()
    if tokenizer.chat.uses_clock:  # rows without a date show the template the day they were prepared on
        settings["prepared_on"] = datetime.date.today().isoformat()
    return settings
