"""Trainable parameters by method against PEFT, modules against transformers, the ladder's bars."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from burnish.core.errors import RecipeError, UsageError
from burnish.plan.adapters import lora_parameters
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config, known_models
from burnish.plan.inspect.ladder import ladder
from burnish.plan.inspect.report import describe
from burnish.plan.inspect.trainable import (
    all_linear,
    dora_parameters,
    houlsby_parameters,
    ia3_parameters,
    method_table,
    prefix_parameters,
    target_sets,
)
from burnish.plan.inspect.tree import module_tree

SMALL: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 24},
    "mistral": {"num_key_value_heads": 4},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 24, "pad_token_id": 0},
    "phi": {"num_key_value_heads": 2},
    "phi3": {"num_key_value_heads": 2, "pad_token_id": 0},
    "gpt_neox": {},
    "starcoder2": {"num_key_value_heads": 2},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
}
FACTORS = {
    "phi": (["k_proj", "v_proj", "fc2"], "fc2"),
    "starcoder2": (["k_proj", "v_proj", "c_proj"], "c_proj"),
    "mixtral": (["k_proj", "v_proj"], None),
}
"""Modules with factors of (IA)3, and the feed-forward one among them, where they are called otherwise than Llama's."""
NAMED = {
    **SMALL,
    "qwen2_moe": {"num_experts": 4, "num_key_value_heads": 4},
    "gpt2": {},
    "deepseek_v3": {"first_k_dense_replace": 1, "num_key_value_heads": 4},
}


def small_config(model_type: str) -> dict[str, Any]:
    shape = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    return {"model_type": model_type, "max_position_embeddings": 64, **shape, **NAMED[model_type]}


def model_of(config: dict[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    plain = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **plain))


def trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("model_type", list(SMALL))
@pytest.mark.parametrize("rank", [1, 8, 256])
def test_lora_and_dora_train_what_peft_trains(model_type: str, rank: int) -> None:
    from peft import LoraConfig, get_peft_model

    architecture = read_architecture(small_config(model_type))
    for names in target_sets(architecture).values():
        for dora in (False, True):
            settings = LoraConfig(r=rank, target_modules=list(names), use_dora=dora, task_type="CAUSAL_LM")
            count = dora_parameters if dora else lora_parameters
            model = (
                model_of(small_config(model_type)).to_empty(device="cpu")
                if dora
                else model_of(small_config(model_type))
            )
            assert trainable(get_peft_model(model, settings, low_cpu_mem_usage=not dora)) == count(
                architecture, names, rank
            )


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "mistral", "gemma2", "phi", "starcoder2", "mixtral"])
@pytest.mark.parametrize("tokens", [1, 20])
def test_prefix_and_ia3_train_what_peft_trains(model_type: str, tokens: int) -> None:
    from peft import IA3Config, PrefixTuningConfig, get_peft_model

    config = small_config(model_type)
    architecture = read_architecture(config)
    model = model_of(config).to_empty(device="cpu")
    prefixed = get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=tokens, task_type="CAUSAL_LM"))
    assert trainable(prefixed) == prefix_parameters(architecture, tokens)
    factors, last = FACTORS.get(model_type, (["k_proj", "v_proj", "down_proj"], "down_proj"))
    settings = IA3Config(
        target_modules=factors, feedforward_modules=[] if last is None else [last], task_type="CAUSAL_LM"
    )
    assert trainable(get_peft_model(model_of(config), settings)) == ia3_parameters(architecture)


@pytest.mark.parametrize("model_type", list(NAMED))
def test_modules_are_called_as_transformers_calls_them(model_type: str) -> None:
    from transformers.pytorch_utils import Conv1D

    config = small_config(model_type)
    model, architecture = model_of(config), read_architecture(config)
    names = {
        re.sub(r"\.\d+\.", ".*.", name)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    }
    rows = {row["module"] for row in module_tree(architecture, (), 4)}
    embedding = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())  # pyright: ignore[reportCallIssue]
    told = {name for name in rows if "norm" not in name and ".experts." not in name}
    assert told == names | {embedding}


@pytest.mark.parametrize("width", [1, 64])
def test_houlsby_adapters_are_two_bottlenecks_with_biases_in_each_layer(width: int) -> None:
    architecture = read_architecture(small_config("llama"))
    one = nn.Sequential(nn.Linear(architecture.hidden, width), nn.GELU(), nn.Linear(width, architecture.hidden))
    assert houlsby_parameters(architecture, width) == architecture.layers * 2 * trainable(one)


def test_the_counts_of_llama_3_1_8b() -> None:
    found = describe(
        "llama", find_config("llama-3.1-8b-instruct"), rank=32, targets=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    assert found["parameters"]["total"] == 8_030_261_248
    assert found["parameters"]["trainable"] == 27_262_976
    assert found["adapter"]["float32_bytes"] == 109_051_904
    by_rank = {row["rank"]: row["parameters"] for row in found["ranks"]}
    assert by_rank[16]["all linear"] == 41_943_040
    assert by_rank[32]["q, k, v, o"] == 27_262_976
    rungs = {row["precision"]: row for row in found["ladder"]}
    assert rungs["fp32"]["predicted_bytes"] == 32_121_045_504
    assert rungs["int8"]["predicted_bytes"] == 9_081_200_640 + 512
    assert rungs["int8"]["predicted_constants_bytes"] == 5_505_024
    assert rungs["nf4+dq"]["predicted_bytes"] == 5_591_539_712 + 512
    assert rungs["nf4+dq"]["predicted_constants_bytes"] == 111_000_448
    assert rungs["nf4"]["predicted_constants_bytes"] == 436_207_616 + 224 * 64, (
        "scales, and each linear's table of 16 values"
    )
    assert found["ladder_of_the_course"] == {"fp32": 32.3, "int8": 9.0, "nf4+dq": 5.6}


def test_the_modules_add_up_to_the_model_and_the_adapters_to_what_is_trained() -> None:
    for name in (known.name for known in known_models()):
        found = describe(name, find_config(name), rank=4)
        assert sum(row["parameters"] for row in found["modules"]) == found["parameters"]["total"], name
        trained = sum(row["adapter"]["parameters"] for row in found["modules"] if row["adapter"])
        assert trained == found["parameters"]["trainable"]


def test_the_ladder_falls_and_methods_grow_with_their_size() -> None:
    architecture = read_architecture(find_config("qwen2.5-7b-instruct"))
    rungs = ladder(architecture)
    totals = [rung.footprint + rung.constants for rung in rungs]
    assert totals == sorted(totals, reverse=True)
    for name in ("lora", "dora", "houlsby", "prefix"):
        values = [row[name] for row in method_table(architecture)]
        assert values == sorted(set(values))
    assert len(all_linear(architecture)) == 7


@pytest.mark.parametrize("rank", [0, -1, 1025])
def test_a_rank_that_is_none_is_refused(rank: int) -> None:
    with pytest.raises(UsageError, match="1 to 1024"):
        describe("x", find_config("qwen3-8b"), rank=rank)


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match='Did you mean "q_proj"'):
        describe("x", find_config("qwen3-8b"), targets=["q_prj"])
