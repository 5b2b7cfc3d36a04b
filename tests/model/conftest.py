"""Tiny models of several architectures, and the method they are adapted with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from burnish.core.artifacts import MethodPlan

SIZES = {
    "vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 2,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, sliding_window=6, query_pre_attn_scalar=16),
}


def tiny(architecture: str = "llama", *, seed: int = 0) -> PreTrainedModel:
    """Return a model of some ten thousand random float32 parameters, frozen and in eval mode, as load_base does."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture](), attn_implementation="sdpa").float()
    with torch.no_grad():
        for parameter in model.parameters():  # larger than the initialiser makes them, so that attention matters
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model.eval().requires_grad_(False)


def lora(**changes: object) -> MethodPlan:
    """Return LoRA of rank 4 on all linear layers, with changes."""
    values: dict[str, object] = {
        "kind": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": ("all-linear",),
        "quantisation": "none", "double_quantisation": True,
    }  # fmt: skip
    return MethodPlan.model_validate({**values, **changes})


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_tiny() -> Callable[..., PreTrainedModel]:
    return tiny


@pytest.fixture
def method() -> MethodPlan:
    return lora()


@pytest.fixture
def make_method() -> Callable[..., MethodPlan]:
    return lora
