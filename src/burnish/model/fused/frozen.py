"""Weights of linear layers that read one input, and the two products that training needs of them.

O is the sum of the layers' outputs. Forward is x W^T + bias, backward is dy W; gradients of weights that train are group.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.model.devices import has_triton
from burnish.model.fused.formulas import FP8, Formulas
from burnish.model.load import is_nf4, linear_weight

Fp8 = Literal["fp8", "fp8_all"]
Form = Literal["separate", "joined", Fp8]
"""How weights are multiplied: each by itself, together, or (float weights) in float8, backward alone or both ways."""
_buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}
"""One buffer for each device and dtype, in which NF4 weights are unpacked for one product at a time."""


class Frozen(Protocol):
    """x W^T + bias of several linear layers as one (T, O), and the gradient of x.

    `parts` are the widths of the gradients that `input_gradient` gets, one after another along O. `onto`: a tensor of the result's
    shape that the product is added to. `bias`: (O,) that takes the place of the layers' own. `begins`: a product can begin with
    `onto`, so that adding costs no pass over the result.
    """

    begins: bool

    @property
    def outputs(self) -> int:
        """O."""
        ...

    def product(self, x_TI: Tensor, onto: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return (T, O)."""
        ...

    def input_gradient(self, parts: Sequence[Tensor], onto: Tensor | None = None) -> Tensor:
        """Return dy W (T, I) of the gradient of the output, which comes in parts."""
        ...


def freeze(linears: Sequence[nn.Linear], *, parts: Sequence[int], form: Form, formulas: Formulas) -> Frozen:
    """Return the products of these layers, NF4 or in a form of float weights."""
    if form == "separate":
        return OneByOne(linears, parts)
    if is_nf4(linears[0]):
        return Unpacked(linears, parts)
    if form == "fp8_all":
        return Rounded(linears, formulas)
    join(linears)
    return RoundedBackward(linears, parts, formulas) if form == "fp8" else Joined(linears, parts)


def join(linears: Sequence[nn.Linear]) -> None:
    """Let the weights of the layers lie one after another in one tensor. They stay the layers' weights; none is copied twice."""
    weights = [linear.weight for linear in linears]
    if len(weights) == 1 or joined_weight(linears) is not None:
        return
    together_OI = weights[0].new_empty(sum(weight.shape[0] for weight in weights), weights[0].shape[1])
    for weight, part_OI in zip(weights, together_OI.split([weight.shape[0] for weight in weights]), strict=True):
        part_OI.copy_(weight.data)
        weight.data = part_OI


def joined_weight(linears: Sequence[nn.Linear]) -> Tensor | None:
    """Return the weights as one (O, I) if they lie one after another in one tensor."""
    first = linears[0].weight.data
    place = first.data_ptr()
    for linear in linears:
        weight = linear.weight.data
        if weight.data_ptr() != place or not weight.is_contiguous():
            return None
        if weight.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return None
        place += weight.numel() * weight.element_size()
    rows = sum(linear.out_features for linear in linears)
    return first.as_strided((rows, first.shape[1]), (first.shape[1], 1))


def joined_bias(linears: Sequence[nn.Linear]) -> Tensor | None:
    """Return the biases as one (O,), or None where no layer has one. The layers of a group have all a bias or none."""
    found = [linear.bias for linear in linears if linear.bias is not None]
    return torch.cat(found) if found else None


class _Biased:
    """Layers with their biases as one, made once where they are frozen."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.linears = tuple(linears)
        self._trains = linears[0].weight.requires_grad
        self._frozen_bias = None if self._trains else joined_bias(linears)

    @property
    def bias(self) -> Tensor | None:
        """The biases (O,) as they are now."""
        return joined_bias(self.linears) if self._trains else self._frozen_bias


class Joined(_Biased):
    """Weights that lie in one tensor: one product."""

    begins = True

    def __init__(self, linears: Sequence[nn.Linear], parts: Sequence[int]) -> None:
        super().__init__(linears)
        self.parts = tuple(parts)
        self.outputs = sum(linear.out_features for linear in linears)
        self._lie: list[int] = []
        self._joined: Tensor

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weights as one (O, I). Those that are streamed lie in one buffer or another."""
        lie = [linear.weight.data_ptr() for linear in self.linears]
        if lie != self._lie:
            weight_OI = joined_weight(self.linears)
            assert weight_OI is not None
            self._joined, self._lie = weight_OI, lie
        return self._joined

    def product(self, x_TI: Tensor, onto: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return (T, O)."""
        weight_OI, bias = self.weight(x_TI.dtype), self.bias if bias is None else bias
        if onto is None:
            return F.linear(x_TI, weight_OI, bias)
        onto.addmm_(x_TI, weight_OI.t())
        return onto if bias is None else onto.add_(bias)

    def input_gradient(self, parts: Sequence[Tensor], onto: Tensor | None = None) -> Tensor:
        """Return dy W (T, I)."""
        weight_OI = self.weight(parts[0].dtype)
        together_TO = beside(parts)
        if together_TO is not None:
            return _added(onto, together_TO, weight_OI)
        return _summed(parts, weight_OI.split(self.parts), onto)


class Unpacked(Joined):
    """NF4 weights (Dettmers et al. 2023, "QLoRA", section 3), unpacked one after another into one buffer: one product."""

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weights as one (O, I): the buffer, which the next call writes over."""
        first = self.linears[0]
        buffer_OI = _buffer(self.outputs * first.in_features, first.weight.device, dtype).view(-1, first.in_features)
        sizes = [linear.out_features for linear in self.linears]
        for linear, part_OI in zip(self.linears, buffer_OI.split(sizes), strict=True):
            unpack_nf4(linear, part_OI)
        return buffer_OI


class OneByOne(_Biased):
    """Weights as they were loaded, each multiplied by itself: on a CPU joining them gains nothing and costs a copy."""

    begins = True

    def __init__(self, linears: Sequence[nn.Linear], parts: Sequence[int]) -> None:
        super().__init__(linears)
        self.parts = tuple(parts)
        self.sizes = [linear.out_features for linear in linears]
        self.outputs = sum(self.sizes)

    def product(self, x_TI: Tensor, onto: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return (T, O)."""
        bias = self.bias if bias is None else bias
        if len(self.linears) == 1 and onto is None:
            return F.linear(x_TI, linear_weight(self.linears[0], x_TI.dtype), bias)
        y_TO = x_TI.new_empty(x_TI.shape[0], self.outputs) if onto is None else onto
        for linear, part in zip(self.linears, y_TO.split(self.sizes, dim=1), strict=True):
            part.addmm_(x_TI, linear_weight(linear, x_TI.dtype).t(), beta=0 if onto is None else 1)
        return y_TO if bias is None else y_TO.add_(bias)

    def input_gradient(self, parts: Sequence[Tensor], onto: Tensor | None = None) -> Tensor:
        """Return dy W (T, I)."""
        if len(parts) == 1 and len(self.linears) > 1:
            parts = parts[0].split(self.sizes, dim=1)
        return _summed(parts, (linear_weight(linear, parts[0].dtype) for linear in self.linears), onto)


class RoundedBackward(Joined):
    """Weights as they are forward, so that losses are exact; dy W by products of float8, from a second copy of the weights.

    Rounding forward as well moves every activation, and a network amplifies that; rounding backward moves gradients alone.
    Each row of dy and each input's weights have a scale of their own. Rounding: Micikevicius et al. 2022, arXiv:2209.05433.
    """

    def __init__(self, linears: Sequence[nn.Linear], parts: Sequence[int], formulas: Formulas) -> None:
        super().__init__(linears, parts)
        self.formulas = formulas
        self.rounded = _for_product(self.weight(linears[0].weight.dtype).t().contiguous(), formulas)

    def input_gradient(self, parts: Sequence[Tensor], onto: Tensor | None = None) -> Tensor:
        """Return dy W (T, I)."""
        return _times_rounded(_together(parts), self.rounded, self.formulas, onto=onto)


class Rounded:
    """Weights in float8 alone, and products of float8 both ways: as RoundedBackward, and each row of x has a scale of its own.

    Backward needs W with its inputs first, as the card multiplies float8 along the last dimension alone, so both are kept: the
    memory of bfloat16, at twice its speed.
    """

    begins = False

    def __init__(self, linears: Sequence[nn.Linear], formulas: Formulas) -> None:
        self.formulas, self.bias = formulas, joined_bias(linears)
        weight_OI = torch.cat([linear.weight.data for linear in linears])
        self.outputs = weight_OI.shape[0]
        self.forward = _for_product(weight_OI, formulas)
        self.backward = _for_product(weight_OI.t().contiguous(), formulas)
        empty = weight_OI.new_empty(0, weight_OI.shape[1])
        for linear in linears:  # the weights in bfloat16 are let go of; method.plain does not come here
            linear.weight.data = empty

    def product(self, x_TI: Tensor, onto: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return (T, O)."""
        bias = self.bias if bias is None else bias
        return _times_rounded(x_TI, self.forward, self.formulas, bias=bias, onto=onto)

    def input_gradient(self, parts: Sequence[Tensor], onto: Tensor | None = None) -> Tensor:
        """Return dy W (T, I)."""
        return _times_rounded(_together(parts), self.backward, self.formulas, onto=onto)


def _times_rounded(
    x_TI: Tensor, weight: tuple[Tensor, Tensor], formulas: Formulas, *, bias: Tensor | None = None, onto: Tensor | None
) -> Tensor:
    rounded_TI, scale_T1 = formulas.rounded(x_TI)
    y_TO = multiply_fp8(rounded_TI, scale_T1, *weight, x_TI.dtype)
    if bias is not None:
        y_TO.add_(bias)
    return y_TO if onto is None else onto.add_(y_TO)


def _together(parts: Sequence[Tensor]) -> Tensor:
    together_TO = beside(parts)
    return torch.cat(list(parts), dim=1) if together_TO is None else together_TO


def multiply_fp8(x_TI: Tensor, x_scale_T1: Tensor, w_OI: Tensor, w_scale_1O: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (x * scale) (w * scale)^T of float8 numbers in `dtype` (T, O); on a CPU by float32 products."""
    if x_TI.device.type == "cpu":
        return ((x_TI.float() @ w_OI.float().t()) * x_scale_T1 * w_scale_1O).to(dtype)
    return torch._scaled_mm(x_TI, w_OI.t(), x_scale_T1, w_scale_1O, out_dtype=dtype, use_fast_accum=True)


def _for_product(weight_OI: Tensor, formulas: Formulas) -> tuple[Tensor, Tensor]:
    rounded_OI, scale_O1 = formulas.rounded(weight_OI)
    return rounded_OI, scale_O1.t().contiguous()


def has_fp8(device: torch.device) -> bool:
    """Return whether a device multiplies float8: NVIDIA cards of Ada (8.9) and Hopper (9.0) and newer."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9) and FP8 is not None


def unpack_nf4(linear: nn.Linear, out_OI: Tensor) -> None:
    """Write an NF4 weight into `out_OI` (out, I)."""
    from bitsandbytes.functional import dequantize_4bit

    state = linear.weight.quant_state
    if out_OI.device.type == "cuda" and state.nested and state.blocksize == 64 and has_triton():
        from burnish.model.fused.kernels import unpack

        unpack(linear.weight.data, state, out_OI)
    elif out_OI.device.type == "cuda" and state.dtype == out_OI.dtype:  # bitsandbytes has no such product for a CPU
        dequantize_4bit(linear.weight.data, state, out=out_OI)
    else:
        out_OI.copy_(linear_weight(linear, out_OI.dtype))


def _buffer(numbers: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    held = _buffers.get((device, dtype))
    if held is None or held.numel() < numbers:
        _buffers[device, dtype] = held = torch.empty(numbers, device=device, dtype=dtype)
    return held[:numbers]


def beside(parts: Sequence[Tensor]) -> Tensor | None:
    """Return parts (T, o) as one (T, O) if they lie beside each other in the rows of one tensor."""
    first = parts[0]
    if len(parts) == 1:
        return first
    width = sum(part.shape[1] for part in parts)
    place = first.data_ptr()
    for part in parts:
        if part.stride() != (width, 1) or part.data_ptr() != place:
            return None
        place += part.shape[1] * part.element_size()
    return first.as_strided((first.shape[0], width), (width, 1))


def _added(onto: Tensor | None, dy_TO: Tensor, weight_OI: Tensor) -> Tensor:
    return dy_TO @ weight_OI if onto is None else onto.addmm_(dy_TO, weight_OI)


def _summed(parts: Sequence[Tensor], weights: Iterable[Tensor], onto: Tensor | None) -> Tensor:
    """Return the sum of dy_i W_i over the parts."""
    for dy_TO, weight_OI in zip(parts, weights, strict=True):
        onto = _added(onto, dy_TO, weight_OI)
    assert onto is not None
    return onto
