from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, Lfm2Config, PreTrainedModel

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


def test_a_model_that_scales_its_logits_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(CohereConfig(**SMALL, num_hidden_layers=1, logit_scale=0.25)).eval()
    with pytest.raises(BaseModelError, match="changes its logits after the output head"):
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
