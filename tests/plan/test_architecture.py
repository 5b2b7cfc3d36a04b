"""Parameter counts are those of transformers, of the published models, and of arithmetic written out by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from burnish.core.errors import BaseModelError
from burnish.plan.architecture import Architecture, read_architecture
from burnish.plan.bases import known_configs, known_models
from burnish.plan.families import FAMILIES

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
    ("olmo3", {"num_hidden_layers": 5}),
    ("phi3", {"tie_word_embeddings": True}),
    ("phi", {"qk_layernorm": True, "tie_word_embeddings": False}),
    ("gpt2", {"n_inner": 192, "n_positions": 64}),
    ("gpt_neox", {"attention_bias": False, "tie_word_embeddings": True}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("falcon", {"multi_query": False, "parallel_attn": False, "bias": True}),
    ("falcon", {"alibi": True, "tie_word_embeddings": False}),
    ("starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
    ("glm4", {"attention_bias": False}),
    ("glm4_moe", {"first_k_dense_replace": 2, "use_qk_norm": True, "n_shared_experts": 2}),
    ("cohere", {"use_qk_norm": True}),
    ("stablelm", {"use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True}),
    ("qwen2_moe", {"decoder_sparse_step": 2, "num_experts": 6}),
    ("qwen2_moe", {"mlp_only_layers": [0, 2], "num_hidden_layers": 5, "num_experts": 6}),
    ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}),
    ("qwen3_moe", {"mlp_only_layers": [0, 1, 2]}),
    ("mixtral", {"num_local_experts": 3, "head_dim": 48}),
    ("deepseek_v3", {"first_k_dense_replace": 1, "n_routed_experts": 8, "q_lora_rank": None}),
    ("ernie4_5", {"use_bias": True}),
    ("nemotron", {"mlp_bias": True, "attention_bias": True}),
    ("llama", {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 96, "vocab_size": 997}),
    ("qwen2", {"num_attention_heads": 7, "num_key_value_heads": 1, "hidden_size": 112, "use_sliding_window": True}),
    (
        "deepseek_v3",
        {"first_k_dense_replace": 0, "n_routed_experts": 9, "n_shared_experts": 3, "num_key_value_heads": 3},
    ),
    ("deepseek_v3", {"head_dim": None, "n_routed_experts": 8}),
    *((family, {"num_key_value_heads": None}) for family in ("qwen2", "qwen3", "olmoe", "seed_oss", "ernie4_5")),
    *((family, {"head_dim": None}) for family in ("seed_oss", "ernie4_5")),
    *(
        (family, {"layer_types": None, "num_hidden_layers": n})
        for family in ("gemma3_text", "olmo3")
        for n in (3, 4, 6)
    ),
    ("deepseek_v3", {"head_dim": 24, "n_routed_experts": 8, "kv_lora_rank": 16, "v_head_dim": 16}),
    ("qwen2_moe", {"num_experts": 6, "shared_expert_intermediate_size": 48, "moe_intermediate_size": 40}),
]
WITHOUT_KEY_VALUE_HEADS = ("llama", "phi3", "olmo", "olmo2", "granite", "cohere", "cohere2", "granitemoe", "phi")


def on_meta(config: Any) -> Any:
    """Build the model of a configuration without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def linears_of(model: Any) -> Counter[tuple[str, int, int, bool]]:
    """Count the linear layers of a model but its head, by name, inputs, outputs and bias."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head, found = model.get_output_embeddings(), Counter[tuple[str, int, int, bool]]()
    for name, module in model.named_modules():
        if isinstance(module, Conv1D):
            found[name.rpartition(".")[2], *map(int, module.weight.shape), True] += 1  # pyright: ignore[reportArgumentType]
        elif isinstance(module, torch.nn.Linear) and module is not head:
            found[name.rpartition(".")[2], module.in_features, module.out_features, module.bias is not None] += 1
    return found


def check(found: Architecture, model: Any) -> None:
    """Compare what was counted with what transformers built."""
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.buffer_bytes + 4 * found.scalar_buffers == sum(
        buffer.numel() * buffer.element_size() for buffer in model.buffers()
    )
    counted = Counter[tuple[str, int, int, bool]]()
    for block in found.blocks:
        for linear in block.linears:
            counted[linear.name, linear.inputs, linear.outputs, linear.bias] += block.count
    assert counted == linears_of(model)
    assert sum(block.count for block in found.blocks) == found.layers
    assert found.linear_weights == sum(inputs * outputs * n for (_, inputs, outputs, _), n in counted.items())


@pytest.mark.parametrize(
    ("family", "changes"), VARIANTS, ids=lambda value: value if isinstance(value, str) else ",".join(value) or "plain"
)
def test_counts_equal_those_of_transformers_on_the_meta_device(family: str, changes: dict[str, Any]) -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[family](**(SMALL | changes))
    model = on_meta(config)
    check(read_architecture(config.to_dict()), model)
    check(read_architecture(config.to_diff_dict()), model)


@pytest.mark.parametrize("family", WITHOUT_KEY_VALUE_HEADS)
def test_without_key_value_heads_there_are_as_many_as_heads(family: str) -> None:
    from transformers import CONFIG_MAPPING

    asked = {name: value for name, value in SMALL.items() if name != "num_key_value_heads"}
    config = CONFIG_MAPPING[family](**asked)
    values = {name: value for name, value in config.to_diff_dict().items() if name != "num_key_value_heads"}
    check(read_architecture(values), on_meta(config))


def test_heads_that_the_file_leaves_out_and_that_do_not_divide_are_said_to_be_left_out() -> None:
    values = {"model_type": "mixtral", **SMALL}
    del values["num_key_value_heads"]
    with pytest.raises(BaseModelError, match=r"\(8, which is what mixtral has where the file says none\)"):
        read_architecture(values)


@pytest.mark.parametrize("name", [model.name for model in known_models()])
def test_every_known_model_is_counted_as_transformers_builds_it_and_as_it_is_published(name: str) -> None:
    from transformers import CONFIG_MAPPING

    model = next(model for model in known_models() if model.name == name)
    found = read_architecture(model.config)
    assert found.parameters == model.parameters
    assert model.source
    assert model.date
    kind = dict(model.config)
    check(found, on_meta(CONFIG_MAPPING[kind.pop("model_type")](**kind)))


def test_there_are_well_known_models_of_thirty_and_more_and_no_name_is_taken_twice() -> None:
    models = known_models()
    assert len(models) >= 30
    names = [name.lower() for model in models for name in (model.name, model.id, *model.also) if name]
    assert len(set(names)) == len(names) - sum(model.name == model.id.lower() for model in models)


def test_llama_8b_by_hand() -> None:
    model = read_architecture(known_configs()["llama-3.1-8b-instruct"])
    a_layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    assert a_layer == 218_103_808
    assert model.linear_weights == model.computed_weights == 32 * a_layer == 6_979_321_856
    assert model.embedding_parameters == model.head_parameters == 128_256 * 4096
    assert model.parameters == model.active_parameters == 6_979_321_856 + 2 * 525_336_576 + 65 * 4096 == 8_030_261_248


def test_mixtral_by_hand() -> None:
    model = read_architecture(known_configs()["mixtral-8x7b-instruct"])
    attention, expert = 2 * 4096 * 4096 + 2 * 4096 * 1024, 3 * 4096 * 14336
    assert model.linear_weights == 32 * attention
    assert model.computed_weights == 32 * (attention + 2 * expert)
    assert model.parameters - model.active_parameters == 32 * 6 * expert
    assert model.parameters == 32 * (attention + 8 * expert + 8 * 4096 + 2 * 4096) + 4096 + 2 * 32000 * 4096


def test_an_unknown_model_type_is_said_with_the_known_ones() -> None:
    with pytest.raises(BaseModelError, match=r"model_type is 'lama'.*Known: llama, mistral.*Did you mean \"llama\""):
        read_architecture({"model_type": "lama"})
    with pytest.raises(BaseModelError, match="model_type is missing"):
        read_architecture({})
    with pytest.raises(BaseModelError, match="text_config: model_type is 'mamba'"):
        read_architecture({"model_type": "gemma3", "text_config": {"model_type": "mamba"}})
    with pytest.raises(BaseModelError, match="text_config: hidden_size is missing"):
        read_architecture({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})


SEES = {"depth": 1, "hidden_size": 64, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 128, "embed_dim": 64}
WHOLES = [
    *((whole, text, {}) for whole, text in (("gemma3", "gemma3_text"), ("mistral3", "mistral"), ("llava", "llama"))),
    *((whole, text, {}) for whole, text in (("paligemma", "gemma2"), ("internvl", "qwen2"), ("llava_next", "mistral"))),
    ("mistral3", "ministral3", {}),
    *((whole, None, {"vision_config": SEES}) for whole in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")),
]


@pytest.mark.parametrize("tied", [True, False, None])
@pytest.mark.parametrize(("whole", "text", "changes"), WHOLES, ids=str)
def test_of_models_that_see_the_text_part_is_counted(
    whole: str, text: str | None, changes: dict[str, Any], tied: bool | None
) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64} if "moe" in whole else {}
    inner = SMALL | experts | ({} if text is None else {"model_type": text})
    said = {} if tied is None else {"tie_word_embeddings": tied}
    config = CONFIG_MAPPING[whole](text_config=inner, **said, **changes)  # pyright: ignore[reportCallIssue]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    counted = sum(p.numel() for name, p in model.named_parameters() if "language_model" in name or "lm_head" in name)
    for value in (config.to_dict(), config.to_diff_dict()):
        found = read_architecture(value)
        assert found.parameters == counted
        assert found.part_of == whole


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *(
            ("llama-3.1-8b-instruct", field)
            for field in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads",
                          "max_position_embeddings")
        ),
        ("mixtral-8x7b-instruct", "intermediate_size"),
        ("deepseek-v3", "intermediate_size"),
        ("phi-4", "vocab_size"),
    ],
)  # fmt: skip
def test_a_missing_field_is_named(name: str, field: str) -> None:
    config = {key: value for key, value in known_configs()[name].items() if key != field}
    with pytest.raises(BaseModelError, match=f"here/config.json: {field} is missing"):
        read_architecture(config, source="here/config.json")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', must be true or false"),
        ({"attention_bias": "yes"}, "attention_bias is 'yes'"),
        (
            {"num_attention_heads": 8192, "num_key_value_heads": 8192},
            "hidden_size .4096. is less than num_attention_heads",
        ),
        ({"model_type": None}, "model_type is missing"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(changes: dict[str, object], says: str) -> None:
    config = {key: value for key, value in known_configs()["llama-3.1-8b-instruct"].items() if key != "head_dim"}
    with pytest.raises(BaseModelError, match=says):
        read_architecture({**config, **changes})


@pytest.mark.parametrize("value", [0, -1, 2.5, "many", True])
def test_a_field_that_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(BaseModelError, match="num_hidden_layers is"):
        read_architecture({**known_configs()["llama-3.1-8b-instruct"], "num_hidden_layers": value})


@pytest.mark.parametrize("share", [-0.1, 1.5, "half", True])
def test_a_share_that_is_no_share_is_refused(share: object) -> None:
    with pytest.raises(BaseModelError, match="partial_rotary_factor is"):
        read_architecture({**known_configs()["phi-2"], "partial_rotary_factor": share})


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(BaseModelError, match="not a multiple"):
        read_architecture({**known_configs()["llama-3.1-8b-instruct"], "num_key_value_heads": 5})


def test_more_active_experts_than_there_are_is_refused() -> None:
    with pytest.raises(BaseModelError, match="over the 8 experts"):
        read_architecture({**known_configs()["mixtral-8x7b-instruct"], "num_experts_per_tok": 9})
