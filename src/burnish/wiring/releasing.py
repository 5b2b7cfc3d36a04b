"""What the gate, the registry and the report need."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.artifacts import Adapter, EvalReport, GateVerdict, Manifest, Plan, Release
from burnish.core.events import Emit, Note
from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.store.files import write_bytes
from burnish.store.home import Home

if TYPE_CHECKING:
    from burnish.plan.compare import Compared
    from burnish.registry.entry import Entry


def decide(report: EvalReport, thresholds: Mapping[str, float]) -> GateVerdict:
    """Compare the report with the recipe's gate."""
    from burnish.registry.gate import decide as decide_gate

    return decide_gate(report, thresholds)


def tracking_uri(home: Home) -> str:
    """Return where the registry is: $BURNISH_REGISTRY, or a SQLite file in the home."""
    return os.environ.get("BURNISH_REGISTRY") or sqlite_uri_of(home)


def registry_file(home: Home) -> Path:
    """Return the SQLite file that is the registry by default."""
    return home.root / "registry" / "mlflow.db"


def sqlite_uri_of(home: Home) -> str:
    """Return the tracking URI of the home's own registry."""
    from burnish.registry.mlflow_store import sqlite_uri

    return sqlite_uri(registry_file(home))


def _entry(release: Release, home: Home) -> Entry:
    from burnish.registry.entry import Entry

    adapter = home.load(Adapter, release.adapter)
    folder = home.path(adapter.weights_file).parent
    return Entry(release, home.load(EvalReport, release.report), home.load(Plan, release.plan), folder)


def mend_registry(home: Home, emit: Emit) -> None:
    """Make the home's own registry again from its artifacts, if it was lost."""
    if registry_file(home).exists() or (uri := tracking_uri(home)) != sqlite_uri_of(home):
        return
    entries = [_entry(item, home) for item in home.all(Release)]
    if entries:
        from burnish.registry.publish import rebuild

        count = rebuild(entries, uri)
        emit(Note("release", f"the registry was gone; registered again from the artifacts: {count}"))


def release(
    recipe: Recipe, adapter: Adapter, report: EvalReport, plan: Plan, manifest: Manifest, gate: GateVerdict, home: Home,
    alias: str,
) -> Release:  # fmt: skip
    """Register the adapter as a version that may be served under an alias."""
    from burnish.registry.publish import publish

    return publish(
        recipe_name=recipe.name,
        adapter=adapter,
        report=report,
        plan=plan,
        manifest=manifest,
        thresholds=gate.thresholds,
        folder=home.path(adapter.weights_file).parent,
        tracking_uri=tracking_uri(home),
        now=datetime.now(UTC),
        alias=alias,
    )


def promote(release: Release, alias: str, newest: Release, home: Home) -> Release:
    """Point an alias at a release: the registry hears of it, and the home keeps it."""
    from burnish.registry.publish import promote as move

    moved = move(
        release,
        alias,
        newest=newest,
        entry=_entry(release, home),
        tracking_uri=tracking_uri(home),
        now=datetime.now(UTC),
    )
    home.save(moved)
    return moved


def write_report(
    recipe: Recipe, manifest: Manifest, plan: Plan, adapter: Adapter, report: EvalReport, gate: GateVerdict,
    released: Release | None, home: Home, seconds: Mapping[str, float] | None,
) -> Path:  # fmt: skip
    """Write the HTML report, and beside it the model card of a release. Returns the report's path."""
    from burnish.evaluate.report import render_report
    from burnish.model.bases import BUNDLED
    from burnish.registry.card import model_card
    from burnish.train.events import EventFile

    folder = home.root / "reports" / f"{recipe.name}-{short(report.id)}"
    events = None if adapter.events_file is None else home.path(adapter.events_file)
    steps = EventFile(events).steps() if events is not None and events.exists() else ()
    page = render_report(
        manifest=manifest, plan=plan, adapter=adapter, report=report, gate=gate, release=released, recipe=recipe,
        steps=steps, seconds=seconds,
    )  # fmt: skip
    write_bytes(folder / "report.html", page.encode())
    if released is not None:
        licence = BUNDLED[plan.base.name].licence if plan.base.name in BUNDLED else None
        card = model_card(
            release=released, adapter=adapter, report=report, plan=plan, manifest=manifest, base_licence=licence
        )
        write_bytes(folder / "card.md", card.encode())
    return folder / "report.html"


def predicted_and_measured(plan: Plan, adapter: Adapter | None, report: EvalReport | None) -> Sequence[Compared]:
    """Return what the plan predicted beside what was measured."""
    from burnish.plan.compare import compare, measurements

    return compare(plan if adapter is None else adapter.plan_then(plan), measurements(plan, adapter, report))
