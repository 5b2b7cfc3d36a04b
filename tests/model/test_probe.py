from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GraniteConfig,
    Lfm2Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    StableLmConfig,
)

from burnish.core.errors import BaseModelError
from burnish.model.probe import check_base

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_ordinary_models_pass(make_tiny: Callable[..., PreTrainedModel], architecture: str) -> None:
    check_base(make_tiny(architecture))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_capped_scores_and_logits_are_computed_and_pass(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        **SMALL, num_hidden_layers=2, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=2.0,
        attn_implementation="eager",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(20)
        logits = model(input_ids=torch.tensor([[3, 10, 17]])).logits
    assert logits.abs().max() > 1.9, "nothing reaches the cap: the test shows nothing"
    check_base(model.to(dtype))


@pytest.mark.parametrize(
    "config",
    [
        CohereConfig(**SMALL, num_hidden_layers=1, logit_scale=0.25),
        GraniteConfig(**SMALL, num_hidden_layers=1, logits_scaling=4.0),
        PhiConfig(**SMALL, num_hidden_layers=1),
    ],
)
def test_logits_with_a_scale_or_a_bias_of_the_head_pass(config: PreTrainedConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "lm_head.bias":
                parameter.normal_()
    check_base(model)


def test_logits_that_are_changed_in_another_way_are_refused(make_tiny: Callable[..., PreTrainedModel]) -> None:
    model = make_tiny()
    model.lm_head.register_forward_hook(lambda module, args, result: result + result**2)
    with pytest.raises(BaseModelError, match="changes its logits after the output head in a way that is not known"):
        check_base(model)


def test_a_model_whose_convolutions_would_mix_packed_samples_is_refused() -> None:
    torch.manual_seed(0)
    config = Lfm2Config(**SMALL, num_hidden_layers=2, layer_types=["conv", "full_attention"])
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    with pytest.raises(BaseModelError, match="mixes the samples of a packed row"):
        check_base(model)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (StableLmConfig(**SMALL, num_hidden_layers=1), "does not compute packed rows"),
        (
            FalconConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=4),
            "its attention is not",
        ),
    ],
)
def test_a_model_whose_attention_is_not_told_of_the_row_is_refused(config: PreTrainedConfig, says: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    with pytest.raises(BaseModelError, match=says):
        check_base(model)
