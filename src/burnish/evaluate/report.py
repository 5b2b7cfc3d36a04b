"""The report as one HTML file: no script, no request, readable on a phone, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from burnish.core.artifacts import Adapter, EvalReport, GateVerdict, Manifest, Plan, Release
from burnish.core.events import StepDone
from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.evaluate import provenance, sections
from burnish.page.template import render_page


def render_report(
    *,
    manifest: Manifest,
    plan: Plan,
    adapter: Adapter,
    report: EvalReport,
    gate: GateVerdict,
    release: Release | None = None,
    recipe: Recipe | None = None,
    steps: Sequence[StepDone] = (),
    seconds: Mapping[str, float] | None = None,
) -> str:
    """Return the report of a run as a self-contained HTML page.

    steps: the optimizer steps in order, from the run's events; without them there is no loss curve. seconds: wall time
    that was measured for the whole run, under "total"; leave it out when stages were taken from an earlier run.
    """
    return render_page(
        "burnish.evaluate",
        "report.html.j2",
        name=report.name,
        plan=plan,
        method=_method(plan),
        train_rows=manifest.splits["train"].rows if "train" in manifest.splits else manifest.ledger.rows_kept,
        release=release,
        recipe=None if recipe is None else recipe.model_dump_json(indent=2, exclude_defaults=True),
        verdict=sections.verdict(report, gate),
        tiles=sections.tiles(report),
        scores=sections.scores(report),
        examples=sections.examples(report.examples),
        training=sections.training(plan, adapter, steps),
        data=sections.data(manifest),
        forecasts=provenance.forecasts(plan, adapter, report, seconds or {}),
        plan_rows=provenance.plan_rows(plan),
        lineage=provenance.lineage(manifest, plan, adapter, report, release),
        short=short,
    )


def _method(plan: Plan) -> str:
    kind = {"lora": "LoRA", "qlora": "QLoRA", "full": "every weight"}[plan.method.kind]
    return kind if plan.method.kind == "full" else f"{kind}, rank {plan.method.rank}"
