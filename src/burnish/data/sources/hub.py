"""`datasets:NAME` from the Hub, streamed, and `datasets:FOLDER` as `save_to_disk` writes it, which needs no library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from burnish.core.errors import DataError
from burnish.data.record import Origin, RawRow
from burnish.data.sources.columnar import read_arrow
from burnish.data.sources.folders import local_items
from burnish.data.sources.item import Item
from burnish.data.sources.kinds import need
from burnish.data.sources.plain import table_row
from burnish.data.sources.refusal import UNREADABLE, Refused
from burnish.data.sources.spec import DATASETS, SourceSpec


def read_datasets(spec: SourceSpec) -> Iterator[RawRow]:
    """Yield the rows of a saved folder, or of a name on the Hub. Raises DataError when there is neither."""
    name = spec.location.removeprefix(DATASETS).strip()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _saved(folder, spec)
    if name.startswith((".", "/", "~")):
        raise DataError(f"{folder} does not exist (looked in {Path.cwd()})")
    return _named(name, spec)


def _saved(folder: Path, spec: SourceSpec) -> Iterator[RawRow]:
    files = [path for part in _parts(folder, spec.split) for path in _arrow_files(part)]
    return _arrow_rows(files, spec)


def _parts(folder: Path, split: str | None) -> list[Path]:
    if not (folder / "dataset_dict.json").is_file():
        return [folder]
    splits: list[str] = _facts(folder / "dataset_dict.json").get("splits", [])
    if split is not None and split not in splits:
        raise DataError(f"{folder} has no split {split!r}; it has {', '.join(splits)}")
    return [folder / name for name in splits if split in (None, name)]


def _arrow_files(folder: Path) -> list[Path]:
    state = folder / "state.json"
    if not state.is_file():
        raise DataError(
            f"{folder} is no folder that `datasets` saved (it has no state.json); leave out `datasets:` for a folder of files"
        )
    return [folder / Path(str(entry["filename"])).name for entry in _facts(state).get("_data_files", [])]


def _facts(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _arrow_rows(files: list[Path], spec: SourceSpec) -> Iterator[RawRow]:
    for path in files:
        number = 0
        try:
            for _, item in local_items(str(path)):
                if isinstance(item, Item):
                    with item.open() as stream:
                        for row in read_arrow(stream, spec, str(path)):
                            number = row.origin.line
                            yield row
        except Refused as refusal:
            yield RawRow(Origin(spec.shown, str(path), number + 1), None, "", refusal.reason, refusal.detail)


def _named(name: str, spec: SourceSpec) -> Iterator[RawRow]:
    datasets: Any = need("datasets", "datasets", f"reading {spec.shown}", "hub")
    split = spec.split or "train"
    try:
        rows = datasets.load_dataset(name, spec.config, split=split, streaming=True)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise DataError(
            f"cannot read {spec.shown}, split {split!r}: {first}. Without a network, save it elsewhere with save_to_disk "
            "and name the folder: datasets:FOLDER"
        ) from None
    return _stream(rows, spec, f"{name}/{split}")


def _stream(rows: Any, spec: SourceSpec, table: str) -> Iterator[RawRow]:
    number = 0
    stream: Iterator[Mapping[str, Any]] = iter(rows)
    while True:
        try:
            cells = next(stream, None)
        except (OSError, ValueError, RuntimeError, LookupError) as error:
            words = (str(error).splitlines() or [""])[0][:300]
            yield RawRow(Origin(spec.shown, table, number + 1), None, "", UNREADABLE, words)
            return
        if cells is None:
            return
        number += 1
        wanted = {key: cells[key] for key in spec.columns if key in cells} if spec.columns else cells
        yield table_row(Origin(spec.shown, table, number), wanted)
