"""Ways out: a folder of Parquet that `datasets` loads, JSON Lines, and pointer files as DVC 3 writes them."""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from burnish.core.artifacts import Manifest
from burnish.core.errors import DataError
from burnish.data.pair import content_line
from burnish.data.rows import stored_rows
from burnish.data.shelf import indexed
from burnish.data.tables import ROWS
from burnish.store.files import unwritable, write_bytes

_OURS = re.compile(r"[0-9a-f]{64}\.parquet")
_CALL = pa.struct(
    [
        ("id", pa.string()),
        ("type", pa.string()),
        ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])),
    ]
)
_TURN = {"tool_calls": pa.list_(_CALL), "tool_call_id": pa.string(), "name": pa.string()}
"""What a message may hold besides role and content; a column has those that any row of the dataset has."""
_SIDES = ("messages", "prompt", "chosen", "rejected")
_ABOUT = ("tools", "date", "group", "created_at", "license", "difficulty", "synthetic", "teacher", "format")
"""Columns of a row as they are stored: where it may come from (licence), who wrote it (synthetic, teacher), when."""
_SPAN = (("source_name", "source"), ("source", "file"), ("line", "line"), ("start", "start"), ("end", "end"))
"""Where a row came from: the stored column, and what it is called outside."""


def export_datasets(manifest: Manifest, root: Path, folder: Path) -> dict[str, int]:
    """Write a folder that `datasets.load_dataset(folder)` reads, and return the rows of each split.

    Each split is a folder of Parquet files, named by their content and ending after the same rows as those of the dataset, so
    that two versions differ in few files. A row has `id`, its conversation as `messages` or its pair as `prompt`, `chosen` and
    `rejected`, its tools as JSON text, what is known of it (`license`, `synthetic`, `teacher` and more), and where it came
    from: `source`, `file`, `line`, `start`, `end`. Holds one file of rows in memory.
    """
    kinds = _kinds(manifest, root)
    splits: dict[str, list[Path]] = {}
    for name, split in manifest.splits.items():
        splits[name] = []
        for shelved in indexed(root / split.file.path):
            content = _parquet([_row(row) for row in stored_rows(shelved)], kinds)
            path = folder / "data" / name / f"{hashlib.sha256(content).hexdigest()}.parquet"
            if not path.exists() or path.stat().st_size != len(content):
                write_bytes(path, content)
            splits[name].append(path)
    _finish(manifest, folder, splits)
    return {name: split.rows for name, split in manifest.splits.items()}


def export_lines(manifest: Manifest, root: Path, folder: Path) -> dict[str, int]:
    """Write a file of JSON Lines for each split, `data/NAME.jsonl`, and return the rows of each split.

    A line holds what a row of `export_datasets` has a value for, as `prepare` reads it. Holds one row in memory.
    """
    splits: dict[str, list[Path]] = {}
    for name, split in manifest.splits.items():
        path = folder / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{path.name}.writing")
        try:
            with half.open("w", encoding="utf-8", newline="\n") as file:
                for row in stored_rows(root / split.file.path):
                    said = {key: value for key, value in _row(row).items() if value is not None}
                    file.write(json.dumps(said, ensure_ascii=False) + "\n")
            half.replace(path)
        except OSError as error:
            raise unwritable(path, error) from error
        splits[name] = [path]
    _finish(manifest, folder, splits)
    return {name: split.rows for name, split in manifest.splits.items()}


def _finish(manifest: Manifest, folder: Path, splits: Mapping[str, Sequence[Path]]) -> None:
    """Remove the files of an export that was here before, and write the card, whose header names each split's files."""
    written = {path for paths in splits.values() for path in paths}
    for path in [*(folder / "data").glob("*/*.parquet"), *(folder / "data").glob("*.jsonl")]:
        if path not in written and (path.suffix == ".jsonl" or _OURS.fullmatch(path.name)):
            path.unlink()
    files = [
        {"split": name, "path": [path.relative_to(folder).as_posix() for path in paths]}
        for name, paths in splits.items()
    ]
    head = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]}, sort_keys=False)
    write_bytes(
        folder / "README.md", f"---\n{head}---\n\nDataset version {manifest.id}, exported by burnish.\n".encode()
    )


def _row(row: dict[str, Any]) -> dict[str, Any]:
    about = {name: row[name] for name in _ABOUT}
    return {
        "id": row["id"],
        **json.loads(content_line(row["messages"])),
        **about,
        **{out: row[own] for own, out in _SPAN},
    }


def _kinds(manifest: Manifest, root: Path) -> dict[str, pa.DataType]:
    """Return the columns of all splits, which must agree, with their types."""
    sides: set[str] = set()
    keys: set[str] = set()
    for turns, side in _sides(manifest, root):
        sides.add(side)
        keys.update(key for turn in turns for key in turn)
    turn = pa.struct(
        [("role", pa.string()), ("content", pa.string()), *((k, t) for k, t in _TURN.items() if k in keys)]
    )
    stored = {name: ROWS.field(name).type for name in ROWS.names}
    return {
        "id": pa.string(),
        **{side: pa.list_(turn) for side in _SIDES if side in sides},
        **{name: stored[name] for name in _ABOUT},
        **{out: stored[own] for own, out in _SPAN},
    }


def _sides(manifest: Manifest, root: Path) -> Iterator[tuple[Sequence[dict[str, Any]], str]]:
    for split in manifest.splits.values():
        for row in stored_rows(root / split.file.path):
            content = json.loads(content_line(row["messages"]))
            yield from ((turns, side) for side, turns in content.items())


def _parquet(rows: Sequence[dict[str, Any]], kinds: dict[str, pa.DataType]) -> bytes:
    table = pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", version="2.6")
    return buffer.getvalue()


def dvc_pointer(path: Path) -> Path:
    """Write PATH.dvc beside a file or folder, as `dvc add PATH` of DVC 3 would, and return it.

    The data itself goes to DVC's cache or remote by `dvc commit --force PATH.dvc`, then `dvc push`.
    Raises DataError when there is nothing to point to.
    """
    out: dict[str, Any]
    if path.is_dir():
        listing = [
            {"md5": _md5(file), "relpath": file.relative_to(path).as_posix()}
            for file in path.rglob("*")
            if file.is_file()
        ]
        listing.sort(key=lambda entry: entry["relpath"])
        if not listing:
            raise DataError(f"{path} is empty; there is nothing for DVC to point to")
        digest = hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
        size = sum((path / entry["relpath"]).stat().st_size for entry in listing)
        out = {"md5": f"{digest}.dir", "size": size, "nfiles": len(listing)}
    elif path.is_file():
        out = {"md5": _md5(path), "size": path.stat().st_size}
    else:
        raise DataError(f"{path} is missing; there is nothing for DVC to point to")
    pointer = path.with_name(f"{path.name}.dvc")
    value = {"outs": [{**out, "hash": "md5", "path": path.name}]}
    write_bytes(pointer, yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode())
    return pointer


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        # DVC's address of the file, no protection against anybody.
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
