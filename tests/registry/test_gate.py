"""The gate says which number fell short, by how much, on how many rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.artifacts import EvalReport, FileRef, Score
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
