"""On a card: copies to pinned memory beside the computation give the same numbers, and leave the card the memory."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.model.attention import PackedLayout, Segment
from burnish.model.fused.paths import on_gpu, on_paths
from burnish.model.lora import attach_lora, lora_parameters
from burnish.model.losses import target_loss
from burnish.model.recompute import Recomputation

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
LAYERS, TOKENS, HIDDEN = 12, 8192, 1024


@pytest.fixture
def model(make_method: Callable[..., MethodPlan]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1031, hidden_size=HIDDEN, intermediate_size=4096, num_hidden_layers=LAYERS, num_attention_heads=8,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.eval().requires_grad_(False)
    attach_lora(model, make_method(rank=8), seed=0)
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            if name.endswith("lora_B"):
                parameter.normal_(std=0.02)
    return model.to(CUDA).train()


def step(model: PreTrainedModel) -> tuple[float, torch.Tensor, int]:
    """Return the loss of a packed row of two samples, the gradients, and the bytes held at most beyond those before."""
    ids = torch.arange(TOKENS, device=CUDA) * 7919 % 1031
    positions = torch.arange(TOKENS // 2, device=CUDA).repeat(2)
    packed = PackedLayout((Segment(0, TOKENS // 2), Segment(TOKENS // 2, TOKENS)), positions)
    for parameter in lora_parameters(model).values():
        parameter.grad = None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    hidden = model.model(input_ids=ids[None], position_ids=positions[None], packed=packed, use_cache=False)[0][0]
    loss = target_loss(hidden[:-1], model.lm_head.weight, ids[1:]) / TOKENS
    del hidden
    loss.backward()
    torch.cuda.synchronize()
    found = (parameter.grad for parameter in lora_parameters(model).values())
    grads = torch.cat([gradient.flatten() for gradient in found if gradient is not None])
    return loss.item(), grads.double(), torch.cuda.max_memory_allocated() - before


def same(found: tuple[float, torch.Tensor, int], expected: tuple[float, torch.Tensor, int]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert torch.nn.functional.cosine_similarity(found[1], expected[1], dim=0).item() > 0.9999


@pytest.mark.parametrize(("whole", "halves"), [(LAYERS, 0), (0, LAYERS), (5, 7)])
def test_offloaded_layers_give_the_same_with_less_of_the_card(model: PreTrainedModel, whole: int, halves: int) -> None:
    with on_paths(model, on_gpu(1031)):
        with Recomputation(model, whole, halves):
            step(model)
            plain = step(model)
        with Recomputation(model, whole, halves, offloaded=LAYERS) as layers:
            first, second = step(model), step(model)
            assert layers.host_bytes >= LAYERS * 2 * TOKENS * HIDDEN
    same(first, plain)
    same(second, plain)
    inputs = 2 * TOKENS * HIDDEN
    assert second[2] < plain[2] - (LAYERS - 4) * inputs


@pytest.mark.parametrize("offloaded", [0, LAYERS])
def test_pieces_give_the_same_with_less_of_the_card(model: PreTrainedModel, offloaded: int) -> None:
    with on_paths(model, on_gpu(1031)):
        with Recomputation(model, LAYERS, offloaded=offloaded):
            step(model)
            whole = step(model)
        with Recomputation(model, LAYERS, offloaded=offloaded, piece_tokens=1024):
            step(model)
            pieces = step(model)
    same(pieces, whole)
    assert pieces[2] < whole[2] - 2 * TOKENS * HIDDEN


def test_a_graph_that_is_dropped_while_copies_run_harms_nothing(model: PreTrainedModel) -> None:
    with on_paths(model, on_gpu(1031)), Recomputation(model, LAYERS, offloaded=LAYERS) as layers:
        expected = step(model)
        held = layers.host_bytes
        ids = torch.arange(TOKENS, device=CUDA) % 1031
        for _ in range(3):
            packed = PackedLayout((Segment(0, TOKENS),), torch.arange(TOKENS, device=CUDA))
            hidden = model.model(input_ids=ids[None], position_ids=packed.positions_T[None], packed=packed)[0]
            del hidden
        same(step(model), expected)
        assert layers.host_bytes == held
