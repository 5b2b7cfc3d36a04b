"""States of optimizers, tensor by tensor: hand arithmetic, and the optimizers themselves on small models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from bitsandbytes.optim.adamw import AdamW8bit
from bitsandbytes.optim.optimizer import GlobalOptimManager
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from burnish.plan.architecture import Architecture, read_architecture
from burnish.plan.bases import find_config
from burnish.plan.optimizers import Tensors, all_tensors, gradient_bytes, lora_tensors, state_bytes

SMALL: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 700},
    "qwen2": {"hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 600, "tie_word_embeddings": True},
    "gpt_neox": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "vocab_size": 500},
    "gpt2": {"n_embd": 96, "n_layer": 2, "n_head": 4, "vocab_size": 500, "n_positions": 128},
    "mixtral": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 300, "num_local_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip


def small(model_type: str) -> tuple[Architecture, torch.nn.Module]:
    config = CONFIG_MAPPING[model_type](**SMALL[model_type])
    torch.manual_seed(0)
    return read_architecture(config.to_dict()), AutoModelForCausalLM.from_config(config)


def kept(optimizers: list[torch.optim.Optimizer], parameters: Sequence[torch.Tensor]) -> int:
    """Step once and return the bytes of all states but counters; what tensors share counts once."""
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    found: dict[int, int] = {}
    for optimizer in optimizers:
        optimizer.step()
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and key != "step":
                    found[value.data_ptr()] = value.numel() * value.element_size()
    return sum(found.values())


@pytest.mark.parametrize("model_type", SMALL)
def test_every_tensor_of_a_model_is_there(model_type: str) -> None:
    architecture, model = small(model_type)
    tensors = all_tensors(architecture)
    assert sum(each.count * each.numbers for each in tensors) == architecture.parameters
    assert sum(each.count * each.numbers for each in tensors) == sum(p.numel() for p in model.parameters())
    assert sum(each.count * each.numbers for each in tensors if each.role == "matrix") == architecture.linear_weights


@pytest.mark.parametrize("model_type", SMALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_those_that_the_optimizers_keep(model_type: str, dtype: torch.dtype) -> None:
    architecture, model = small(model_type)
    parameters = list(model.to(dtype).parameters())
    item, tensors = dtype.itemsize, all_tensors(architecture)
    assert kept([torch.optim.AdamW(parameters)], parameters) == state_bytes("adamw", tensors, item).device
    assert kept([torch.optim.Adafactor(parameters)], parameters) == state_bytes("adafactor", tensors, item).device
    paged = state_bytes("paged_adamw_8bit", tensors, item, pages=False)
    whole = state_bytes("adamw_8bit", tensors, item)
    manager = GlobalOptimManager.get_instance()
    manager.initialize()  # it knows tensors by their address, which those of an earlier test may have had
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    assert kept([AdamW8bit(parameters)], parameters) == whole.device == paged.device


def test_muon_takes_the_matrices_of_layers_and_adamw_the_rest() -> None:
    architecture, model = small("qwen2")
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers." in name]
    rest = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "layers." in name)]
    measured = kept([torch.optim.Muon(inside), torch.optim.AdamW(rest)], inside + rest)
    assert measured == state_bytes("muon", all_tensors(architecture), 4).device


@given(rank=st.integers(1, 64), targets=st.sets(st.sampled_from(["q_proj", "v_proj", "down_proj"]), min_size=1))
def test_adapters_have_a_pair_of_matrices_for_each_target(rank: int, targets: set[str]) -> None:
    from burnish.plan.adapters import lora_parameters

    architecture = read_architecture(find_config("llama-3.1-8b-instruct"))
    tensors = lora_tensors(architecture, tuple(targets), rank)
    assert sum(each.count * each.numbers for each in tensors) == lora_parameters(architecture, tuple(targets), rank)
    assert all(each.role == "matrix" and rank in each.shape for each in tensors)


def test_states_of_a_full_8b_model_by_hand() -> None:
    """Llama-3.1-8B in bfloat16: 8,030,261,248 numbers, of which 65 norms of 4096 and two tables of 128,256 x 4,096."""
    tensors = all_tensors(read_architecture(find_config("llama-3.1-8b-instruct")))
    numbers = 8_030_261_248
    assert state_bytes("adamw", tensors, 2).device == 4 * numbers
    table = 128_256 * 4096
    scales = 2 * 4 * ((numbers - table) // 256)  # every tensor is a multiple of 256, and a norm of 4,096 is not small
    assert state_bytes("adamw_8bit", tensors, 2).device == 2 * (numbers - table) + 8 * table + scales + 2048
    norms = 65 * 4096
    paged = state_bytes("paged_adamw_8bit", tensors, 2)
    assert paged.host == 2 * (numbers - table - norms) + 8 * table
    assert paged.device == 2 * norms + scales + 2048
    matrices = numbers - norms - 2 * table
    assert state_bytes("muon", tensors, 2).device == 2 * matrices + 4 * (numbers - matrices)
    rows_and_columns = 32 * (2 * (4096 + 4096) + 2 * (1024 + 4096) + 3 * (14_336 + 4096)) + 2 * (128_256 + 4096)
    assert state_bytes("adafactor", tensors, 2).device == 2 * (rows_and_columns + norms)


def test_small_tensors_keep_32_bits_and_stay_on_the_device() -> None:
    assert state_bytes("adamw_8bit", [Tensors(3, (4095,))], 2).device == 3 * 2 * 4 * 4095
    assert state_bytes("paged_adamw_8bit", [Tensors(1, (99_999,))], 2).host == 0
    assert state_bytes("paged_adamw_8bit", [Tensors(1, (100_000,))], 2).host == 200_000
    assert state_bytes("paged_adamw", [Tensors(1, (100_000,))], 2).host == 800_000
    assert state_bytes("adamw_8bit", [Tensors(1, (4097,))], 2).device == 2 * 4097 + 2 * 4 * 17 + 2048


def test_an_optimizer_in_backward_holds_one_layer_or_one_table() -> None:
    architecture = read_architecture(find_config("llama-3.1-8b-instruct"))
    tensors = all_tensors(architecture)
    assert gradient_bytes(tensors, 2, layers=32) == 2 * 8_030_261_248
    table, layer = 128_256 * 4096, architecture.linear_weights // 32
    assert table > layer
    assert gradient_bytes(tensors, 2, layers=32, in_backward=True) == 2 * table
    adapters = lora_tensors(architecture, ("q_proj",), 16)
    assert gradient_bytes(adapters, 4, layers=32, in_backward=True) == math.ceil(4 * 16 * 8192)
