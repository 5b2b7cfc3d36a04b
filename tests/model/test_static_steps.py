"""Steps of static shapes, replayed by CUDA graphs on a GPU, give the answers of steps of any shape."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import BaseModelError
from burnish.model.banked_linear import BankedModel
from burnish.model.decoder import Decoder
from burnish.model.lora_bank import pack
from burnish.model.lora_parts_gpu import Way, bucket
from burnish.model.sampling import Sampling
from burnish.model.static_steps import MOST_SHAPES, has_static_steps

RANKS = {"a": 8, "b": 8, "c": 16, "d": 32, "e": 8}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
WAYS = ["masked", pytest.param("tiled", marks=pytest.mark.gpu)]


def load(banked: BankedModel, name: str) -> None:
    draw, rank = torch.Generator().manual_seed(ord(name)), RANKS[name]
    tensors: dict[str, torch.Tensor] = {}
    for layer, (inputs, outputs) in banked.sizes.items():
        tensors[f"{layer}.lora_A"] = torch.empty(rank, inputs).normal_(0, 0.1, generator=draw)
        tensors[f"{layer}.lora_B"] = torch.empty(outputs, rank).normal_(0, 0.1, generator=draw)
    method = MethodPlan(
        kind="lora", rank=rank, alpha=rank, dropout=0.0, targets=("all-linear",), quantisation="none", double_quantisation=False
    )  # fmt: skip
    banked.bank.load(name, pack(banked.layout, method, tensors, banked.bank.dtype))


def answers_of(model: PreTrainedModel, way: Way | None, *, static: bool) -> tuple[list[list[int]], Decoder]:
    """Answer requests that come, end and are taken back at different steps, while adapters come and go."""
    banked = BankedModel(model, way=way)
    for name in "abc":
        load(banked, name)
    decoder = Decoder(model, rows=7, piece_tokens=50, banked=banked, static=static)
    draw = random.Random(3)
    starts = [[draw.randrange(131) for _ in range(40)] for _ in range(2)]
    answers: dict[int, list[int]] = {}

    def ask(names: str, count: int) -> None:
        for number in range(count):
            name = names[number % len(names)]
            prompt = (starts[number % 3] if number % 3 < 2 else []) + [draw.randrange(131) for _ in range(1 + number)]
            sampling = Sampling(max_new_tokens=5 + 3 * (number % 4))
            adapter = None if name == "-" else name
            answers[decoder.add(prompt, sampling, share=40 if number % 3 < 2 else 0, adapter=adapter)] = []

    def run(steps: int) -> None:
        for _ in range(steps):
            for item in decoder.step():
                assert item.token is not None
                answers[item.sequence].append(item.token)

    ask("abc-", 9)
    run(6)
    load(banked, "d")
    load(banked, "e")
    ask("dea", 5)
    run(4)
    decoder.remove(max(answers) - 1)
    run(60)
    assert not decoder.running
    assert not decoder.waiting
    banked.bank.unload("b")
    decoder.forget_adapter("b")
    load(banked, "b")
    ask("b", 6)
    run(40)
    banked.take_off()
    return list(answers.values()), decoder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_static_steps_answer_as_steps_of_any_shape_do(
    make_tiny: Callable[..., PreTrainedModel], architecture: str, device: str, way: Way
) -> None:
    if (device, way) == ("cpu", "tiled"):
        pytest.skip("the tiles are a GPU's")
    model = make_tiny(architecture)
    want, _ = answers_of(model, None, static=False)  # as a CPU does, without any of this
    model.to(device=device)  # pyright: ignore[reportCallIssue]
    got, decoder = answers_of(model, way, static=True)
    assert got == want
    assert len({tuple(answer) for answer in want}) > 12
    steps = decoder._static
    assert steps is not None
    assert 0 < len(steps._seen) <= MOST_SHAPES
    if device == "cuda":
        assert any(captured.graph is not None for captured in steps._seen.values()), steps.refused


@pytest.mark.parametrize("device", DEVICES)
def test_without_adapters_they_do_too_and_one_row_sees_no_further_than_its_past(
    make_tiny: Callable[..., PreTrainedModel], device: str
) -> None:
    model = make_tiny().to(device=device)  # pyright: ignore[reportCallIssue]
    found: list[list[list[int]]] = []
    for static in (False, True):
        decoder = Decoder(model, rows=1, static=static)
        answers: dict[int, list[int]] = {}
        for seed in range(3):
            prompt = torch.randint(0, 131, (5,), generator=torch.Generator().manual_seed(seed)).tolist()
            answers[decoder.add(prompt, Sampling(max_new_tokens=70))] = []
        while decoder.running or decoder.waiting:
            for item in decoder.step():
                assert item.token is not None
                answers[item.sequence].append(item.token)
        found.append(list(answers.values()))
    assert found[0] == found[1]


@pytest.mark.gpu
def test_a_model_that_waits_for_the_device_runs_without_graphs(make_tiny: Callable[..., PreTrainedModel]) -> None:
    model = make_tiny().to(device="cuda")  # pyright: ignore[reportCallIssue]
    found: list[list[int]] = []
    for waits in (False, True):
        if waits:
            model.model.norm.register_forward_hook(lambda module, given, states: states * (states.sum().item() * 0 + 1))
        decoder = Decoder(model, rows=2, static=True)
        decoder.add([3, 4, 5], Sampling(max_new_tokens=20))
        found.append([])
        while decoder.running or decoder.waiting:
            found[-1] += [item.token for item in decoder.step() if item.token is not None]
        assert decoder._static is not None
        assert (decoder._static.refused is not None) == waits
    assert found[0] == found[1]


def test_buckets_are_few_and_at_most_a_quarter_too_large() -> None:
    sizes = {bucket(count) for count in range(1, 1025)}
    assert len(sizes) <= 8 + 4 * 7
    for count in range(1, 1025):
        assert count <= bucket(count) < 1.25 * count + 1
        assert bucket(count, 64) % 64 == 0
        assert count <= bucket(count, 64)


def test_a_bank_that_computes_as_a_cpu_does_is_refused(make_tiny: Callable[..., PreTrainedModel]) -> None:
    model = make_tiny()
    banked = BankedModel(model)
    with pytest.raises(BaseModelError, match="as a GPU does"):
        Decoder(model, rows=2, banked=banked, static=True)
    banked.take_off()


def test_rotary_embeddings_that_look_at_positions_have_no_static_steps(
    make_tiny: Callable[..., PreTrainedModel],
) -> None:
    rope: Any = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, rope_parameters=rope,
    )  # fmt: skip
    assert not has_static_steps(LlamaForCausalLM(config))
    assert has_static_steps(make_tiny())
