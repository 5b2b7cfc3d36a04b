"""What a fused layer asks of a device: few operations, adapters copied once a step, gradients added where they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.model.fused.formulas import AS_WRITTEN, Activation, gate_backward_in_place
from burnish.model.fused.replace import fused
from burnish.model.load import quantise_nf4
from burnish.model.lora import adapter_as, adapter_copy, lora_parameters
from burnish.model.recompute import Recomputation
from one_step import IDS, adapted, loss_and_gradients

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Tiny = Callable[..., PreTrainedModel]
Make = Callable[..., MethodPlan]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("launches")


@pytest.mark.parametrize(
    ("method", "again", "most"),
    [
        ("lora", False, (19, 31)), ("lora", True, (19, 48)), ("qlora", False, (26, 38)), ("qlora", True, (26, 61)),
        ("full", False, (10, 27)), ("full", True, (10, 36)),
    ],
)  # fmt: skip
def test_a_layer_launches_no_more_than_it_did(launches: Any, method: str, again: bool, most: tuple[int, int]) -> None:
    forward, backward = launches.per_layer(method, again)
    assert forward["mm"] >= 4  # something is counted
    assert sum(forward.values()) <= most[0]
    assert sum(backward.values()) <= most[1]


def in_place(da: torch.Tensor, g: torch.Tensor, u: torch.Tensor, activation: Activation) -> tuple[torch.Tensor, ...]:
    """The gate's backward as a GPU has it: its results lie where what it read lay, so those of gate and up beside each other."""
    gate_backward_in_place(da, g, u, activation)
    return g, u, da


CASES: dict[str, dict[str, Any]] = {
    "all": {}, "dropout": {"dropout": 0.2}, "biases": {"bias": "lora_only"},
    "queries and gates": {"targets": ("q_proj", "gate_proj")}, "four bits": {"kind": "qlora", "quantisation": "nf4"},
}  # fmt: skip


@pytest.mark.parametrize("layers", [(0, 0), (3, 0), (0, 3)], ids=["kept", "whole", "halves"])
@pytest.mark.parametrize("pieces", [None, 5])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("joined", [False, True])
def test_gradients_that_are_added_in_place_are_those_that_autograd_gets(
    make_tiny: Tiny, make_method: Make, case: str, pieces: int | None, layers: tuple[int, int], joined: bool
) -> None:
    base, method = make_tiny("qwen2"), make_method(**CASES[case])
    if case == "four bits":
        quantise_nf4(base, double_quantisation=True, device="cpu", dtype=torch.float32)
    model = adapted(base, method)
    parameters = list(lora_parameters(model).values())
    with fused(model):
        expected = loss_and_gradients(model)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    held = [parameter.grad for parameter in parameters]
    formulas = replace(AS_WRITTEN, gate_backward=in_place) if joined else AS_WRITTEN
    with fused(model, formulas, join_weights=joined, adds=True), Recomputation(model, *layers, piece_tokens=pieces):
        for rows in (1, 2):
            found, gradients = loss_and_gradients(model, keep=True)
            assert found == pytest.approx(expected[0], rel=1e-6)
            assert ((gradients - rows * expected[1]).abs().max() / expected[1].abs().max()).item() < 1e-5
    assert all(parameter.grad is there for parameter, there in zip(parameters, held, strict=True))


def test_neighbours_of_one_width_and_rank_are_one_batch_where_weights_are_joined(
    make_tiny: Tiny, method: MethodPlan
) -> None:
    model = adapted(make_tiny(), method)  # 4 heads and 2 key heads of 16, so k and v are alike
    with fused(model, join_weights=True):
        layer = model.model.layers[0]
        assert [run.count for group in (layer.qkv, layer.o, layer.gate_up) for run in group.runs] == [1, 2, 1, 2]
        assert [run.columns for run in layer.qkv.runs] == [slice(0, 64), slice(64, 128)]
        assert [run.ranks for run in layer.qkv.runs] == [slice(0, 4), slice(4, 12)]
    with fused(model):
        assert all(run.count == 1 for run in model.model.layers[0].qkv.runs)


class Copied(TorchDispatchMode):
    """Counts how many tensors are copied by operations that copy many."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith("aten::_foreach_copy_"):
            self.each.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def test_adapters_are_copied_all_at_once_and_only_when_they_have_changed(make_tiny: Tiny, method: MethodPlan) -> None:
    model = adapted(make_tiny(), method)
    parameters, started = lora_parameters(model), adapter_copy(model)
    with fused(model):
        first, _ = loss_and_gradients(model)  # the second pass of a step, or of a layer, copies nothing
        with Copied() as copied, Recomputation(model, 3):
            assert loss_and_gradients(model)[0] == first
        assert copied.each == []
        with torch.no_grad():
            next(iter(parameters.values())).add_(0.5)
        with Copied() as copied, Recomputation(model, 3):
            assert loss_and_gradients(model)[0] != first
        assert copied.each == [len(parameters)]
        with adapter_as(model, started), torch.no_grad():  # as a reference of preferences is asked
            assert model(input_ids=IDS, labels=IDS).loss.item() == first
        assert loss_and_gradients(model)[0] != first


class RunsOut(TorchDispatchMode):
    """Lets memory run out where adapters are copied for the first time."""

    ran_out = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith("aten::_foreach_copy_") and not self.ran_out:
            self.ran_out = True
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return func(*args, **(kwargs or {}))


def test_where_memory_runs_out_while_adapters_are_copied_the_next_pass_copies_them(
    make_tiny: Tiny, method: MethodPlan
) -> None:
    model = adapted(make_tiny(), method)
    with fused(model):
        with RunsOut(), pytest.raises(torch.OutOfMemoryError):
            loss_and_gradients(model)
        loss, gradients = loss_and_gradients(model)
    with fused(model):
        expected = loss_and_gradients(model)
    assert loss == expected[0]
    assert torch.equal(gradients, expected[1])
