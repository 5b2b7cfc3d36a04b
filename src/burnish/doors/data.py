"""`burnish data`: what datasets hold, how they differ, whom they know, and how they leave."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from burnish.core.artifacts import Adapter, EvalReport, Manifest, Plan, Release
from burnish.core.errors import UsageError, did_you_mean
from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.store.files import write_bytes
from burnish.store.home import Home
from burnish.text.counterfactual import Swap


def open_dataset(home: Home, reference: str) -> Manifest:
    """Return the dataset that `reference` names. Raises UsageError when there is none, or its files are gone."""
    manifest = home.find(reference, "manifest")
    assert isinstance(manifest, Manifest)
    if not home.is_whole(manifest):
        raise UsageError(
            f"the files of dataset {short(manifest.id)} are gone from {home.root}. Make it again: burnish prepare"
        )
    return manifest


def write_data_report(home: Home, manifest: Manifest, path: Path, recipe: Recipe | None = None) -> None:
    """Write the HTML page about a dataset. Samples show their loss mask where the recipe or a plan tells the base."""
    from burnish import wiring
    from burnish.core.events import discard
    from burnish.data.report import data_report

    if recipe is not None:
        named = [(recipe.base, recipe.name)]
    else:
        named = [(plan.base.name, plan.name) for plan in home.all(Plan) if plan.manifest == manifest.id]
    base = wiring.open_base(named[-1][0], discard, manifest.fingerprint.variables) if named else None
    same = base is not None and base.tokenizer.fingerprint(manifest.fingerprint.system) == manifest.fingerprint
    tokenizer = base.tokenizer if base is not None and same else None
    title = named[-1][1] if named else short(manifest.id)
    write_bytes(path, data_report(manifest, home.root, name=title, tokenizer=tokenizer).encode())


def personal_recall(home: Home, manifest: Manifest) -> list[dict[str, Any]]:
    """Return the recall of personal data by kind, as the dataset's certificate has it."""
    from burnish.data.report import certificate_of

    return certificate_of(manifest, home.root)


def findings(home: Home, manifest: Manifest) -> dict[str, Any]:
    """Return what filters and audit found, as the dataset's files have it; None of a dataset from before there were any."""
    from burnish.data.filters.page import audit_of, filters_of

    return {"filters": filters_of(manifest, home.root), "audit": audit_of(manifest, home.root)}


def write_swapped(home: Home, manifest: Manifest, split: str, what: Swap, path: Path) -> int:
    """Write the rows of a split about somebody else, as a file that `evaluate.tasks` takes, and return how many there are.

    Requests in other languages than English are left out. Raises UsageError for a split there is not, and when no request has
    anything to swap.
    """
    from burnish.data.filters.twins import english_of, swapped_messages
    from burnish.data.rows import iterate_messages

    _check_split(manifest, split)
    rows = list(iterate_messages(home.path(manifest.splits[split].file)))
    english = english_of([row.messages for row in rows])
    lines: list[str] = []
    for row in (row for row, stays in zip(rows, english, strict=True) if stays):
        other = swapped_messages(row.messages, what)
        if other is not None:
            of = {"messages": other, "tools": row.tools, "date": row.date}
            lines.append(json.dumps({key: value for key, value in of.items() if value is not None}, ensure_ascii=False))
    if not lines:
        others = english.count(False)
        told = (
            f" {others} of {len(rows)} requests are not in English, of which alone words are known." if others else ""
        )
        raise UsageError(
            f"no request of the split {split} holds a word that {what} would swap; nothing was written.{told}"
        )
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def compare_twins(home: Home, reference: str, what: Swap) -> dict[str, Any]:
    """Return how the subjects of an evaluation answered requests and the same about somebody else.

    Raises UsageError when the evaluation has no such pair, with what to do.
    """
    from burnish.evaluate.counterfactual import compare_swapped

    report = home.find(reference, "report")
    assert isinstance(report, EvalReport)
    lines = home.path(report.rows_file).read_text(encoding="utf-8").splitlines()
    found = compare_swapped(map(json.loads, lines), what)
    if not found["pairs"]:
        raise UsageError(
            f"no request of evaluation {short(report.id)} was graded with {what} swapped too. Write the swapped rows with "
            "`burnish data swap FILE`, name the file in evaluate.tasks of the recipe, and run it."
        )
    return {"report": report.id, **found}


def _check_split(manifest: Manifest, split: str) -> None:
    if split not in manifest.splits:
        known = ", ".join(manifest.splits)
        raise UsageError(f'no split is called "{split}". Known: {known}.{did_you_mean(split, manifest.splits)}')


def revealed(home: Home, text: str) -> str:
    """Return a text with the tokens of the home's vault replaced by their values. Raises UsageError when there is no vault."""
    from burnish import wiring
    from burnish.data.private.vault import Vault

    path = wiring.vault_path(home)
    if not path.exists():
        raise UsageError(f"{home.root} has no vault: no dataset was made in it with personal_data: vault.")
    return Vault(path, wiring.private_key(home)[0]).reveal(text)


def kept_rows(home: Home, manifest: Manifest, split: str, limit: int) -> list[dict[str, Any]]:
    """Return the first rows of a split. Raises UsageError for a split there is not."""
    from burnish.data.rows import iterate_messages

    _check_split(manifest, split)
    rows = iterate_messages(home.path(manifest.splits[split].file))
    return [row._asdict() for row in islice(rows, limit)]


def rejected_rows(home: Home, manifest: Manifest, reason: str, limit: int) -> list[dict[str, Any]]:
    """Return the first rejected rows of a reason, or of any. Raises DataError that names the reasons there are."""
    from burnish.data.versions.diff import rejected_rows as rejected

    return list(islice(rejected(manifest, home.root, None if reason == "any" else reason), limit))


def find_row(home: Home, manifest: Manifest, identifier: str) -> dict[str, Any]:
    """Return a row with its lineage: file and span, dataset, the adapters trained on it, their releases.

    Raises UsageError when no row's id begins so.
    """
    from burnish.data.rows import iterate_messages

    for split, about in manifest.splits.items():
        for row in iterate_messages(home.path(about.file)):
            if row.row_id.startswith(identifier):
                adapters = [a for a in home.all(Adapter) if a.manifest == manifest.id and split == "train"]
                named = {adapter.id: adapter.name for adapter in adapters}
                releases = [r for r in home.all(Release) if r.adapter in named]
                return {
                    "row": row._asdict(),
                    "split": split,
                    "dataset": manifest.id,
                    "sources": [
                        source.path for source in manifest.sources if PurePosixPath(source.path).name == row.source
                    ],
                    "adapters": named,
                    "releases": {release.id: f"{release.alias} version {release.version}" for release in releases},
                }
    raise UsageError(f'no row of dataset {short(manifest.id)} has an id that begins with "{identifier}".')


def compare(home: Home, a: Manifest, b: Manifest) -> dict[str, Any]:
    """Return what turns dataset `a` into dataset `b`."""
    from burnish.data.versions.diff import diff

    found = diff(a, b, home.root)
    return {**found.as_json(), "reasons": found.reasons()}


def forget(home: Home, subject: str, kind: Literal["text", "document", "row"], *, apply: bool) -> dict[str, Any]:
    """Return what holds rows of a subject; with `apply` leave these rows out of all that is prepared in this home."""
    from burnish.data.rows import iterate_messages
    from burnish.data.versions.forget import forget as search
    from burnish.data.versions.forgotten import add_forgotten, row_hash

    found = search(
        home,
        text=subject if kind == "text" else None,
        document=subject if kind == "document" else None,
        row=subject if kind == "row" else None,
    )
    leave = set(found.leave_out)
    added = 0
    if apply and leave:
        manifests = [m for m in home.all(Manifest) if m.id in found.versions]
        rows = (
            row for m in manifests for split in m.splits.values() for row in iterate_messages(home.path(split.file))
        )
        added = add_forgotten(home.root, {row_hash(row.messages, row.rejected) for row in rows if row.row_id in leave})
    named = {adapter.id: adapter.name for adapter in home.all(Adapter)}
    return {
        **found.as_json(),
        "adapter_names": {adapter: named[adapter] for adapter in found.adapters},
        "applied": apply,
        "newly_left_out": added,
    }


def prune(home: Home) -> dict[str, int]:
    """Remove the shared files that no dataset of the home names any more, and return how many and of how many bytes.

    A dataset whose own folder was deleted names none. Files of the last hour stay: a dataset may be in the making.
    """
    from burnish.data.shelf import unnamed

    whole = [manifest for manifest in home.all(Manifest) if home.is_whole(manifest)]
    shards = [shard for m in whole for split in m.splits.values() for shard in split.shards or ()]
    gone = unnamed(home.root, {file.sha256 for shard in shards for file in (shard.file, shard.token_file)})
    size = sum(path.stat().st_size for path in gone)
    for path in gone:
        path.unlink()
    return {"files": len(gone), "bytes": size}


def export(home: Home, manifest: Manifest, folder: Path, to: Literal["datasets", "jsonl", "dvc"]) -> list[str]:
    """Write a dataset for other tools, and return the paths: as Parquet, as JSON Lines, or as Parquet with DVC's pointer.

    A folder that holds an earlier export becomes the newer one; files that both have stay as they are. Raises UsageError when
    the folder holds anything else.
    """
    from burnish.data.versions.export import dvc_pointer, export_datasets, export_lines

    earlier = (folder / "manifest.json").is_file() and (folder / "data").is_dir()
    if folder.exists() and not earlier and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and is no earlier export; name a new folder")
    (export_lines if to == "jsonl" else export_datasets)(manifest, home.root, folder)
    write_bytes(folder / "manifest.json", (json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n").encode())
    return [str(folder), str(dvc_pointer(folder))] if to == "dvc" else [str(folder)]
