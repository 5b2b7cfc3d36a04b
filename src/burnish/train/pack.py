"""Token rows become packed rows: tensors without padding, each prefix that rows share computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.core.errors import TrainingError
from burnish.core.packing import Length
from burnish.core.rows import TokenRow
from burnish.model.attention import PackedLayout, Segment
from burnish.model.devices import to_device


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One forward pass. `at_N` are the positions that predict `targets_N`; T tokens, N of them with a target.

    `tokens` of the T belong to samples: every tail, and each shared prefix once. What follows them is filler.
    """

    row_ids: tuple[str, ...]
    tokens: int
    ids_T: Tensor
    layout: PackedLayout
    at_N: Tensor
    targets_N: Tensor

    @property
    def trained_tokens(self) -> int:
        """Tokens predicted with loss."""
        return self.targets_N.shape[0]

    @property
    def units(self) -> int:
        """Each trained token weighs the same, in whatever row it is."""
        return self.trained_tokens


def lengths_of(rows: Sequence[TokenRow]) -> list[Length]:
    """Return what packing needs of each row: its prefix (as key), the prefix's length, the tokens after it."""
    return [(row.ids[:prefix], prefix, len(row.ids) - prefix) for row in rows for prefix in (_shared_prefix(row),)]


def pack_row(rows: Sequence[TokenRow], device: torch.device, *, multiple_of: int = 1) -> PackedRow:
    """Lay out some rows as one packed row: for each prefix [prefix][tail][tail]..., positions restarting after it.

    A sample of filler, which nothing sees and which has no loss, rounds its tokens up to `multiple_of`.
    """
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    at: list[int] = []
    targets: list[int] = []
    for prefix, members in _by_prefix(rows):
        start = len(ids)
        if prefix:
            segments.append(Segment(start, start + len(prefix)))
            ids += prefix
            positions += range(len(prefix))
        for row in members:
            first = len(ids)
            tail = row.ids[len(prefix) :]
            segments.append(Segment(first, first + len(tail), start, start + len(prefix)))
            ids += tail
            positions += range(len(prefix), len(row.ids))
            for offset in range(1, len(tail)):
                if row.mask[len(prefix) + offset]:
                    at.append(first + offset - 1)
                    targets.append(tail[offset])
    tokens = len(ids)
    if filler := -tokens % multiple_of:
        segments.append(Segment(tokens, tokens + filler))
        ids += [0] * filler
        positions += range(filler)
    return PackedRow(
        tokens=tokens,
        row_ids=tuple(row.row_id for row in rows),
        ids_T=to_device(ids, device),
        layout=PackedLayout(tuple(segments), to_device(positions, device)),
        at_N=to_device(at, device),
        targets_N=to_device(targets, device),
    )


def _by_prefix(rows: Sequence[TokenRow]) -> Iterator[tuple[tuple[int, ...], list[TokenRow]]]:
    groups: dict[tuple[int, ...], list[TokenRow]] = {}
    for row in rows:
        groups.setdefault(row.ids[: _shared_prefix(row)], []).append(row)
    yield from groups.items()


def _shared_prefix(row: TokenRow) -> int:
    """Return how many leading tokens may be shared, and check that the token after them is not predicted.

    The last prefix token stands once for many samples, so it cannot predict the first token of each.
    """
    prefix = min(row.prefix, len(row.ids) - 1)
    if prefix > 0 and (row.mask[prefix] or any(row.mask[:prefix])):
        raise TrainingError(
            f"row {row.row_id} has loss within its prefix of {row.prefix} tokens or on the first token after it. "
            "A prefix is a system turn without loss; it is followed by the opening of the next turn."
        )
    return prefix
