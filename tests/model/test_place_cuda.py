"""On two cards: layers in order on both give the losses and gradients of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.core.artifacts import MethodPlan
from burnish.model.attention import PackedLayout, Segment
from burnish.model.fused.paths import on_gpu, on_paths
from burnish.model.lora import attach_lora, lora_parameters
from burnish.model.losses import target_loss
from burnish.model.place import load_placed
from burnish.model.recompute import Recomputation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards"),
]
TOKENS = 2048


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
@pytest.mark.parametrize("again", [0, 6])
def test_layers_on_two_cards_give_what_one_gives(
    make_method: Callable[..., MethodPlan], tmp_path: Path, quantisation: Literal["none", "nf4"], again: int
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1031, hidden_size=512, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path)
    found = []
    for counts in ([6, 0], [2, 4]):
        model = load_placed(
            tmp_path,
            devices=["cuda:0", "cuda:1"],
            layers_by_device=counts,
            quantisation=quantisation,
            dtype=torch.bfloat16,
        )
        attach_lora(model, make_method(quantisation=quantisation), seed=0)
        for name, parameter in lora_parameters(model).items():
            number = int(name.split(".")[2])
            assert parameter.device.index == (0 if number < counts[0] else 1)
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator(parameter.device).manual_seed(number))
        ids = torch.arange(TOKENS, device="cuda:0") * 7919 % 1031
        positions = torch.arange(TOKENS // 2, device="cuda:0").repeat(2)
        packed = PackedLayout((Segment(0, TOKENS // 2), Segment(TOKENS // 2, TOKENS)), positions)
        with on_paths(model.train(), on_gpu(1031)), Recomputation(model, again):
            hidden = model.model(input_ids=ids[None], position_ids=positions[None], packed=packed, use_cache=False)[0][
                0
            ]
            loss = target_loss(hidden[:-1], model.lm_head.weight, ids[1:]) / TOKENS
            loss.backward()
        grads = [parameter.grad for parameter in lora_parameters(model).values() if parameter.grad is not None]
        found.append((loss.item(), torch.cat([gradient.flatten().double().cpu() for gradient in grads])))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    assert torch.nn.functional.cosine_similarity(found[0][1], found[1][1], dim=0).item() > 0.999
