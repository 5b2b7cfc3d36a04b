"""The gate says which number fell short, by how much, on how many rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.artifacts import Comparison, EvalReport, FileRef, Score
from burnish.registry.gate import decide


def report(*scores: Score) -> EvalReport:
    return EvalReport(
        name="a",
        adapter="1",
        manifest="2",
        scores=scores,
        comparisons=(),
        examples=(),
        rows_file=FileRef(path="r", sha256="0", size_bytes=1),
    )


def tuned(metric: str, value: float, n: int = 120, task: str = "test", subject: str = "tuned") -> Score:
    return Score(subject=subject, task=task, metric=metric, value=value, low=0.52, high=0.69, n=n)


def test_a_metric_below_its_threshold_fails_with_value_interval_threshold_gap_and_rows() -> None:
    verdict = decide(report(tuned("exact_match", 0.61)), {"exact_match": 0.65})
    assert not verdict.passed
    assert verdict.reasons == (
        "exact_match is 0.610 (95% interval 0.520 to 0.690, n = 120): falls 0.040 short of the gate's 0.65.",
    )


def test_a_failed_verdict_names_every_shortfall_and_nothing_else() -> None:
    scores = (tuned("exact_match", 0.1), tuned("field_f1", 0.2), tuned("json_valid", 1.0))
    verdict = decide(report(*scores), {"json_valid": 0.9, "field_f1": 0.5, "exact_match": 0.5})
    assert [reason.split()[0] for reason in verdict.reasons] == ["exact_match", "field_f1"]


def test_the_threshold_itself_passes() -> None:
    verdict = decide(report(tuned("exact_match", 0.65)), {"exact_match": 0.65})
    assert verdict.passed
    assert verdict.reasons == ("exact_match is 0.650 (95% interval 0.520 to 0.690, n = 120): reaches the gate's 0.65.",)


def test_no_threshold_passes_and_says_so() -> None:
    verdict = decide(report(), {})
    assert verdict.passed
    assert verdict.reasons == ("No gate was asked: the recipe names no threshold.",)


@pytest.mark.parametrize(
    "other",
    [tuned("exact_match", 0.9, subject="base"), tuned("exact_match", 0.9, task="handwritten"), tuned("field_f1", 0.9)],
)
def test_only_the_tuned_model_on_the_test_split_counts(other: Score) -> None:
    verdict = decide(report(other), {"exact_match": 0.5})
    assert not verdict.passed
    assert "exact_match was not measured" in verdict.reasons[0]


def test_a_score_on_no_rows_does_not_pass() -> None:
    verdict = decide(report(tuned("exact_match", 1.0, n=0)), {"exact_match": 0.5})
    assert not verdict.passed
    assert "no rows" in verdict.reasons[0]


def test_a_value_that_is_no_number_does_not_pass() -> None:
    assert not decide(report(tuned("exact_match", float("nan"))), {"exact_match": 0.0}).passed


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_verdict_is_the_comparison_and_a_gap_is_never_shown_as_zero(value: float, minimum: float) -> None:
    verdict = decide(report(tuned("exact_match", value)), {"exact_match": minimum})
    assert verdict.passed == (value >= minimum)
    assert "falls 0.000 short" not in verdict.reasons[0]


def test_thresholds_are_kept_in_the_verdict(family: dict[str, Any]) -> None:
    assert decide(family["report"], {"exact_match": 0.65}).thresholds == {"exact_match": 0.65}


def moved(metric: str, difference: float, p: float = 0.001, b: str = "base", task: str = "test") -> Comparison:
    low, high = difference - 0.1, difference + 0.1
    return Comparison(task=task, metric=metric, a="tuned", b=b, difference=difference, low=low, high=high, p=p)


@pytest.mark.parametrize("thresholds", [{}, {"exact_match": 0.5}])
def test_what_became_worse_is_told_of_a_model_that_is_let_through(thresholds: dict[str, float]) -> None:
    lost = report(tuned("exact_match", 0.6)).model_copy(
        update={"comparisons": (moved("token_loss", 1.2), moved("field_f1", -0.3), moved("exact_match", 0.4))}
    )
    verdict = decide(lost, thresholds)
    assert verdict.passed
    assert [reason.split(" changed")[0] for reason in verdict.reasons[1:]] == [
        "Worse than base: token_loss",
        "Worse than base: field_f1",
    ]
    assert "+1.200 (95% interval +1.100 to +1.300)" in verdict.reasons[1]


@pytest.mark.parametrize(
    "comparisons",
    [
        (moved("token_loss", -1.2), moved("field_f1", 0.3)),  # better
        (moved("token_loss", 1.2, p=0.2),),  # chance
        (moved("token_loss", 1.2, task="general"),),  # not the split that the gate looks at
        (moved("token_loss", 1.2), moved("token_loss", -0.1, b="start")),  # better than what training began as
        (moved("token_loss", 1.2), moved("preference_accuracy", 0.2)),  # preferences may cost likelihood
    ],
)
def test_what_is_not_worse_is_not_told(comparisons: tuple[Comparison, ...]) -> None:
    assert len(decide(report().model_copy(update={"comparisons": comparisons}), {}).reasons) == 1


def test_what_the_gate_asks_for_is_told_once() -> None:
    lost = report(tuned("exact_match", 0.6)).model_copy(update={"comparisons": (moved("exact_match", -0.2),)})
    assert len(decide(lost, {"exact_match": 0.5}).reasons) == 1
