"""Modules of transformers of the known families, and which of their layers read one input.

They are known by name: importing the code of every family takes longer than loading a small model.
"""

from __future__ import annotations

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


def _is(module: nn.Module, kind: str) -> bool:
    return any(
        (each.__module__, each.__name__)
        == (f"transformers.models.{family.lower()}.modeling_{family.lower()}", family + kind)
        for each in type(module).__mro__
        for family in FAMILIES
    )
