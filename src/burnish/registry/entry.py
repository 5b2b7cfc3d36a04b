"""What the registry records of one release: numbers, scores and lineage, as the flat text that MLflow keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from burnish.core.artifacts import EvalReport, Plan, Release


@dataclass(frozen=True, slots=True)
class Entry:
    """A release with the artifacts it was made from. `folder` holds the adapter's files."""

    release: Release
    report: EvalReport
    plan: Plan
    folder: Path


def parameters(entry: Entry) -> dict[str, str]:
    """Numbers of the plan by dotted key: what was asked for and derived, no measurements."""
    plan = entry.plan.model_dump(mode="json")
    flat = {
        f"{section}.{key}": _text(value)
        for section in ("method", "train", "parameters", "tokens")
        for key, value in plan[section].items()
    }
    return {"base": entry.release.base.name, **flat}


def metrics(entry: Entry) -> dict[str, float]:
    """Scores as `subject/task/metric`, each with the ends of its interval. Values that are no number are left out."""
    found: dict[str, float] = {}
    for score in entry.report.scores:
        name = f"{score.subject}/{score.task}/{score.metric}"
        found |= {name: score.value, f"{name}/low": score.low, f"{name}/high": score.high}
    return {name: value for name, value in found.items() if abs(value) < float("inf")}


def lineage(entry: Entry) -> dict[str, str]:
    """Ids that lead from a version back to its data: no paths, no hosts, nothing secret."""
    release = entry.release
    return {
        "burnish.release": release.id,
        "burnish.adapter": release.adapter,
        "burnish.report": release.report,
        "burnish.plan": release.plan,
        "burnish.manifest": release.manifest,
        "burnish.base": release.base.name,
        "burnish.base_digest": release.base.digest,
        "burnish.gate": "; ".join(f"{metric} >= {minimum:g}" for metric, minimum in release.gate.thresholds.items())
        or "none",
    }


def _text(value: Any) -> str:
    return ", ".join(map(str, cast("list[Any]", value))) if isinstance(value, list) else str(value)
