"""Adapters are counted exactly, and a target that does not exist is never passed over."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.core.errors import RecipeError
from burnish.plan.adapters import ALL_LINEAR, lora_parameters, peft_all_linear_parameters, resolve_targets
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config
from burnish.plan.families import FAMILIES

LLAMA = read_architecture(find_config("llama-3.1-8b-instruct"))
PHI = read_architecture(find_config("phi-3.5-mini-instruct"))


def test_lora_on_attention_and_on_everything_by_hand() -> None:
    assert (
        lora_parameters(LLAMA, ("q_proj", "k_proj", "v_proj", "o_proj"), 32)
        == 32 * 32 * (8192 + 5120 + 5120 + 8192)
        == 27_262_976
    )
    everything = resolve_targets(LLAMA, ("all-linear",), source="x")
    assert lora_parameters(LLAMA, everything, 16) == 41_943_040
    assert lora_parameters(LLAMA, everything, 32) == 83_886_080


def test_all_linear_is_the_sorted_names_of_the_layers_linears() -> None:
    assert resolve_targets(LLAMA, ("all-linear",), source="x") == (
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    )
    assert resolve_targets(PHI, ("all-linear", "o_proj"), source="x") == (
        "down_proj",
        "gate_up_proj",
        "o_proj",
        "qkv_proj",
    )


def test_named_targets_are_sorted_and_counted_once() -> None:
    assert resolve_targets(LLAMA, ("v_proj", "q_proj", "v_proj"), source="x") == ("q_proj", "v_proj")


def test_all_unknown_targets_are_said_at_once_with_the_known_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_targets(PHI, ("q_proj", "o_proj", "gate_proj"), source="support.yaml")
    assert len(caught.value.problems) == 2
    text = str(caught.value)
    assert "support.yaml has 2 problems" in text
    assert "Known for phi3: qkv_proj, o_proj, gate_up_proj, down_proj, or all-linear." in text
    assert 'Did you mean "qkv_proj"?' in text


SMALL: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "pad_token_id": 0,
}
ROUTED = {"num_experts": 4, "num_experts_per_tok": 2}
SHARED_BY_PEFT = ("mixtral", "olmoe", "qwen3_moe")
"""Families whose routers and experts PEFT's all-linear reaches."""
MIXED = ("deepseek_v3", "glm4_moe")
"""Families where PEFT's all-linear leaves out the dense and shared feed-forward layers, which looks like a mistake of it."""
CASES: list[tuple[str, dict[str, Any], tuple[str, ...], tuple[str, ...]]] = [
    *(
        (family, ROUTED if "moe" in family else {}, (ALL_LINEAR,), ())
        for family in FAMILIES
        if family not in (*SHARED_BY_PEFT, *MIXED)
    ),
    ("deepseek_v3", {"first_k_dense_replace": 1, "n_routed_experts": 8}, ("q_b_proj", "kv_b_proj", "o_proj"), ()),
    ("glm4_moe", {"n_routed_experts": 8}, ("q_proj", "o_proj"), ()),
    ("gpt2", {}, ("c_proj",), ()),
    ("phi3", {}, ("qkv_proj",), ()),
    ("gpt_neox", {}, ("query_key_value", "dense"), ()),
    ("falcon", {}, ("query_key_value",), ()),
    ("llama", {}, ("q_proj", "v_proj"), ()),
    ("mixtral", {}, ("q_proj",), ("gate_up_proj", "down_proj")),
    ("qwen3_moe", ROUTED, ("v_proj",), ("down_proj",)),
    ("qwen2_moe", ROUTED, (ALL_LINEAR,), ("gate_up_proj",)),
    ("gpt_oss", {"num_local_experts": 4}, ("q_proj",), ("gate_up_proj", "down_proj")),
]


@pytest.mark.parametrize(("family", "changes", "targets", "experts"), CASES, ids=str)
@pytest.mark.parametrize("rank", [1, 8, 256])
def test_trainable_numbers_are_those_that_peft_makes(
    family: str, changes: dict[str, Any], targets: tuple[str, ...], experts: tuple[str, ...], rank: int
) -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[family](**(SMALL | changes))
    architecture = read_architecture(config.to_dict())
    resolved = resolve_targets(architecture, targets, source="x")
    trainable = peft_trainable(config, targets, experts, rank)
    assert lora_parameters(architecture, resolved, rank, expert_targets=experts) == trainable


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi", "starcoder2"])
@pytest.mark.parametrize("changes", [{"bias": "lora_only"}, {"bias": "all"}, {"dora": True}], ids=str)
def test_biases_and_lengths_that_train_are_counted_as_they_are_made(family: str, changes: dict[str, Any]) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from burnish.core.artifacts import MethodPlan
    from burnish.model.lora import attach_lora
    from burnish.model.lora import lora_parameters as made
    from burnish.plan.memory import trained_tensors

    config = CONFIG_MAPPING[family](**SMALL)
    architecture = read_architecture(config.to_dict())
    method = MethodPlan(
        kind="lora", rank=4, alpha=8.0, dropout=0.0, targets=("q_proj", "v_proj"), quantisation="none",
        double_quantisation=False, **changes,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    attach_lora(model, method, seed=0)
    counted = sum(each.count * each.numbers for each in trained_tensors(architecture, method))
    assert counted == sum(parameter.numel() for parameter in made(model).values())


@pytest.mark.parametrize("family", SHARED_BY_PEFT)
@pytest.mark.parametrize("rank", [4, 32])
def test_all_linear_of_peft_reaches_routers_and_experts(family: str, rank: int) -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[family](**(SMALL | (ROUTED if "moe" in family else {})))
    architecture = read_architecture(config.to_dict())
    assert peft_all_linear_parameters(architecture, rank) == peft_trainable(config, (ALL_LINEAR,), (), rank)
    burnish = lora_parameters(architecture, resolve_targets(architecture, (ALL_LINEAR,), source="x"), rank)
    assert burnish < peft_all_linear_parameters(architecture, rank)


def peft_trainable(config: Any, targets: tuple[str, ...], experts: tuple[str, ...], rank: int) -> int:
    """Count what PEFT would train, without memory."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        asked = LoraConfig(
            r=rank,
            target_modules=ALL_LINEAR if targets == (ALL_LINEAR,) else list(targets),
            target_parameters=[f"mlp.experts.{name}" for name in experts] or None,
            fan_in_fan_out=config.model_type == "gpt2",
            task_type="CAUSAL_LM",
        )
        adapted = get_peft_model(model, asked)
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
