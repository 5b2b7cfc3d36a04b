"""How much there is to train on, and how it is cut into packed rows and optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from burnish.core.artifacts import Manifest, Split
from burnish.core.errors import DataError, Problem, RecipeError
from burnish.core.mix import MixPlan, RunOrder
from burnish.core.packing import Length, count_steps, pack, pack_order, packed_tokens
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes
from burnish.plan.activations import Device
from burnish.plan.constants import constant

TRAIN = "train"
STEPS_WANTED = 80
"""Optimizer steps a small dataset is cut into: enough for a schedule, with a warm-up that is more than one step."""
SMALLEST_STEP, LINEAR_UP_TO, LARGEST_STEP = 256, 8_192, 65_536
"""Tokens of a step: never fewer, where growth turns from linear to the square root, never more."""
ROW_TOKENS = {"cpu": 1024, "cuda": 4096}
"""Longest packed row by default. Beyond it a CPU's products grow no faster, and activations grow with it."""
CHECKPOINTS = 10
FULL_CHECKPOINT_TOKENS: dict[Device, int] = {"cpu": 5_000, "cuda": 5_000_000}
"""Where every weight trains: tokens between checkpoints. Both a token and a checkpoint cost as much as there are weights, so that
this number keeps writing to about a tenth of the time whatever the base: 6 operations a weight and token at 100 GFLOP/s on a CPU
and 400 TFLOP/s on a GPU, beside 12 bytes a weight at 0.2 GB/s (measured: 8 s for SmolLM2's 1.6 GB) and 1 GB/s."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the training split holds. `tokens` counts a shared prefix once; `source` says how the numbers came about."""

    rows: int
    tokens: int
    trained: int
    longest: int
    lengths: Sequence[Length] | None
    source: str


FILL = 32
"""Tokens that a CPU's packed rows are filled up to a multiple of (train/objective.py)."""
SPREAD_OF_ROWS = 0.25
"""Packed rows are mostly between three quarters full and full."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The dataset cut up. `epoch_tokens` counts a prefix once in every packed row that holds it; `run_...` is of all epochs.

    `fullest_row` is the longest packed row in tokens, `most_pairs` the most (query, key) pairs that attend in one. `row_shapes`:
    lengths of packed rows, in multiples of FILL, that are not the same; `segment_shapes`: the same of (own, attended) tokens.
    """

    row_tokens: int
    rows_per_step: int
    packed_rows: int
    steps: int
    epoch_tokens: int
    run_rows: int
    run_tokens: int
    run_trained: int
    fullest_row: int
    most_pairs: int
    row_shapes: int
    segment_shapes: int
    because: dict[str, str]


def read_dataset(
    manifest: Manifest | None, data_bytes: int | None, lengths: Sequence[Length] | None, test_share: float
) -> Dataset:
    """Return what is known about the training rows: from the manifest, or estimated from the bytes of the raw file.

    Raises DataError when there are no rows to train on, or nothing to estimate from.
    """
    if manifest is not None:
        split = manifest.splits.get(TRAIN)
        if split is None or split.rows == 0:
            raise DataError("the dataset has no row to train on. Look at what was rejected: burnish show latest")
        return _known(split, lengths)
    if not data_bytes:
        raise DataError("there is no data to plan for: the file is empty. Give data with at least one row.")
    tokens = max(1, round(data_bytes * (1 - test_share) / constant("bytes_per_token")))
    rows = max(1, round(tokens / constant("tokens_per_row")))
    source = (
        f"estimated: {format_bytes(data_bytes)} at {constant('bytes_per_token'):g} bytes a token, less the test share; "
        "prepare counts them"
    )
    return Dataset(rows, tokens, round(tokens * constant("trained_share")), 0, None, source)


def _known(split: Split, lengths: Sequence[Length] | None) -> Dataset:
    if lengths is None:
        source = f"counted in {split.rows:,} rows, a shared prefix once; how they pack is estimated"
        return Dataset(split.rows, split.unique_tokens, split.trained_tokens, split.longest_tokens, None, source)
    if len(lengths) < split.rows:  # a conversation may have a rendering for each answer
        raise DataError(
            f"the dataset has {split.rows:,} training rows, and lengths of {len(lengths):,}. Prepare it again."
        )
    prefixes = {key: prefix for key, prefix, _ in lengths if prefix}
    tokens = sum(prefixes.values()) + sum(tail for _, _, tail in lengths)
    longest = max(prefix + tail for _, prefix, tail in lengths)
    return Dataset(
        split.rows,
        tokens,
        split.trained_tokens,
        longest,
        lengths,
        f"counted in {split.rows:,} rows, a shared prefix once",
    )


def wanted_step_tokens(tokens: int) -> int:
    """Tokens of an optimizer step for a dataset of so many: the power of two nearest to what STEPS_WANTED steps take.

    From 8,192 on it grows with the square root of the data, so that more data gives both larger and more steps (the
    useful batch grows with the noise of the gradient, not with the data: McCandlish et al. 2018, arXiv:1812.06162).
    """
    wanted = max(1.0, tokens / STEPS_WANTED)
    if wanted > LINEAR_UP_TO:
        wanted = LINEAR_UP_TO * math.sqrt(wanted / LINEAR_UP_TO)
    return min(LARGEST_STEP, max(SMALLEST_STEP, 2 ** round(math.log2(wanted))))


def cut(recipe: Recipe, data: Dataset, device: str, context: int, order: RunOrder | None = None) -> Steps:
    """Cut the dataset into packed rows and steps. Raises RecipeError for a row or step that cannot hold the data.

    order: which rows the run draws, and in which order, where the recipe says so.
    """
    train, because = recipe.train, dict[str, str]()
    wanted = train.tokens_per_step or wanted_step_tokens(data.tokens)
    row_tokens = _row_tokens(recipe, data, wanted, device, context, because)
    if data.lengths is None:
        packed = max(1, math.ceil(data.tokens / (row_tokens * constant("packing_share"))))
        epoch_tokens, fullest = data.tokens, min(row_tokens, data.tokens)
        pairs = fullest * max(data.longest, data.tokens // data.rows)
        shapes = min(packed, math.ceil(SPREAD_OF_ROWS * row_tokens / FILL)), min(data.rows, data.tokens // data.rows)
    else:
        rows = (
            pack(data.lengths, row_tokens, recipe.seed)
            if order is None
            else pack_order(data.lengths, order.blocks, row_tokens, recipe.seed)
        )
        sizes = [packed_tokens(data.lengths, row) for row in rows]
        packed, epoch_tokens, fullest = len(rows), sum(sizes), max(sizes)
        pairs = max(attended_pairs(data.lengths, row) for row in rows)
        segments = {(own, prefix + own) for _, prefix, own in data.lengths}
        segments |= {(prefix, prefix) for _, prefix, _ in data.lengths if prefix}
        shapes = len({math.ceil(size / FILL) for size in sizes}), len(segments)
    rows_per_step = 1 if train.optimizer_in_backward else max(1, wanted // row_tokens)
    if train.tokens_per_step is not None and wanted // row_tokens > rows_per_step:
        advice = f"optimizer_in_backward updates in every backward pass, so a step has one, of at most {row_tokens:,} tokens. "
        advice += f"Set train.row_tokens to {wanted:,}, or leave one of the two out."
        raise RecipeError(f"recipe {recipe.name}", [Problem("train.tokens_per_step", f"{wanted:,}", advice)])
    if order is None:
        run = (
            max(1, round(packed * train.epochs)),
            round(epoch_tokens * train.epochs),
            round(data.trained * train.epochs),
        )
        steps = count_steps(packed, train.epochs, rows_per_step)
    else:  # what was packed is the whole run
        run = packed, epoch_tokens, order.trained_tokens
        steps = count_steps(packed, 1.0, rows_per_step)
        epoch_tokens = round(epoch_tokens / train.epochs)
        because["train.mix"] = mixed_as(order.mix)
    if train.tokens_per_step is None:
        because["train.tokens_per_step"] = (
            f"{data.tokens:,} tokens in about {STEPS_WANTED} steps would be "
            f"{data.tokens // STEPS_WANTED:,} a step, taken to a power of two; "
            f"a step holds {rows_per_step} packed row{'s' if rows_per_step > 1 else ''} of at most {row_tokens:,}"
        )
    else:
        because["train.tokens_per_step"] = (
            f"the recipe asks for {wanted:,}, so a step holds "
            f"{rows_per_step} packed row{'s' if rows_per_step > 1 else ''} of at most {row_tokens:,}"
        )
    because["train.rows_per_step"] = "whole packed rows that fit the tokens of a step, at least one"
    exact = (
        "packed as training packs them"
        if data.lengths is not None
        else f"estimated at {constant('packing_share'):.0%} filled rows"
    )
    because["train.steps"] = f"{packed:,} packed rows ({exact}) in {train.epochs:g} epochs, {rows_per_step} a step"
    return Steps(row_tokens, rows_per_step, packed, steps, epoch_tokens, *run, fullest, pairs, *shapes, because)


def checkpoint_every(steps: Steps, device: Device, *, full: bool) -> tuple[int, str]:
    """Return the steps between checkpoints where the recipe does not say them, and why. full: every weight trains."""
    every = max(1, math.ceil(steps.steps / CHECKPOINTS))
    tokens = FULL_CHECKPOINT_TOKENS[device]
    least = math.ceil(tokens / (steps.rows_per_step * steps.row_tokens)) if full else 0
    if least <= every:
        return every, f"about {CHECKPOINTS} checkpoints in {steps.steps:,} steps"
    says = f"{tokens:,} tokens: every weight and its states written more often would take over a tenth of the time"
    return least, f"{says}; the last step is always saved"


def attended_pairs(lengths: Sequence[Length], row: Sequence[int]) -> int:
    """Return the (query, key) pairs of a packed row: each prefix with itself, each tail with its prefix and itself."""
    prefixes = {lengths[index][0]: lengths[index][1] for index in row if lengths[index][1]}
    tails = ((lengths[index][1], lengths[index][2]) for index in row)
    return sum(prefix**2 for prefix in prefixes.values()) + sum(tail * (prefix + tail) for prefix, tail in tails)


def mixed_as(mix: MixPlan) -> str:
    """Say in a sentence what is drawn of each source, and in which stages."""
    told = "; ".join(
        f"{source.name}: {source.share:.1%} of the rows drawn, {source.drawn:,} of {source.rows:,} rows, "
        f"{source.drawn_trained_tokens:,} tokens with loss"
        for source in mix.sources
    )
    staged = [", then ".join(" and ".join(stage) for stage in mix.source_stages)] if mix.source_stages else []
    staged += [f"{mix.stages} stages by {mix.by}"] if mix.by is not None else []
    when = "" if mix.staged_epochs is None else f" in the first {mix.staged_epochs} epochs"
    return f"{told}. In order of {' and within them '.join(staged)}{when}" if staged else told


def _row_tokens(recipe: Recipe, data: Dataset, wanted: int, device: str, context: int, because: dict[str, str]) -> int:
    asked = recipe.train.row_tokens
    if asked is not None:
        if asked < data.longest:
            raise RecipeError(
                f"recipe {recipe.name}",
                [
                    Problem(
                        "train.row_tokens",
                        str(asked),
                        f"must be {data.longest} or more: the longest row has that many tokens.",
                    )
                ],
            )
        because["train.row_tokens"] = "the recipe says so"
        return asked
    most = min(ROW_TOKENS[device], context)
    chosen = max(min(most, wanted), data.longest)
    if chosen > most or chosen > wanted:
        because["train.row_tokens"] = f"the longest row has {data.longest:,} tokens and is not cut"
    elif chosen == most:
        because["train.row_tokens"] = (
            f"long enough to keep a {device.upper()} busy; longer rows cost memory and gain no speed"
        )
    else:
        because["train.row_tokens"] = "one packed row makes a step: the dataset is small"
    return chosen
