"""Ways out: a folder that `datasets` loads, and pointer files as DVC 3 writes them."""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

import hashlib
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from burnish.core.artifacts import Manifest
from burnish.core.errors import DataError
from burnish.data.shelf import cuts
from burnish.data.versions.shards import Version, held
from burnish.store.files import write_bytes

_SHARD = re.compile(r"[0-9a-f]{64}\.parquet")


def export_datasets(version: Version | Manifest, root: Path, folder: Path) -> dict[str, int]:
    """Write a folder that `datasets.load_dataset(folder)` reads, and return the rows of each split.

    Each split is a folder of Parquet files, named by their content and ending after the same rows as in every other export, so that
    two versions differ in few files. They have a column for each key of the rows' contents beside `id`, `source`, `file`, `line`.
    Keys whose values have no one type (a tool's JSON schema) become JSON text. Holds one split in memory.
    """
    splits: dict[str, list[dict[str, Any]]] = {}
    for row in held(version, root):
        place = {"id": row.row_id, "source": row.span.source, "file": row.span.file, "line": row.span.line}
        splits.setdefault(row.split, []).append({**json.loads(row.content), **place})
    types = _columns([row for rows in splits.values() for row in rows])
    files: list[dict[str, Any]] = []
    written: set[Path] = set()
    for name, rows in splits.items():
        ends = cuts(row["id"] for row in rows)
        paths: list[str] = []
        for start, end in pairwise(sorted({0, *ends, len(rows)})):
            columns = {key: _column([row.get(key) for row in rows[start:end]], kind) for key, kind in types.items()}
            buffer = io.BytesIO()
            pq.write_table(pa.table(columns), buffer, compression="zstd", version="2.6")
            content = buffer.getvalue()
            path = folder / "data" / name / f"{hashlib.sha256(content).hexdigest()}.parquet"
            if not path.exists() or path.stat().st_size != len(content):
                write_bytes(path, content)
            written.add(path)
            paths.append(path.relative_to(folder).as_posix())
        files.append({"split": name, "path": paths})
    for path in (folder / "data").glob("*/*.parquet"):  # of a version that was here before
        if path not in written and _SHARD.fullmatch(path.name):
            path.unlink()
    # The card's header names each split's file, so that no name is guessed from the file's.
    head = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]}, sort_keys=False)
    write_bytes(
        folder / "README.md", f"---\n{head}---\n\nDataset version {version.id}, exported by burnish.\n".encode()
    )
    return {name: len(rows) for name, rows in splits.items()}


def _columns(rows: list[dict[str, Any]]) -> dict[str, pa.DataType | None]:
    """Return each key's type over all splits, which must agree; None where values have no one type."""
    types: dict[str, pa.DataType | None] = {}
    for key in sorted({key for row in rows for key in row}):
        try:
            found = pa.array([row.get(key) for row in rows]).type
            types[key] = None if pa.types.is_null(found) or found in (pa.struct([]), pa.list_(pa.struct([]))) else found
        except (pa.ArrowException, OverflowError):
            types[key] = None
    return types


def _column(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    if kind is not None:
        return pa.array(values, kind)
    return pa.array([None if value is None else json.dumps(value, ensure_ascii=False) for value in values], pa.string())


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
