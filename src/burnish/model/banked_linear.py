"""Linear layers whose tokens may each have another adapter: y = W x + B_s (A_s x), s the adapter of the token.

Before a step its tokens are sorted into parts: neighbouring tokens of one adapter are one plain product, tokens of many
adapters one batched (CPU) or masked (GPU) product. The frozen product is one for all. Layers that read the same input are
multiplied with the A matrices of all of them at once. See lora_bank.py for where the matrices lie.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.core.errors import BaseModelError
from burnish.model.families import ATTENTION, GATED, SAME_INPUT
from burnish.model.lora import adaptable_layers
from burnish.model.lora_bank import Group, Layout, LoraBank, Member, Stack, runs
from burnish.model.lora_linear import AdaptedLinear

PADDING_LIMIT = 2.0
"""Batched products may compute so many times the tokens there are; what is beyond becomes products of its own."""


class Part(Protocol):
    """Tokens of a step that get their low-rank product together."""

    def down(self, x_NI: Tensor, group: Group) -> Tensor:
        """Return x A^T for the members of a group, in a form that `up` takes."""
        ...

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add h B^T of the member at `place` of its group to y, in place."""
        ...


@dataclass(slots=True)
class PlainPart:
    """Neighbouring tokens of one adapter."""

    stack: Stack
    slot: int
    tokens: slice

    def down(self, x_NI: Tensor, group: Group) -> Tensor:
        """Return (T, members x rank)."""
        a_SI = self.stack.matrices(group.offset, self.slot, 1, group.inputs, tall=True)
        return nn.functional.linear(_some(x_NI, self.tokens), a_SI)

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add one product."""
        rank = self.stack.rank
        b_RO = self.stack.matrices(member.offset, self.slot, 1, member.outputs, tall=True)
        _some(y_NO, self.tokens).addmm_(h[:, place * rank : (place + 1) * rank], b_RO)


@dataclass(slots=True)
class BatchedPart:
    """Tokens of adapters in neighbouring slots, as a batch of small products: what a CPU does, which is short of arithmetic.

    G adapters, T tokens each.
    tokens: where they lie, when they lie next to each other and each adapter has T of them.
    gather: otherwise, the token of each of the G x T places; places without a token repeat another.
    filled, back: the places that hold a token, and which token.
    """

    stack: Stack
    first: int
    adapters: int
    tokens: slice
    gather: Tensor | None = None
    filled: Tensor | None = None
    back: Tensor | None = None

    def down(self, x_NI: Tensor, group: Group) -> Tensor:
        """Return (G, T, members x rank)."""
        a_GSI = self.stack.matrices(group.offset, self.first, self.adapters, group.inputs, tall=False)
        x_TI = x_NI[self.tokens] if self.gather is None else x_NI.index_select(0, self.gather)
        return torch.bmm(x_TI.view(self.adapters, -1, group.inputs), a_GSI.transpose(1, 2))

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add a batch of products."""
        rank = self.stack.rank
        b_GRO = self.stack.matrices(member.offset, self.first, self.adapters, member.outputs, tall=False)
        h = h[..., place * rank : (place + 1) * rank]
        if self.gather is None:
            y_NO[self.tokens].view(self.adapters, -1, member.outputs).baddbmm_(h, b_GRO)
        else:
            assert self.filled is not None
            assert self.back is not None
            more = torch.bmm(h, b_GRO).view(-1, member.outputs)
            y_NO.index_add_(0, self.back, more.index_select(0, self.filled))


@dataclass(slots=True)
class MaskedPart:
    """All decoding tokens times all adapters in use, of which each token keeps its own: what a GPU does.

    It is short of launches and of bandwidth, not of arithmetic: two large products and a mask are faster there than many
    small ones, and read each adapter once too. mask_NG1: 1 where the adapter is the token's.
    """

    stack: Stack
    adapters: int
    tokens: slice
    mask_NG1: Tensor

    def down(self, x_NI: Tensor, group: Group) -> Tensor:
        """Return (members, N, adapters x rank): zero but where the adapter is the token's."""
        members, rank = len(group.members), self.stack.rank
        a_SI = self.stack.matrices(group.offset, 0, self.adapters, group.inputs, tall=True)
        h_NS = nn.functional.linear(_some(x_NI, self.tokens), a_SI)
        if members == 1:
            h_NGR = h_NS.view(-1, self.adapters, rank).mul_(self.mask_NG1)
            return h_NGR.view(1, -1, self.adapters * rank)
        h_MNGR = h_NS.view(-1, self.adapters, members, rank).permute(2, 0, 1, 3)
        kept = h_NS.new_empty(h_MNGR.shape)
        torch.mul(h_MNGR, self.mask_NG1, out=kept)
        return kept.view(members, -1, self.adapters * rank)

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add one product over the ranks of all adapters."""
        b_SO = self.stack.matrices(member.offset, 0, self.adapters, member.outputs, tall=True)
        _some(y_NO, self.tokens).addmm_(h[place], b_SO)


def _some(values_NX: Tensor, tokens: slice) -> Tensor:
    """Return some of the tokens: all of them as they are."""
    return values_NX if tokens.start == 0 and tokens.stop == values_NX.shape[0] else values_NX[tokens]


class SharedInput:
    """The low-rank half of layers that read the same tensor: computed at the first call, taken by the others.

    A layer that is called with another tensor gets its own: a wrong guess about who shares costs time, never a wrong number.
    """

    def __init__(self, bank: BankedModel, group: Group) -> None:
        self._bank = bank
        self.group = group
        self._x: Tensor | None = None
        self._h: list[Tensor] = []
        self._left = 0

    def take(self, x: Tensor) -> list[Tensor]:
        """Return x A^T of each part of the step."""
        if x is not self._x:
            x_NI = x.reshape(-1, x.shape[-1])
            self._h = [part.down(x_NI, self.group) for part in self._bank.parts]
            self._x, self._left = x, len(self.group.members)
        self._left -= 1
        h = self._h
        if not self._left:
            self.forget()
        return h

    def forget(self) -> None:
        """Let go of what nobody took."""
        self._x, self._h = None, []


class BankedLinear(AdaptedLinear):
    """A frozen linear layer (float or NF4) with the adapters of a bank."""

    def __init__(self, base: nn.Linear, shared: SharedInput, place: int, bank: BankedModel) -> None:
        super().__init__(base)
        self._shared = shared
        self._place = place
        self._bank = bank

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of x (..., in)."""
        y = self.base(x)
        if self._bank.parts:
            y_NO = y.view(-1, y.shape[-1])
            member = self._shared.group.members[self._place]
            for part, h in zip(self._bank.parts, self._shared.take(x), strict=True):
                part.up(y_NO, h, self._place, member)
        return y


class BankedModel:
    """A frozen model in eval mode with a bank of adapters on its linear layers, until `take_off`.

    `parts` is what the running step does; no parts, and the model is the base.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if model.training:
            raise BaseModelError("the model is in training mode; call model.eval() before serving it")
        self.model = model
        self.sizes = adaptable_layers(model)
        self.parts: list[Part] = []
        self.masked = model.device.type == "cuda"
        groups = _groups(model, list(self.sizes))
        self.layout = Layout.of(groups, self.sizes)
        weight = model.get_input_embeddings().weight
        self.bank = LoraBank(self.layout, weight.dtype, weight.device)
        self._shared: list[SharedInput] = []
        for group in self.layout.groups:
            shared = SharedInput(self, group)
            self._shared.append(shared)
            for place, member in enumerate(group.members):
                model.set_submodule(
                    member.name, BankedLinear(model.get_submodule(member.name), shared, place, self).eval()
                )

    def take_off(self) -> None:
        """Make the model the plain base again."""
        for name in self.sizes:
            layer = self.model.get_submodule(name)
            if isinstance(layer, BankedLinear):
                self.model.set_submodule(name, layer.base)

    def order(self, keys: Sequence[Hashable | None]) -> list[int]:
        """Return the order in which `step` wants the decoding tokens; adapters in use come to lie next to each other."""
        self.bank.bring_forward(keys)
        if self.masked:
            return list(range(len(keys)))
        places = [self.bank.place(key) for key in keys]
        return sorted(range(len(keys)), key=places.__getitem__)

    @contextmanager
    def step(
        self, decoding: Sequence[Hashable | None], pieces: Sequence[tuple[Hashable | None, slice]]
    ) -> Iterator[None]:
        """Within the block the model computes one step's tokens with their adapters.

        decoding: the adapter of each of the first tokens, in the order that `order` gave.
        pieces: adapter and tokens of each piece of a prompt.
        """
        self.parts = _masked_parts(self.bank, decoding) if self.masked else _decode_parts(self.bank, decoding)
        for key, tokens in _joined_pieces(pieces):
            if key is not None:
                rank, slot = self.bank.place(key)
                self.parts.append(PlainPart(self.bank.stacks[rank], slot, tokens))
        try:
            yield
        finally:
            self.parts = []
            for shared in self._shared:
                shared.forget()


def _groups(model: PreTrainedModel, names: Sequence[str]) -> list[list[str]]:
    """Group the layers of known modules that read the same input; every other layer is a group of its own."""
    together: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, ATTENTION + GATED):
            for leaves in SAME_INPUT:
                members = [f"{name}.{leaf}" for leaf in leaves if f"{name}.{leaf}" in names]
                together |= dict.fromkeys(members, members)
    groups: list[list[str]] = []
    for name in names:
        group = together.get(name, [name])
        if group[0] == name:
            groups.append(group)
    return groups


def _joined_pieces(pieces: Sequence[tuple[Hashable | None, slice]]) -> list[tuple[Hashable | None, slice]]:
    """Make one of neighbouring pieces of the same adapter."""
    joined: list[tuple[Hashable | None, slice]] = []
    for key, tokens in pieces:
        if joined and joined[-1][0] == key and joined[-1][1].stop == tokens.start:
            joined[-1] = (key, slice(joined[-1][1].start, tokens.stop))
        else:
            joined.append((key, tokens))
    return joined


def _masked_parts(bank: LoraBank, keys: Sequence[Hashable | None]) -> list[Part]:
    """Return one part for each padded rank; a plain one when all tokens have the same adapter."""
    places = [bank.place(key) for key in keys]
    everything = slice(0, len(keys))
    if places and places[0][0] and len(set(places)) == 1:
        return [PlainPart(bank.stacks[places[0][0]], places[0][1], everything)]
    parts: list[Part] = []
    for rank in sorted({rank for rank, _ in places if rank}):
        used = 1 + max(slot for found, slot in places if found == rank)
        mask_NG = torch.zeros(len(keys), used, dtype=bank.dtype)
        for token, (found, slot) in enumerate(places):
            if found == rank:
                mask_NG[token, slot] = 1
        parts.append(MaskedPart(bank.stacks[rank], used, everything, mask_NG[:, :, None].to(bank.device)))
    return parts


def _decode_parts(bank: LoraBank, keys: Sequence[Hashable | None]) -> list[Part]:
    """Sort the decoding tokens (one each, already in the order of their places) into parts."""
    places = [bank.place(key) for key in keys]
    parts: list[Part] = []
    for rank, first, end in runs(places):
        if rank:
            counts = _counts([slot for _, slot in places[first:end]])
            parts += _parts_of(bank.stacks[rank], counts, first, bank.device)
    return parts


def _counts(slots: Sequence[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for slot in slots:
        counts[slot] = counts.get(slot, 0) + 1
    return counts


def _parts_of(stack: Stack, counts: dict[int, int], first: int, device: torch.device) -> list[Part]:
    """Cut the tokens of one stack: crowded adapters by themselves where padding would cost more, the rest as one batch."""
    starts: dict[int, int] = {}
    for slot, count in counts.items():
        starts[slot] = first
        first += count
    parts: list[Part] = []
    batched = dict(counts)
    while len(batched) > 1:
        places = (max(batched) - min(batched) + 1) * max(batched.values())
        if places <= PADDING_LIMIT * sum(batched.values()):
            break
        crowded = max(batched, key=lambda slot: batched[slot])
        if batched[crowded] == 1:  # one token each, but far apart
            break
        parts.append(_plain(stack, crowded, starts[crowded], batched.pop(crowded)))
    if len(batched) == 1:
        ((slot, count),) = batched.items()
        parts.append(_plain(stack, slot, starts[slot], count))
    elif batched:
        parts.append(_batch(stack, batched, starts, device))
    return parts


def _plain(stack: Stack, slot: int, start: int, count: int) -> PlainPart:
    return PlainPart(stack, slot, slice(start, start + count))


def _batch(stack: Stack, counts: dict[int, int], starts: dict[int, int], device: torch.device) -> BatchedPart:
    """One batched product over the slots from the lowest to the highest."""
    low, high, most = min(counts), max(counts), max(counts.values())
    begin = min(starts[slot] for slot in counts)
    if len(counts) == high - low + 1 and min(counts.values()) == most:
        end = begin + sum(counts.values())
        if all(starts[slot] == begin + (slot - low) * most for slot in counts):
            return BatchedPart(stack, low, len(counts), slice(begin, end))
    gather: list[int] = []
    filled: list[int] = []
    back: list[int] = []
    for slot in range(low, high + 1):
        count, start = counts.get(slot, 0), starts.get(slot, begin)
        filled += range(len(gather), len(gather) + count)
        back += range(start, start + count)
        gather += [*range(start, start + count), *[begin] * (most - count)]
    gather_P, filled_P, back_P = (torch.tensor(each, device=device) for each in (gather, filled, back))
    return BatchedPart(stack, low, high - low + 1, slice(0, 0), gather_P, filled_P, back_P)
