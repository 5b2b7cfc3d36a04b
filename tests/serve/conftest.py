"""Bases for the tests of serving: one whose answers are known, one that never stops, and an adapter for each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from shutil import copytree

import pytest
import torch
from slow_reading import Reading
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.model.load import load_base
from burnish.model.lora import attach_lora, lora_parameters, save_adapter
from burnish.serve.engine import Engine
from burnish.text.messages import Message
from burnish.text.render import render_prompt
from burnish.text.tokenizer import Tokenizer, load_tokenizer

ANSWER = "Où? 🛫{a}"
"""What the scripted base answers to everything: a letter of two bytes and an emoji of four, each byte a token."""


def write_scripted_base(tiny: Path, folder: Path, answer: str) -> Path:
    """Write a Llama that answers every conversation with `answer` and its stop token.

    Its layers add nothing, so the next token depends on the current one alone, and the output head maps each token of
    the answer to the one after it. The answer's tokens must differ from each other.
    """
    copytree(tiny, folder)
    config = LlamaConfig(
        vocab_size=400, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    tokenizer = load_tokenizer(folder)
    start = render_prompt(tokenizer, [Message(role="user", content="x")])[-1]
    chain = [start, *tokenizer.encode(answer), 2]
    assert len(set(chain)) == len(chain), "the answer's tokens must differ"
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        states = torch.nn.functional.normalize(model.model.embed_tokens.weight.normal_(), dim=-1)
        head = torch.zeros(400, 64)
        for token, following in pairwise(chain):
            head[following] = states[token]
        model.lm_head.weight.copy_(head)
    model.save_pretrained(folder)
    return folder


def write_varied_base(tiny: Path, folder: Path) -> Path:
    """Write a base whose greedy answers never stop and differ from prompt to prompt."""
    copytree(tiny, folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model.model.embed_tokens.weight[:3] = 0  # embeddings are the output head too: no control token is ever the best
    model.save_pretrained(folder)
    return folder


def write_random_adapter(base: Path, folder: Path, *, seed: int, rank: int = 4) -> Path:
    """Write an adapter in PEFT's layout that changes the base's answers."""
    model = load_base(base)
    method = MethodPlan(
        kind="lora",
        rank=rank,
        alpha=8.0,
        dropout=0.0,
        targets=("all-linear",),
        quantisation="none",
        double_quantisation=False,
    )
    attach_lora(model, method, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            if name.endswith("lora_B"):
                parameter.normal_(0, 0.5, generator=generator)
    save_adapter(model, folder, method, "tiny")
    return folder


@pytest.fixture(scope="session")
def varied_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_varied_base(tiny_base, tmp_path_factory.mktemp("varied") / "base")


@pytest.fixture(scope="session")
def scripted_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scripted_base(tiny_base, tmp_path_factory.mktemp("scripted") / "base", ANSWER)


@pytest.fixture(scope="session")
def adapter_folders(varied_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of the varied base, of different ranks."""
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: write_random_adapter(varied_base, root / name, seed=seed, rank=rank)
        for name, seed, rank in (("a", 1, 4), ("b", 2, 8))
    }


@pytest.fixture(scope="session")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose adapters of rank 256 take 24 MiB each; without a tokenizer."""
    folder = tmp_path_factory.mktemp("wide") / "base"
    torch.manual_seed(4)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400, hidden_size=512, intermediate_size=1024, num_hidden_layers=3, num_attention_heads=8,
            num_key_value_heads=4, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=2,
            tie_word_embeddings=True,
        )
    ).float()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
        model.model.embed_tokens.weight[:3] = 0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_adapters(wide_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("wide-adapters")
    return {name: write_random_adapter(wide_base, root / name, seed=seed, rank=256) for seed, name in enumerate("abcd")}


@pytest.fixture
def varied_model(varied_base: Path) -> PreTrainedModel:
    return load_base(varied_base)


@pytest.fixture(scope="session")
def tokenizer(varied_base: Path) -> Tokenizer:
    return load_tokenizer(varied_base)


@pytest.fixture
def engine(varied_model: PreTrainedModel, adapter_folders: dict[str, Path]) -> Iterator[Engine]:
    with Engine(varied_model, adapters=adapter_folders, rows=4, queue=8) as engine:
        yield engine
        engine.close(drain=False)


@pytest.fixture
def scripted_engine(scripted_base: Path) -> Iterator[Engine]:
    with Engine(load_base(scripted_base), rows=4) as engine:
        yield engine
        engine.close(drain=False)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    reading = Reading(monkeypatch)
    yield reading
    reading.go_on.set()
