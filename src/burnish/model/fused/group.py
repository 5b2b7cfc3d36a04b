"""Linear layers that read one input: one product, with the gradients of their adapters, or of their own weights.

The A matrices of adapters are stacked, beside the frozen product: Hu et al. 2021, arXiv:2106.09685, equation 3. Adapters are
float32; each step's first pass copies them into the dtype of the computation. R is the sum of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.model.fused.formulas import Formulas
from burnish.model.fused.frozen import Form, freeze
from burnish.model.lora_linear import LoraLinear, exact_sum
from burnish.model.losses import exact_product


class Copies:
    """Adapters of a model in the dtype of the computation, all copied at once when one has changed: once a step."""

    def __init__(self) -> None:
        self.groups: WeakSet[AdaptedGroup] = WeakSet()

    @torch.no_grad()
    def refresh(self, dtype: torch.dtype) -> None:
        """Copy every adapter as it is now, in one operation for each device."""
        by_device: dict[torch.device, tuple[list[Tensor], list[Tensor]]] = {}
        for group in self.groups:
            if group.sides:
                targets, sources = by_device.setdefault(group.sides[0].device, ([], []))
                targets += group.places(dtype)
                sources += group.sides
        for targets, sources in by_device.values():
            torch._foreach_copy_(targets, sources)
        for group in self.groups:
            group.note_copied()


class Run(NamedTuple):
    """Neighbouring adapters of one width and rank, which are one batched product. members: of the group's adapters.

    columns: theirs of the joined outputs; ranks: theirs of n A^T.
    """

    members: slice
    columns: slice
    ranks: slice

    @property
    def count(self) -> int:
        """Return how many they are."""
        return self.members.stop - self.members.start

    def each(self, x_TX: Tensor, columns: slice) -> Tensor:
        """Return these columns of x as (count, T, X / count)."""
        return x_TX[:, columns].view(x_TX.shape[0], self.count, -1).transpose(0, 1)


class AdaptedGroup:
    """Linear layers that read one input, some adapted by LoRA of one scale, or all trained: their product, and its gradients.

    parts: widths of the outputs as they are handed on, each the sum of some layers' widths. copies: those of the whole model.
    adds: gradients of adapters are there, and backward adds to them itself, a group's in one operation; else autograd gets them.
    """

    def __init__(
        self, layers: Sequence[nn.Linear | LoraLinear], parts: Sequence[int], *, form: Form, formulas: Formulas, copies: Copies,
        adds: bool = False,
    ) -> None:  # fmt: skip
        bases = [layer.base if isinstance(layer, LoraLinear) else layer for layer in layers]
        self.bases, self.whole, self.adds = bases, bases[0].weight.requires_grad, adds
        self.frozen = freeze(bases, parts=parts, form=form, formulas=formulas)
        self.parts = tuple(parts)
        self.adapters: list[LoraLinear] = []
        self.columns: list[slice] = []
        start = 0
        for layer, base in zip(layers, bases, strict=True):
            if isinstance(layer, LoraLinear):
                self.adapters.append(layer)
                self.columns.append(slice(start, start + base.out_features))
            start += base.out_features
        self.ranks = [layer.lora_A.shape[0] for layer in self.adapters]
        self.scale = self.adapters[0].scale if self.adapters else 1.0
        self.sides = [layer.lora_A for layer in self.adapters] + [layer.lora_B for layer in self.adapters]
        """Every A (rank, in), then every B (out, rank)."""
        self._biases = [layer.bias for layer in self.adapters if layer.bias is not None]
        self._all_adapted = sum(columns.stop - columns.start for columns in self.columns) == start
        self._within = [_place_within(self.parts, columns) for columns in self.columns]
        self.runs = _runs(self.columns, self.ranks, alone=form == "separate")
        self.copies = copies
        copies.groups.add(self)
        self._dtype: torch.dtype | None = None
        self._copied: list[tuple[int, int]] = []
        self._a_RI: Tensor
        self._b: list[Tensor]

    @property
    def active(self) -> bool:
        """Whether the adapters are switched on (see `adapter_off`)."""
        return any(layer.active for layer in self.adapters)

    @property
    def dropout(self) -> float:
        """The share of the adapters' inputs that is dropped now."""
        first = self.adapters[0] if self.adapters else None
        return first.dropout if first is not None and first.training else 0.0

    def trained(self) -> list[Tensor]:
        """Return what is trained, as autograd must see it: every A (rank, in), then every B (out, rank), none when switched off.

        Then every bias that trains beside them. Where the layers' own weights train: every weight (out, in), then every bias.
        """
        if self.whole:
            return [base.weight for base in self.bases] + [base.bias for base in self.bases if base.bias is not None]
        return [*self.sides, *self._biases] if self.active else []

    @torch.no_grad()
    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """Return the biases (O,) as they are now where some train beside adapters; None where the frozen ones hold."""
        if not (self._biases and self.active):
            return None
        found = [base.bias.to(dtype) for base in self.bases]
        for layer in self.adapters:
            found[self.bases.index(layer.base)] = layer.bias.to(dtype)
        return torch.cat(found)

    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        """Return the stacked A (R, in) and the B of each run (count, out, rank) in `dtype`, as the last forward pass had them."""
        if self._dtype != dtype:
            self.copies.refresh(dtype)
        return self._a_RI, self._b

    def copy(self, dtype: torch.dtype) -> None:
        """Let the copies be those of the adapters as they are now. Who changes weights where torch does not see it says so."""
        if self._dtype != dtype or self._copied != self._state():
            self.copies.refresh(dtype)

    def places(self, dtype: torch.dtype) -> list[Tensor]:
        """Return where the copies of `sides` lie, which are about to be written; until `note_copied` they are none."""
        self._copied = []
        if self._dtype != dtype:
            self._dtype = None  # memory may run out on the way
            first, b = self.sides[0], self.sides[len(self.ranks) :]
            self._a_RI = first.new_empty(sum(self.ranks), first.shape[1], dtype=dtype)
            self._b = [first.new_empty(run.count, *b[run.members.start].shape, dtype=dtype) for run in self.runs]
            self._dtype = dtype
        return [*self._a_RI.split(self.ranks), *(b_OR for b_NOR in self._b for b_OR in b_NOR.unbind())]

    def note_copied(self) -> None:
        """Take note that the copies are those of the adapters as they are now."""
        self._copied = self._state()

    def _state(self) -> list[tuple[int, int]]:
        return [(side.data_ptr(), side._version) for side in self.sides]

    def product(self, n_TI: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the joined outputs (T, O), and n A^T (T, R), which backward needs. `kept`: masks of the dropped inputs."""
        h_TR = self.low_rank(n_TI, kept)
        if h_TR is None:
            return self.frozen.product(n_TI), None
        bias_O = self.bias(n_TI.dtype)
        _, b = self.matrices(n_TI.dtype)
        first = self.frozen.begins and self._all_adapted
        y_TO = n_TI.new_empty(n_TI.shape[0], self.frozen.outputs) if first else self.frozen.product(n_TI, bias=bias_O)
        beta = 0 if first else 1
        for b_NOR, run in zip(b, self.runs, strict=True):
            if run.count == 1:
                y_TO[:, run.columns].addmm_(h_TR[:, run.ranks], b_NOR[0].t(), beta=beta, alpha=self.scale)
            else:
                h_NTR, y_NTO = run.each(h_TR, run.ranks), run.each(y_TO, run.columns)
                y_NTO.baddbmm_(h_NTR, b_NOR.transpose(1, 2), beta=beta, alpha=self.scale)
        return (self.frozen.product(n_TI, onto=y_TO, bias=bias_O) if first else y_TO), h_TR

    def low_rank(self, n_TI: Tensor, kept: Sequence[Tensor]) -> Tensor | None:
        """Return n A^T (T, R), of what is left of n; None when the adapters are switched off."""
        if not self.active:
            return None
        self.copy(n_TI.dtype)
        a_RI, _ = self.matrices(n_TI.dtype)
        if not kept:
            return n_TI @ a_RI.t()
        parts = zip(kept, a_RI.split(self.ranks), strict=True)
        return torch.cat([(n_TI * mask_TI) @ a.t() for mask_TI, a in parts], dim=1)

    def masks(self, n_TI: Tensor) -> list[Tensor]:
        """Return a mask (T, in) for each adapter, of 0 and 1 / (1 - dropout), or none at all without dropout.

        Each adapter drops other inputs, drawn in the order in which PEFT draws them.
        """
        if not (self.active and self.dropout > 0.0):
            return []
        return [F.dropout(torch.ones_like(n_TI), self.dropout) for _ in self.adapters]

    def low_rank_gradient(self, dy: Sequence[Tensor]) -> Tensor:
        """Return the gradient (T, R) of n A^T, without the scale."""
        _, b = self.matrices(dy[0].dtype)
        own = self._of_adapters(dy)
        if len(own) == 1:
            return own[0] @ b[0][0]
        dh_TR = own[0].new_empty(own[0].shape[0], sum(self.ranks))
        for b_NOR, run in zip(b, self.runs, strict=True):
            dy_NTO = stacked(own[run.members])
            if dy_NTO is not None:
                run.each(dh_TR, run.ranks).baddbmm_(dy_NTO, b_NOR, beta=0)
                continue
            parts = dh_TR[:, run.ranks].split(b_NOR.shape[2], dim=1)
            for dh, dy_TO, b_OR in zip(parts, own[run.members], b_NOR.unbind(), strict=True):
                dh.addmm_(dy_TO, b_OR, beta=0)
        return dh_TR

    def input_gradient(self, dy: Sequence[Tensor], dh_TR: Tensor | None, kept: Sequence[Tensor]) -> Tensor:
        """Return the gradient (T, in) of n."""
        if dh_TR is None:
            return self.frozen.input_gradient(dy)
        a_RI, _ = self.matrices(dh_TR.dtype)
        if not kept and self.frozen.begins:
            dn_TI = dh_TR.new_empty(dh_TR.shape[0], a_RI.shape[1]).addmm_(dh_TR, a_RI, beta=0, alpha=self.scale)
            return self.frozen.input_gradient(dy, onto=dn_TI)
        dn_TI = self.frozen.input_gradient(dy)
        if not kept:
            return dn_TI.addmm_(dh_TR, a_RI, alpha=self.scale)
        for dh, a, mask_TI in zip(dh_TR.split(self.ranks, dim=1), a_RI.split(self.ranks), kept, strict=True):
            dn_TI.addcmul_(dh @ a, mask_TI, value=self.scale)
        return dn_TI

    def weight_gradients(
        self, dy: Sequence[Tensor], dh_TR: Tensor | None, n_TI: Tensor, h_TR: Tensor | None, kept: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Return the gradients of what `trained` returns, in its order; those of adapters in float32. None: added already."""
        if self.whole:
            return self._whole_gradients(dy, n_TI)
        if dh_TR is None or h_TR is None:
            return []
        if kept:
            split = dh_TR.split(self.ranks, dim=1)
            da = [exact_product(dh.t(), n_TI * mask_TI) for dh, mask_TI in zip(split, kept, strict=True)]
        else:
            da = list(exact_product(dh_TR.t(), n_TI).split(self.ranks))
        own = self._of_adapters(dy)
        found = da + self._b_gradients(own, h_TR)
        biases = [exact_sum(dy_TO) for layer, dy_TO in zip(self.adapters, own, strict=True) if layer.bias is not None]
        if self.adds:
            torch._foreach_add_([side.grad for side in self.sides], found, alpha=self.scale)
            if biases:
                torch._foreach_add_([bias.grad for bias in self._biases], biases)
            return [None] * (len(found) + len(biases))
        torch._foreach_mul_(found, self.scale)  # one launch
        return found + biases

    def _b_gradients(self, own: Sequence[Tensor], h_TR: Tensor) -> list[Tensor]:
        """Return dy^T h of each adapter, without the scale."""
        found: list[Tensor] = []
        for run in self.runs:
            dy_NTO = stacked(own[run.members])
            if dy_NTO is not None:
                found += exact_product(dy_NTO.transpose(1, 2), run.each(h_TR, run.ranks)).unbind()
                continue
            parts = h_TR[:, run.ranks].split(self.ranks[run.members], dim=1)
            found += [exact_product(dy_TO.t(), h) for dy_TO, h in zip(own[run.members], parts, strict=True)]
        return found

    def _whole_gradients(self, dy: Sequence[Tensor], n_TI: Tensor) -> list[Tensor]:
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for dy_TO in dy:
            first = len(weights)
            sizes = [base.out_features for base in self.bases[first:]]
            while sum(sizes) > dy_TO.shape[1]:
                sizes.pop()
            weights += (dy_TO.t() @ n_TI).split(sizes)
            if self.bases[first].bias is not None:
                biases += dy_TO.sum(dim=0).split(sizes)
        return weights + biases

    def _of_adapters(self, dy: Sequence[Tensor]) -> list[Tensor]:
        """Return the columns of dy that belong to each adapter. No adapter lies in two parts."""
        return [dy[part] if columns is None else dy[part][:, columns] for part, columns in self._within]


def stacked(parts: Sequence[Tensor]) -> Tensor | None:
    """Return several parts (T, o) as (count, T, o) if they lie beside each other in the rows of one tensor; of one part None."""
    first, size = parts[0], parts[0].element_size()
    if len(parts) == 1:
        return None
    for number, part in enumerate(parts):
        apart = part.data_ptr() != first.data_ptr() + number * first.shape[1] * size
        if apart or part.stride() != first.stride() or part.shape != first.shape:
            return None
    return first.as_strided((len(parts), *first.shape), (first.shape[1], *first.stride()))


def _runs(columns: Sequence[slice], ranks: Sequence[int], *, alone: bool) -> list[Run]:
    """Return the adapters of a group, neighbours of one width and rank together; alone: each by itself, as a CPU likes it."""
    found: list[Run] = []
    at = 0
    for number, (own, rank) in enumerate(zip(columns, ranks, strict=True)):
        run = Run(slice(number, number + 1), own, slice(at, at + rank))
        at += rank
        last = found[-1] if found and not alone else None
        if last is not None and last.columns.stop == own.start and _sizes(last) == _sizes(run):
            found[-1] = Run(
                slice(last.members.start, number + 1),
                slice(last.columns.start, own.stop),
                slice(last.ranks.start, at),
            )
        else:
            found.append(run)
    return found


def _sizes(run: Run) -> tuple[int, int]:
    width, rank = run.columns.stop - run.columns.start, run.ranks.stop - run.ranks.start
    return width // run.count, rank // run.count


def _place_within(parts: Sequence[int], columns: slice) -> tuple[int, slice | None]:
    """Return the part that some columns of the joined outputs lie in, and where; None for all of it."""
    start = 0
    for number, width in enumerate(parts):
        if columns.start < start + width:
            within = slice(columns.start - start, columns.stop - start)
            return number, None if within == slice(0, width) else within
        start += width
    raise AssertionError(f"columns {columns} lie in none of the parts {parts}")
