"""Preference pairs in evaluation, against arithmetic written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flight_desk import Desk, make_row

from burnish.core.artifacts import EvalReport
from burnish.core.rows import TokenRow
from burnish.evaluate.preference import PairLoss, RowLoss, margins, reward_margins
from burnish.evaluate.run import EvalRow, Reference


def pair(chosen: tuple[float, int], rejected: tuple[float, int]) -> PairLoss:
    return PairLoss(RowLoss(*chosen), RowLoss(*rejected))


def test_a_margin_weighs_answers_by_their_tokens() -> None:
    found = margins([pair((2.0, 4), (3.0, 3)), pair((9.0, 3), (2.0, 2))])
    assert found.tolist() == [0.5, -2.0]


def test_a_reward_is_measured_against_the_reference() -> None:
    before = [pair((5.0, 2), (5.0, 2)), pair((4.0, 1), (1.0, 1))]
    after = [pair((3.0, 2), (6.0, 2)), pair((5.0, 1), (1.5, 1))]
    # chosen: 5 - 3 = 2, rejected: 5 - 6 = -1, so 3; chosen: 4 - 5 = -1, rejected: 1 - 1.5 = -0.5, so -0.5
    assert reward_margins(after, before, beta=0.5).tolist() == [1.5, -0.25]


def with_rejected(row: EvalRow, answer: str) -> EvalRow:
    tokens = row.tokens
    said = tuple(answer.encode())
    other = TokenRow(f"{tokens.row_id}#1", tokens.ids[: tokens.prompt] + said, (0,) * tokens.prompt + (1,) * len(said),
                     tokens.prefix, tokens.prompt)  # fmt: skip
    return replace(row, rejected=(other, answer))


@pytest.fixture
def report(desk: Desk) -> EvalReport:
    desk.tasks["test"] = [
        with_rejected(make_row(number, "test"), "no") if number % 2 else make_row(number, "test")
        for number in range(20)
    ]
    return desk.evaluate(tasks={"test": desk.tasks["test"]}, reference=Reference("base", 0.1))


def test_the_report_holds_preferences_of_every_subject_and_rewards_of_the_tuned(report: EvalReport) -> None:
    found = {(s.subject, s.metric): s for s in report.scores if s.task == "test"}
    for subject in ("base", "tuned"):
        assert found[subject, "preference_accuracy"].n == 10
        assert found[subject, "preference_margin"].low <= found[subject, "preference_margin"].value
    assert found["tuned", "reward_accuracy"].n == found["tuned", "reward_margin"].n == 10
    assert ("base", "reward_accuracy") not in found
    compared = {c.metric for c in report.comparisons}
    assert {"preference_accuracy", "preference_margin"} <= compared
    assert not {"reward_accuracy", "reward_margin"} & compared


def test_scores_are_those_of_the_losses(desk: Desk, report: EvalReport) -> None:
    rows = [row for row in desk.tasks["test"] if row.rejected is not None]
    chosen = [RowLoss(*read[:2]) for read in desk.subjects["tuned"].read([row.tokens for row in rows])]
    rejected = [RowLoss(*read[:2]) for read in desk.subjects["tuned"].read([row.rejected[0] for row in rows])]
    expected = margins([PairLoss(*both) for both in zip(chosen, rejected, strict=True)])
    found = {s.metric: s.value for s in report.scores if (s.task, s.subject) == ("test", "tuned")}
    assert found["preference_margin"] == pytest.approx(expected.mean())
    assert found["preference_accuracy"] == (expected > 0).mean()
