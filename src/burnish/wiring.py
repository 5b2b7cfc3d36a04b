"""What a stage needs from another room, built here and passed as a function or as data. One function a verb.

Stage rooms are imported inside the functions: a command that needs no torch loads none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import __version__
from burnish.core.artifacts import Adapter, EvalReport, GateVerdict, Manifest, Plan, Release
from burnish.core.errors import DataError, UsageError
from burnish.core.events import Emit, Note
from burnish.core.ids import content_id, file_sha256
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes, format_count, format_seconds
from burnish.store.files import file_ref, write_bytes
from burnish.store.home import Home

if TYPE_CHECKING:
    from burnish.model.bases import BaseFiles
    from burnish.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Base:
    """A base model on disk: its files, and the tokenizer that belongs to it."""

    files: BaseFiles
    tokenizer: Tokenizer


def open_base(name: str, emit: Emit) -> Base:
    """Find the base model, fetching and checking it the first time."""
    from burnish.model.bases import resolve_base
    from burnish.text.tokenizer import load_tokenizer

    files = resolve_base(name, emit=emit)
    return Base(files, load_tokenizer(files.folder))


# ----------------------------------------------------------------------------------------------------------------- prepare


def prepare_inputs(recipe: Recipe, base: Base) -> dict[str, Any]:
    """Return everything that decides what `prepare` makes: bytes of the data, settings, tokenizer and template."""
    return {
        "data": _data_sha256(recipe.data),
        "tasks": {name: _data_sha256(path) for name, path in recipe.evaluate.tasks.items()},
        "settings": recipe.prepare.model_dump(mode="json"),
        "seed": recipe.seed,
        "fingerprint": base.tokenizer.fingerprint(recipe.system).model_dump(mode="json"),
        "context_length": base.tokenizer.context_length,
    }


def _data_sha256(path: str) -> str:
    try:
        return file_sha256(Path(path))
    except OSError as error:
        raise DataError(
            f"cannot read the data file {path}: {error.strerror or error}. It is looked for from the working folder {Path.cwd()}."
        ) from error


def prepare(recipe: Recipe, base: Base, home: Home, folder: Path, emit: Emit) -> Manifest:
    """Make the dataset."""
    from burnish.data.prepare import prepare as prepare_stage

    return prepare_stage(recipe, tokenizer=base.tokenizer, folder=folder, root=home.root, emit=emit)


# -------------------------------------------------------------------------------------------------------------------- plan


def plan_inputs(recipe: Recipe, base: Base, manifest: Manifest) -> dict[str, Any]:
    """Return everything that decides the plan: base, dataset, method, loop, and the machine it is for."""
    from burnish.plan.hardware import detect

    hardware = detect()
    return {
        "name": recipe.name,
        "base": base.files.ref.digest,
        "manifest": manifest.id,
        "method": recipe.method.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json"),
        "evaluate": recipe.evaluate.model_dump(mode="json"),
        "seed": recipe.seed,
        "machine": [hardware.device, hardware.cores, hardware.gpu_name],
    }
