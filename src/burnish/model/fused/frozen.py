"""Frozen weights of linear layers that read one input, and the two products that training needs of them.

O is the sum of the layers' outputs. Nothing here has a gradient: forward is x W^T + bias, backward is dy W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from burnish.model.fused.formulas import FP8, Formulas
from burnish.model.load import is_nf4, linear_weight

Form = Literal["separate", "joined", "fp8"]
"""How weights are multiplied: each by itself, together, or (float weights) rounded to float8."""
_buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}
"""One buffer for each device and dtype, in which NF4 weights are unpacked for one product at a time."""


class Frozen(Protocol):
    """x W^T + bias of several linear layers as one (T, O), and the gradient of x.

    `parts` are the widths of the gradients that `input_gradient` gets, one after another along O.
    """

    def product(self, x_TI: Tensor) -> Tensor:
        """Return (T, O)."""
        ...

    def input_gradient(self, parts: Sequence[Tensor]) -> Tensor:
        """Return dy W (T, I) of the gradient of the output, which comes in parts."""
        ...


def freeze(linears: Sequence[nn.Linear], *, parts: Sequence[int], form: Form, formulas: Formulas) -> Frozen:
    """Return the products of these layers, NF4 or in a form of float weights."""
    if form == "separate":
        return OneByOne(linears, parts)
    if is_nf4(linears[0]):
        return Unpacked(linears, parts)
    if form == "fp8":
        return Rounded(linears, parts, formulas)
    join(linears)
    return Joined(linears, parts)


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


class Joined:
    """Weights that lie in one tensor: one product."""

    def __init__(self, linears: Sequence[nn.Linear], parts: Sequence[int]) -> None:
        weight_OI = joined_weight(linears)
        assert weight_OI is not None
        self.weight_OI, self.bias, self.parts = weight_OI, joined_bias(linears), tuple(parts)

    def product(self, x_TI: Tensor) -> Tensor:
        """Return (T, O)."""
        return torch.nn.functional.linear(x_TI, self.weight_OI, self.bias)

    def input_gradient(self, parts: Sequence[Tensor]) -> Tensor:
        """Return dy W (T, I)."""
        return _summed(parts, self.weight_OI.split(self.parts))


class OneByOne:
    """Weights as they were loaded, each multiplied by itself: on a CPU joining them gains nothing and costs a copy."""

    def __init__(self, linears: Sequence[nn.Linear], parts: Sequence[int]) -> None:
        self.linears, self.parts = tuple(linears), tuple(parts)
        self.bias = joined_bias(linears)

    def weights(self, dtype: torch.dtype) -> list[Tensor]:
        """Return each weight (out, I)."""
        return [linear_weight(linear, dtype) for linear in self.linears]

    def product(self, x_TI: Tensor) -> Tensor:
        """Return (T, O)."""
        weights = self.weights(x_TI.dtype)
        if len(weights) == 1:
            return torch.nn.functional.linear(x_TI, weights[0], self.bias)
        sizes = [weight.shape[0] for weight in weights]
        y_TO = x_TI.new_empty(x_TI.shape[0], sum(sizes))
        for weight, part in zip(weights, y_TO.split(sizes, dim=1), strict=True):
            torch.mm(x_TI, weight.t(), out=part)
        return y_TO if self.bias is None else y_TO.add_(self.bias)

    def input_gradient(self, parts: Sequence[Tensor]) -> Tensor:
        """Return dy W (T, I)."""
        weights = self.weights(parts[0].dtype)
        if len(parts) == 1 and len(weights) > 1:
            parts = parts[0].split([weight.shape[0] for weight in weights], dim=1)
        return _summed(parts, weights)


class Unpacked(OneByOne):
    """NF4 weights (Dettmers et al. 2023, "QLoRA", section 3), unpacked one after another into one buffer: one product."""

    def weights(self, dtype: torch.dtype) -> list[Tensor]:
        """Return each weight (out, I) as a part of the buffer, which the next call writes over."""
        first = self.linears[0]
        sizes = [linear.out_features for linear in self.linears]
        buffer_OI = _buffer(sum(sizes) * first.in_features, first.weight.device, dtype).view(-1, first.in_features)
        parts = list(buffer_OI.split(sizes))
        for linear, part_OI in zip(self.linears, parts, strict=True):
            unpack_nf4(linear, part_OI)
        return parts

    def product(self, x_TI: Tensor) -> Tensor:
        """Return (T, O)."""
        return torch.nn.functional.linear(x_TI, _whole(self.weights(x_TI.dtype)), self.bias)

    def input_gradient(self, parts: Sequence[Tensor]) -> Tensor:
        """Return dy W (T, I)."""
        return _summed(parts, _whole(self.weights(parts[0].dtype)).split(self.parts))


class Rounded:
    """Weights in float8, and products of float8: each row of x, of dy and of both weights has a scale of its own.

    Backward needs W with its inputs first, as the card multiplies float8 along the last dimension alone, so both are kept: the
    memory of bfloat16, at twice its speed. Rounding: Micikevicius et al. 2022, arXiv:2209.05433.
    """

    def __init__(self, linears: Sequence[nn.Linear], parts: Sequence[int], formulas: Formulas) -> None:
        self.formulas, self.bias = formulas, joined_bias(linears)
        weight_OI = torch.cat([linear.weight.data for linear in linears])
        self.forward_OI, scale = formulas.rounded(weight_OI)
        self.forward_scale = scale.t().contiguous()
        self.backward = [
            (rounded_IO, scale_I1.t().contiguous())
            for part_OI in weight_OI.split(tuple(parts))
            for rounded_IO, scale_I1 in (formulas.rounded(part_OI.t().contiguous()),)
        ]
        empty = weight_OI.new_empty(0, weight_OI.shape[1])
        for linear in linears:  # the weights in bfloat16 are let go of; method.plain does not come here
            linear.weight.data = empty

    def product(self, x_TI: Tensor) -> Tensor:
        """Return (T, O)."""
        return self._multiply(x_TI, self.forward_OI, self.forward_scale, self.bias)

    def input_gradient(self, parts: Sequence[Tensor]) -> Tensor:
        """Return dy W (T, I)."""
        products = [
            self._multiply(dy_TO, rounded_IO, scale, None)
            for dy_TO, (rounded_IO, scale) in zip(parts, self.backward, strict=True)
        ]
        for other in products[1:]:
            products[0].add_(other)
        return products[0]

    def _multiply(self, x_TI: Tensor, weight_OI: Tensor, scale_1O: Tensor, bias: Tensor | None) -> Tensor:
        rounded_TI, scale_T1 = self.formulas.rounded(x_TI)
        return torch._scaled_mm(
            rounded_TI, weight_OI.t(), scale_T1, scale_1O, bias=bias, out_dtype=x_TI.dtype, use_fast_accum=True
        )


def has_fp8(device: torch.device) -> bool:
    """Return whether a device multiplies float8: NVIDIA cards of Ada (8.9) and Hopper (9.0) and newer."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9) and FP8 is not None


def unpack_nf4(linear: nn.Linear, out_OI: Tensor) -> None:
    """Write an NF4 weight into `out_OI` (out, I)."""
    from bitsandbytes.functional import dequantize_4bit

    state = linear.weight.quant_state
    if out_OI.device.type == "cuda" and state.dtype == out_OI.dtype:  # bitsandbytes has no such product for a CPU
        dequantize_4bit(linear.weight.data, state, out=out_OI)
    else:
        out_OI.copy_(linear_weight(linear, out_OI.dtype))


def _buffer(numbers: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    held = _buffers.get((device, dtype))
    if held is None or held.numel() < numbers:
        _buffers[device, dtype] = held = torch.empty(numbers, device=device, dtype=dtype)
    return held[:numbers]


def _whole(parts: Sequence[Tensor]) -> Tensor:
    rows = sum(part.shape[0] for part in parts)
    return parts[0].as_strided((rows, parts[0].shape[1]), (parts[0].shape[1], 1))


def _summed(parts: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Return the sum of dy_i W_i over the parts."""
    dx_TI = parts[0] @ weights[0]
    for dy_TO, weight_OI in zip(parts[1:], weights[1:], strict=True):
        dx_TI.addmm_(dy_TO, weight_OI)
    return dx_TI
