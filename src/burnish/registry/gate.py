"""Whether a report meets the recipe's thresholds. Pure: the same report and thresholds give the same verdict."""

from __future__ import annotations

from collections.abc import Mapping

from burnish.core.artifacts import EvalReport, GateVerdict, Score

TASK = "test"
"""The gate looks at the test split,"""
SUBJECT = "tuned"
"""and at the tuned model."""
LOSS = "token_loss"
"""The metric of which less is better."""


def decide(report: EvalReport, thresholds: Mapping[str, float]) -> GateVerdict:
    """Return whether every metric of the tuned model on the test split reaches its threshold.

    `reasons` holds one sentence for each metric that falls short or, when none does, one for each that was asked. A
    metric that the report does not have fails: what was not measured was not shown. The value decides, not its
    interval. A verdict that lets the model through also says what became worse than before, for which nothing was asked.
    """
    if not thresholds:
        reasons = ("No gate was asked: the recipe names no threshold.", *_worse(report, thresholds))
        return GateVerdict(passed=True, thresholds={}, reasons=reasons)
    scores = {score.metric: score for score in report.scores if score.task == TASK and score.subject == SUBJECT}
    judged = [_judge(metric, minimum, scores) for metric, minimum in sorted(thresholds.items())]
    passed = all(reached for reached, _ in judged)
    return GateVerdict(
        passed=passed,
        thresholds={metric: float(minimum) for metric, minimum in sorted(thresholds.items())},
        reasons=(
            *(reason for reached, reason in judged if reached == passed),
            *(_worse(report, thresholds) if passed else ()),
        ),
    )


def _worse(report: EvalReport, thresholds: Mapping[str, float]) -> list[str]:
    """Say which metrics of the test split became worse by more than chance, where the gate asks for none of them.

    Preferences may cost likelihood, which is no fault there: of pairs the loss is not told.
    """
    compared = [c for c in report.comparisons if (c.task, c.a, c.b) == (TASK, SUBJECT, report.before)]
    of_pairs = any(c.metric == "preference_accuracy" for c in compared)
    found: list[str] = []
    for c in compared:
        if c.metric in thresholds or (of_pairs and c.metric == LOSS):
            continue
        worse = c.difference > 0 if c.metric == LOSS else c.difference < 0
        if worse and c.sure:
            found.append(
                f"Worse than {report.before}: {c.metric} changed by {c.difference:+.3f} "
                f"(95% interval {c.low:+.3f} to {c.high:+.3f}), and no gate asks for it. "
                "Before people rely on it, read the answers in the report; fewer epochs, a lower rate or more rows may help."
            )
    return found


def _judge(metric: str, minimum: float, scores: Mapping[str, Score]) -> tuple[bool, str]:
    score = scores.get(metric)
    if score is None:
        measured = ", ".join(sorted(scores)) or "nothing"
        return False, (
            f"{metric} was not measured for the tuned model on the test split, so the gate's {minimum:g} is not shown "
            f"to be reached (measured: {measured})."
        )
    value = f"{metric} is {score.value:.3f} (95% interval {score.low:.3f} to {score.high:.3f}, n = {score.n})"
    if score.n == 0:
        return False, f"{metric} rests on no rows (n = 0), so the gate's {minimum:g} is not shown to be reached."
    if score.value >= minimum:
        return True, f"{value}: reaches the gate's {minimum:g}."
    return False, f"{value}: falls {_shortfall(minimum - score.value)} short of the gate's {minimum:g}."


def _shortfall(gap: float) -> str:
    """Three decimals, and never a gap of 0.000."""
    return f"{gap:.3f}" if gap >= 0.0005 else f"{gap:.1e}"
