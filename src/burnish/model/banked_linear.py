"""Linear layers whose tokens may each have another adapter: y = W x + B_s (A_s x), s the adapter of the token.

Before a step its tokens are sorted into `Part`s: neighbouring tokens of one adapter are one plain product, tokens of many
adapters one batched product. The frozen product is one for all. Layers that read the same input are multiplied with the A
matrices of all of them at once. See lora_bank.py for where the matrices lie.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.core.errors import BaseModelError
from burnish.model.families import ATTENTION, GATED, SAME_INPUT
from burnish.model.lora import adaptable_layers
from burnish.model.lora_bank import Group, Layout, LoraBank, Member, Stack, runs
from burnish.model.lora_linear import AdaptedLinear

PADDING_LIMIT = 2.0
"""Batched products may compute so many times the tokens there are, on a CPU; what is beyond becomes products of its own."""


@dataclass(slots=True)
class Part:
    """Tokens of a step that get their low-rank product together. G adapters in neighbouring slots, T tokens each.

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
        """Return x A^T for the members of a group: (G, T, members x rank), or (T, members x rank) for one adapter."""
        rows, rank = self.stack.rows, self.stack.rank
        width = len(group.members) * rank
        a_GSI = rows.as_strided(
            (self.adapters, width, group.inputs),
            (rows.stride(0), group.inputs, 1),
            self.first * rows.stride(0) + group.offset * rank,
        )
        x_TI = x_NI[self.tokens] if self.gather is None else x_NI.index_select(0, self.gather)
        if self.adapters == 1:
            return x_TI @ a_GSI[0].t()
        return torch.bmm(x_TI.view(self.adapters, -1, group.inputs), a_GSI.transpose(1, 2))

    def up(self, y_NO: Tensor, h: Tensor, place: int, member: Member) -> None:
        """Add h B^T of one member to y in place."""
        rows, rank = self.stack.rows, self.stack.rank
        b_GRO = rows.as_strided(
            (self.adapters, rank, member.outputs),
            (rows.stride(0), member.outputs, 1),
            self.first * rows.stride(0) + member.offset * rank,
        )
        h = h[..., place * rank : (place + 1) * rank]
        if self.adapters == 1:
            y_NO[self.tokens].addmm_(h, b_GRO[0])
        elif self.gather is None:
            y_NO[self.tokens].view(self.adapters, -1, member.outputs).baddbmm_(h, b_GRO)
        else:
            assert self.filled is not None
            assert self.back is not None
            more = torch.bmm(h, b_GRO).view(-1, member.outputs)
            y_NO.index_add_(0, self.back, more.index_select(0, self.filled))


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

    @contextmanager
    def step(
        self, decoding: Sequence[Hashable | None], pieces: Sequence[tuple[Hashable | None, slice]]
    ) -> Iterator[None]:
        """Within the block the model computes one step's tokens with their adapters.

        decoding: the adapter of each of the first tokens, in the order of their places in the bank (`LoraBank.place`).
        pieces: adapter and tokens of each piece of a prompt.
        """
        device = self.bank.device
        self.parts = _decode_parts(self.bank, decoding, gather_all=device.type == "cuda")
        for key, tokens in pieces:
            if key is not None:
                rank, slot = self.bank.place(key)
                self.parts.append(Part(self.bank.stacks[rank], slot, 1, tokens))
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


def _decode_parts(bank: LoraBank, keys: Sequence[Hashable | None], *, gather_all: bool) -> list[Part]:
    """Sort the decoding tokens (one each, already in the order of their places) into parts."""
    places = [bank.place(key) for key in keys]
    parts: list[Part] = []
    for rank, first, end in runs(places):
        if rank:
            counts = _counts([slot for _, slot in places[first:end]])
            parts += _parts_of(bank.stacks[rank], counts, first, bank.device, gather_all=gather_all)
    return parts


def _counts(slots: Sequence[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for slot in slots:
        counts[slot] = counts.get(slot, 0) + 1
    return counts


def _parts_of(
    stack: Stack, counts: dict[int, int], first: int, device: torch.device, *, gather_all: bool
) -> list[Part]:
    """Cut the tokens of one stack: crowded adapters by themselves where padding would cost more, the rest as one batch."""
    starts: dict[int, int] = {}
    for slot, count in counts.items():
        starts[slot] = first
        first += count
    parts: list[Part] = []
    batched = dict(counts)
    while len(batched) > 1 and not gather_all:
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


def _plain(stack: Stack, slot: int, start: int, count: int) -> Part:
    return Part(stack, slot, 1, slice(start, start + count))


def _batch(stack: Stack, counts: dict[int, int], starts: dict[int, int], device: torch.device) -> Part:
    """One batched product over the slots from the lowest to the highest."""
    low, high, most = min(counts), max(counts), max(counts.values())
    begin = min(starts[slot] for slot in counts)
    if len(counts) == high - low + 1 and min(counts.values()) == most:
        end = begin + sum(counts.values())
        if all(starts[slot] == begin + (slot - low) * most for slot in counts):
            return Part(stack, low, len(counts), slice(begin, end))
    gather: list[int] = []
    filled: list[int] = []
    back: list[int] = []
    for slot in range(low, high + 1):
        count, start = counts.get(slot, 0), starts.get(slot, begin)
        filled += range(len(gather), len(gather) + count)
        back += range(start, start + count)
        gather += [*range(start, start + count), *[begin] * (most - count)]
    gather_P, filled_P, back_P = (torch.tensor(each, device=device) for each in (gather, filled, back))
    return Part(stack, low, high - low + 1, slice(0, 0), gather_P, filled_P, back_P)
