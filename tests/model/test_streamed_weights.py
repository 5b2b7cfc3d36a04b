"""Frozen layers in host memory: the numbers of a model that is all on the device, with two layers of its weights there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import BaseModelError
from burnish.model.fused.replace import fused
from burnish.model.load import load_base
from burnish.model.lora import adapter_off
from burnish.model.recompute import Recomputation
from burnish.model.stream import StreamedPart, load_streamed, spread
from one_step import IDS, adapted, loss_and_gradients

Make = Callable[..., MethodPlan]
Tiny = Callable[..., PreTrainedModel]


@pytest.fixture(params=["llama", "qwen3", "gemma3"])
def folder(request: pytest.FixtureRequest, make_tiny: Tiny, tmp_path: Path) -> Path:
    make_tiny(request.param).save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def parts(model: nn.Module) -> list[StreamedPart]:
    return [module for module in model.modules() if isinstance(module, StreamedPart)]


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
@pytest.mark.parametrize(
    ("whole", "halves", "changes"),
    [(0, 0, {}), (3, 0, {}), (1, 2, {}), (3, 0, {"piece_tokens": 5, "offloaded": 3, "block": 1000, "least": 0})],
)
@pytest.mark.parametrize("path", ["plain", "one by one", "joined"])
def test_streamed_layers_give_the_same_bits(
    folder: Path, make_method: Make, quantisation: str, whole: int, halves: int, changes: dict, path: str
) -> None:
    method = make_method(quantisation=quantisation, dropout=0.0 if changes else 0.1)
    found = {}
    for streamed in (0, 1, 3) if path == "plain" else (0, 3):
        if streamed:
            model = load_streamed(folder, streamed_layers=streamed, quantisation=quantisation)  # type: ignore[arg-type]
        else:
            model = load_base(folder, quantisation=quantisation)  # type: ignore[arg-type]
        adapted(model, method)
        way = nullcontext() if path == "plain" else fused(model, join_weights=path == "joined")
        with way, Recomputation(model, whole, halves, **changes):
            found[streamed] = [loss_and_gradients(model), loss_and_gradients(model)]
    for streamed in found:
        for mine, expected in zip(found[streamed], found[0], strict=True):
            assert mine[0] == expected[0]
            assert torch.equal(mine[1], expected[1])


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_two_layers_are_on_the_device_and_the_others_have_no_weights(
    folder: Path, method: MethodPlan, quantisation: str
) -> None:
    model = adapted(load_streamed(folder, streamed_layers=3, quantisation=quantisation), method)  # type: ignore[arg-type]
    loss_and_gradients(model)
    streamed = parts(model)
    there = [part.number for part in streamed if all(linear.weight.numel() for linear in part.linears)]
    gone = [part.number for part in streamed if not any(linear.weight.numel() for linear in part.linears)]
    assert (sorted(there), gone) == ([0, 1], [2])


def test_each_pass_copies_each_layer_once_but_for_those_that_are_there(folder: Path, method: MethodPlan) -> None:
    """Forward copies 0 1 2, backward 0 only: 2 and 1 are still there. The next pass finds 0 and 1."""
    model = adapted(load_streamed(folder, streamed_layers=3), method)
    weights, size = parts(model)[0].weights, parts(model)[0].host.numel()
    loss_and_gradients(model)
    assert weights.copied_bytes == 4 * size
    loss_and_gradients(model)
    assert weights.copied_bytes == 6 * size
    with torch.no_grad(), adapter_off(model):
        model(input_ids=IDS)
    assert weights.copied_bytes == 8 * size, "and the first comes back for the next pass"


def test_answers_are_those_of_the_model_that_is_all_there(folder: Path) -> None:
    streamed, whole = load_streamed(folder, streamed_layers=2), load_base(folder)
    with torch.no_grad():
        assert torch.equal(streamed(input_ids=IDS).logits, whole(input_ids=IDS).logits)


def test_streamed_layers_are_spread_over_the_model(make_tiny: Tiny) -> None:
    model = make_tiny()
    assert list(spread(model, 1)) == ["model.layers.0"]
    assert list(spread(model, 2)) == ["model.layers.0", "model.layers.1"]
    with pytest.raises(BaseModelError, match=r"train\.streamed_layers is 4, and LlamaForCausalLM has 3 decoder layers"):
        spread(model, 4)
