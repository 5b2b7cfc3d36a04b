"""What evaluation reads and writes, by which its time is told."""

from __future__ import annotations

import math

from burnish.core.artifacts import Manifest
from burnish.core.recipe import Recipe
from burnish.plan.constants import constant
from burnish.plan.time import EvaluateWork
from burnish.plan.work import TRAIN, Dataset


def longest_answer(recipe: Recipe, manifest: Manifest) -> int:
    """Tokens an answer may have in evaluation: the recipe's, or 1.25 times the longest trained answer, plus 8."""
    asked = recipe.evaluate.max_new_tokens
    return asked if asked is not None else math.ceil(1.25 * manifest.splits[TRAIN].longest_answer_tokens) + 8


def evaluation_work(recipe: Recipe, data: Dataset, manifest: Manifest | None, *, subjects: int) -> EvaluateWork:
    """Count what the subjects read and write. The base is taken to answer at full length, the others as trained."""
    general = round(constant("general_tokens")) if recipe.evaluate.forgetting else 0
    if manifest is None:
        rows = math.ceil(data.rows * recipe.prepare.test_share / max(1e-9, 1 - recipe.prepare.test_share))
        per_row, trained = data.tokens / data.rows, data.trained / data.rows
        limit = recipe.evaluate.max_new_tokens or math.ceil(1.25 * trained) + 8
        return EvaluateWork(
            read=round(2 * subjects * rows * per_row) + subjects * general,
            trained=round(subjects * rows * trained) + subjects * general,
            generated=round(rows * (limit + (subjects - 1) * trained)),
        )
    splits = [split for name, split in manifest.splits.items() if name != TRAIN]
    trained = sum(split.trained_tokens for split in splits)
    return EvaluateWork(
        read=2 * subjects * sum(split.unique_tokens for split in splits) + subjects * general,
        trained=subjects * trained + subjects * general,
        generated=longest_answer(recipe, manifest) * sum(split.rows for split in splits) + (subjects - 1) * trained,
    )
