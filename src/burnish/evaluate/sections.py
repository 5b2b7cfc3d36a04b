"""What each section of the report shows, as plain values: words, numbers already written out, and finished plots.

Nothing is computed here that an artifact does not hold, apart from counts and differences of what is shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from burnish.core.artifacts import Adapter, Comparison, EvalReport, Example, GateVerdict, Manifest, Plan, Score
from burnish.core.events import StepDone
from burnish.evaluate import forgetting
from burnish.evaluate.differ import show_answer
from burnish.evaluate.grade import parse
from burnish.evaluate.score import MARGINS, METRICS, SHARES
from burnish.page.plots import (
    Bar,
    Dot,
    DotGroup,
    DotRow,
    bars,
    curve,
    dot_plot,
    histogram,
    running_mean,
)
from burnish.page.svg import HALF_PX, both_widths

LABELS = {
    "exact_match": "exact match",
    "field_f1": "field F1",
    "json_valid": "valid JSON",
    "preference_accuracy": "prefers the chosen",
    "reward_accuracy": "rewards the chosen",
    "preference_margin": "preference margin",
    "reward_margin": "reward margin",
    "token_loss": "token loss",
}
"""What people read for each metric."""


class SummaryRow(NamedTuple):
    """One line of the table before and after: two scores on the same rows and their paired difference."""

    before: Score
    after: Score
    paired: Comparison


def summary_table(report: EvalReport) -> list[SummaryRow]:
    """Return one row for each task and metric, tasks as evaluated, metrics in the order of `METRICS`."""
    before = report.before
    scores = {(score.task, score.metric, score.subject): score for score in report.scores}
    tasks = list(dict.fromkeys(score.task for score in report.scores))
    rows = [
        SummaryRow(scores[c.task, c.metric, before], scores[c.task, c.metric, c.a], c)
        for c in report.comparisons
        if c.b == before
    ]
    return sorted(rows, key=lambda row: (tasks.index(row.paired.task), METRICS.index(row.paired.metric)))


# ------------------------------------------------------------------------------------------------ verdict and scores


def verdict(report: EvalReport, gate: GateVerdict) -> dict[str, Any]:
    """Return the headline, the sentence under it, and each threshold against what was reached."""
    tuned = {score.metric: score for score in report.scores if score.task == "test" and score.subject == "tuned"}
    asked = [
        {
            "metric": LABELS.get(metric, metric),
            "asked": f"{minimum:g}",
            "reached": f"{tuned[metric].value:.3f}" if metric in tuned else "not measured",
            "interval": _interval(tuned[metric]) if metric in tuned else "",
            "ok": metric in tuned and tuned[metric].value >= minimum,
        }
        for metric, minimum in gate.thresholds.items()
    ]
    title = "Gate passed" if gate.passed and asked else "No gate was set" if gate.passed else "Gate failed"
    state = "passed" if gate.passed and asked else "open" if gate.passed else "failed"
    return {
        "title": title,
        "state": state,
        "asked": asked,
        "reasons": gate.reasons,
        "sentence": _sentence(report, gate),
    }


def _sentence(report: EvalReport, gate: GateVerdict) -> str:
    """Say in one sentence what tuning did to the first score of the test split, one that the gate asks for if there is any."""
    rows = summary_table(report)
    if not rows:
        return ""
    row = next((r for r in rows if r.paired.metric == "preference_accuracy"), None)
    tested = [r for r in rows if r.paired.task == "test"] or rows[:1]
    row = row or next((r for r in tested if r.paired.metric in gate.thresholds), tested[0])
    before, after = f"{row.before.value:.3f} ({row.before.subject})", f"{row.after.value:.3f} (tuned)"
    moved = f"{'rose' if row.paired.difference > 0 else 'fell'} from {before} to {after}"
    if row.paired.difference == 0:
        moved = f"stayed at {row.after.value:.3f} ({row.before.subject} and tuned)"
    return (
        f"On {row.after.n} {row.paired.task} rows that training never saw, {LABELS[row.paired.metric]} {moved}: "
        f"a paired difference of "
        f"{_signed(row.paired.difference)}, 95% interval {_span(row.paired)}, {_p_words(row.paired.p)}."
    )


def tiles(report: EvalReport) -> list[dict[str, str]]:
    """Return the few numbers to see first: the test split's scores and what was forgotten."""
    found: list[dict[str, str]] = []
    for score in report.scores:
        if score.task == "test" and score.metric in ("reward_accuracy", "reward_margin"):
            says = f"against {report.before}" + (", nats a pair" if score.metric in MARGINS else "")
            interval = f"95%: {score.low:.3f} to {score.high:.3f}"
            found.append(
                {"label": LABELS[score.metric], "value": f"{score.value:.3f}", "note": says, "interval": interval}
            )
    for before, after, paired in summary_table(report):
        if paired.task == "test" and paired.metric in SHARES:
            found.append(
                {
                    "label": LABELS[paired.metric],
                    "value": f"{after.value:.3f}",
                    "note": f"{before.subject} {before.value:.3f}",
                    "interval": f"95%: {after.low:.3f} to {after.high:.3f}",
                }
            )
        elif paired.task == forgetting.TASK:
            found.append(
                {
                    "label": "general text loss",
                    "value": _signed(paired.difference),
                    "note": f"nats per token, {before.subject} {before.value:.3f}",
                    "interval": f"95%: {_span(paired)}",
                }
            )
    return found


def scores(report: EvalReport) -> dict[str, Any]:
    """Return the dot plots of shares and of losses with titles that say what they show."""
    before = report.before
    share_groups = list(_dot_groups(report, SHARES))
    loss_groups = list(_dot_groups(report, ("token_loss",)))
    return {
        "title": _scores_title([c for c in report.comparisons if c.metric in SHARES and c.b == before]),
        "before": before,
        "subjects": list(dict.fromkeys(score.subject for score in report.scores)),
        "shares": _dots(share_groups, "share of rows, or mean F1 (more is better)", 1.0),
        "loss_title": _loss_title(report),
        "losses": _dots(loss_groups, "loss in nats per token (less is better)", None),
        "rows": [_difference_row(row) for row in summary_table(report)],
    }


def _dots(groups: list[DotGroup], axis: str, high: float | None) -> Markup | None:
    return both_widths(lambda width: dot_plot(groups, width, axis, high)) if groups else None


def _dot_groups(report: EvalReport, metrics: Sequence[str]) -> Iterable[DotGroup]:
    for task in dict.fromkeys(score.task for score in report.scores):
        rows: list[DotRow] = []
        most = 0
        for metric in metrics:
            found = [score for score in report.scores if score.task == task and score.metric == metric]
            if found:
                says = " → ".join(f"{score.value:.3f}" for score in found)
                dots = [Dot(score.subject, score.value, score.low, score.high) for score in found]
                rows.append(DotRow(LABELS[metric], says, dots))
                most = max(most, *(score.n for score in found))
        if rows:
            yield DotGroup(f"{task}, {most} rows", rows)


def _scores_title(compared: Sequence[Comparison]) -> str:
    better = sum(c.difference > 0 and c.sure for c in compared)
    worse = sum(c.difference < 0 and c.sure for c in compared)
    if not compared:
        return "Scores before and after tuning"
    said = f"{better} of {len(compared)} scores are better after tuning by more than chance"
    return f"{said}, {worse} are worse" if worse else said


def _loss_title(report: EvalReport) -> str:
    of_general = (c for c in report.comparisons if c.task == forgetting.TASK and c.b == report.before)
    general = next(of_general, None)
    if general is None:
        return "Token loss before and after tuning (general text was not measured)"
    change = f"{abs(general.difference):.3f} nats per token"
    perplexity = f"perplexity {math.expm1(general.difference):+.1%}".replace("-", "\u2212")
    if not general.sure:
        return f"No forgetting beyond chance: general text changed by {change} ({perplexity})"
    way = "harder" if general.difference > 0 else "easier"
    return f"General text became {way} to predict by {change} ({perplexity})"


def _difference_row(row: SummaryRow) -> dict[str, Any]:
    lower_is_better = row.paired.metric == "token_loss"
    better = (row.paired.difference < 0) if lower_is_better else (row.paired.difference > 0)
    sure = row.paired.sure
    return {
        "task": row.paired.task,
        "metric": LABELS[row.paired.metric],
        "n": row.after.n,
        "before": f"{row.before.value:.3f}",
        "before_interval": _interval(row.before),
        "after": f"{row.after.value:.3f}",
        "after_interval": _interval(row.after),
        "difference": _signed(row.paired.difference),
        "interval": _span(row.paired),
        "p": _p(row.paired.p),
        "state": "" if not sure else "better" if better else "worse",
    }


def _interval(score: Score) -> str:
    return f"{score.low:.3f} to {score.high:.3f}"


def _span(paired: Comparison) -> str:
    return f"{_signed(paired.low)} to {_signed(paired.high)}"


def _signed(value: float) -> str:
    """Three decimals with a sign that is as wide as a plus."""
    return f"{value:+.3f}".replace("-", "\u2212")


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _p_words(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def examples(found: Sequence[Example]) -> list[dict[str, Any]]:
    """Return each example with both answers compared, and the expected one where it would not be seen otherwise."""
    shown: list[dict[str, Any]] = []
    for number, example in enumerate(found, start=1):
        after = show_answer(example.expected, example.tuned)
        shown.append(
            {
                "number": number,
                "example": example,
                "before": show_answer(example.expected, example.base),
                "after": after,
                "expected": None if example.tuned_exact or after.is_json else _expected(example.expected),
            }
        )
    return shown


def _expected(answer: str) -> str:
    """Return an expected answer as a person reads it: JSON with indentation, text as it is."""
    value = parse(answer)
    return json.dumps(value, ensure_ascii=False, indent=2) if isinstance(value, dict | list) else answer


# ------------------------------------------------------------------------------------------------- training and data


def training(plan: Plan, adapter: Adapter, steps: Sequence[StepDone]) -> dict[str, Any] | None:
    """Return the loss curve, raw and smoothed, with learning rate and gradient norm; None when no step was recorded."""
    if not steps:
        return None
    loss = [(float(step.step), step.loss) for step in steps]
    window = max(3, len(loss) // 15) | 1
    smooth = running_mean(loss, window) if len(loss) >= 9 else []
    ends = smooth or loss
    rate = [(float(step.step), step.learning_rate) for step in steps]
    norm = [(float(step.step), step.gradient_norm) for step in steps]
    pairs = plan.train.preference is not None
    unit = "a pair" if pairs else "nats per token"
    label = "loss (mean of the pairs)" if pairs else "loss (nats per trained token)"
    told = {name: [(float(step.step), step.told[name]) for step in steps] for name in steps[0].told}
    return {
        "title": f"Loss went from {ends[0][1]:.2f} to {ends[-1][1]:.2f} {unit} in {steps[-1].step} steps",
        "told": [curve(points, [], HALF_PX, 180, "step", _told_label(name)) for name, points in told.items()],
        "window": window if smooth else None,
        "resumed": adapter.measured.resumed_at_step if adapter.measured else 0,
        "loss": both_widths(lambda width: curve(loss, smooth, width, 270, "step", label)),
        "rate": curve(rate, [], HALF_PX, 180, "step", "learning rate"),
        "norm": curve(norm, [], HALF_PX, 180, "step", "gradient norm before clipping"),
        "clipped": sum(step.gradient_norm > plan.train.max_gradient_norm for step in steps),
        "limit": f"{plan.train.max_gradient_norm:g}",
        "steps": len(steps),
    }


def _told_label(name: str) -> str:
    """`reward_chosen` as people read it."""
    unit = "share of pairs" if name.endswith("accuracy") else "nats"
    return f"{name.replace('_', ' ')} ({unit})"


def data(manifest: Manifest) -> dict[str, Any]:
    """Return the ledger, the repairs, the personal data by type, the splits and the token lengths of each."""
    ledger = manifest.ledger
    rejected = sum(ledger.rejected.values())
    flow = [Bar("kept", ledger.rows_kept, _of(ledger.rows_kept, ledger.rows_in), "kept")]
    flow += [Bar(r, count, _of(count, ledger.rows_in), "rejected") for r, count in _largest_first(ledger.rejected)]
    changed = [Bar(what, count, f"{count:,}", "changed") for what, count in _largest_first(ledger.changed)]
    personal = [Bar(kind, n, f"{n:,}", "changed") for kind, n in _largest_first(manifest.personal_data)]
    longest = max((split.longest_tokens for split in manifest.splits.values()), default=0)
    most_text = f"the longest row has {longest} tokens" if longest else "no rows"
    return {
        "title": f"{ledger.rows_in:,} rows in = {ledger.rows_kept:,} kept + {rejected:,} rejected",
        "ledger": both_widths(lambda width: bars(flow, width, "Rows kept, and rejected by reason")),
        "changed": bars(changed, HALF_PX, "Rows changed, by what was changed") if changed else None,
        "personal": bars(personal, HALF_PX, "Personal data, by type") if personal else None,
        "leakage": sorted(manifest.leakage.items()),
        "lengths_title": f"Token lengths by split: {most_text}",
        "lengths": [
            {
                "split": name,
                "rows": split.rows,
                "plot": histogram(
                    split.lengths.edges,
                    split.lengths.counts,
                    HALF_PX,
                    "tokens",
                    "rows",
                    max(split.lengths.counts),
                ),
            }
            for name, split in manifest.splits.items()
        ],
        "splits": [
            {
                "name": name,
                "rows": f"{split.rows:,}",
                "tokens": f"{split.tokens:,}",
                "trained": f"{split.trained_tokens:,}",
                "longest": f"{split.longest_tokens:,}",
            }
            for name, split in manifest.splits.items()
        ],
    }


def _largest_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(((name, count) for name, count in counts.items() if count), key=lambda item: (-item[1], item[0]))


def _of(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total else f"{count:,}"
