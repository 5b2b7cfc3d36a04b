"""Losses of whole rows without gradients, for evaluation. What rows begin with alike is computed once.

The same pass tells how far the model itself would have written what a row answers: up to the first token that is not its most
likely one. Greedy decoding need only go on from there (the verification of Leviathan et al. 2023, arXiv:2211.17192, at
temperature 0, with the expected answer as the draft).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from burnish.core.errors import BaseModelError
from burnish.core.rows import TokenRow
from burnish.model.cached_attention import Piece, StepLayout, cached_attention_on
from burnish.model.kv_cache import Prefix, Rows
from burnish.model.sampling import most_likely
from burnish.model.shared_starts import shared_starts

PASS_TOKENS = 512
"""Tokens of one forward pass; at most so many rows of logits exist at once."""


class RowRead(NamedTuple):
    """Summed negative log-likelihood in nats of a row's tokens with loss, and how many they are.

    agreed: leading tokens of the last answer that are the model's most likely ones, each after those before it.
    """

    nats: float
    tokens: int
    agreed: int


@dataclass(slots=True)
class _Sums:
    """What is known of all rows so far: nats (rows,), and of each row whether its targets were the most likely tokens."""

    nats: Tensor
    hits: list[list[bool]]


@dataclass(slots=True)
class _Pass:
    """Tokens of one forward pass: pieces of rows end to end, and which places predict which target of which row."""

    pieces: list[Piece] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)


def read_rows(
    model: PreTrainedModel, rows: Sequence[TokenRow], *, progress: Callable[[int, int], None] | None = None
) -> list[RowRead]:
    """Return what reading each row gives.

    The first token of a row has nothing before it and is never a target. `progress(done, total)` counts rows.
    """
    if model.training:
        raise BaseModelError("the model is in training mode; call model.eval() before measuring losses")
    sums = _Sums(torch.zeros(len(rows), dtype=torch.float64, device=model.device), [[] for _ in rows])
    counts = [sum(row.mask[1:]) for row in rows]
    scored = [index for index, count in enumerate(counts) if count]
    # A start is shared only up to the first target, so that every target belongs to one row.
    starts = [rows[index].ids[: rows[index].mask.index(1, 1)] for index in scored]
    order, shares = shared_starts(starts)
    work, prefix = _Pass(), None
    for done, place in enumerate(order):
        index, share = scored[place], shares[place]
        if share == 0:
            prefix = None
        elif prefix is None or len(prefix) != share or prefix.common(torch.tensor(rows[index].ids)) < share:
            prefix = Prefix(rows[index].ids[:share])
            work = _lay(model, sums, work, prefix, rows[index], None)
        work = _lay(model, sums, work, Prefix(rows[index].ids[share:]), rows[index], (index, prefix))
        if progress is not None:
            progress(done + 1, len(scored))
    _run(model, sums, work)
    nats: list[float] = sums.nats.tolist()
    return [
        RowRead(lost, count, _agreed(row, hits))
        for row, lost, count, hits in zip(rows, nats, counts, sums.hits, strict=True)
    ]


def _agreed(row: TokenRow, hits: Sequence[bool]) -> int:
    """Return how many leading tokens of the last answer were hit; `hits` are of all targets of the row."""
    if not row.prompt:  # nothing is asked
        return 0
    earlier = sum(row.mask[1 : row.prompt])
    answer = sum(1 for _ in takewhile(bool, row.mask[row.prompt :]))
    return sum(1 for _ in takewhile(bool, hits[earlier : earlier + answer]))


def _lay(
    model: PreTrainedModel,
    sums: _Sums,
    work: _Pass,
    target: Prefix,
    row: TokenRow,
    owner: tuple[int, Prefix | None] | None,
) -> _Pass:
    """Add `target`'s tokens to the work, running full passes on the way; return the work that is still open.

    `owner` is the row's index and its shared start; None when the target is itself a shared start.
    """
    index, prefix = owner if owner is not None else (0, None)
    past = len(prefix) if prefix is not None else 0
    start = 0
    while start < len(target):
        if len(work.tokens) == PASS_TOKENS:
            _run(model, sums, work)
            work = _Pass()
        taken = min(PASS_TOKENS - len(work.tokens), len(target) - start)
        first = past + start
        if owner is not None:
            wanted = [p for p in range(first, first + taken) if p + 1 < len(row.ids) and row.mask[p + 1]]
            work.places += [len(work.tokens) + p - first for p in wanted]
            work.targets += [row.ids[p + 1] for p in wanted]
            work.owners += [index] * len(wanted)
        work.pieces.append(Piece(len(work.tokens), taken, target, start, prefix, past))
        work.tokens += row.ids[first : first + taken]
        work.positions += range(first, first + taken)
        start += taken
    return work


@torch.no_grad()
def _run(model: PreTrainedModel, sums: _Sums, work: _Pass) -> None:
    """Compute one pass and add its losses to the rows' sums."""
    if not work.tokens:
        return
    device = sums.nats.device
    none = torch.zeros(0, dtype=torch.int64, device=device)
    layout = StepLayout(Rows(), none, none, 0, 0, [], work.pieces)
    with cached_attention_on(model):
        logits = model(
            input_ids=torch.tensor([work.tokens], device=device),
            position_ids=torch.tensor([work.positions], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(work.places, dtype=torch.int64, device=device),
            burnish_step=layout,
        ).logits
    if layout.layers_seen == 0:
        raise BaseModelError(f"{type(model).__name__} does not pass keyword arguments to its attention")
    if work.places:
        targets = torch.tensor(work.targets, device=device)
        losses = cross_entropy(logits[0].float(), targets, reduction="none").double()
        sums.nats.index_add_(0, torch.tensor(work.owners, device=device), losses)
        for owner, hit in zip(work.owners, (most_likely(logits[0]) == targets).tolist(), strict=True):
            sums.hits[owner].append(hit)
