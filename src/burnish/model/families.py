"""Modules of transformers of the known families, and which of their layers read one input.

They are known by name: importing the code of every family takes longer than loading a small model.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3")
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of the layers that read one input in attention and in gated feed-forward modules."""


def is_attention(module: nn.Module) -> bool:
    """Return whether a module is the attention of a known family."""
    return _is(module, "Attention")


def is_gated(module: nn.Module) -> bool:
    """Return whether a module is the gated feed-forward part of a known family."""
    return _is(module, "MLP")


def is_exactly(module: nn.Module, families: Sequence[str], kind: str) -> bool:
    """Return whether a module is the `kind` ("DecoderLayer") of one of these families, and not a class made from it."""
    here = type(module).__module__, type(module).__name__
    return here in {(f"transformers.models.{each.lower()}.modeling_{each.lower()}", each + kind) for each in families}


def attention_window(attention: nn.Module) -> int | None:
    """Return how many tokens a known family's attention sees, the current one among them; None is all."""
    if is_exactly(attention, ("Llama",), "Attention"):
        return None
    if is_exactly(attention, ("Mistral",), "Attention"):
        return attention.config.sliding_window  # pyright: ignore[reportAttributeAccessIssue]
    return attention.sliding_window  # pyright: ignore[reportReturnType]


def _is(module: nn.Module, kind: str) -> bool:
    return any(
        (each.__module__, each.__name__)
        == (f"transformers.models.{family.lower()}.modeling_{family.lower()}", family + kind)
        for each in type(module).__mro__
        for family in FAMILIES
    )
