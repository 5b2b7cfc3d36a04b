"""The shape of a decoder from its config.json: every linear layer by name, and exact parameter counts.

Counts equal those of transformers on the meta device, family by family (tests/plan/test_architecture.py). The source is
transformers: `models/<family>/modeling_<family>.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from burnish.core.errors import BaseModelError, did_you_mean

FLOAT32_BYTES = 4


Source = Literal["attention norm", "attention", "mlp norm", "mlp product"]
"""What a linear reads: linears with the same source read the same tensor."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: weight (outputs, inputs), and a bias of `outputs` numbers where there is one."""

    name: str
    reads: Source
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Numbers in the weight matrix."""
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Numbers in the weight matrix and the bias."""
        return self.weights + (self.outputs if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder of `layers` equal layers. `linears` are those of one layer, in the order of the forward pass.

    A layer has `hidden_norms` norms over the hidden size and, with `head_norms`, one over query heads and one over key
    heads. Of the whole model: `buffer_bytes` are rotary frequencies, always float32; `scalar_buffers` are numbers in
    the dtype of the weights. `lean`: training replaces the norms and the feed-forward layer by ones that keep less for
    backward (model/lean.py).
    """

    model_type: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    context: int
    tied_head: bool
    linears: tuple[Linear, ...]
    hidden_norms: int
    head_norms: bool
    buffer_bytes: int
    scalar_buffers: int
    lean: bool

    @property
    def embedding_parameters(self) -> int:
        """Numbers of the token embedding, which a tied head uses again."""
        return self.vocabulary * self.hidden

    @property
    def head_parameters(self) -> int:
        """Numbers of the output head beyond the embedding: none when it is tied."""
        return 0 if self.tied_head else self.vocabulary * self.hidden

    @property
    def linear_weights(self) -> int:
        """Numbers in the weight matrices of all layers: what NF4 quantises."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def parameters(self) -> int:
        """Numbers of the whole model."""
        norms = self.hidden_norms * self.hidden + (2 * self.head_size if self.head_norms else 0)
        layer = sum(linear.parameters for linear in self.linears) + norms
        return self.embedding_parameters + self.layers * layer + self.hidden + self.head_parameters

    @property
    def query_size(self) -> int:
        """Numbers of all query heads of one token."""
        return self.heads * self.head_size

    @property
    def key_value_size(self) -> int:
        """Numbers of all key heads (or all value heads) of one token."""
        return self.key_value_heads * self.head_size


@dataclass(frozen=True, slots=True)
class _Shape:
    """The fields every family has, read and checked."""

    hidden: int
    intermediate: int
    query: int
    key_value: int
    head_size: int


@dataclass(frozen=True, slots=True)
class _Family:
    """What differs between model types: defaults of absent fields, the linears, the norms, the buffers."""

    linears: Callable[[_Shape, Mapping[str, Any]], tuple[Linear, ...]]
    hidden_norms: int = 2
    head_norms: bool = False
    tied_head: bool = False
    key_value_heads: int | None = None
    head_size: int | None = None
    rotary_by_layer_type: bool = False
    scalar_buffers: int = 0
    lean: bool = False


def _separate(shape: _Shape, *, qkv_bias: bool, output_bias: bool, mlp_bias: bool) -> tuple[Linear, ...]:
    return (
        Linear("q_proj", "attention norm", shape.hidden, shape.query, qkv_bias),
        Linear("k_proj", "attention norm", shape.hidden, shape.key_value, qkv_bias),
        Linear("v_proj", "attention norm", shape.hidden, shape.key_value, qkv_bias),
        Linear("o_proj", "attention", shape.query, shape.hidden, output_bias),
        Linear("gate_proj", "mlp norm", shape.hidden, shape.intermediate, mlp_bias),
        Linear("up_proj", "mlp norm", shape.hidden, shape.intermediate, mlp_bias),
        Linear("down_proj", "mlp product", shape.intermediate, shape.hidden, mlp_bias),
    )


def _llama(shape: _Shape, config: Mapping[str, Any]) -> tuple[Linear, ...]:
    attention, mlp = _flag(config, "attention_bias"), _flag(config, "mlp_bias")
    return _separate(shape, qkv_bias=attention, output_bias=attention, mlp_bias=mlp)


def _attention_bias(shape: _Shape, config: Mapping[str, Any]) -> tuple[Linear, ...]:
    attention = _flag(config, "attention_bias")
    return _separate(shape, qkv_bias=attention, output_bias=attention, mlp_bias=False)


def _no_bias(shape: _Shape, config: Mapping[str, Any]) -> tuple[Linear, ...]:
    return _separate(shape, qkv_bias=False, output_bias=False, mlp_bias=False)


def _query_bias(shape: _Shape, config: Mapping[str, Any]) -> tuple[Linear, ...]:
    return _separate(shape, qkv_bias=True, output_bias=False, mlp_bias=False)


def _fused(shape: _Shape, config: Mapping[str, Any]) -> tuple[Linear, ...]:
    return (
        Linear("qkv_proj", "attention norm", shape.hidden, shape.query + 2 * shape.key_value),
        Linear("o_proj", "attention", shape.query, shape.hidden),
        Linear("gate_up_proj", "mlp norm", shape.hidden, 2 * shape.intermediate),
        Linear("down_proj", "mlp product", shape.intermediate, shape.hidden),
    )


FAMILIES: dict[str, _Family] = {
    "llama": _Family(_llama, lean=True),
    "mistral": _Family(_no_bias, key_value_heads=8, lean=True),
    "qwen2": _Family(_query_bias, key_value_heads=32, lean=True),
    "qwen3": _Family(_attention_bias, head_norms=True, key_value_heads=32, head_size=128, lean=True),
    "gemma2": _Family(
        _attention_bias,
        hidden_norms=4,
        tied_head=True,
        key_value_heads=4,
        head_size=256,
        scalar_buffers=1,
    ),
    "gemma3_text": _Family(
        _attention_bias,
        hidden_norms=4,
        head_norms=True,
        tied_head=True,
        key_value_heads=4,
        head_size=256,
        rotary_by_layer_type=True,
        scalar_buffers=1,
    ),
    "phi3": _Family(_fused),
}
"""Known model types. A default is that of transformers' configuration class for a field that config.json leaves out."""


def read_architecture(config: Mapping[str, Any], *, source: str = "config.json") -> Architecture:
    """Return the architecture that a config.json describes.

    Raises BaseModelError naming `source` when the model type is not known, or a field is missing or not a whole number.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise BaseModelError(
            f"{source}: model_type is {model_type!r}, which the plan cannot count. Known: {', '.join(FAMILIES)}."
            + did_you_mean(str(model_type), FAMILIES)
        )
    family = FAMILIES[model_type]
    hidden, heads = _whole(config, "hidden_size", source), _whole(config, "num_attention_heads", source)
    head_size = _whole(config, "head_dim", source, family.head_size or hidden // heads)
    key_value_heads = _whole(config, "num_key_value_heads", source, family.key_value_heads or heads)
    if heads % key_value_heads:
        raise BaseModelError(
            f"{source}: num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({key_value_heads})."
        )
    intermediate = _whole(config, "intermediate_size", source)
    shape = _Shape(hidden, intermediate, heads * head_size, key_value_heads * head_size, head_size)
    tied = config.get("tie_word_embeddings", family.tied_head)
    return Architecture(
        model_type=model_type,
        hidden=hidden,
        layers=_whole(config, "num_hidden_layers", source),
        heads=heads,
        key_value_heads=key_value_heads,
        head_size=head_size,
        intermediate=intermediate,
        vocabulary=_whole(config, "vocab_size", source),
        context=_whole(config, "max_position_embeddings", source),
        tied_head=bool(tied),
        linears=family.linears(shape, config),
        hidden_norms=family.hidden_norms,
        head_norms=family.head_norms,
        buffer_bytes=_buffer_bytes(family, config, head_size),
        scalar_buffers=family.scalar_buffers,
        lean=family.lean,
    )


def _buffer_bytes(family: _Family, config: Mapping[str, Any], head_size: int) -> int:
    """Bytes of `inv_freq` and `original_inv_freq` of each rotary table."""
    rope: Mapping[str, Any] = config.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    frequencies = int(head_size * float(share)) // 2
    tables = len(set(config.get("layer_types") or ("sliding", "full"))) if family.rotary_by_layer_type else 1
    return tables * 2 * frequencies * FLOAT32_BYTES


def _whole(config: Mapping[str, Any], field: str, source: str, default: int | None = None) -> int:
    value = config.get(field)
    if value is None:
        value = default
    if value is None:
        raise BaseModelError(
            f"{source}: {field} is missing, and the plan cannot count without it. Is this the model's own config.json?"
        )
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BaseModelError(f"{source}: {field} is {value!r}, must be a whole number of 1 or more.")
    return value


def _flag(config: Mapping[str, Any], field: str) -> bool:
    return bool(config.get(field, False))
