"""From what a recipe says of mixing and order, and the training rows, to the order of a run; and again from its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from burnish.core.errors import DataError
from burnish.core.mix import Blocks, MixedSource, MixPlan, RunOrder
from burnish.core.recipe import Recipe
from burnish.core.recipe_data import ONLY
from burnish.data.mixing import Curriculum, mix_stages, shares


@dataclass(frozen=True, slots=True)
class Drawable:
    """What an order has to know of the training rows, in their order: source, tokens, those with loss, difficulty."""

    sources: Sequence[str | None]
    tokens: Sequence[int]
    trained: Sequence[int]
    difficulties: Sequence[float | None]


def is_ordered(recipe: Recipe) -> bool:
    """Whether a recipe asks for more than every row once an epoch, in any order."""
    train = recipe.train
    ratios = any(source.ratio is not None for source in recipe.sources().values())
    return ratios or train.order is not None or train.mix.temperature is not None or train.mix.epoch_rows is not None


def run_order(recipe: Recipe, rows: Drawable) -> RunOrder | None:
    """Return the order that a recipe asks for, or None for every row once an epoch, in any order.

    Raises DataError for a source without training rows, and where rows lack the difficulty they are to be ordered by.
    """
    if not is_ordered(recipe):
        return None
    said, order = recipe.train.mix, recipe.train.order
    sources = recipe.sources()
    counts = _counts(rows, tuple(sources))
    ratios = tuple(source.ratio for source in sources.values() if source.ratio is not None) or None
    stages: tuple[tuple[str, ...], ...] = ()
    if order is not None:
        stages = order.sources or (tuple((name,) for name in sources) if order.by == "source" else ())
    temperature = 1.0 if said.temperature is None else said.temperature
    share = shares(counts, ratios=_by_name(sources, ratios), temperature=temperature)
    plan = MixPlan(
        sources=tuple(
            MixedSource(name=name, rows=count, share=round(share[name], 9), drawn=0, drawn_trained_tokens=0)
            for name, count in counts.items()
        ),
        ratios=ratios,
        temperature=temperature,
        epoch_rows=said.epoch_rows or sum(counts.values()),
        by=None if order is None or order.by == "source" else order.by,
        stages=1 if order is None or order.by == "source" else order.stages,
        source_stages=stages,
        staged_epochs=None if order is None else order.epochs,
    )
    blocks = order_of(plan, rows, recipe.train.epochs, recipe.seed)
    return _told(plan, blocks, rows)


def order_of(plan: MixPlan, rows: Drawable, epochs: float, seed: int) -> Blocks:
    """Return the row numbers of a run in blocks that may be packed together: the same for the same arguments.

    Raises DataError when the rows are others than the plan was made for, or lack what they are ordered by.
    """
    names = tuple(source.name for source in plan.sources)
    counts = {source.name: source.rows for source in plan.sources}
    if _counts(rows, names) != counts:
        raise DataError("the training rows are others than the plan was made for. Plan again: burnish plan")
    curriculum = Curriculum(
        scores=_scores(plan, rows), stages=plan.stages, sources=plan.source_stages, epochs=plan.staged_epochs
    )
    stages = mix_stages(
        counts,
        seed=seed,
        epochs=epochs,
        ratios=_by_name(names, plan.ratios),
        temperature=plan.temperature,
        epoch_rows=plan.epoch_rows,
        curriculum=curriculum,
    )
    numbers = _numbering(rows, names)
    return tuple(tuple(numbers[block].tolist()) for epoch in stages for block in epoch if len(block))


def _by_name(names: Sequence[str] | Mapping[str, object], ratios: Sequence[float] | None) -> dict[str, float] | None:
    return None if ratios is None else dict(zip(names, ratios, strict=True))


def _source_numbers(rows: Drawable, names: Sequence[str]) -> np.ndarray:
    number = {name: at for at, name in enumerate(names)}
    alone = names[0] if len(names) == 1 else ONLY
    try:
        return np.array([number[alone if name is None else name] for name in rows.sources], np.int64)
    except KeyError as error:
        raise DataError(
            f"training rows are of source {error}, which the plan does not know. Prepare and plan again."
        ) from error


def _counts(rows: Drawable, names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(_source_numbers(rows, names), minlength=len(names))
    if empty := [name for name, count in zip(names, counts.tolist(), strict=True) if not count]:
        raise DataError(
            f"no training row is left of {', '.join(empty)}, so it cannot be mixed. Look at why: burnish data rows "
            "--reason any; or take it out of `data`."
        )
    return dict(zip(names, counts.tolist(), strict=True))


def _numbering(rows: Drawable, names: Sequence[str]) -> np.ndarray:
    """Return the number of each row as the mixing counts them: all of the first source, then those of the second."""
    return np.argsort(_source_numbers(rows, names), kind="stable")


def _scores(plan: MixPlan, rows: Drawable) -> np.ndarray | None:
    if plan.by is None:
        return None
    if plan.by == "length":
        scores = np.array(rows.tokens, np.float64)
    else:
        scores = np.array([np.nan if value is None else value for value in rows.difficulties], np.float64)
        if lack := int(np.isnan(scores).sum()):
            raise DataError(
                f"{lack} of {len(scores)} training rows have no difficulty, by which train.order is to sort them. Each row "
                'needs a number: {"difficulty": 0.3, ...}; or order by length.'
            )
    return scores[_numbering(rows, tuple(source.name for source in plan.sources))]


def _told(plan: MixPlan, blocks: Blocks, rows: Drawable) -> RunOrder:
    """Return the order with what it draws of each source."""
    drawn = np.fromiter((row for block in blocks for row in block), np.int64)
    source = _source_numbers(rows, tuple(each.name for each in plan.sources))[drawn]
    trained = np.array(rows.trained, np.int64)[drawn]
    sources = tuple(
        each.model_copy(
            update={
                "drawn": int((source == number).sum()),
                "drawn_trained_tokens": int(trained[source == number].sum()),
            }
        )
        for number, each in enumerate(plan.sources)
    )
    return RunOrder(plan.model_copy(update={"sources": sources}), blocks, int(trained.sum()))
