"""What differs between model types: the linears of a layer, norms, experts, buffers, and defaults of absent fields.

The source is transformers: `models/<family>/modeling_<family>.py`, and `configuration_<family>.py` for the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from burnish.core.errors import BaseModelError, did_you_mean
from burnish.plan.architecture import Architecture, Block
from burnish.plan.fields import Fields
from burnish.plan.layers import (
    Linears,
    Mixture,
    Sizes,
    deepseek_mixture,
    fused,
    fused_gate,
    gated,
    latent,
    latent_rotated,
    mixture_of,
    qwen2_mixture,
    rotary_by_kind,
    separate,
    ungated,
)

FLOAT32_BYTES, MOST_LAYERS = 4, 10_000
TEXT_PARTS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}
"""Decoders of models that see, and the model type whose decoder theirs is, number by number."""
TIED_WHOLES = frozenset({"gemma3", "mistral3", "paligemma", "internvl", "aya_vision", "cohere2_vision", "lighton_ocr"})
"""Models that see whose head is tied to the embedding unless their config.json says otherwise beside text_config."""
ASKING_THE_TEXT = frozenset({"llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "video_llama_3"})
"""Those that ask text_config, where they do not say it themselves. All others: not tied."""


Number = Callable[[Fields, Sizes], int]


def _no_numbers(fields: Fields, sizes: Sizes) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Family:
    """One model type. `norm_size`: numbers of a norm for each hidden unit (2 with a bias, 0 without weights).

    `query_key_norms` and `extra` are numbers of a layer, `outside` of the model beside its last norm, `rotated` the size
    of what rotary positions turn, `unread` fields of other families that this one does not have. `sparse`: whether layer
    i has the experts of `mixture` instead of a dense layer.
    """

    attention: Linears
    feed_forward: Linears
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    gated: bool = True
    norm_size: int = 1
    norms: Callable[[Fields], int] = lambda fields: 2
    query_key_norms: Number = _no_numbers
    extra: Number = _no_numbers
    outside: Number = _no_numbers
    mixture: Callable[[Fields, Sizes], Mixture] | None = None
    sparse: Callable[[Fields, int], bool] = lambda fields, layer: True
    width: Callable[[Fields, int], int] = lambda fields, hidden: fields.whole("intermediate_size")
    rotated: Number = lambda fields, sizes: sizes.head
    rotary_tables: Callable[[Fields], int] = lambda fields: 1
    scalar_buffers: int = 0
    unread: frozenset[str] = frozenset()
    fused: bool = False


def _qwen_sparse(fields: Fields, layer: int) -> bool:
    dense = fields.get("mlp_only_layers") or ()
    return layer not in dense and (layer + 1) % fields.whole("decoder_sparse_step") == 0


def _after_the_first(fields: Fields, layer: int) -> bool:
    return layer >= fields.count("first_k_dense_replace")


# -------------------------------------------------------------------------------------------------------------------- norms


def _head_norms(fields: Fields, sizes: Sizes) -> int:
    return 2 * sizes.head


def _projection_norms(fields: Fields, sizes: Sizes) -> int:
    return sizes.query + sizes.key_value


def _if(flag: str, numbers: Number) -> Number:
    return lambda fields, sizes: numbers(fields, sizes) if fields.flag(flag) else 0


def _falcon_norms(fields: Fields) -> int:
    if not fields.flag("parallel_attn"):
        return 2
    said = fields.get("num_ln_in_parallel_attn")
    return said if isinstance(said, int) else 2 if fields.flag("new_decoder_architecture") else 1


def _falcon_key_values(fields: Fields) -> int:
    heads = fields.whole("num_attention_heads")
    if fields.flag("new_decoder_architecture"):
        return fields.whole("num_key_value_heads", heads)
    return 1 if fields.flag("multi_query") else heads


def _four_times(fields: Fields, hidden: int) -> int:
    return fields.whole("intermediate_size", 4 * hidden)


_FALCON = {"multi_query": True, "parallel_attn": True, "tie_word_embeddings": True, "max_position_embeddings": 2048}
_QWEN_MOE = {"decoder_sparse_step": 1, "intermediate_size": 5632}
_GEMMA = {"tie_word_embeddings": True, "head_dim": 256}
_BOTH = separate("attention_bias", "attention_bias")
_QUERY_BIAS = separate(True, False)
_NO_BIAS = separate(False, False)

FAMILIES: dict[str, Family] = {
    "llama": Family(_BOTH, gated("mlp_bias"), fused=True),
    "mistral": Family(_NO_BIAS, gated(), {"num_key_value_heads": 8}, fused=True),
    "ministral3": Family(_NO_BIAS, gated(), {"num_key_value_heads": 8, "head_dim": 128}),
    "qwen2": Family(_QUERY_BIAS, gated(), {"num_key_value_heads": 32}, fused=True),
    "qwen3": Family(
        _BOTH, gated(), {"num_key_value_heads": 32, "head_dim": 128}, query_key_norms=_head_norms, fused=True
    ),
    "gemma": Family(_BOTH, gated(), _GEMMA | {"num_key_value_heads": 16}, scalar_buffers=1),
    "gemma2": Family(
        _BOTH, gated(), _GEMMA | {"num_key_value_heads": 4}, norms=lambda fields: 4, scalar_buffers=1, fused=True
    ),
    "gemma3_text": Family(
        _BOTH,
        gated(),
        _GEMMA | {"num_key_value_heads": 4},
        norms=lambda fields: 4,
        query_key_norms=_head_norms,
        rotary_tables=rotary_by_kind(6),
        scalar_buffers=1,
        fused=True,
    ),
    "phi3": Family(fused("qkv_proj", "o_proj", False), fused_gate),
    "phi": Family(
        separate(True, True, dense="dense"),
        ungated("fc1", "fc2", True),
        {"partial_rotary_factor": 0.5},
        gated=False,
        norm_size=2,
        norms=lambda fields: 1,
        query_key_norms=_if("qk_layernorm", lambda fields, sizes: 4 * sizes.head),
        outside=lambda fields, sizes: fields.whole("vocab_size"),
    ),
    "gpt2": Family(
        fused("c_attn", "c_proj", True),
        ungated("c_fc", "c_proj", True),
        {"tie_word_embeddings": True, "max_position_embeddings": 1024},
        gated=False,
        norm_size=2,
        width=_four_times,
        outside=lambda fields, sizes: sizes.hidden * fields.whole("max_position_embeddings"),
        rotary_tables=lambda fields: 0,
        unread=frozenset({"intermediate_size", "num_key_value_heads", "head_dim"}),
    ),
    "gpt_neox": Family(
        fused("query_key_value", "dense", "attention_bias"),
        ungated("dense_h_to_4h", "dense_4h_to_h", True),
        {"partial_rotary_factor": 0.25, "attention_bias": True, "max_position_embeddings": 2048},
        gated=False,
        norm_size=2,
        unread=frozenset({"num_key_value_heads", "head_dim"}),
    ),
    "mixtral": Family(
        _NO_BIAS,
        gated(),
        {"num_key_value_heads": 8, "num_experts": 8, "num_experts_per_tok": 2},
        mixture=mixture_of("intermediate_size"),
    ),
    "smollm3": Family(_BOTH, gated("mlp_bias"), {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "olmo": Family(_BOTH, gated(), norm_size=0),
    "olmo2": Family(_BOTH, gated(), query_key_norms=_projection_norms),
    "olmo3": Family(_BOTH, gated(), query_key_norms=_projection_norms, rotary_tables=rotary_by_kind(4)),
    "olmoe": Family(
        _BOTH,
        gated(),
        {"num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8},
        query_key_norms=_projection_norms,
        mixture=mixture_of("intermediate_size"),
    ),
    "falcon": Family(
        fused("query_key_value", "dense", "bias"),
        ungated("dense_h_to_4h", "dense_4h_to_h", "bias"),
        _FALCON,
        gated=False,
        norm_size=2,
        norms=_falcon_norms,
        width=_four_times,
        unread=frozenset({"intermediate_size", "num_key_value_heads", "head_dim"}),
    ),
    "starcoder2": Family(
        separate("use_bias", "use_bias"),
        ungated("c_fc", "c_proj", "use_bias"),
        {"num_key_value_heads": 2, "use_bias": True, "tie_word_embeddings": True},
        gated=False,
        norm_size=2,
    ),
    "glm": Family(
        separate("attention_bias", False),
        fused_gate,
        {"num_key_value_heads": 2, "head_dim": 128, "partial_rotary_factor": 0.5, "attention_bias": True},
    ),
    "glm4": Family(
        separate("attention_bias", False),
        fused_gate,
        {"num_key_value_heads": 2, "head_dim": 128, "partial_rotary_factor": 0.5, "attention_bias": True},
        norms=lambda fields: 4,
    ),
    "glm4_moe": Family(
        separate("attention_bias", False),
        gated(),
        {"num_key_value_heads": 8, "partial_rotary_factor": 0.5, "first_k_dense_replace": 1, "n_shared_experts": 1,
         "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1408},
        query_key_norms=_if("use_qk_norm", _head_norms),
        mixture=deepseek_mixture,
        sparse=_after_the_first,
    ),
    "granite": Family(_BOTH, gated("mlp_bias")),
    "granitemoe": Family(
        _BOTH, gated(), {"num_experts": 8, "num_experts_per_tok": 2}, mixture=mixture_of("intermediate_size")
    ),
    "cohere": Family(
        _BOTH,
        gated(),
        {"tie_word_embeddings": True, "max_position_embeddings": 8192},
        norms=lambda fields: 1,
        query_key_norms=_if("use_qk_norm", _projection_norms),
    ),
    "cohere2": Family(
        _BOTH, gated(), {"tie_word_embeddings": True, "max_position_embeddings": 8192}, norms=lambda fields: 1
    ),
    "qwen2_moe": Family(
        separate("qkv_bias", False),
        gated(),
        _QWEN_MOE | {"num_key_value_heads": 16, "qkv_bias": True, "num_experts": 60, "num_experts_per_tok": 4,
         "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
        mixture=qwen2_mixture,
        sparse=_qwen_sparse,
    ),
    "qwen3_moe": Family(
        _BOTH,
        gated(),
        _QWEN_MOE
        | {"num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
        query_key_norms=_head_norms,
        mixture=mixture_of("moe_intermediate_size"),
        sparse=_qwen_sparse,
    ),
    "gpt_oss": Family(
        _BOTH,
        gated(),
        {"num_key_value_heads": 8, "head_dim": 64, "attention_bias": True, "num_experts": 128, "num_experts_per_tok": 4},
        extra=lambda fields, sizes: fields.whole("num_attention_heads"),
        mixture=mixture_of("intermediate_size", bias=True),
    ),
    "stablelm": Family(
        separate("use_qkv_bias", False),
        gated(),
        {"partial_rotary_factor": 0.25},
        norm_size=2,
        norms=lambda fields: 1 if fields.flag("use_parallel_residual") else 2,
        query_key_norms=_if("qk_layernorm", _projection_norms),
    ),
    "exaone4": Family(_NO_BIAS, gated(), query_key_norms=_head_norms),
    "seed_oss": Family(
        separate("attention_bias", "attention_out_bias"),
        gated("mlp_bias"),
        {"num_key_value_heads": 8, "head_dim": 128, "attention_bias": True},
    ),
    "ernie4_5": Family(
        separate("use_bias", "use_bias"),
        gated("use_bias"),
        {"num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": True},
    ),
    "nemotron": Family(
        _BOTH,
        ungated("up_proj", "down_proj", "mlp_bias"),
        {"partial_rotary_factor": 0.5},
        gated=False,
        norm_size=2,
    ),
    "deepseek_v3": Family(
        latent,
        gated(),
        {"qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "kv_lora_rank": 512, "q_lora_rank": 1536,
         "num_key_value_heads": 128, "first_k_dense_replace": 3, "n_shared_experts": 1, "num_experts": 256,
         "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "max_position_embeddings": 4096},
        query_key_norms=lambda fields, sizes: fields.count("q_lora_rank") + fields.whole("kv_lora_rank"),
        mixture=deepseek_mixture,
        sparse=_after_the_first,
        rotated=latent_rotated,
    ),
}  # fmt: skip
"""Known model types. A default is that of transformers' configuration class for a field that config.json leaves out."""


# -------------------------------------------------------------------------------------------------------------------- build


def build(config: Mapping[str, Any], source: str) -> Architecture:
    """Return the architecture that a config.json describes. Raises BaseModelError as `read_architecture` says."""
    model_type, inner = config.get("model_type"), config.get("text_config")
    if model_type not in FAMILIES and isinstance(inner, dict):
        return _text_part(config, cast("dict[str, Any]", inner), source)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        said = "is missing" if model_type is None else f"is {model_type!r}, which the plan cannot count"
        known = f"Known: {', '.join(FAMILIES)}.{did_you_mean(str(model_type), FAMILIES)}"
        raise BaseModelError(f"{source}: model_type {said}. {known}")
    family = FAMILIES[model_type]
    config = {name: value for name, value in config.items() if name not in family.unread}
    fields = Fields(config, family.defaults, source)
    hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    key_values = (
        _falcon_key_values(fields) if model_type == "falcon" else fields.unless_null("num_key_value_heads", heads)
    )
    if heads % key_values and family.attention is not latent:
        said = (
            "" if fields.says("num_key_value_heads") else f", which is what {model_type} has where the file says none"
        )
        raise BaseModelError(
            f"{source}: num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({key_values}{said})."
        )
    head = fields.head_size(hidden, heads)
    width = family.width(fields, hidden)
    sizes = Sizes(hidden, heads * head, key_values * head, head, width)
    layers, vocabulary = fields.whole("num_hidden_layers", most=MOST_LAYERS), fields.whole("vocab_size")
    blocks, buffers = _blocks(family, fields, sizes, layers)
    frequencies = int(family.rotated(fields, sizes) * fields.rotary_share()) // 2
    return Architecture(
        model_type=model_type,
        hidden=hidden,
        layers=layers,
        heads=heads,
        key_value_heads=key_values,
        head_size=head,
        intermediate=width,
        vocabulary=vocabulary,
        context=fields.whole("max_position_embeddings"),
        tied_head=fields.unless_null_flag("tie_word_embeddings"),
        blocks=blocks,
        hidden_norms=family.norms(fields),
        head_norms=family.query_key_norms(fields, sizes) > 0,
        gated=family.gated,
        rms_norms=family.norm_size < 2,
        outside=family.norm_size * hidden + family.outside(fields, sizes),
        buffer_bytes=family.rotary_tables(fields) * 2 * frequencies * FLOAT32_BYTES,  # inv_freq and original_inv_freq of each
        scalar_buffers=family.scalar_buffers + buffers,
        fused=family.fused,
    )  # fmt: skip


def _text_part(config: Mapping[str, Any], inner: Mapping[str, Any], source: str) -> Architecture:
    """Return the decoder of a model that sees or hears as well. The whole model says whether the head is tied."""
    kind, whole = inner.get("model_type"), str(config.get("model_type"))
    asked = inner.get("tie_word_embeddings") if whole in ASKING_THE_TEXT else whole in TIED_WHOLES
    said = config.get("tie_word_embeddings")
    text = {
        **inner,
        "model_type": TEXT_PARTS.get(str(kind), kind),
        "tie_word_embeddings": asked if said is None else said,
    }
    return replace(build(text, f"{source}, text_config"), part_of=whole)


def _blocks(family: Family, fields: Fields, sizes: Sizes, layers: int) -> tuple[tuple[Block, ...], int]:
    """Return the layers, equal ones together, and the numbers of the routers' buffers."""
    attention = family.attention(fields, sizes)
    norms = family.norms(fields) * family.norm_size * sizes.hidden
    other = norms + family.query_key_norms(fields, sizes) + family.extra(fields, sizes)
    sparse = 0 if family.mixture is None else sum(family.sparse(fields, layer) for layer in range(layers))
    blocks: list[Block] = []
    if layers > sparse:
        linears = (*attention, *family.feed_forward(fields, sizes))
        blocks.append(Block(layers - sparse, linears, other, sizes.width))
    if family.mixture is None or not sparse:
        return tuple(blocks), 0
    mixture = family.mixture(fields, sizes)
    experts = mixture.experts
    width = experts.active * experts.linears[1].inputs + mixture.shared_width
    linears = (*attention, *mixture.shared)
    blocks.append(Block(sparse, linears, other + mixture.router, width, experts))
    return tuple(blocks), sparse * mixture.router_buffer
