"""Ways out: a folder that `datasets` loads, and pointer files as DVC 3 writes them."""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from burnish.core.artifacts import Manifest
from burnish.core.errors import DataError
from burnish.data.versions.shards import Version, held
from burnish.store.files import write_bytes


def export_datasets(version: Version | Manifest, root: Path, folder: Path) -> dict[str, int]:
    """Write a folder that `datasets.load_dataset(folder)` reads, and return the rows of each split.

    One Parquet file a split, with a column for each key of the rows' contents beside `id`, `source`, `file` and `line`. Keys
    whose values have no one type (a tool's JSON schema) become JSON text. Holds one split in memory.
    """
    splits: dict[str, list[dict[str, Any]]] = {}
    for row in held(version, root):
        place = {"id": row.row_id, "source": row.span.source, "file": row.span.file, "line": row.span.line}
        splits.setdefault(row.split, []).append({**json.loads(row.content), **place})
    types = _columns([row for rows in splits.values() for row in rows])
    files: list[dict[str, str]] = []
    for name, rows in splits.items():
        columns = {key: _column([row.get(key) for row in rows], kind) for key, kind in types.items()}
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer, compression="zstd", version="2.6")
        write_bytes(folder / "data" / f"{name}.parquet", buffer.getvalue())
        files.append({"split": name, "path": f"data/{name}.parquet"})
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
