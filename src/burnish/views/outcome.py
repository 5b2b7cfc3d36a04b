"""What a plan, a run and a report say, as tables."""

from __future__ import annotations

from burnish.core.artifacts import Adapter, EvalReport, Plan, Score
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
        if outcome.gate.thresholds:
            line(f"gate {'passed' if outcome.gate.passed else 'FAILED'}")
    if outcome.release is not None:
        made = outcome.release
        line(f"released {made.name} version {made.version} as {made.alias}  {short(made.id)}")
    if outcome.report_path is not None:
        line(f"report:  {outcome.report_path}")
    if outcome.release is not None and outcome.adapter is not None:
        line(_how_to_use(outcome.adapter, recipe, home))


def _how_to_use(adapter: Adapter, recipe: Recipe, home: Home) -> str:
    """Say how to talk to what was made; where it is more than low-rank products, how to load it."""
    if adapter.method.bias or adapter.method.dora:
        folder = home.path(adapter.weights_file).parent
        return f"load:    peft.PeftModel.from_pretrained(base, '{folder}'); biases and lengths of rows are not served"
    if home.root.name != ".burnish":
        return f"talk:    burnish chat {recipe.name} --home {home.root}"
    return f"talk:    .venv/bin/burnish chat {recipe.name}"


def print_predictions(outcome: Outcome) -> None:
    """Print what the plan predicted beside what was measured."""
    from burnish.pipeline import predicted_and_measured

    write = {"bytes": format_bytes, "seconds": format_seconds, "steps": format_count}
    rows = [
        (
            row.what, write[row.unit](row.predicted), f"{write[row.unit](row.low)} to {write[row.unit](row.high)}",
            write[row.unit](row.measured), f"{row.measured / row.predicted:.2f}", "yes" if row.within else "NO",
        )
        for row in predicted_and_measured(outcome)
    ]  # fmt: skip
    table("the plan against what happened", ("what", "predicted", "band", "measured", "ratio", "in its band"), rows)


def print_report(report: EvalReport) -> None:
    """Print what was before and tuned side by side with intervals and the paired difference."""
    scores = {(s.task, s.metric, s.subject): s for s in report.scores}
    rows: list[tuple[str, ...]] = []
    several = len({comparison.b for comparison in report.comparisons}) > 1
    for comparison in report.comparisons:
        key = (comparison.task, comparison.metric)
        a, b = scores.get((*key, comparison.a)), scores.get((*key, comparison.b))
        if a is None or b is None:
            continue
        difference = f"{comparison.difference:+.3f} ({comparison.low:+.3f} to {comparison.high:+.3f})"
        p = "<0.001" if comparison.p < 0.001 else f"{comparison.p:.3f}"
        before = f"{comparison.b} {_score(b)}" if several else _score(b)
        rows.append((comparison.task, comparison.metric, before, _score(a), difference, p, str(a.n)))
    alone = {(s.task, s.metric) for s in report.scores} - {(c.task, c.metric) for c in report.comparisons}
    rows += [(s.task, s.metric, "", _score(s), "", "", str(s.n)) for s in report.scores if (s.task, s.metric) in alone]
    head = ("task", "metric", "before" if several else "base", "tuned", "difference", "p", "rows")
    table("before and after (95% intervals)", head, rows)


def _score(score: Score) -> str:
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"
