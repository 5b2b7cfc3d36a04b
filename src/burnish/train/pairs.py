"""Preference pairs become packed rows: a prompt once, then the chosen and the rejected answers that continue it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from burnish.core.errors import TrainingError
from burnish.core.packing import Length
from burnish.core.rows import TokenPair
from burnish.model.attention import PackedLayout, Segment
from burnish.model.devices import to_device
from burnish.model.lora import adapter_as, adapter_off
from burnish.model.losses import answer_losses, logits_of, target_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """One forward pass over P pairs, each prompt once. `tokens` of its T tokens belong to pairs; the rest is filler.

    `at_N` are the positions that predict `targets_N`: the N tokens of all answers that count. The last token of a prompt
    stands in it once for each answer. They are those of the chosen answer of each pair, then those of its rejected one;
    `owners_N`: which answer each belongs to. `lengths_2P`: how many each answer has.
    """

    row_ids: tuple[str, ...]
    tokens: int
    ids_T: Tensor
    layout: PackedLayout
    at_N: Tensor
    targets_N: Tensor
    owners_N: Tensor
    lengths_2P: Tensor

    @property
    def trained_tokens(self) -> int:
        """Tokens of answers that count."""
        return self.targets_N.shape[0]

    @property
    def units(self) -> int:
        """Each pair weighs the same, whatever its length."""
        return self.lengths_2P.shape[1]


def pair_lengths(pairs: Sequence[TokenPair]) -> list[Length]:
    """Return what packing needs of each pair: its prompt (as key), the prompt's length, the tokens of both answers."""
    return [(pair.prompt, len(pair.prompt), len(pair.chosen) + len(pair.rejected)) for pair in pairs]


def lay_pairs(pairs: Sequence[TokenPair], device: torch.device, *, multiple_of: int = 1) -> PackedPairs:
    """Lay out pairs as [prompt][chosen][rejected]..., positions restarting after the prompt; no answer sees another.

    Pairs with the same prompt share it. Filler, which nothing sees, rounds the tokens up to `multiple_of`. Raises
    TrainingError for a pair with an empty prompt or answer.
    """
    laid = _Laid()
    by_prompt: dict[tuple[int, ...], list[TokenPair]] = {}
    for pair in pairs:
        if not (pair.prompt and pair.chosen and pair.rejected):
            raise TrainingError(f"pair {pair.pair_id} has an empty prompt or answer; each needs a token at least.")
        by_prompt.setdefault(pair.prompt, []).append(pair)
    for prompt, members in by_prompt.items():
        span = laid.prompt(prompt)
        for pair in members:
            laid.answer(span, pair.chosen, pair.chosen_mask)
            laid.answer(span, pair.rejected, pair.rejected_mask)
    tokens = len(laid.ids)
    laid.fill(-tokens % multiple_of)
    return PackedPairs(
        row_ids=tuple(pair.pair_id for members in by_prompt.values() for pair in members),
        tokens=tokens,
        ids_T=to_device(laid.ids, device),
        layout=PackedLayout(tuple(laid.segments), to_device(laid.positions, device)),
        at_N=to_device(laid.at, device),
        targets_N=to_device(laid.targets, device),
        owners_N=to_device([answer for answer, count in enumerate(laid.lengths) for _ in range(count)], device),
        lengths_2P=to_device(laid.lengths, device).view(-1, 2).t(),
    )


@dataclass(slots=True)
class _Laid:
    """What is laid out so far."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def prompt(self, ids: tuple[int, ...]) -> tuple[int, int]:
        start = len(self.ids)
        self._add(ids, 0)
        return start, len(self.ids)

    def answer(self, prompt: tuple[int, int], ids: tuple[int, ...], mask: tuple[int, ...] | None) -> None:
        start, end = prompt
        before = [end - 1, *range(len(self.ids), len(self.ids) + len(ids) - 1)]
        counted = [index for index in range(len(ids)) if mask is None or mask[index]]
        self.at += [before[index] for index in counted]
        self.targets += [ids[index] for index in counted]
        self.lengths.append(len(counted))
        self._add(ids, end - start, prompt)

    def fill(self, count: int) -> None:
        if count:
            self._add((0,) * count, 0)

    def _add(self, ids: tuple[int, ...], position: int, prompt: tuple[int, int] = (0, 0)) -> None:
        self.segments.append(Segment(len(self.ids), len(self.ids) + len(ids), *prompt))
        self.ids += ids
        self.positions += range(position, position + len(ids))


def log_probabilities(model: PreTrainedModel, row: PackedPairs) -> Tensor:
    """Return the summed log-probabilities (2, P) in nats of the chosen and rejected answers. Within `packing(model)`."""
    hidden_BTD = model.base_model(
        input_ids=row.ids_T[None], position_ids=row.layout.positions_T[None], use_cache=False, packed=row.layout
    ).last_hidden_state
    head_VD, logits = model.get_output_embeddings().weight, logits_of(model)
    hidden_ND = hidden_BTD[0].index_select(0, row.at_N)
    if head_VD.requires_grad:
        nats_N = target_losses(hidden_ND, head_VD, row.targets_N, logits=logits)
        sums_A = nats_N.new_zeros(2 * row.units, dtype=torch.float64).index_add(0, row.owners_N, nats_N.double())
        return -sums_A.to(nats_N.dtype).view(-1, 2).t()
    nats_A = answer_losses(hidden_ND, head_VD, row.targets_N, row.owners_N, 2 * row.units, logits=logits)
    return -nats_A.view(-1, 2).t()


@torch.no_grad()
def reference_log_probabilities(
    model: PreTrainedModel, row: PackedPairs, start: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Return what `log_probabilities` gives for the reference, at no other memory than the adapter's.

    It is the base, with the adapter switched off; or, with `start`, the base with these weights in the adapter. Nothing is dropped
    in it, by the base's own layers either.
    """
    training = model.training
    model.eval()
    try:
        with adapter_off(model) if start is None else adapter_as(model, start):
            return log_probabilities(model, row)
    finally:
        model.train(training)
