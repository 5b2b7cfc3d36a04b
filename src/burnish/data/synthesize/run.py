"""The whole of `burnish data synthesize` but for HTTP: material in, rows and a report in the recipe's folder out."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from burnish.core.artifacts import Manifest
from burnish.core.completion import NO_BUDGET, Complete
from burnish.core.errors import DataError
from burnish.core.recipe import Recipe
from burnish.core.recipe_augment import Model, Synthesize
from burnish.data.formats.columns import compile_mapping
from burnish.data.formats.read import read as read_row
from burnish.data.formats.refusal import RowRefused
from burnish.data.near.rows import conversation
from burnish.data.near.semantic import Embed
from burnish.data.personal import treatment
from burnish.data.private.cleaner import make_cleaner
from burnish.data.review.reviews import Reviews
from burnish.data.review.use import Used, write_used
from burnish.data.rows import iterate_messages
from burnish.data.sources.read import read
from burnish.data.synthesize.draft import Draft
from burnish.data.synthesize.jobs import Jobs
from burnish.data.synthesize.judge import Judge
from burnish.data.synthesize.make import Checked, Made, Maker, distinct, without_leaks
from burnish.data.synthesize.material import Piece, Seed, pieces_of, seeds_of
from burnish.data.synthesize.novelty import Limits, Novelty, Pair
from burnish.data.synthesize.pool import KEPT, Entry, read_pool, write_pool
from burnish.store.files import write_json
from burnish.text.system import render_system

LEAKAGE, REPORT = "leakage.json", "report.json"


@dataclass(slots=True)
class Material:
    """What rows are made from, and what they must not repeat. unfit: training rows that can be no seeds."""

    seeds: list[Seed]
    unfit: int
    pieces: list[Piece]
    tested: dict[str, list[Pair]]


@dataclass(frozen=True, slots=True)
class Models:
    """The functions that ask. embed: where the recipe compares by embeddings."""

    teacher: Complete
    judge: Complete
    embed: Embed | None = None


class Cleaning:
    """Takes personal data out of what leaves, whatever the recipe does with it in training, and counts what it took."""

    def __init__(self, recipe: Recipe) -> None:
        """Look for what the recipe looks for; every kind is replaced by its name."""
        said = recipe.prepare.personal_data.model_copy(update={"action": "placeholder", "kinds": {}})
        self._clean = make_cleaner(treatment(said))
        self.found: Counter[str] = Counter()

    def __call__(self, text: str) -> str:
        """Return the text without personal data."""
        done = self._clean(text)
        self.found.update(done.counts)
        return done.text


def material_of(recipe: Recipe, said: Synthesize, manifest: Manifest | None, root: Path) -> Material:
    """Return the material: seeds from the training split alone, so that nothing is made from what is tested."""
    seeds: list[Seed] = []
    unfit = 0
    tested: dict[str, list[Pair]] = {}
    if manifest is None:
        tested = {name: list(_pairs_of(recipe, path)) for name, path in recipe.evaluate.tasks.items()}
    else:
        seeds, unfit = seeds_of(iterate_messages(root / manifest.splits["train"].file.path), _system_of(recipe))
        for name, split in manifest.splits.items():
            if name != "train":
                tested[name] = [conversation(row.messages) for row in iterate_messages(root / split.file.path)]
    words = said.make.questions.words if said.make.questions is not None else 250
    pieces = list(pieces_of(said.documents, words)) if said.make.questions is not None else []
    return Material(seeds, unfit, pieces, tested)


def synthesize(
    recipe: Recipe,
    material: Material,
    models: Models,
    *,
    spent: Callable[[], dict[str, Any]],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Make the rows that a recipe asks for, and return the report. Everything lies in the folder `synthesize.into`.

    What was made when this raises (a Ctrl-C, an endpoint that is down) is written too, beside what was there before. spent: what
    was asked and paid so far, for the report.
    """
    said = recipe.synthesize
    assert said is not None, "the door has looked"
    folder = Path(said.into)
    jobs = Jobs(said, recipe.seed, material.seeds, material.pieces)
    clean = Cleaning(recipe)
    cosine = recipe.prepare.semantic_duplicate if models.embed is not None else None
    novelty = Novelty(
        material.seeds,
        material.tested,
        Limits(said.novelty, recipe.prepare.near_duplicate, cosine),
        embed=models.embed,
    )
    minimum = None if said.judge is None else said.judge.minimum
    judge = Judge(models.judge, clean, said.task, minimum, said.repairs)
    made = Made()
    finished = False
    folder.mkdir(parents=True, exist_ok=True)
    try:
        Maker(said, jobs, models.teacher, clean, judge, novelty, tell).make(made)
        finished = True
    finally:
        if not finished:
            _write(folder, said, made.rows, whole=False)
    proof = without_leaks(made, novelty)
    write_json(folder / LEAKAGE, proof)
    in_use = _write(folder, said, made.rows, whole=True)
    report = _report(said, made, material, in_use, clean.found, spent())
    report["leakage"] = {"clean": proof["clean"], "file": str(folder / LEAKAGE)}
    write_json(folder / REPORT, report)
    return report


def _report(
    said: Synthesize, made: Made, material: Material, in_use: Used, personal: Counter[str], spent: dict[str, Any]
) -> dict[str, Any]:
    kept = made.kept
    return {
        "folder": said.into,
        "rows": len(in_use.rows),
        "pairs": len(in_use.pairs),
        "waiting_for_review": in_use.waiting,
        "disputed": in_use.disputed,
        "teacher": teacher_name(said.teacher),
        "teacher_license": said.teacher.license,
        "kinds": {
            name: {
                "wanted": kind.wanted,
                "kept": kind.kept,
                "replies": kind.jobs,
                "ended": kind.ended or "not begun",
                "refused": dict(kind.refused.most_common()),
                "examples": kind.examples,
            }
            for name, kind in made.kinds.items()
        },
        "stopped": NO_BUDGET if made.out_of_budget else None,
        "seeds": len(material.seeds),
        "rows_that_are_no_seeds": material.unfit,
        "pieces_of_documents": len(material.pieces),
        "tested_rows": {name: len(pairs) for name, pairs in material.tested.items()},
        "personal_data_replaced_before_sending": dict(personal.most_common()),
        "distinct_2": distinct(kept),
        **spent,
    }


def teacher_name(model: Model) -> str:
    """Return the model and the host it was asked at."""
    return f"{model.model} at {urlsplit(model.endpoint).netloc}"


def _write(folder: Path, said: Synthesize, rows: Sequence[Checked], *, whole: bool) -> Used:
    """Write the pool and the rows that are used.

    Rows of an earlier run stay where somebody reviewed them, or where this run is not whole.
    """
    entries: dict[str, Entry] = {}
    for row in rows:
        entry = _entry(said, row)
        if entry.id not in entries or entry.verdict == KEPT:  # what is said again is refused, and stays as it was
            entries[entry.id] = entry
    reviewed = Reviews(folder).last()
    for entry in read_pool(folder):
        if entry.id not in entries and (not whole or entry.id in reviewed):
            entries[entry.id] = entry
    write_pool(folder, entries.values())
    return write_used(folder, list(entries.values()), said.review)


def _entry(said: Synthesize, row: Checked) -> Entry:
    draft = row.draft
    return Entry(
        draft.id,
        draft.kind,
        row.verdict,
        row.detail,
        draft.row(teacher_name(said.teacher), said.teacher.license),
        _shown(draft),
    )


def _shown(draft: Draft) -> dict[str, Any]:
    """Return what helps a reviewer: the row or the passage it was made from, and what the judge said."""
    shown: dict[str, Any] = dict(draft.notes)
    if draft.by is not None:
        shown["by"] = draft.by
    if draft.parent is not None:
        shown["made from"] = f"{draft.parent.request}\n\n{draft.parent.answer}"
    if draft.piece is not None:
        shown["passage"] = draft.piece.text
    return shown


def _system_of(recipe: Recipe) -> Callable[[str | None], str | None]:
    """Return the function from a row's date to the system prompt that the recipe gives it."""

    def system(date: str | None) -> str | None:
        if recipe.system is None:
            return None
        return render_system(recipe.system, datetime.date.min if date is None else datetime.date.fromisoformat(date))

    return system


def _pairs_of(recipe: Recipe, path: str) -> list[Pair]:
    """Return the requests and answers of a task that no dataset has been made with."""
    mapping = None if recipe.columns is None else compile_mapping(recipe.columns, source=f"the recipe of {recipe.name}")
    pairs: list[Pair] = []
    for raw in read(path):
        if raw.value is None:
            continue
        try:
            record = read_row(raw.value, mapping=mapping if mapping is not None and mapping.fits(raw.value) else None)
        except RowRefused:
            continue
        pairs.append(conversation(record.messages))
    if not pairs:
        raise DataError(f"{path} has no row with a request and an answer, so nothing can be compared with it")
    return pairs
