"""What a source holds, as one hash: by it a prepared dataset is found again."""

from __future__ import annotations

import hashlib
import json

from burnish.core.ids import content_id, file_sha256
from burnish.core.recipe import Recipe
from burnish.data.sources.read import read, stored_files


def data_fingerprint(recipe: Recipe) -> str:
    """Return what identifies the raw data of a recipe: of one source its fingerprint, of several all of them by name."""
    if isinstance(recipe.data, str):
        return fingerprint(recipe.data)
    return content_id({name: fingerprint(source.path) for name, source in recipe.data.items()})


def fingerprint(spec: str) -> str:
    """Return the SHA-256 of a source's content: of a file its bytes, of several files their hashes in order of name.

    A database, a URL or a `datasets` name has no bytes here: its rows are read and hashed. Raises DataError as `read` does.
    """
    files = stored_files(spec)
    if len(files) == 1:
        return file_sha256(files[0])
    if files:
        return content_id([file_sha256(path) for path in files])
    seen = hashlib.sha256()
    for row in read(spec):
        line = json.dumps([row.reason, row.value], sort_keys=True, ensure_ascii=True, default=str)
        seen.update(line.encode() + b"\n")
    return seen.hexdigest()
