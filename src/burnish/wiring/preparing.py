"""What the dataset stage needs."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.core.artifacts import Manifest
from burnish.core.events import Emit, Progress
from burnish.core.recipe import Recipe
from burnish.store.home import Home
from burnish.wiring.base import Base
from burnish.wiring.own_rows import check_made

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def prepare_inputs(recipe: Recipe, base: Base, home: Home) -> dict[str, Any]:
    """Return everything that decides what `prepare` makes: bytes of the data, settings, tokenizer and template."""
    from burnish.data.versions.forgotten import read_forgotten

    check_made(recipe)
    forgotten = read_forgotten(home.root)
    return {
        **({"forgotten": [f"{word:016x}" for word in forgotten.tolist()]} if len(forgotten) else {}),
        **({"key": private_key(home)[1]} if recipe.prepare.personal_data.needs_key else {}),
        **({"embedder": _embedder_name()} if _needs_embedder(recipe) else {}),
        **({"rows": "preference pairs"} if recipe.objective.pairs else {}),
        **_data_inputs(recipe),
        "tasks": {name: data_sha256(path) for name, path in recipe.evaluate.tasks.items()},
        "settings": recipe.prepare.model_dump(mode="json"),
        **{name: said for name, said in (("columns", recipe.columns), ("expect", recipe.expect)) if said is not None},
        "fingerprint": base.tokenizer.fingerprint(recipe.system).model_dump(mode="json"),
        "context_length": base.tokenizer.context_length,
    }


def _data_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return what the raw data is. Ratios do not count: they say what is drawn in training, from the same dataset."""
    if isinstance(recipe.data, str):
        return {"data": data_sha256(recipe.data)}
    return {
        "data": [
            [name, data_sha256(source.path), source.columns, source.license]
            for name, source in recipe.sources().items()
        ]
    }


def data_sha256(source: str) -> str:
    """Return what identifies the raw data of one source: the bytes of its files."""
    from burnish.data.sources.fingerprint import fingerprint

    return fingerprint(source)


def prepare(recipe: Recipe, base: Base, home: Home, folder: Path, emit: Emit) -> Manifest:
    """Make the dataset. Raises DataError first of all for synthetic rows that are not made yet."""
    from burnish.data.prepare import prepare as prepare_stage
    from burnish.data.versions.forgotten import read_forgotten

    check_made(recipe)
    return prepare_stage(
        recipe,
        tokenizer=base.tokenizer,
        folder=folder,
        root=home.root,
        emit=emit,
        forgotten=read_forgotten(home.root),
        key=private_key(home)[0] if recipe.prepare.personal_data.needs_key else None,
        vault=vault_path(home),
        embed=_embedder(emit) if _needs_embedder(recipe) else None,
    )


def _needs_embedder(recipe: Recipe) -> bool:
    return recipe.prepare.semantic_duplicate is not None or recipe.prepare.filters.needs_embeddings


def _embedder_name() -> str:
    from burnish.model.embed import MODEL

    return MODEL


def sentence_embedder_for(recipe: Recipe, emit: Emit) -> Callable[[Sequence[str]], NDArray[np.float32]] | None:
    """Return the sentence embedder where the recipe compares rows by embeddings; else None."""
    return None if recipe.prepare.semantic_duplicate is None else _embedder(emit)


def _embedder(emit: Emit) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Return the sentence embedder, on the GPU where there is one. Raises ResourceError that says how to install it."""
    import torch

    from burnish.model.embed import sentence_embedder

    embed = sentence_embedder(device="cuda" if torch.cuda.is_available() else "cpu")
    done = 0

    def told(texts: Sequence[str]) -> NDArray[np.float32]:
        nonlocal done
        found = embed(texts)
        done += len(texts)
        emit(Progress("prepare", "embedding texts", done, done, "texts"))
        return found

    return told


def vault_path(home: Home) -> Path:
    """Where a home keeps the values that the action `vault` took out of texts, encrypted."""
    return home.root / "private" / "vault.jsonl"


def private_key(home: Home) -> tuple[bytes, str]:
    """Return the key that personal data is hashed, replaced or locked away with, and what it is known by.

    It comes from BURNISH_VAULT_KEY, else from a file of the home that only its owner may read, made when there is none.
    Raises DataError when it is no key or others may read the file.
    """
    from burnish.data.private.vault import KEY_VARIABLE, new_key, read_key

    path = home.root / "private" / "key"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if os.environ.get(KEY_VARIABLE):
        key = read_key()
    else:
        with contextlib.suppress(FileExistsError):
            new_key(path)
        key = read_key(path)
    return key, hashlib.sha256(b"burnish key " + key).hexdigest()[:16]
