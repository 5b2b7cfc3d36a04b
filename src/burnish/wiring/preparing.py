"""What the dataset stage needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish.core.artifacts import Manifest
from burnish.core.events import Emit
from burnish.core.recipe import Recipe
from burnish.store.home import Home
from burnish.wiring.base import Base


def prepare_inputs(recipe: Recipe, base: Base, home: Home) -> dict[str, Any]:
    """Return everything that decides what `prepare` makes: bytes of the data, settings, tokenizer and template."""
    from burnish.data.versions.forgotten import read_forgotten

    forgotten = read_forgotten(home.root)
    return {
        **({"forgotten": [f"{word:016x}" for word in forgotten.tolist()]} if len(forgotten) else {}),
        "data": data_sha256(recipe.data),
        "tasks": {name: data_sha256(path) for name, path in recipe.evaluate.tasks.items()},
        "settings": recipe.prepare.model_dump(mode="json"),
        **{name: said for name, said in (("columns", recipe.columns), ("expect", recipe.expect)) if said is not None},
        "fingerprint": base.tokenizer.fingerprint(recipe.system).model_dump(mode="json"),
        "context_length": base.tokenizer.context_length,
    }


def data_sha256(source: str) -> str:
    """Return what identifies the raw data: the bytes of its files."""
    from burnish.data.sources.fingerprint import fingerprint

    return fingerprint(source)


def prepare(recipe: Recipe, base: Base, home: Home, folder: Path, emit: Emit) -> Manifest:
    """Make the dataset."""
    from burnish.data.prepare import prepare as prepare_stage
    from burnish.data.versions.forgotten import read_forgotten

    return prepare_stage(
        recipe,
        tokenizer=base.tokenizer,
        folder=folder,
        root=home.root,
        emit=emit,
        forgotten=read_forgotten(home.root),
    )
