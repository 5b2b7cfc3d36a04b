"""The report as one HTML file: no script, no request, readable on a phone, in the dark and on paper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from burnish import __version__
from burnish.core.artifacts import Adapter, EvalReport, GateVerdict, Manifest, Plan, Release
from burnish.core.events import StepDone
from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.evaluate import provenance, sections

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
"""Control characters, halves of surrogate pairs and overrides of the writing direction: an answer may hold them, and a
page that shows them as they are is not valid, cannot be written as UTF-8, or lies about the order of its words."""


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
    page = _template().render(
        version=__version__,
        css=Markup(_read("report.css")),
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
    return UNPRINTABLE.sub("\ufffd", page)


def _method(plan: Plan) -> str:
    kind = {"lora": "LoRA", "qlora": "QLoRA"}[plan.method.kind]
    return f"{kind}, rank {plan.method.rank}"


@cache
def _template() -> Template:
    # Undefined names are errors and every value is escaped; only our own plots and style sheet are Markup.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("report.html.j2"))


def _read(name: str) -> str:
    return resources.files("burnish.evaluate").joinpath(name).read_text(encoding="utf-8")
