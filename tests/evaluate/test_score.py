"""Scores and comparisons of a task, from hand-made grades and losses."""

from __future__ import annotations

import math
from typing import TypeVar

import pytest

from burnish.core.artifacts import Comparison, Score
from burnish.evaluate.grade import grade
from burnish.evaluate.score import RowLoss, TaskResult, compare_task, score_task
from burnish.evaluate.stats import newcombe, wilson

RIGHT, HALF, BROKEN = '{"a": 1, "b": 2}', '{"a": 1, "b": 3}', '{"a": 1'


def result(*answers: str, nats: float = 1.0) -> TaskResult:
    return TaskResult([RowLoss(nats * (n + 1), n + 1) for n in range(len(answers))], [grade(RIGHT, a) for a in answers])


Found = TypeVar("Found", Score, Comparison)


def by_metric(found: list[Found]) -> dict[str, Found]:
    return {item.metric: item for item in found}


def test_scores_are_shares_a_mean_over_rows_and_a_ratio_over_tokens() -> None:
    scores = by_metric(score_task("test", "tuned", result(RIGHT, RIGHT, HALF, BROKEN, nats=0.5), seed=0))
    assert [scores[metric].value for metric in ("exact_match", "field_f1", "json_valid")] == [0.5, 0.625, 0.75]
    assert scores["token_loss"].value == pytest.approx(0.5)
    assert {(score.task, score.subject, score.n) for score in scores.values()} == {("test", "tuned", 4)}
    assert (scores["exact_match"].low, scores["exact_match"].high) == wilson(2, 4)[1:]


def test_long_rows_weigh_more_in_the_token_loss() -> None:
    losses = TaskResult([RowLoss(10.0, 1), RowLoss(9.0, 9), RowLoss(0.0, 0)])
    (score,) = score_task("general", "base", losses, seed=0)
    assert (score.metric, score.value, score.n) == ("token_loss", 1.9, 2)
    assert 1.0 <= score.low < 1.9 < score.high <= 10.0


def test_a_text_task_has_no_json_score() -> None:
    texts = TaskResult([RowLoss(1.0, 1)] * 2, [grade("Paris", "Paris"), grade("Paris", "the city of Paris")])
    scores = by_metric(score_task("qa", "base", texts, seed=0))
    assert scores.keys() == {"exact_match", "field_f1", "token_loss"}
    assert scores["field_f1"].value == pytest.approx((1 + 0.5) / 2)
    assert by_metric(compare_task("qa", ("tuned", texts), ("base", texts), seed=0)).keys() == scores.keys()


def test_rows_of_text_among_structured_ones_do_not_count_for_json() -> None:
    mixed = TaskResult([RowLoss(1.0, 1)] * 2, [grade(RIGHT, RIGHT), grade("Paris", "Paris")])
    scores = by_metric(score_task("test", "base", mixed, seed=0))
    assert (scores["json_valid"].n, scores["exact_match"].n) == (1, 2)


def test_comparisons_pair_the_rows() -> None:
    tuned, base = result(RIGHT, RIGHT, HALF, RIGHT, nats=0.5), result(BROKEN, RIGHT, BROKEN, HALF, nats=2.0)
    found = by_metric(compare_task("test", ("tuned", tuned), ("base", base), seed=0))
    exact = found["exact_match"]
    assert (exact.a, exact.b, exact.difference, exact.p) == ("tuned", "base", 0.5, 0.5)
    assert (exact.low, exact.high) == newcombe(1, 2, 0, 1)
    assert found["field_f1"].difference == pytest.approx((1 + 1 + 0.5 + 1) / 4 - (0 + 1 + 0 + 0.5) / 4)
    assert found["json_valid"].difference == 0.5
    assert found["token_loss"].difference == pytest.approx(-1.5)
    assert found["token_loss"].high < 0


def test_the_same_seed_gives_the_same_numbers_and_another_seed_does_not() -> None:
    rows = TaskResult([RowLoss(math.sqrt(n), n) for n in range(1, 40)])
    assert score_task("test", "base", rows, seed=1) == score_task("test", "base", rows, seed=1)
    assert score_task("test", "base", rows, seed=1) != score_task("test", "base", rows, seed=2)
