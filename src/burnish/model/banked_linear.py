"""Linear layers whose tokens may each have another adapter: y = W x + B_s (A_s x), s the adapter of the token.

Before a step its tokens are sorted into parts (lora_parts.py, lora_parts_gpu.py), each of which gets its low-rank product
together. The frozen product is one for all tokens. What layers that read the same input can share is computed once: the
product with the A matrices of all of them and, on a CPU, the frozen product too (packed_linear.py). See lora_bank.py for
where the matrices lie.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.core.errors import BaseModelError
from burnish.model.decoding_layer import DecodingLayer, can_decode, inputs_of
from burnish.model.devices import has_triton
from burnish.model.families import SAME_INPUT, is_attention, is_gated
from burnish.model.lora import adaptable_layers
from burnish.model.lora_bank import Group, Layout, LoraBank
from burnish.model.lora_linear import AdaptedLinear
from burnish.model.lora_parts import BatchedPart, Part, PlainPart, batched_parts, piece_parts
from burnish.model.lora_parts_gpu import Way, gpu_parts
from burnish.model.packed_linear import PackedLinear, can_pack


class SharedInput:
    """Layers that read the same tensor: what they share is computed at the first call and taken by the others.

    A layer that is called with another tensor gets its own: a wrong guess about who shares costs time, never a wrong number.
    """

    def __init__(self, banked: BankedModel, group: Group, linears: Sequence[nn.Linear]) -> None:
        self.packed = PackedLinear(linears) if can_pack(linears) else None
        self._banked = banked
        self._group = group
        self._x: Tensor | None = None
        self._h: list[Tensor] = []
        self._y: Sequence[Tensor] = ()
        self._left = 0

    def product(self, x: Tensor, place: int, base: nn.Linear) -> Tensor:
        """Return W x + B A x of the layer at `place`, whose frozen layer is `base`."""
        if x is not self._x:
            self._begin(x)
        if self.packed is not None:
            y = self._y[place]
        else:
            y = base(x)
            y_NO = y.view(-1, y.shape[-1])
            member = self._group.members[place]
            for part, h in zip(self._banked.parts, self._h, strict=True):
                part.up(y_NO, h, place, member)
        self._left -= 1
        if not self._left:
            self.forget()
        return y

    def together(self, x_NI: Tensor) -> Tensor:
        """Return W x + B A x of all layers, one after another (N, all outputs). They must be packed."""
        assert self.packed is not None
        y_NO = self.packed(x_NI)
        for part in self._banked.parts:
            h = part.down(x_NI, self._group)
            if self._group.width is not None:
                assert isinstance(part, (PlainPart, BatchedPart)), "a GPU's parts have no groups with units"
                part.up_together(y_NO, h, self._group)
                continue
            pieces = y_NO.split_with_sizes(self.packed.out_features, dim=-1)
            for place, (piece_NO, member) in enumerate(zip(pieces, self._group.members, strict=True)):
                part.up(piece_NO, h, place, member)
        return y_NO

    def _begin(self, x: Tensor) -> None:
        x_NI = x.reshape(-1, x.shape[-1])
        if self.packed is not None:
            self._y = self.together(x_NI).view(*x.shape[:-1], -1).split(self.packed.out_features, dim=-1)
        else:
            self._h = [part.down(x_NI, self._group) for part in self._banked.parts]
        self._x, self._left = x, len(self._group.members)

    def forget(self) -> None:
        """Let go of what nobody took."""
        self._x, self._h, self._y = None, [], ()


class BankedLinear(AdaptedLinear):
    """A frozen linear layer (float or NF4) with the adapters of a bank."""

    def __init__(self, base: nn.Linear, shared: SharedInput, place: int) -> None:
        super().__init__(base)
        self._shared = shared
        self._place = place

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of x (..., in)."""
        return self._shared.product(x, self._place, self.base)


class BankedModel:
    """A frozen model in eval mode with a bank of adapters on its linear layers, until `take_off`.

    `parts` is what the running step does; no parts, and the model is the base. `way` is how a GPU computes many adapters at once;
    None is the way of a CPU, and by itself chosen there. tiled: let a GPU compute tiles in Triton's kernels where it has Triton.
    """

    def __init__(self, model: PreTrainedModel, *, tiled: bool = False, way: Way | None = None) -> None:
        if model.training:
            raise BaseModelError("the model is in training mode; call model.eval() before serving it")
        self.model = model
        self.sizes = adaptable_layers(model)
        self.parts: list[Part] = []
        self.way: Way | None = way
        if way is None and model.device.type == "cuda":
            self.way = "tiled" if tiled and has_triton() else "masked"
        groups = _groups(model, list(self.sizes))
        joined = [self.way is None and can_pack([model.get_submodule(name) for name in names]) for names in groups]
        self.layout = Layout.of(groups, self.sizes, joined=joined)
        weight = model.get_input_embeddings().weight
        self.bank = LoraBank(self.layout, weight.dtype, weight.device)
        self._shared: list[SharedInput] = []
        for group in self.layout.groups:
            linears = [model.get_submodule(member.name) for member in group.members]
            shared = SharedInput(self, group, linears)
            self._shared.append(shared)
            for place, (member, linear) in enumerate(zip(group.members, linears, strict=True)):
                model.set_submodule(member.name, BankedLinear(linear, shared, place).eval())
        self._replace_layers()
        self._head = _pack_head(model)

    def _replace_layers(self) -> None:
        """Let layers of known families whose products are packed take few operations."""
        packed = {
            tuple(member.name for member in group.members): shared
            for group, shared in zip(self.layout.groups, self._shared, strict=True)
            if shared.packed is not None
        }
        for name, layer in list(self.model.named_modules()):
            if can_decode(layer):
                groups = [packed.get(tuple(names)) for names in inputs_of(name)]
                if None not in groups:
                    self.model.set_submodule(name, DecodingLayer(layer, *groups))  # pyright: ignore[reportArgumentType]

    def take_off(self) -> None:
        """Make the model the plain base again."""
        for name, layer in list(self.model.named_modules()):
            if isinstance(layer, DecodingLayer):
                self.model.set_submodule(name, layer.replaced)
        for shared in self._shared:
            if shared.packed is not None:
                shared.packed.unpack()
        for name in self.sizes:
            layer = self.model.get_submodule(name)
            if isinstance(layer, BankedLinear):
                self.model.set_submodule(name, layer.base)
        if self._head is not None:
            name, head, packed = self._head
            packed.unpack()
            self.model.set_submodule(name, head)
        self._shared, self._head = [], None

    def order(self, keys: Sequence[Hashable | None]) -> list[int]:
        """Return the order in which `step` wants the decoding tokens; adapters in use come to lie next to each other."""
        self.bank.bring_forward(keys)
        if self.way is not None:
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
        parts = batched_parts(self.bank, decoding) if self.way is None else gpu_parts(self.bank, decoding, self.way)
        with self.computing(parts + piece_parts(self.bank, pieces)):
            yield

    @contextmanager
    def answering(self, key: Hashable | None) -> Iterator[None]:
        """Within the block the model answers with one adapter, or as the base, whatever is computed: each token is its own."""
        if key is None:
            parts: list[Part] = []
        else:
            rank, slot = self.bank.place(key)
            parts = [PlainPart(self.bank.stacks[rank], slot, slice(0, None))]
        with self.computing(parts):
            yield

    @contextmanager
    def computing(self, parts: list[Part]) -> Iterator[None]:
        """Within the block the model computes these parts."""
        self.parts = parts
        try:
            yield
        finally:
            self.parts = []
            for shared in self._shared:
                shared.forget()


def _pack_head(model: PreTrainedModel) -> tuple[str, nn.Linear, PackedLinear] | None:
    """Pack the output head where that helps; returns its name and both forms."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or not can_pack([head]):
        return None
    name = next(name for name, module in model.named_modules() if module is head)
    packed = PackedLinear([head], keep=head.weight is model.get_input_embeddings().weight)
    model.set_submodule(name, packed)
    return name, head, packed


def _groups(model: PreTrainedModel, names: Sequence[str]) -> list[list[str]]:
    """Group the layers of known modules that read the same input; every other layer is a group of its own."""
    together: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if is_attention(module) or is_gated(module):
            for leaves in SAME_INPUT:
                members = [f"{name}.{leaf}" for leaf in leaves if f"{name}.{leaf}" in names]
                together |= dict.fromkeys(members, members)
    groups: list[list[str]] = []
    for name in names:
        group = together.get(name, [name])
        if group[0] == name:
            groups.append(group)
    return groups
