"""Rows that a home was told to forget: by a hash of their words, which neither names nor shows anybody."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from burnish.core.errors import StoreError
from burnish.data.near.rows import conversation
from burnish.data.pair import pair_texts
from burnish.data.splits.leakage import exact_hash
from burnish.data.splits.positions import U64
from burnish.store.files import write_json

FILE = "forgotten.json"


def row_hash(messages: Iterable[Mapping[str, Any]], rejected: Iterable[Mapping[str, Any]] | None = None) -> int:
    """Return the hash of what is asked and answered in a conversation, or in both of a pair. System prompts do not count."""
    text, answer = conversation(list(messages)) if rejected is None else pair_texts(messages, rejected)
    return exact_hash(f"{text}\n{answer}")


def read_forgotten(root: Path) -> U64:
    """Return the hashes that the home at `root` forgets, sorted. Raises StoreError when the list is damaged."""
    path = root / FILE
    if not path.exists():
        return np.empty(0, np.uint64)
    try:
        found = [int(word, 16) for word in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"cannot read {path}, the list of rows to forget: {error}. Put it back from a copy."
        ) from error
    return np.unique(np.array(found, np.uint64))


def add_forgotten(root: Path, hashes: Iterable[int]) -> int:
    """Add rows to the list, and return how many are new. The file may be read by its owner alone."""
    known = set(read_forgotten(root).tolist())
    new = set(hashes) - known
    if new:
        write_json(root / FILE, {"rows": [f"{word:016x}" for word in sorted(known | new)]})
        (root / FILE).chmod(0o600)
    return len(new)
