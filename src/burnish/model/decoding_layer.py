"""A decoder layer of a known family in few operations, for the steps of a decoder on a CPU.

With few tokens a step, transformers' own layer takes a hundred operations of microseconds each, a third of the step. This one takes
about twenty: joined products (packed_linear.py), norms by the length of a vector, one rotation for queries and keys. The submodules
stay those of the layer that is replaced, under the same names. N tokens of the step, D hidden size, H heads of queries and K of
keys and values, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from burnish.model.cached_attention import StepLayout, attend
from burnish.model.families import SAME_INPUT, attention_window, is_exactly

if TYPE_CHECKING:
    from burnish.model.banked_linear import SharedInput

KNOWN = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Families whose layers norm before attention and feed-forward part, and nowhere else."""


def can_decode(layer: nn.Module) -> bool:
    """Return whether `DecodingLayer` computes what a layer does."""
    return is_exactly(layer, KNOWN, "DecoderLayer") and isinstance(layer.mlp.act_fn, (nn.SiLU, SiLUActivation))


def inputs_of(name: str) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the names of the linear layers of the decoder layer `name`, by what they read."""
    qkv, gate_up = (
        [f"{name}.{part}.{leaf}" for leaf in leaves] for part, leaves in zip(PARTS, SAME_INPUT, strict=True)
    )
    return qkv, [f"{name}.{PARTS[0]}.o_proj"], gate_up, [f"{name}.{PARTS[1]}.down_proj"]


PARTS = ("self_attn", "mlp")


@dataclass(frozen=True, slots=True)
class LengthNorm:
    """x / rms(x) * weight over the last dimension: rms(x) is |x| / sqrt(D), so x sqrt(D) / hypot(|x|, sqrt(D eps)) * weight.

    Computed in float32.
    """

    weight_D: Tensor
    least: Tensor

    @classmethod
    def of(cls, norm: nn.Module) -> LengthNorm:
        """Take over an RMSNorm of transformers."""
        weight_D: Tensor = norm.weight.detach().float()  # pyright: ignore[reportAssignmentType, reportCallIssue]
        size = weight_D.shape[0]
        eps: float = norm.variance_epsilon  # pyright: ignore[reportAssignmentType]
        return cls(weight_D * size**0.5, weight_D.new_tensor((size * eps) ** 0.5))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the norm of x."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).hypot_(self.least)
        return torch.div(x, length).mul_(self.weight_D).to(x.dtype)


class DecodingLayer(nn.Module):
    """One decoder layer: norm, q k v, rotation, cached attention, o, norm, gate up, down."""

    def __init__(
        self, layer: nn.Module, qkv: SharedInput, output: SharedInput, gate_up: SharedInput, down: SharedInput
    ) -> None:
        super().__init__()
        for name, child in layer.named_children():
            self.add_module(name, child)
        self.eval()
        self._replaced = (layer,)  # not as a submodule: its children are this one's
        self._qkv, self._output, self._gate_up, self._down = qkv, output, gate_up, down
        attention = layer.self_attn
        self._index: int = attention.layer_idx
        self._scale, self._window = attention.scaling, attention_window(attention)
        heads, pairs = attention.config.num_attention_heads, attention.config.num_key_value_heads
        self._heads, self._pairs, self._size = heads, pairs, attention.head_dim
        self._norm, self._mlp_norm = map(LengthNorm.of, (layer.input_layernorm, layer.post_attention_layernorm))
        self._head_norms = None
        if is_exactly(layer, ("Qwen3",), "DecoderLayer"):
            self._head_norms = LengthNorm.of(attention.q_norm), LengthNorm.of(attention.k_norm)

    @property
    def replaced(self) -> nn.Module:
        """The layer in whose place this one stands."""
        return self._replaced[0]

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        burnish_step: StepLayout | None = None,
        **others: object,
    ) -> Tensor:
        """Return what the layer makes of the states (1, N, D) of a step; without one the replaced layer answers."""
        if burnish_step is None:
            return self.replaced(hidden_states, position_embeddings=position_embeddings, **others)
        x_ND = hidden_states[0]
        mixed_NHE = self._attend(self._norm(x_ND), position_embeddings, burnish_step)
        x_ND = self._output.together(mixed_NHE.reshape(x_ND.shape[0], -1)).add_(x_ND)
        gate_NI, up_NI = self._gate_up.together(self._mlp_norm(x_ND)).chunk(2, dim=-1)
        x_ND = self._down.together(nn.functional.silu(gate_NI).mul_(up_NI)).add_(x_ND)
        return x_ND[None]

    def _attend(self, x_ND: Tensor, rotation: tuple[Tensor, Tensor], step: StepLayout) -> Tensor:
        """Return what each head (N, H, E) reads of the past."""
        heads, turned = self._heads, self._heads + self._pairs
        qkv_NHE = self._qkv.together(x_ND).view(-1, turned + self._pairs, self._size)
        qk_NHE = qkv_NHE[:, :turned]
        if self._head_norms is not None:
            q_norm, k_norm = self._head_norms
            qk_NHE = torch.cat([q_norm(qk_NHE[:, :heads]), k_norm(qk_NHE[:, heads:])], dim=1)
        cos_N1E, sin_N1E = step.rotations(rotation)
        qk_NHE = torch.addcmul(qk_NHE * cos_N1E, qk_NHE.roll(self._size // 2, -1), sin_N1E)
        qk_HNE, v_HNE = qk_NHE.transpose(0, 1), qkv_NHE[:, turned:].transpose(0, 1)
        return attend(step, self._index, qk_HNE[:heads], qk_HNE[heads:], v_HNE, scale=self._scale, window=self._window)
