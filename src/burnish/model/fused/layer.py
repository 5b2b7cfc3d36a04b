"""A decoder layer of a known family, computed by the functions of this folder in place of transformers' own.

The submodules stay those of the layer that is replaced, under the same names: weights, adapters and what is saved do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh, SiLUActivation
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer, eager_attention_forward
from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from burnish.model.attention import Attending, Kernel, PackedLayout, attend
from burnish.model.families import SAME_INPUT, attention_window
from burnish.model.fused.formulas import Activation, Formulas
from burnish.model.fused.frozen import Form
from burnish.model.fused.functions import (
    Norm,
    gated_product,
    in_pieces,
    normed_product,
    post_norm,
    product,
    rotated_heads,
)
from burnish.model.fused.group import AdaptedGroup, Copies
from burnish.model.load import is_nf4
from burnish.model.lora_linear import LoraLinear
from burnish.model.place import PlacedPart
from burnish.model.stream import StreamedPart

SANDWICHED = (Gemma2DecoderLayer, Gemma3DecoderLayer)
"""Families that norm before and after attention and feed-forward layer, with norms whose weight is stored less 1."""
HEAD_NORMED = (Qwen3DecoderLayer, Gemma3DecoderLayer)
"""Families that norm queries and keys within each head."""
KNOWN = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, *HEAD_NORMED, Gemma2DecoderLayer)


def plain_reason(layer: nn.Module) -> str | None:
    """Return why a decoder layer takes the plain path, or None when it can be fused."""
    if not isinstance(layer, KNOWN):
        return f"{type(layer).__name__} is not one of the layers that are known"
    if _activation(layer.mlp.act_fn) is None:
        return f"{type(layer.mlp.act_fn).__name__} is not one of the activations that are known"
    attention, mlp = layer.self_attn, layer.mlp
    groups = [
        [module.get_submodule(name) for name in names]
        for module, names in zip((attention, mlp), SAME_INPUT, strict=True)
    ]
    for group in [*groups, [attention.o_proj], [mlp.down_proj]]:
        if any(isinstance(linear, LoraLinear) and linear.lora_magnitude_vector is not None for linear in group):
            return "its adapters train the lengths of rows (DoRA)"
        bases = [linear.base if isinstance(linear, LoraLinear) else linear for linear in group]
        if len({type(base) for base in bases}) > 1 or not all(
            type(base) is nn.Linear or is_nf4(base) for base in bases
        ):
            return f"its linear layers are {', '.join(sorted({type(base).__name__ for base in bases}))}"
        learns = {base.weight.requires_grad for base in bases}
        if len(learns) > 1 or (True in learns and bases != group):
            return "some of its linear layers are trained and others are frozen or adapted"
        if len({base.bias is None for base in bases}) > 1:
            return "some of its linear layers have a bias and others have none"
    return None


class FusedLayer(GradientCheckpointingLayer):
    """One decoder layer: norm, q k v, rotation, attention, o, norm, gate up, down; frozen weights with LoRA, or trained ones."""

    def __init__(
        self, layer: nn.Module, formulas: Formulas, *, form: Form, copies: Copies, kernel: Kernel | None = None,
        adds: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, child in layer.named_children():
            self.add_module(name, child)
            if isinstance(child, StreamedPart):
                child.attach(self)
                child.bring()  # weights that are joined are looked at below
            elif isinstance(child, PlacedPart):
                child.attach(self)
        self.train(layer.training)
        self.formulas, self.kernel = formulas, kernel
        self.feed_forward_again: Callable[..., Tensor] | None = None
        """How the feed-forward half is computed so that backward computes it again (`model/memory.py`); None where it is kept."""
        self.piece_tokens: int | None = None
        """So many tokens of a longer row are in the feed-forward half at once, which is then computed again; None for all."""
        self.sandwiched = isinstance(layer, SANDWICHED)
        attention, mlp = layer.self_attn, layer.mlp
        config = attention.config
        self.sizes = config.num_attention_heads, config.num_key_value_heads
        self.scaling, self.window, self.softcap = attention.scaling, attention_window(attention), _softcap(layer)
        self.attention_dropout = attention.attention_dropout
        self.activation: Activation = _activation(mlp.act_fn)  # type: ignore[assignment]
        offset = self.sandwiched
        self.attention_norm = _norm_of(layer.input_layernorm, offset)
        self.attention_post_norm = _norm_of(layer.post_attention_layernorm, offset) if offset else None
        self.mlp_norm = _norm_of(layer.pre_feedforward_layernorm if offset else layer.post_attention_layernorm, offset)
        self.mlp_post_norm = _norm_of(layer.post_feedforward_layernorm, offset) if offset else None
        normed = isinstance(layer, HEAD_NORMED)
        self.head_norms = (_norm_of(attention.q_norm, offset), _norm_of(attention.k_norm, offset)) if normed else None

        output_form: Form = "joined" if form == "fp8" else form  # of all gradients its own suffers most: docs/engine.md

        def group(layers: Sequence[nn.Module], *, parts: Sequence[int], form: Form = form) -> AdaptedGroup:
            return AdaptedGroup(layers, parts, form=form, formulas=formulas, copies=copies, adds=adds)

        qkv, gates = [attention.q_proj, attention.k_proj, attention.v_proj], [mlp.gate_proj, mlp.up_proj]
        self.qkv = group(qkv, parts=[sum(_outputs(linear) for linear in qkv)])
        self.o = group([attention.o_proj], parts=[_outputs(attention.o_proj)], form=output_form)
        self.gate_up = group(gates, parts=[_outputs(linear) for linear in gates])
        self.down = group([mlp.down_proj], parts=[_outputs(mlp.down_proj)])

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: object | None = None,
        use_cache: bool | None = False,
        **kwargs: object,
    ) -> Tensor:
        """Return what the layer makes of the hidden states (B, T, D); the arguments are those transformers gives its layers."""
        batch = hidden_states.shape[0]
        assert position_embeddings is not None
        x_TD = hidden_states.flatten(0, 1)
        cos_TD, sin_TD = (_each_row(angles, batch) for angles in position_embeddings)
        x_TD, qkv_TO = normed_product(x_TD, None, self.attention_norm, self.qkv, self.formulas)
        q, k, v = rotated_heads(qkv_TO, cos_TD, sin_TD, self.sizes, self.head_norms, self.formulas)
        del qkv_TO
        mixed_TO = self._mix(q, k, v, batch, attention_mask, kwargs)
        y_TD = product(mixed_TO, self.o)
        if self.attention_post_norm is not None:
            y_TD = post_norm(y_TD, self.attention_post_norm, self.formulas)
        return self._rest(x_TD, y_TD).view(hidden_states.shape)

    def _rest(self, x_TD: Tensor, y_TD: Tensor) -> Tensor:
        """Return the layer's result, its feed-forward half computed in the way that is set."""
        if self.piece_tokens is not None and x_TD.shape[0] > self.piece_tokens:
            norms = [norm for norm in (self.mlp_norm, self.mlp_post_norm) if norm is not None]
            trained = [*self.gate_up.trained(), *self.down.trained(), *(w for norm in norms for w in norm.trained())]
            return in_pieces(x_TD + y_TD, self._feed_forward, self.piece_tokens, trained)
        if self.feed_forward_again is not None and self.training and torch.is_grad_enabled():
            return self.feed_forward_again(self._feed_forward, x_TD, y_TD)
        return self._feed_forward(x_TD, y_TD)

    def _feed_forward(self, x_TD: Tensor, y_TD: Tensor | None = None) -> Tensor:
        """Return the layer's result from the residual stream and what attention adds to it (None: it is added already)."""
        x_TD, g_TI, u_TI = normed_product(x_TD, y_TD, self.mlp_norm, self.gate_up, self.formulas)
        read = self.mlp_post_norm is not None
        y_TD = gated_product(g_TI, u_TI, self.activation, self.down, self.formulas, read=read)
        if self.mlp_post_norm is not None:
            y_TD = post_norm(y_TD, self.mlp_post_norm, self.formulas)
        return x_TD + y_TD

    def _mix(
        self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, batch: int, mask: Tensor | None, kwargs: dict[str, object]
    ) -> Tensor:
        """Return the joined heads (T, heads x D) of what queries see: of a packed row, or as the model's configuration says."""
        packed, dropout = kwargs.get("packed"), self.attention_dropout if self.training else 0.0
        if isinstance(packed, PackedLayout):
            asked = Attending(packed, self.scaling, self.window, self.softcap)
            return attend(q_THD, k_TKD, v_TKD, asked, self.kernel).flatten(1)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.self_attn.config._attn_implementation, eager_attention_forward
        )
        extra = {"softcap": self.softcap} if self.softcap is not None else {}
        by_head = (x_THD.unflatten(0, (batch, -1)).transpose(1, 2) for x_THD in (q_THD, k_TKD, v_TKD))
        mixed, _ = attention(
            self.self_attn, *by_head, mask, dropout=dropout, scaling=self.scaling, sliding_window=self.window,
            **extra, **kwargs,
        )  # fmt: skip
        return mixed.reshape(q_THD.shape[0], -1)


def _norm_of(norm: nn.Module, offset: bool) -> Norm:
    return Norm(norm.weight, norm.eps if offset else norm.variance_epsilon, offset)


def _softcap(layer: nn.Module) -> float | None:
    return layer.self_attn.attn_logit_softcapping if isinstance(layer, Gemma2DecoderLayer) else None


def _activation(act: nn.Module) -> Activation | None:
    if isinstance(act, (nn.SiLU, SiLUActivation)):
        return "silu"
    return "gelu_tanh" if isinstance(act, GELUTanh) else None


def _outputs(linear: nn.Module) -> int:
    return linear.out_features


def _each_row(angles: Tensor, batch: int) -> Tensor:
    """Return cosines or sines (B T, D) of angles (1 or B, T, D)."""
    return angles.expand(batch, -1, -1).reshape(-1, angles.shape[-1])


def decoder_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the decoder layers of a model by name: what transformers can recompute."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
