"""Layers over several devices: the numbers of a model that is all on one, and what is where."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import BaseModelError
from burnish.model.attention import PackedLayout, Segment
from burnish.model.fused.replace import fused
from burnish.model.load import load_base
from burnish.model.place import PlacedPart, layer_homes, load_placed, moved, place
from burnish.model.recompute import Recomputation
from burnish.model.stream import StreamedPart
from one_step import IDS, adapted, loss_and_gradients, whole_trained

Make = Callable[..., MethodPlan]
Tiny = Callable[..., PreTrainedModel]
HELD = {"offloaded": 3, "block": 1000, "least": 0}


@pytest.fixture(params=["llama", "gemma3"])
def folder(request: pytest.FixtureRequest, make_tiny: Tiny, tmp_path: Path) -> Path:
    make_tiny(request.param).save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("streamed", "held"), [(0, {}), (2, {}), (0, HELD), (3, HELD)])
def test_placed_layers_give_the_same_bits(
    folder: Path, make_method: Make, quantisation: str, fast: bool, streamed: int, held: dict
) -> None:
    """Both devices are the CPU: the same hooks, with nothing to copy. Layers are streamed, and offload what they keep, as well."""
    found = []
    for split in (False, True):
        if split:
            model = load_placed(
                folder, devices=["cpu", "cpu:0"], layers_by_device=[1, 2], streamed_layers=streamed,
                quantisation=quantisation,  # type: ignore[arg-type]
            )  # fmt: skip
            assert sum(isinstance(module, PlacedPart) for module in model.modules()) == 3
            assert sum(isinstance(module, StreamedPart) for module in model.modules()) == streamed
        else:
            model = load_base(folder, quantisation=quantisation)  # type: ignore[arg-type]
        adapted(model, make_method(quantisation=quantisation, dropout=0.1))
        with (
            fused(model) if fast else nullcontext(),
            Recomputation(model, 1, 1, **(held if split else {})) as layers,
        ):
            found += [loss_and_gradients(model), loss_and_gradients(model)]
            assert (layers.host_bytes > 0) == bool(split and held)
    for mine in found[1:]:
        assert mine[0] == found[0][0]
        assert torch.equal(mine[1], found[0][1])


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("held", [{}, HELD])
def test_placed_layers_all_weights_of_which_train_give_the_same_bits(folder: Path, fast: bool, held: dict) -> None:
    found = []
    for split in (False, True):
        places = {"devices": ["cpu", "cpu:0"], "layers_by_device": [2, 1]}
        model = whole_trained(load_placed(folder, **places) if split else load_base(folder))  # type: ignore[arg-type]
        with fused(model) if fast else nullcontext(), Recomputation(model, 1, 1, **(held if split else {})):
            found.append(loss_and_gradients(model))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_layers_lie_where_they_are_placed_and_everything_else_is_on_the_first(make_tiny: Tiny) -> None:
    model = make_tiny("qwen3")
    place(model, layer_homes(model, ["cpu", "meta"], [1, 2]), "cpu")
    where = {name: parameter.device.type for name, parameter in model.named_parameters()}
    assert {device for name, device in where.items() if ".layers.0." in name} == {"cpu"}
    assert {device for name, device in where.items() if ".layers.1." in name or ".layers.2." in name} == {"meta"}
    assert {device for name, device in where.items() if ".layers." not in name} == {"cpu"}
    assert model.device.type == "cpu"


def test_hidden_states_are_carried_to_each_layer_and_back(make_tiny: Tiny) -> None:
    """On devices without numbers shapes and places can be followed: what enters each layer, and what comes back."""
    model = make_tiny()
    place(model, layer_homes(model, ["cpu", "meta"], [1, 2]), "cpu")
    seen: list[tuple[str, str]] = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args[0].device.type, kwargs["position_embeddings"][0].device.type)),
            with_kwargs=True,
        )
    with pytest.raises(NotImplementedError, match="meta"):  # nothing can be copied out of it
        model.model(input_ids=IDS)
    assert seen == [("cpu", "cpu"), ("meta", "meta"), ("meta", "meta")]


def test_the_layout_of_a_packed_row_is_made_once_for_each_device() -> None:
    layout = PackedLayout((Segment(0, 3),), torch.arange(3))
    assert moved({"packed": layout}, torch.device("cpu"))["packed"] is layout
    there = layout.on(torch.device("meta"))
    assert there.positions_T.device.type == "meta"
    assert there.segments == layout.segments
    assert layout.on(torch.device("meta")) is there


def test_what_all_layers_are_called_with_is_copied_once_for_each_device(make_tiny: Tiny) -> None:
    model = make_tiny()
    place(model, layer_homes(model, ["cpu", "meta"], [1, 2]), "cpu")
    parts = [module for module in model.modules() if isinstance(module, PlacedPart)]
    angles, hidden = torch.zeros(2), torch.zeros(2, requires_grad=True)
    first, second = (moved({"angles": angles, "hidden": hidden}, part.device, part.brought) for part in parts[1:])
    assert first["angles"] is second["angles"]
    assert first["hidden"] is not second["hidden"], "it has a gradient"
    assert moved({"angles": angles}, parts[0].device, parts[0].brought)["angles"] is angles
    del angles
    assert len(parts[1].brought) == 0


def test_another_number_of_layers_is_refused(make_tiny: Tiny) -> None:
    with pytest.raises(BaseModelError, match="the plan places 4 layers, and LlamaForCausalLM has 3"):
        layer_homes(make_tiny(), ["cpu", "cpu"], [2, 2])
