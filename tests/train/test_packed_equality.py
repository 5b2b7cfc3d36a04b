"""Packed rows give the loss and gradients of samples one by one: each objective, each family of layers, fused and plain.

One by one is transformers' own forward pass of each sequence alone, with the loss written out. The contract: 1e-5 of the loss, and
of the largest gradient, in float32.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from burnish.core.artifacts import Plan
from burnish.core.packing import count_steps, pack
from burnish.core.rows import TokenPair, TokenRow
from burnish.model.fused.paths import ON_CPU, PLAIN, on_paths
from burnish.model.lora import adapter_off
from burnish.model.probe import check_base
from burnish.train import dpo, sft
from burnish.train.objective import Objective
from burnish.train.pairs import pair_lengths
from one_by_one import assert_same, gradients, one_by_one

Adapted = Callable[..., PreTrainedModel]
MakePlan = Callable[..., Plan]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")
PATHS = {"fused": ON_CPU, "plain": PLAIN}


def packed(model: PreTrainedModel, objective: Objective, paths: str, *, known: bool = True) -> tuple[float, Tensor]:
    total = 0.0
    rows = [row for batch in objective.batches(0) for row in batch]
    with on_paths(model.train(), PATHS[paths]) as alone:
        assert bool(alone) != known
        for row in rows:
            loss = objective.loss(model, row).total
            loss.backward()
            total += loss.item()
    assert len(rows) > 1
    return total, gradients(model)


@pytest.mark.parametrize("paths", PATHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_conversations(
    make_adapted: Adapted, make_rows: Callable[..., list[TokenRow]], make_plan: MakePlan, family: str, paths: str
) -> None:
    rows, model = make_rows(14), make_adapted(family)
    plan = make_plan(rows, row_tokens=90)
    expected = one_by_one(model, rows)
    assert_same(packed(model, sft.objective(plan.train, rows), paths), expected)


SIZES = {
    "vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
OTHERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "cohere2": lambda: transformers.Cohere2Config(**SIZES, sliding_window=7),
    "exaone4": lambda: transformers.Exaone4Config(**SIZES, sliding_window=7),
    "gemma": lambda: transformers.GemmaConfig(**SIZES, head_dim=16),
    "glm4": lambda: transformers.Glm4Config(**SIZES, head_dim=16),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=131, n_embd=64, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        **{key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    ),
    "granite": lambda: transformers.GraniteConfig(
        **SIZES, logits_scaling=4.0, residual_multiplier=0.5, attention_multiplier=0.2, embedding_multiplier=3.0
    ),
    "mixtral": lambda: transformers.MixtralConfig(**SIZES, num_local_experts=4),
    "olmo3": lambda: transformers.Olmo3Config(**SIZES, sliding_window=7),
    "phi": lambda: transformers.PhiConfig(**SIZES),
    "phi3": lambda: transformers.Phi3Config(**SIZES, sliding_window=7),
}
"""Families whose layers are not known: half rotations, two norms, parallel halves, no positions, experts, learned positions."""


@pytest.mark.parametrize("family", OTHERS)
def test_answers_on_layers_that_are_not_known(
    make_rows: Callable[..., list[TokenRow]], make_plan: MakePlan, family: str
) -> None:
    """Every weight trained."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(OTHERS[family](), attn_implementation="sdpa").float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    check_base(model)
    rows = make_rows(14)
    expected = one_by_one(model, rows)
    objective = sft.objective(make_plan(rows, row_tokens=90).train, rows)
    assert_same(packed(model, objective, "fused", known=False), expected)


def some_pairs(count: int) -> list[TokenPair]:
    """Return pairs; every third shares its prompt with another."""
    draw = random.Random(3)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 131) for _ in range(draw.randrange(least, most)))

    prompts = [tokens(4, 10) for _ in range(count - count // 3)]
    return [TokenPair(f"pair-{i}", prompts[i % len(prompts)], tokens(2, 8), tokens(2, 8)) for i in range(count)]


def of_answer(model: PreTrainedModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    """Return the log-probability of an answer after its prompt, alone."""
    logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(answer)[:, None]).sum()


@contextmanager
def as_base(model: PreTrainedModel) -> Iterator[None]:
    with torch.no_grad(), adapter_off(model):
        yield


def loss_of_pair(model: PreTrainedModel, pair: TokenPair, kind: str, beta: float) -> Tensor:
    ratios = []
    for answer in (pair.chosen, pair.rejected):
        with as_base(model):
            reference = of_answer(model, pair.prompt, answer)
        ratios.append(of_answer(model, pair.prompt, answer) - reference)
    if kind == "ipo":
        chosen, rejected = ratios[0] / len(pair.chosen), ratios[1] / len(pair.rejected)
        return (chosen - rejected - 1 / (2 * beta)) ** 2
    margin = beta * (ratios[0] - ratios[1])
    return torch.relu(1 - margin) if kind == "hinge" else -F.logsigmoid(margin)


@pytest.mark.parametrize("paths", PATHS)
@pytest.mark.parametrize(
    ("family", "kind"), [*((family, "sigmoid") for family in FAMILIES), ("llama", "ipo"), ("qwen3", "hinge")]
)
def test_preference_pairs(make_adapted: Adapted, make_plan: MakePlan, family: str, kind: str, paths: str) -> None:
    pairs, model = some_pairs(9), make_adapted(family)
    preference = {"kind": "dpo", "beta": 0.3, "loss": kind, "label_smoothing": 0.0}
    steps = count_steps(len(pack(pair_lengths(pairs), 70, 0)), 1.0, 2)
    plan = make_plan([], steps=steps, row_tokens=70, preference=preference)
    total = 0.0
    for pair in pairs:
        loss = loss_of_pair(model, pair, kind, 0.3)
        loss.backward()
        total += loss.item()
    expected = total, gradients(model)
    assert_same(packed(model, dpo.objective(plan.train, pairs), paths), expected)
