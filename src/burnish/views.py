"""Artifacts and outcomes as terminal tables. Pure reading: nothing is computed here that an artifact does not hold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from burnish.core.artifacts import ARTIFACTS, Adapter, Artifact, EvalReport, Manifest, Plan, Release, Score
from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes, format_count, format_seconds
from burnish.pipeline import Outcome
from burnish.store.home import Home
from burnish.terminal import line, table


def print_plan(plan: Plan) -> None:
    """Print every number of a plan with its because."""
    from burnish.plan.table import component_rows, plan_rows

    title = f"plan {short(plan.id)} for {plan.name} on {plan.base.name}"
    table(title, ("what", "value", "because"), [*plan_rows(plan), *component_rows(plan)])


def print_outcome(outcome: Outcome, recipe: Recipe, home: Home) -> None:
    """Print what a run made: the ledger, before and after, the verdict, the report and how to talk to the result."""
    if outcome.manifest is not None:
        ledger = outcome.manifest.ledger
        line(
            f"rows in {ledger.rows_in} = kept {ledger.rows_kept} + rejected {sum(ledger.rejected.values())}"
            f" ({', '.join(f'{reason}: {count}' for reason, count in sorted(ledger.rejected.items()))})"
        )
    if outcome.report is not None:
        print_report(outcome.report)
    if outcome.plan is not None and outcome.adapter is not None:
        print_predictions(outcome)
    if outcome.gate is not None:
        line("")
        for reason in outcome.gate.reasons:
            line(f"  {reason}")
        line(f"gate {'passed' if outcome.gate.passed else 'FAILED'}")
    if outcome.release is not None:
        line(f"released {outcome.release.name} version {outcome.release.version}  {short(outcome.release.id)}")
    if outcome.report_path is not None:
        line(f"report:  {outcome.report_path}")
    if outcome.release is not None:
        line(
            f"talk:    burnish chat {recipe.name} --home {home.root}"
            if home.root.name != ".burnish"
            else f"talk:    .venv/bin/burnish chat {recipe.name}"
        )


def print_predictions(outcome: Outcome) -> None:
    """Print what the plan predicted beside what was measured."""
    from burnish.pipeline import predicted_and_measured

    write = {"bytes": format_bytes, "seconds": format_seconds, "steps": format_count}
    rows = [
        (row.what, write[row.unit](row.predicted), write[row.unit](row.measured), f"{row.measured / row.predicted:.2f}")
        for row in predicted_and_measured(outcome)
    ]
    table("the plan against what happened", ("what", "predicted", "measured", "ratio"), rows)


def print_report(report: EvalReport) -> None:
    """Print base and tuned side by side with intervals and the paired difference."""
    scores = {(s.task, s.metric, s.subject): s for s in report.scores}
    rows: list[tuple[str, ...]] = []
    for comparison in report.comparisons:
        key = (comparison.task, comparison.metric)
        a, b = scores.get((*key, comparison.a)), scores.get((*key, comparison.b))
        if a is None or b is None:
            continue
        difference = f"{comparison.difference:+.3f} ({comparison.low:+.3f} to {comparison.high:+.3f})"
        p = "<0.001" if comparison.p < 0.001 else f"{comparison.p:.3f}"
        rows.append((comparison.task, comparison.metric, _score(b), _score(a), difference, p, str(a.n)))
    table("before and after (95% intervals)", ("task", "metric", "base", "tuned", "difference", "p", "rows"), rows)


def _score(score: Score) -> str:
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def print_check(found: dict[str, Any]) -> None:
    """Print what `check` looked at."""
    table("check", ("what", "found"), [(key, str(value)) for key, value in found.items()])


def print_doctor(findings: dict[str, Any]) -> None:
    """Print what `doctor` found on this machine."""
    table(
        "doctor",
        ("what", "found", "verdict"),
        [(item["what"], item["found"], item["verdict"]) for item in findings["items"]],
    )
    line("all good" if findings["ok"] else "see the verdicts that are not ok")


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
        case Adapter():
            return f"{artifact.name}: {artifact.method.kind} rank {artifact.method.rank} on {artifact.base.name}"
        case EvalReport():
            exact = [
                s for s in artifact.scores if s.subject == "tuned" and s.task == "test" and s.metric == "exact_match"
            ]
            return f"{artifact.name}: exact match {exact[0].value:.3f}" if exact else artifact.name
        case Release():
            return f"{artifact.alias} version {artifact.version}"
        case _:
            return ""
