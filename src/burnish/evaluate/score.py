"""From the grades and losses of single rows to the scores and comparisons of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from burnish.core.artifacts import Comparison, Score
from burnish.evaluate.grade import Grade
from burnish.evaluate.preference import PairLoss, margins
from burnish.evaluate.preference import RowLoss as RowLoss  # a part of results, and taken from here
from burnish.evaluate.stats import (
    Bools,
    Difference,
    Estimate,
    Floats,
    bounded_mean,
    paired_binary,
    paired_bounded,
    paired_ratio,
    ratio,
    stream,
    wilson,
)

SHARES = ("exact_match", "field_f1", "json_valid", "preference_accuracy", "reward_accuracy")
"""Metrics in [0, 1], more is better."""
MARGINS = ("preference_margin", "reward_margin")
"""In nats, more is better."""
METRICS = (*SHARES, *MARGINS, "token_loss")
"""Every metric of a report, in the order in which people are shown them. Token loss: nats per token, less is better."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What one subject did on the rows of one task, in their order. `grades` is empty where nothing was answered.

    pairs: of the rows that are preference pairs. rewards: the margin of each in nats, where there is a reference.
    """

    losses: Sequence[RowLoss]
    grades: Sequence[Grade] = ()
    pairs: Sequence[PairLoss] = ()
    rewards: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def nats(self) -> Floats:
        """Summed nats of each row."""
        return np.array([loss.nats for loss in self.losses], dtype=np.float64)

    @property
    def tokens(self) -> Floats:
        """Tokens with loss of each row."""
        return np.array([loss.tokens for loss in self.losses], dtype=np.float64)

    @property
    def exact(self) -> Bools:
        """Exact match of each row."""
        return np.array([grade.exact for grade in self.grades], dtype=np.bool_)

    @property
    def valid(self) -> Bools:
        """Valid JSON of each structured row; text rows are left out."""
        return np.array([grade.json_valid for grade in self.grades if grade.json_valid is not None], dtype=np.bool_)

    @property
    def field_f1(self) -> Floats:
        """Field F1 of each row."""
        return np.array([grade.field_f1 for grade in self.grades], dtype=np.float64)


def score_task(task: str, subject: str, result: TaskResult, seed: int) -> list[Score]:
    """Return the scores of one subject on one task, each with its 95% interval and the rows behind it.

    Shares get Wilson's interval, field F1 a BCa bootstrap over rows, token loss (all nats over all tokens, so that
    a token weighs the same in every row) a BCa bootstrap of that ratio.
    """
    found: list[Score] = []

    def add(metric: str, estimate: Estimate, rows: int) -> None:
        value, low, high = map(float, estimate)
        found.append(Score(subject=subject, task=task, metric=metric, value=value, low=low, high=high, n=rows))

    if result.grades:
        exact, valid = result.exact, result.valid
        add("exact_match", wilson(int(exact.sum()), exact.size), exact.size)
        add("field_f1", bounded_mean(result.field_f1, stream(seed, task, "field_f1", subject)), exact.size)
        if valid.size:
            add("json_valid", wilson(int(valid.sum()), valid.size), valid.size)
    for accuracy, margin, values in (
        ("preference_accuracy", "preference_margin", margins(result.pairs)),
        ("reward_accuracy", "reward_margin", result.rewards),
    ):
        if values.size:
            add(accuracy, wilson(int(np.sum(values > 0)), values.size), values.size)
            add(margin, ratio(values, np.ones_like(values), stream(seed, task, margin, subject)), values.size)
    tokens = result.tokens
    add("token_loss", ratio(result.nats, tokens, stream(seed, task, "token_loss", subject)), int(np.sum(tokens > 0)))
    return found


def compare_task(task: str, a: tuple[str, TaskResult], b: tuple[str, TaskResult], seed: int) -> list[Comparison]:
    """Return the paired differences a - b on the rows of one task, each with its 95% interval and two-sided p.

    Shares get Newcombe's interval and McNemar's exact test, the others a BCa bootstrap of the paired differences
    and a sign-flip permutation test.
    """
    (name_a, of_a), (name_b, of_b) = a, b
    found: list[Comparison] = []

    def add(metric: str, estimate: Difference) -> None:
        difference, low, high, p = map(float, estimate)
        found.append(
            Comparison(task=task, metric=metric, a=name_a, b=name_b, difference=difference, low=low, high=high, p=p)
        )

    def rng(metric: str) -> np.random.Generator:
        return stream(seed, task, metric, name_a, name_b)

    if of_a.grades:
        add("exact_match", paired_binary(of_a.exact, of_b.exact))
        add("field_f1", paired_bounded(of_a.field_f1, of_b.field_f1, rng("field_f1")))
        if of_a.valid.size:
            add("json_valid", paired_binary(of_a.valid, of_b.valid))
    if of_a.pairs:
        ours, theirs = margins(of_a.pairs), margins(of_b.pairs)
        add("preference_accuracy", paired_binary(ours > 0, theirs > 0))
        add("preference_margin", paired_ratio(ours, theirs, np.ones_like(ours), rng("preference_margin")))
    add("token_loss", paired_ratio(of_a.nats, of_b.nats, of_a.tokens, rng("token_loss")))
    return found
