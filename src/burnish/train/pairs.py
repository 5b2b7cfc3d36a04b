"""Preference pairs become packed rows: a prompt once, then the chosen and the rejected answers that continue it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from burnish.core.errors import TrainingError
from burnish.core.packing import Length, pack
from burnish.model.attention import PackedLayout, Segment
from burnish.model.lora import adapter_off
from burnish.model.losses import target_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TokenPair(NamedTuple):
    """A prompt (generation prompt included) and two answers to it, each with its end-of-turn token, as token ids."""

    pair_id: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """One forward pass over P pairs of T tokens in all, each prompt once.

    `at_N` are the positions that predict `targets_N`: the N tokens of all answers, chosen and rejected in turn. The last
    token of a prompt stands in it once for each answer. `lengths_2P` are the tokens of the answers.
    """

    pair_ids: tuple[str, ...]
    ids_T: Tensor
    layout: PackedLayout
    at_N: Tensor
    targets_N: Tensor
    lengths_2P: Tensor

    @property
    def tokens(self) -> int:
        """Tokens of the forward pass."""
        return self.ids_T.shape[0]


def pack_pairs(pairs: Sequence[TokenPair], row_tokens: int, seed: int) -> list[list[int]]:
    """Return the pair indices of each packed row. Raises TrainingError for a pair longer than a packed row."""
    lengths: list[Length] = [(pair.prompt, len(pair.prompt), len(pair.chosen) + len(pair.rejected)) for pair in pairs]
    try:
        return pack(lengths, row_tokens, seed)
    except ValueError as error:
        raise TrainingError(f"cannot pack the pairs: {error}") from error


def lay_pairs(pairs: Sequence[TokenPair], device: torch.device) -> PackedPairs:
    """Lay out pairs as [prompt][chosen][rejected]..., positions restarting after the prompt; no answer sees another.

    Pairs with the same prompt share it. Raises TrainingError for a pair with an empty prompt or answer.
    """
    groups: dict[tuple[int, ...], list[TokenPair]] = {}
    for pair in pairs:
        if not (pair.prompt and pair.chosen and pair.rejected):
            raise TrainingError(f"pair {pair.pair_id} has an empty prompt or answer; each needs a token at least.")
        groups.setdefault(pair.prompt, []).append(pair)
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    at: list[int] = []
    targets: list[int] = []
    for prompt, members in groups.items():
        start, end = len(ids), len(ids) + len(prompt)
        segments.append(Segment(start, end))
        ids += prompt
        positions += range(len(prompt))
        for answer in (answer for pair in members for answer in (pair.chosen, pair.rejected)):
            first = len(ids)
            segments.append(Segment(first, first + len(answer), start, end))
            ids += answer
            positions += range(len(prompt), len(prompt) + len(answer))
            at += [end - 1, *range(first, first + len(answer) - 1)]
            targets += answer
    laid = [pair for members in groups.values() for pair in members]
    lengths = [[len(pair.chosen) for pair in laid], [len(pair.rejected) for pair in laid]]
    return PackedPairs(
        pair_ids=tuple(pair.pair_id for pair in laid),
        ids_T=torch.tensor(ids, device=device),
        layout=PackedLayout(tuple(segments), torch.tensor(positions, device=device)),
        at_N=torch.tensor(at, device=device),
        targets_N=torch.tensor(targets, device=device),
        lengths_2P=torch.tensor(lengths, device=device),
    )


def log_probabilities(model: PreTrainedModel, row: PackedPairs) -> Tensor:
    """Return the summed log-probabilities (2, P) in nats of the chosen and rejected answers. Within `packing(model)`."""
    hidden_BTD = model.base_model(
        input_ids=row.ids_T[None], position_ids=row.layout.positions_T[None], use_cache=False, packed=row.layout
    ).last_hidden_state
    head_VD = model.get_output_embeddings().weight
    sizes = row.lengths_2P.t().flatten().tolist()
    answers = zip(hidden_BTD[0, row.at_N].split(sizes), row.targets_N.split(sizes), strict=True)
    nats = torch.stack([target_loss(hidden_ND, head_VD, targets_N) for hidden_ND, targets_N in answers])
    return -nats.view(-1, 2).t()


@torch.no_grad()
def reference_log_probabilities(model: PreTrainedModel, row: PackedPairs) -> Tensor:
    """Return what `log_probabilities` gives with the adapter switched off: the base is the reference, at no memory."""
    with adapter_off(model):
        return log_probabilities(model, row)
