"""Layers of few operations decode what transformers' own layers do, and leave the model as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedModel, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from burnish.model.banked_linear import BankedModel
from burnish.model.cached_attention import cached_attention_on
from burnish.model.decoder import Decoder
from burnish.model.decoding_layer import DecodingLayer, LengthNorm, can_decode
from burnish.model.sampling import Sampling

SIZES: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 2,
}  # fmt: skip
WINDOWED = {
    "mistral": MistralConfig(**SIZES, sliding_window=7),
    "qwen2, one layer of two": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=7, max_window_layers=1),
}


def windowed(name: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(WINDOWED[name], attn_implementation="sdpa").float()
    return model.eval().requires_grad_(False)


def varied(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model weights large enough that its answers are not one token over and over."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.2)
    return model


def answers(model: PreTrainedModel, banked: BankedModel | None) -> list[list[int]]:
    """Answers to five prompts at once, two of which begin alike; one is longer than a step's piece."""
    decoder = Decoder(model, rows=3, piece_tokens=24, banked=banked)
    start = list(range(10, 40))
    prompts = [[*start, 5, 6], [*start, 7], [3], list(range(50, 90)), [8, 9]]
    numbers = [decoder.add(each, Sampling(max_new_tokens=12), share=30 if len(each) > 30 else 0) for each in prompts]
    found: dict[int, list[int]] = {number: [] for number in numbers}
    while decoder.running or decoder.waiting:
        for emitted in decoder.step():
            if emitted.token is not None:
                found[emitted.sequence].append(emitted.token)
    return [found[number] for number in numbers]


def decoding_layers(model: PreTrainedModel) -> int:
    return sum(isinstance(module, DecodingLayer) for module in model.modules())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", *WINDOWED])
def test_answers_are_those_of_the_layers_they_replace(make_tiny: Callable[..., PreTrainedModel], kind: str) -> None:
    model = varied(windowed(kind) if kind in WINDOWED else make_tiny(kind))
    want = answers(model, None)
    assert len({tuple(each) for each in want}) == 5
    layers, names = list(model.model.layers), [name for name, _ in model.named_parameters()]
    banked = BankedModel(model)
    assert decoding_layers(model) == len(layers)
    assert [name for name, _ in model.named_parameters() if "lm_head" not in name] == [
        name.replace("_proj", "_proj.base") for name in names if "lm_head" not in name
    ]
    assert answers(model, banked) == want
    banked.take_off()
    assert list(model.model.layers) == layers


def test_without_a_step_the_replaced_layer_answers(make_tiny: Callable[..., PreTrainedModel]) -> None:
    model, ids = make_tiny("qwen3"), torch.arange(20)[None]
    want = model(ids).logits
    banked = BankedModel(model)
    assert decoding_layers(model) == 3
    torch.testing.assert_close(model(ids).logits, want, rtol=1e-4, atol=1e-4)
    banked.take_off()


def test_layers_that_might_compute_something_else_stay(make_tiny: Callable[..., PreTrainedModel]) -> None:
    class OfSomebodyElse(LlamaDecoderLayer):
        pass

    model = make_tiny("llama")
    assert can_decode(model.model.layers[0])
    model.model.layers[0].mlp.act_fn = nn.GELU()
    assert not can_decode(model.model.layers[0])
    assert not can_decode(OfSomebodyElse(LlamaConfig(**SIZES), 0))
    assert not can_decode(make_tiny("gemma3").model.layers[0])
    banked = BankedModel(model)
    assert decoding_layers(model) == 2
    banked.take_off()
    halved = make_tiny("llama")
    halved.half()  # not packed
    BankedModel(halved)
    assert decoding_layers(halved) == 0


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 on this CPU")
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_in_bfloat16_the_few_operations_are_as_near_to_float32_as_the_many(
    make_tiny: Callable[..., PreTrainedModel], kind: str
) -> None:
    halved = varied(make_tiny(kind)).bfloat16()
    exact = copy.deepcopy(halved).float()
    prompt = list(range(5, 69))

    def logits(model: PreTrainedModel, banked: BankedModel | None = None) -> torch.Tensor:
        decoder = Decoder(model, rows=1, banked=banked)
        decoder.add(prompt, Sampling(max_new_tokens=1))
        batch = decoder._plan()
        batch.last[:] = range(len(prompt))
        with torch.no_grad(), cached_attention_on(model):
            return decoder._run(batch).float()

    want, plain = logits(exact), logits(halved)
    banked = BankedModel(halved)
    assert decoding_layers(halved) == len(halved.model.layers)
    few = logits(halved, banked)
    banked.take_off()
    assert 0 < (few - want).pow(2).mean() < 1.3 * (plain - want).pow(2).mean()


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_norm_by_length_is_the_root_of_the_mean_square(
    make_tiny: Callable[..., PreTrainedModel], size: float
) -> None:
    norm = make_tiny("llama").model.norm
    norm.weight.data.uniform_(0.5, 2)
    x = size * torch.randn(7, 64)
    torch.testing.assert_close(LengthNorm.of(norm)(x), norm(x), rtol=2e-6, atol=1e-6)
    halved, exact = LengthNorm.of(norm.bfloat16())(x.bfloat16()), norm.float()(x.bfloat16().float())
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), exact, rtol=2**-8, atol=0)  # it is rounded once
