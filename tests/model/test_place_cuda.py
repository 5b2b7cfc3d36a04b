"""On two cards: layers in order on both give the losses and gradients of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.model.attention import PackedLayout, Segment
from burnish.model.full import train_every_weight, trained_weights
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
FULL = MethodPlan(
    kind="full", rank=0, alpha=0.0, dropout=0.0, targets=(), quantisation="none", double_quantisation=False
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1031, hidden_size=512, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path)
    return tmp_path


def loaded(folder: Path, counts: list[int], method: MethodPlan, streamed: int = 0) -> PreTrainedModel:
    """Return the model with so many layers on each card, with what trains where its layer is."""
    model = load_placed(
        folder, devices=["cuda:0", "cuda:1"], layers_by_device=counts, streamed_layers=streamed,
        quantisation=method.quantisation, dtype=torch.bfloat16,
    )  # fmt: skip
    if method.kind == "full":
        train_every_weight(model)
    else:
        attach_lora(model, method, seed=0)
        for number, parameter in enumerate(lora_parameters(model).values()):
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator(parameter.device).manual_seed(number))
    for name, parameter in trained_weights(model).items():
        number = int(name.split(".")[2]) if ".layers." in name else 0
        assert parameter.device.index == (0 if number < counts[0] else 1), name
    return model.train()


def step(model: PreTrainedModel) -> tuple[float, torch.Tensor]:
    """Return the loss of a packed row of two samples, and the gradients of all that trains."""
    ids = torch.arange(TOKENS, device="cuda:0") * 7919 % 1031
    positions = torch.arange(TOKENS // 2, device="cuda:0").repeat(2)
    packed = PackedLayout((Segment(0, TOKENS // 2), Segment(TOKENS // 2, TOKENS)), positions)
    hidden = model.model(input_ids=ids[None], position_ids=positions[None], packed=packed, use_cache=False)[0][0]
    loss = target_loss(hidden[:-1], model.lm_head.weight, ids[1:]) / TOKENS
    loss.backward()
    gradients = [parameter.grad for parameter in trained_weights(model).values() if parameter.grad is not None]
    for parameter in trained_weights(model).values():
        parameter.grad = None
    return loss.item(), torch.cat([gradient.flatten().double().cpu() for gradient in gradients])


@pytest.mark.parametrize("kind", ["none", "nf4", "full"])
@pytest.mark.parametrize(("again", "offloaded", "streamed"), [(0, 0, 0), (6, 0, 0), (6, 6, 0), (0, 0, 4), (4, 4, 6)])
def test_layers_on_two_cards_give_what_one_gives(
    make_method: Callable[..., MethodPlan], folder: Path, kind: Literal["none", "nf4", "full"],
    again: int, offloaded: int, streamed: int,
) -> None:  # fmt: skip
    if kind == "full" and streamed:
        pytest.skip("streamed weights are frozen")
    method, found = FULL if kind == "full" else make_method(quantisation=kind), []
    for counts in ([6, 0], [2, 4]):
        split = counts == [2, 4]
        model = loaded(folder, counts, method, streamed if split else 0)
        held = {"offloaded": offloaded, "least": 0} if split else {}
        with on_paths(model, on_gpu(1031)), Recomputation(model, again, **held) as layers:
            found += [step(model), step(model)]
            assert (layers.host_bytes > 0) == (split and offloaded > 0)
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-3)
        assert torch.nn.functional.cosine_similarity(found[0][1], gradients, dim=0).item() > 0.999
