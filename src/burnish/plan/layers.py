"""The linears of a decoder layer: attention, feed-forward layers and experts, as transformers' families have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from burnish.core.errors import BaseModelError
from burnish.plan.architecture import Experts, Linear
from burnish.plan.fields import Fields


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes every family has. `width` is that of a dense feed-forward layer."""

    hidden: int
    query: int
    key_value: int
    head: int
    width: int


@dataclass(frozen=True, slots=True)
class Mixture:
    """Experts of a layer, the numbers of their router, and linears of experts that every token uses."""

    experts: Experts
    router: int
    shared: tuple[Linear, ...] = ()
    shared_width: int = 0
    router_buffer: int = 0


Linears = Callable[[Fields, Sizes], tuple[Linear, ...]]
"""Makes the linears of one layer."""


# ---------------------------------------------------------------------------------------------------------------- attention


def separate(qkv: str | bool, output: str | bool, *, dense: str = "o_proj") -> Linears:
    """Return separate projections. A bias is a flag's name, or whether there is one."""

    def linears(fields: Fields, sizes: Sizes) -> tuple[Linear, ...]:
        both, out = (flag if isinstance(flag, bool) else fields.flag(flag) for flag in (qkv, output))
        return (
            Linear("q_proj", "attention norm", sizes.hidden, sizes.query, both),
            Linear("k_proj", "attention norm", sizes.hidden, sizes.key_value, both),
            Linear("v_proj", "attention norm", sizes.hidden, sizes.key_value, both),
            Linear(dense, "attention", sizes.query, sizes.hidden, out),
        )

    return linears


def fused(name: str, dense: str, bias: str | bool) -> Linears:
    """Return one projection for queries, keys and values."""

    def linears(fields: Fields, sizes: Sizes) -> tuple[Linear, ...]:
        both = bias if isinstance(bias, bool) else fields.flag(bias)
        return (
            Linear(name, "attention norm", sizes.hidden, sizes.query + 2 * sizes.key_value, both),
            Linear(dense, "attention", sizes.query, sizes.hidden, both),
        )

    return linears


def latent(fields: Fields, sizes: Sizes) -> tuple[Linear, ...]:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""
    heads, bias = fields.whole("num_attention_heads"), fields.flag("attention_bias")
    rope, value, plain = (fields.whole(name) for name in ("qk_rope_head_dim", "v_head_dim", "qk_nope_head_dim"))
    latent, compressed = fields.count("q_lora_rank"), fields.whole("kv_lora_rank")
    queries = heads * (rope + plain)
    query = (
        (
            Linear("q_a_proj", "attention norm", sizes.hidden, latent, bias),
            Linear("q_b_proj", "query latent", latent, queries),
        )
        if latent
        else (Linear("q_proj", "attention norm", sizes.hidden, queries),)
    )
    return (
        *query,
        Linear("kv_a_proj_with_mqa", "attention norm", sizes.hidden, compressed + rope, bias),
        Linear("kv_b_proj", "key-value latent", compressed, heads * (plain + value)),
        Linear("o_proj", "attention", heads * value, sizes.hidden, bias),
    )


def rotary_by_kind(every: int) -> Callable[[Fields], int]:
    """Return the tables of models whose layers with a window turn otherwise; each `every`-th has none unless the file says."""

    def tables(fields: Fields) -> int:
        said = fields.get("layer_types")
        return len(set(said)) if said else 2 if fields.whole("num_hidden_layers") >= every else 1

    return tables


def latent_rotated(fields: Fields, sizes: Sizes) -> int:
    """Return the rotated part of a head. transformers takes a head_dim that is null for the usual size of a head."""
    return sizes.head if fields.is_null("head_dim") else fields.whole("head_dim", fields.whole("qk_rope_head_dim"))


# ------------------------------------------------------------------------------------------------------------- feed-forward


def _swiglu(hidden: int, width: int, *, bias: bool = False) -> tuple[Linear, ...]:
    return (
        Linear("gate_proj", "mlp norm", hidden, width, bias),
        Linear("up_proj", "mlp norm", hidden, width, bias),
        Linear("down_proj", "mlp product", width, hidden, bias),
    )


def gated(bias: str | bool = False) -> Linears:
    """Return gate, up and down (Shazeer 2020, arXiv:2002.05202)."""

    def linears(fields: Fields, sizes: Sizes) -> tuple[Linear, ...]:
        return _swiglu(sizes.hidden, sizes.width, bias=bias if isinstance(bias, bool) else fields.flag(bias))

    return linears


def fused_gate(fields: Fields, sizes: Sizes) -> tuple[Linear, ...]:
    """Return gate and up as one projection, and down."""
    return (
        Linear("gate_up_proj", "mlp norm", sizes.hidden, 2 * sizes.width),
        Linear("down_proj", "mlp product", sizes.width, sizes.hidden),
    )


def ungated(first: str, second: str, bias: str | bool) -> Linears:
    """Return the two projections of a feed-forward layer without a gate."""

    def linears(fields: Fields, sizes: Sizes) -> tuple[Linear, ...]:
        both = bias if isinstance(bias, bool) else fields.flag(bias)
        return (
            Linear(first, "mlp norm", sizes.hidden, sizes.width, both),
            Linear(second, "mlp product", sizes.width, sizes.hidden, both),
        )

    return linears


def _experts(fields: Fields, hidden: int, width: int, *, bias: bool = False) -> Experts:
    count, active = fields.whole("num_experts"), fields.whole("num_experts_per_tok")
    if active > count:
        raise BaseModelError(f"{fields.source}: num_experts_per_tok ({active}) is over the {count} experts.")
    linears = (
        Linear("gate_up_proj", "mlp norm", hidden, 2 * width, bias),
        Linear("down_proj", "mlp product", width, hidden, bias),
    )
    return Experts(count, active, linears)


def mixture_of(width_field: str, *, bias: bool = False) -> Callable[[Fields, Sizes], Mixture]:
    """Return experts as wide as a field says, and a router that is one matrix."""

    def mixture(fields: Fields, sizes: Sizes) -> Mixture:
        experts = _experts(fields, sizes.hidden, fields.whole(width_field), bias=bias)
        return Mixture(experts, experts.count * (sizes.hidden + (1 if bias else 0)))

    return mixture


def qwen2_mixture(fields: Fields, sizes: Sizes) -> Mixture:
    """Experts beside a shared one that has a gate of its own."""
    experts, width = (
        _experts(fields, sizes.hidden, fields.whole("moe_intermediate_size")),
        fields.whole("shared_expert_intermediate_size"),
    )
    shared = (*_swiglu(sizes.hidden, width), Linear("shared_expert_gate", "mlp norm", sizes.hidden, 1))
    return Mixture(experts, experts.count * sizes.hidden, shared, width)


def deepseek_mixture(fields: Fields, sizes: Sizes) -> Mixture:
    """Routed experts beside shared ones; the router balances by a bias that is no parameter (arXiv:2412.19437, 2.1.2)."""
    each = fields.whole("moe_intermediate_size")
    experts, width = _experts(fields, sizes.hidden, each), each * fields.whole("n_shared_experts")
    return Mixture(experts, experts.count * sizes.hidden, _swiglu(sizes.hidden, width), width, experts.count)
