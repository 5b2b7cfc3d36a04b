"""In which order rows of several sources are trained on: ratios or temperature, epochs, curricula. Row numbers only.

The rows of all sources have one numbering: those of the first source, then those of the second, and so on. An order is made
one epoch at a time; nothing of a row is held but its number.

Sources take turns at fixed strides: the j-th draw from a source of weight w falls at time (j + 1/2) / w. So shares hold over
every window, not on average only: among any N rows in a row, a source of share p has between p N - (k p + 1) and
p N + (k p + 1) of them, for k sources. Within a source every pass is its own permutation, and a pass ends before the next
begins, across epochs too: no row repeats before all others of its source were used.

The same seed gives the same order on every machine and with every version of numpy and Python: permutations sort the
rows by SplitMix64 of their number, not by a generator of a library.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish.core.errors import DataError
from burnish.data.splits.positions import I64, mix

_WEIGHT_UNIT = 1 << 40
"""Shares become whole numbers of this unit: the last bit of a power differs between C libraries, whole numbers do not."""


@dataclass(frozen=True, slots=True)
class Curriculum:
    """An order in stages. Within a stage rows stay mixed.

    scores:  one number a row (of all sources in their numbering), such as its length or difficulty; low ones come first.
    stages:  how many stages of equally many rows the scores are cut into. 1 has no effect; as many as rows sorts them.
    sources: names of sources by stage; sources that are not named come last, together. Stages by source come
             before stages by score, where both are given.
    epochs:  how many of the first epochs are staged; None stages all.
    """

    scores: Sequence[float] | npt.NDArray[Any] | None = None
    stages: int = 4
    sources: tuple[tuple[str, ...], ...] = ()
    epochs: int | None = None


def shares(
    rows: Mapping[str, int], *, ratios: Mapping[str, float] | None = None, temperature: float = 1.0
) -> dict[str, float]:
    """Return each source's share of the rows that are drawn.

    ratios: relative weights by source. Else p_i is proportional to n_i ** (1 / temperature) (Devlin et al. 2018, mBERT;
    Arivazhagan et al. 2019): 1 keeps sizes, infinity makes all sources equal.
    Raises DataError for sources and ratios that do not go together.
    """
    weights = _weights(rows, ratios, temperature)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def mix_epochs(
    rows: Mapping[str, int],
    *,
    seed: int,
    epochs: float = 1.0,
    ratios: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    epoch_rows: int | None = None,
    curriculum: Curriculum | None = None,
) -> Iterator[I64]:
    """Yield the row numbers of each epoch, in order; the last epoch is shorter where `epochs` has a fraction.

    The arguments are those of `mix_stages`.
    """
    for stages in mix_stages(
        rows,
        seed=seed,
        epochs=epochs,
        ratios=ratios,
        temperature=temperature,
        epoch_rows=epoch_rows,
        curriculum=curriculum,
    ):
        yield np.concatenate(stages)


def mix_stages(
    rows: Mapping[str, int],
    *,
    seed: int,
    epochs: float = 1.0,
    ratios: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    epoch_rows: int | None = None,
    curriculum: Curriculum | None = None,
) -> Iterator[list[I64]]:
    """Yield the row numbers of each epoch by stage, in order; an epoch without a curriculum is one stage.

    rows: how many rows each source has, in the order of the numbering. An epoch is as many rows as there are in all, or
    `epoch_rows`. Without ratios and at temperature 1, every epoch has each row exactly once.
    """
    weights = _weights(rows, ratios, temperature)
    size = sum(rows.values()) if epoch_rows is None else epoch_rows
    if not epochs > 0 or size < 1 or not math.isfinite(epochs):
        raise DataError(f"{epochs} epochs of {size} rows are no order; both must be more than 0")
    if curriculum is not None:
        _check(curriculum, rows)
    drawn = dict.fromkeys(rows, 0)
    left = max(1, round(epochs * size))
    epoch = 0
    while left:
        sources = _turns(weights, drawn, min(size, left))
        order = np.empty(len(sources), dtype=np.int64)
        offset = 0
        for number, (name, count) in enumerate(rows.items()):
            at = np.flatnonzero(sources == number)
            order[at] = offset + _rows_of(name, count, drawn[name], len(at), seed)
            drawn[name] += len(at)
            offset += count
        staged = curriculum is not None and (curriculum.epochs is None or epoch < curriculum.epochs)
        yield _staged(order, sources, tuple(rows), curriculum) if staged and curriculum else [order]
        left -= len(order)
        epoch += 1


def permutation(count: int, key: str) -> I64:
    """Return 0 .. count-1 in an order that depends on `key` alone."""
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    with np.errstate(over="ignore"):
        noise = mix(mix(np.arange(count, dtype=np.uint64) + np.uint64(start)) ^ np.uint64(start))
    return np.argsort(noise, kind="stable").astype(np.int64)


def _weights(rows: Mapping[str, int], ratios: Mapping[str, float] | None, temperature: float) -> dict[str, int]:
    if empty := [name for name, count in rows.items() if count < 1]:
        raise DataError(f"sources without rows cannot be mixed: {', '.join(empty)}. Leave them out.")
    if not rows:
        raise DataError("there is no source to mix")
    if ratios is None:
        if not temperature > 0:
            raise DataError(f"the temperature is {temperature}; it must be more than 0 (1 keeps the sizes)")
        if temperature == 1.0:
            return dict(rows)  # whole numbers: every epoch has each row exactly once
        most = max(rows.values())
        ratios = {name: (count / most) ** (1 / temperature) for name, count in rows.items()}
    elif set(ratios) != set(rows):
        odd = sorted(set(ratios) ^ set(rows))
        raise DataError(f"ratios must name each source once; check: {', '.join(odd)}. Sources: {', '.join(rows)}.")
    if bad := [name for name, ratio in ratios.items() if not (ratio > 0 and math.isfinite(ratio))]:
        raise DataError(f"ratios must be more than 0: {', '.join(f'{name} = {ratios[name]}' for name in bad)}")
    total = math.fsum(ratios[name] for name in rows)
    return {name: max(1, round(ratios[name] / total * _WEIGHT_UNIT)) for name in rows}


def _turns(weights: Mapping[str, int], drawn: Mapping[str, int], count: int) -> I64:
    """Return the source of each of the next `count` draws, given how many each source has had."""
    total = sum(weights.values())
    times: list[npt.NDArray[np.float64]] = []
    for name, weight in weights.items():
        # No window holds more of a source than its share and k p + 1 rows; one more for safety.
        most = math.ceil(count * weight / total + len(weights) * weight / total) + 2
        times.append(
            (np.arange(drawn[name], drawn[name] + min(most, count), dtype=np.float64) + 0.5) * (total / weight)
        )
    source = np.repeat(np.arange(len(times)), [len(each) for each in times])
    return source[np.argsort(np.concatenate(times), kind="stable")[:count]]


def _rows_of(name: str, rows: int, start: int, count: int, seed: int) -> I64:
    """Return the rows of draws start .. start+count-1 from one source: pass after pass, each its own permutation."""
    taken = [np.empty(0, dtype=np.int64)]
    while count:
        number, at = divmod(start, rows)
        part = permutation(rows, f"{seed}/{name}/{number}")[at : at + count]
        taken.append(part)
        start += len(part)
        count -= len(part)
    return np.concatenate(taken)


def _check(curriculum: Curriculum, rows: Mapping[str, int]) -> None:
    total = sum(rows.values())
    if curriculum.stages < 1:
        raise DataError(f"a curriculum has 1 stage or more, not {curriculum.stages}")
    if curriculum.scores is not None:
        scores = np.asarray(curriculum.scores, dtype=np.float64)
        if scores.shape != (total,):
            raise DataError(f"the curriculum scores {scores.size} rows; there are {total}")
        if missing := int(np.isnan(scores).sum()):
            raise DataError(f"{missing} of {total} rows have no score; a curriculum needs one for each")
    named = [name for stage in curriculum.sources for name in stage]
    if unknown := sorted(set(named) - set(rows)):
        raise DataError(f"the curriculum names unknown sources: {', '.join(unknown)}. Known: {', '.join(rows)}.")
    if len(named) != len(set(named)):
        raise DataError("the curriculum names a source in two stages; name each once")


def _staged(order: I64, sources: I64, names: Sequence[str], curriculum: Curriculum) -> list[I64]:
    """Return an epoch's rows by stage, without empty stages; within a stage they stay in the order they had."""
    stage = np.zeros(len(order), dtype=np.int64)
    if curriculum.scores is not None:
        rank = np.empty(len(order), dtype=np.int64)
        scores = np.asarray(curriculum.scores, dtype=np.float64)[order]
        rank[np.argsort(scores, kind="stable")] = np.arange(len(order))
        stage = rank * min(curriculum.stages, len(order)) // len(order)
    last = len(curriculum.sources)
    phase = {name: number for number, stage_names in enumerate(curriculum.sources) for name in stage_names}
    by_source = np.array([phase.get(name, last) for name in names], dtype=np.int64)[sources]
    places = np.lexsort((np.arange(len(order)), stage, by_source))
    changes = (np.diff(stage[places]) != 0) | (np.diff(by_source[places]) != 0)
    return np.split(order[places], np.flatnonzero(changes) + 1)
