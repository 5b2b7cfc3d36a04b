"""On a card: layers whose weights come from pinned memory give the numbers of those that stay, and take less of the card."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.model.fused.formulas import COMPILED
from burnish.model.fused.replace import fused
from burnish.model.lora import attach_lora, lora_parameters
from burnish.model.recompute import Recomputation
from burnish.model.stream import StreamedPart, load_streamed

pytestmark = pytest.mark.gpu
LAYERS = 8
IDS = torch.arange(2048, device="cpu")[None] * 7919 % 1031


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1031, hidden_size=1024, intermediate_size=4096, num_hidden_layers=LAYERS, num_attention_heads=8,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).bfloat16().save_pretrained(path)
    return path


def adapted(
    folder: Path, method: MethodPlan, streamed: int, quantisation: Literal["none", "nf4"]
) -> tuple[PreTrainedModel, int]:
    """Return the model, and the bytes of the card that it takes."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    model = load_streamed(
        folder, streamed_layers=streamed, quantisation=quantisation, device="cuda", dtype=torch.bfloat16
    )
    attach_lora(model, method, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            assert parameter.device.type == "cuda"
            parameter.add_((torch.randn(parameter.shape, generator=generator) * 0.02).to("cuda"))
    return model.train(), torch.cuda.memory_allocated() - before


def losses_and_gradients(model: PreTrainedModel) -> list[tuple[float, torch.Tensor]]:
    found = []
    for _ in range(3):
        loss = model(input_ids=IDS.to("cuda"), labels=IDS.to("cuda")).loss
        loss.backward()
        gradients = [parameter.grad for parameter in lora_parameters(model).values() if parameter.grad is not None]
        found.append((loss.item(), torch.cat([gradient.flatten() for gradient in gradients]).double()))
        for parameter in lora_parameters(model).values():
            parameter.grad = None
    return found


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
@pytest.mark.parametrize(("whole", "halves", "offloaded"), [(0, 0, 0), (LAYERS, 0, LAYERS), (3, 5, 0)])
def test_streamed_layers_give_the_same_with_less_of_the_card(
    folder: Path, make_method: Callable[..., MethodPlan], quantisation: Literal["none", "nf4"], whole: int, halves: int,
    offloaded: int,
) -> None:  # fmt: skip
    found, taken = {}, {}
    for streamed in (0, 3, LAYERS):
        model, taken[streamed] = adapted(folder, make_method(quantisation=quantisation), streamed, quantisation)
        with fused(model, COMPILED, join_weights=True), Recomputation(model, whole, halves, offloaded=offloaded):
            found[streamed] = losses_and_gradients(model)
        parts = [module for module in model.modules() if isinstance(module, StreamedPart)]
        assert len(parts) == streamed
        assert all(part.host.is_pinned() for part in parts)
        layer = parts[0].host.numel() if parts else 0
        del model, parts
    assert taken[LAYERS] < taken[0] - (LAYERS - 3) * layer
    for streamed in (3, LAYERS):
        for mine, expected in zip(found[streamed], found[0], strict=True):
            assert mine[0] == pytest.approx(expected[0], rel=1e-4)
            assert torch.nn.functional.cosine_similarity(mine[1], expected[1], dim=0).item() > 0.9999
