"""Stored artifacts, listed and one at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from burnish.core.artifacts import ARTIFACTS, Adapter, Artifact, EvalReport, Manifest, Plan, Probe, Release
from burnish.core.ids import short
from burnish.core.units import format_bytes
from burnish.store.home import Home
from burnish.terminal import line, table
from burnish.views.outcome import print_plan, print_report


def artifact_rows(home: Home) -> list[dict[str, str]]:
    """Return one row for each stored artifact: kind, id, name, what it says, when it was made; newest last."""
    rows: list[tuple[float, dict[str, str]]] = []
    for kind in ARTIFACTS.values():
        for artifact in home.all(kind):
            made = (home.root / "artifacts" / kind.kind / f"{artifact.id}.json").stat().st_mtime
            when = datetime.fromtimestamp(made, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
            rows.append((made, {"kind": kind.kind, "id": artifact.id, "says": _says(artifact), "made": when}))
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


def print_artifacts(rows: list[dict[str, str]]) -> None:
    """Print the list of artifacts."""
    table(
        "artifacts (newest last)",
        ("kind", "id", "made", "says"),
        [(r["kind"], short(r["id"]), r["made"], r["says"]) for r in rows],
    )


def print_artifact(artifact: Artifact, home: Home) -> None:
    """Print one artifact as a person reads it; `--json` gives all of it."""
    match artifact:
        case Plan():
            print_plan(artifact)
        case EvalReport():
            print_report(artifact)
        case _:
            value = artifact.model_dump(mode="json")
            table(
                f"{artifact.kind} {artifact.id}",
                ("what", "value"),
                [(key, _brief(item)) for key, item in value.items()],
            )
    line(f"parents: {', '.join(short(parent) for parent in artifact.parents) or 'none'}")
    line(f"file:    {home.root / 'artifacts' / artifact.kind / (artifact.id + '.json')}")


def _brief(value: Any) -> str:
    match value:
        case dict():
            items = cast("dict[str, Any]", value).items()
            return "\n".join(f"{key}: {_brief(item)}" for key, item in items) or "none"
        case list():
            items = cast("list[Any]", value)
            return f"{len(items)} items" if len(items) > 8 else ", ".join(map(_brief, items))
        case _:
            return str(value)


def _says(artifact: Artifact) -> str:
    match artifact:
        case Manifest():
            return f"{artifact.ledger.rows_kept} of {artifact.ledger.rows_in} rows kept"
        case Plan():
            return f"{artifact.name}: {artifact.train.steps} steps, peak {format_bytes(artifact.memory.peak_bytes)}"
        case Probe():
            took = artifact.measured
            return f"{took.steps} steps on {artifact.shape['machine']}: {took.tokens / took.seconds:.0f} tokens/s"
        case Adapter():
            rank = "" if artifact.model is not None else f" rank {artifact.method.rank}"
            return f"{artifact.name}: {artifact.method.kind}{rank} on {artifact.base.name}"
        case EvalReport():
            exact = [
                s for s in artifact.scores if s.subject == "tuned" and s.task == "test" and s.metric == "exact_match"
            ]
            return f"{artifact.name}: exact match {exact[0].value:.3f}" if exact else artifact.name
        case Release():
            return f"{artifact.alias} version {artifact.version}"
        case _:
            return ""
