"""Parameter counts are those of transformers, of the published models, and of arithmetic written out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.core.errors import BaseModelError
from burnish.plan.architecture import FAMILIES, read_architecture
from burnish.plan.bases import known_configs

SMALL: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": True, "head_dim": 48}),
    ("mistral", {"head_dim": 48}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"attention_bias": True, "head_dim": 64}),
    ("gemma2", {"attention_bias": True, "head_dim": 64}),
    ("gemma3_text", {"num_hidden_layers": 7, "head_dim": 64}),
    ("phi3", {"tie_word_embeddings": True}),
]


@pytest.mark.parametrize(
    ("family", "changes"), VARIANTS, ids=lambda value: value if isinstance(value, str) else ",".join(value) or "plain"
)
@pytest.mark.parametrize("written", ["to_dict", "to_diff_dict"])
def test_counts_equal_those_of_transformers_on_the_meta_device(
    family: str, changes: dict[str, Any], written: str
) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[family](**(SMALL | changes))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = read_architecture({"to_dict": config.to_dict, "to_diff_dict": config.to_diff_dict}[written]())
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.buffer_bytes + 4 * found.scalar_buffers == sum(
        buffer.numel() * buffer.element_size() for buffer in model.buffers()
    )
    head = model.get_output_embeddings()
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    first = {
        name.rpartition(".")[2]: (module.in_features, module.out_features, module.bias is not None)
        for name, module in linears.items()
        if ".layers.0." in name
    }
    assert {linear.name: (linear.inputs, linear.outputs, linear.bias) for linear in found.linears} == first
    assert found.linear_weights == sum(module.weight.numel() for module in linears.values())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("smollm2-135m-instruct", 134_515_008),
        ("smollm2-360m-instruct", 361_821_120),
        ("smollm2-1.7b-instruct", 1_711_376_384),
        ("llama-3.2-1b-instruct", 1_235_814_400),
        ("llama-3.1-8b-instruct", 8_030_261_248),
        ("llama-3.1-70b-instruct", 70_553_706_496),
        ("qwen2.5-0.5b-instruct", 494_032_768),
        ("qwen2.5-7b-instruct", 7_615_616_512),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-8b", 8_190_735_360),
        ("mistral-7b-instruct-v0.3", 7_248_023_552),
        ("gemma-2-9b-it", 9_241_705_984),
        ("gemma-3-1b-it", 999_885_952),
        ("phi-3.5-mini-instruct", 3_821_079_552),
    ],
)
def test_bundled_configurations_give_the_published_counts(name: str, parameters: int) -> None:
    assert read_architecture(known_configs()[name]).parameters == parameters


def test_llama_8b_by_hand() -> None:
    model = read_architecture(known_configs()["llama-3.1-8b-instruct"])
    a_layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    assert a_layer == 218_103_808
    assert model.linear_weights == 32 * a_layer == 6_979_321_856
    assert model.embedding_parameters == model.head_parameters == 128_256 * 4096
    assert model.parameters == 6_979_321_856 + 2 * 525_336_576 + 65 * 4096 == 8_030_261_248


def test_every_bundled_configuration_is_checked_above() -> None:
    checked = test_bundled_configurations_give_the_published_counts.pytestmark[0].args[1]
    assert {name for name, _ in checked} == {name for name in known_configs() if "/" not in name}


def test_an_unknown_model_type_is_said_with_the_known_ones() -> None:
    with pytest.raises(BaseModelError, match=r"model_type is 'lama'.*Known: llama, mistral.*Did you mean \"llama\""):
        read_architecture({"model_type": "lama"})
    with pytest.raises(BaseModelError, match="model_type is None"):
        read_architecture({})


@pytest.mark.parametrize(
    "field", ["hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads"]
)
def test_a_missing_field_is_named(field: str) -> None:
    config = {key: value for key, value in known_configs()["llama-3.1-8b-instruct"].items() if key != field}
    with pytest.raises(BaseModelError, match=f"here/config.json: {field} is missing"):
        read_architecture(config, source="here/config.json")


@pytest.mark.parametrize("value", [0, -1, 2.5, "many", True])
def test_a_field_that_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(BaseModelError, match="num_hidden_layers is"):
        read_architecture(known_configs()["llama-3.1-8b-instruct"] | {"num_hidden_layers": value})


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(BaseModelError, match="not a multiple"):
        read_architecture(known_configs()["llama-3.1-8b-instruct"] | {"num_key_value_heads": 5})
