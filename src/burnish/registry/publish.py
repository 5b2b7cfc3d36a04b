"""From a proven adapter to a release, and from the releases back to an emptied registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from burnish.core.artifacts import Adapter, EvalReport, Manifest, Plan, Release
from burnish.core.errors import GateError, StoreError
from burnish.core.ids import short
from burnish.registry import mlflow_store
from burnish.registry.entry import Entry
from burnish.registry.gate import decide

CHAMPION = "champion"
"""The alias of the version that answers when a model is called by its name alone."""


def publish(
    *,
    recipe_name: str,
    adapter: Adapter,
    report: EvalReport,
    plan: Plan,
    manifest: Manifest,
    thresholds: Mapping[str, float],
    folder: Path,
    tracking_uri: str,
    now: datetime,
    alias: str = CHAMPION,
) -> Release:
    """Register an adapter as a version that may be served, and point `alias` at it.

    folder: where the adapter's files lie. now: when the release is made (outside its id). The same artifacts and
    thresholds give the same release id and the same version, however often they are published.

    Raises GateError with what fell short, and records nothing then; StoreError when the artifacts do not belong
    together or the registry cannot be used.
    """
    _check_lineage(adapter, report, plan, manifest)
    verdict = decide(report, thresholds)
    if not verdict.passed:
        raise GateError(f"{recipe_name} is not released. " + " ".join(verdict.reasons))
    release = Release(
        parents=(adapter.id, report.id),
        name=recipe_name,
        alias=alias,
        adapter=adapter.id,
        report=report.id,
        plan=plan.id,
        manifest=manifest.id,
        base=adapter.base,
        gate=verdict,
        created_at=now.isoformat(timespec="seconds"),
    )
    version = mlflow_store.register(Entry(release, report, plan, folder), tracking_uri)
    return release.model_copy(update={"version": version})


def promote(
    release: Release, alias: str, *, newest: Release, entry: Entry, tracking_uri: str, now: datetime
) -> Release:
    """Point an alias at what a release holds, as a version of its own: nothing that was recorded changes.

    newest: the newest release of that name; it is a parent, so that a way back and forth is never one and the same release.
    entry: the release with its artifacts. Raises StoreError when the registry cannot be used.
    """
    moved = release.model_copy(update={
        "parents": (release.adapter, release.report, newest.id), "alias": alias, "version": 0,
        "created_at": now.isoformat(timespec="seconds"),
    })  # fmt: skip
    version = mlflow_store.register(replace(entry, release=moved), tracking_uri)
    return moved.model_copy(update={"version": version})


def rebuild(entries: Iterable[Entry], tracking_uri: str) -> int:
    """Bring a registry to what the artifacts say, with their version numbers, and return how many of them it then has.

    Works on an empty database, and adds only what is missing to one that is not. An alias ends at its highest version.
    """
    ordered = sorted(entries, key=lambda entry: (entry.release.name, entry.release.version))
    for entry in ordered:
        if entry.release.version < 1:
            raise StoreError(
                f"release {short(entry.release.id)} of {entry.release.name} was never registered: it has no version."
            )
        mlflow_store.register(entry, tracking_uri, version=entry.release.version)
    return len(ordered)


def _check_lineage(adapter: Adapter, report: EvalReport, plan: Plan, manifest: Manifest) -> None:
    """Refuse a report of another adapter, or an adapter of another plan or dataset."""
    for what, found, expected in (
        ("the report is about adapter", report.adapter, adapter.id),
        ("the report was made on manifest", report.manifest, manifest.id),
        ("the adapter was trained by plan", adapter.plan, plan.id),
        ("the adapter was trained on manifest", adapter.manifest, manifest.id),
    ):
        if found != expected:
            raise StoreError(
                f"{what} {short(found)}, not {short(expected)}: these artifacts do not belong together. "
                "Run the recipe again."
            )
