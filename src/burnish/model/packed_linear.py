"""Frozen layers on a CPU, in float32 or bfloat16, their weights kept in the order in which oneDNN's kernels read them.

torch's own product of a few tokens with a weight brings the weight into its kernel's order at every call, which costs more than
the product. Layers that read one input are one product. The weights are moved, not copied, and come back bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

USUAL_TOKENS = 16
"""Tokens of a step for which the order is chosen; other counts are computed with the same order."""

COPIES = {1: 5, 2: 3, 3: 2}
"""In float32 a product of five or six tokens takes less time than one of one to three: 0.76 and 0.6 of it (AMD Zen 4)."""


def product_tokens(tokens: int) -> int:
    """Return how many tokens are computed for so many: themselves up to 16, then the next multiple of 16.

    oneDNN makes a kernel for each count that it meets, in a millisecond or more, and keeps half a megabyte of it; a server
    meets every count from 1 to a piece of a prompt and 15 running answers.
    """
    return tokens if tokens <= USUAL_TOKENS else -(-tokens // USUAL_TOKENS) * USUAL_TOKENS


def can_pack(linears: Sequence[nn.Linear]) -> bool:
    """Return whether layers can be packed: plain ones on a CPU for which torch has oneDNN, in float32 or (if it can) bfloat16."""
    if not torch.backends.mkldnn.is_available():
        return False
    dtypes = {torch.float32} | ({torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set())
    return len({linear.weight.dtype for linear in linears}) == 1 and all(
        type(linear) is nn.Linear and linear.weight.dtype in dtypes and linear.weight.device.type == "cpu"
        for linear in linears
    )


class PackedLinear(nn.Module):
    """Linear layers of one input as one product; their weights move into it until `unpack`."""

    def __init__(self, linears: Sequence[nn.Linear], *, keep: bool = False) -> None:
        """keep: leave the weights where they are too (an output head whose weight is the embedding's)."""
        super().__init__()
        self._linears = list(linears)  # not as submodules: they are empty until `unpack`
        self._keep = keep
        self.out_features = [linear.out_features for linear in linears]
        self.in_features = linears[0].in_features
        weight_OI = torch.cat([linear.weight.detach() for linear in linears])
        biases = [linear.bias for linear in linears]
        self._bias_O = None
        if any(bias is not None for bias in biases):
            self._bias_O = torch.cat([
                weight_OI.new_zeros(size) if bias is None else bias.detach()
                for bias, size in zip(biases, self.out_features, strict=True)
            ])  # fmt: skip
        self._packed_OI = torch.ops.mkldnn._reorder_linear_weight(weight_OI, USUAL_TOKENS)
        if not keep:
            for linear in linears:
                linear.weight.data = weight_OI.new_empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., all outputs, layer after layer) of x (..., in)."""
        copies = COPIES.get(x.shape[-2], 1) if x.dtype == torch.float32 else 1
        if copies > 1:
            tokens = x.shape[-2]
            x = torch.cat([x] * copies, dim=-2)
            return self._product(x).narrow(-2, 0, tokens)
        tokens = x.numel() // self.in_features
        wanted = product_tokens(tokens)
        if wanted == tokens:
            return self._product(x)
        padded_TI = x.new_empty((wanted, self.in_features))
        padded_TI[:tokens] = x.reshape(tokens, self.in_features)
        padded_TI[tokens:] = 0
        return self._product(padded_TI)[:tokens].view(*x.shape[:-1], -1)

    def _product(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed_OI, self._bias_O, "none", [], "")

    def unpack(self) -> None:
        """Give the layers their weights back."""
        if self._keep:
            return
        parts = self._packed_OI.to_dense().split(self.out_features)
        for linear, weight_OI in zip(self._linears, parts, strict=True):
            linear.weight.data = weight_OI.clone()
