"""Footprints by loading against the ladder's arithmetic on random models of other families, and losses with rounded weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from burnish.core.events import Event, discard
from burnish.core.rows import TokenRow
from burnish.model.inspect import layer_of, losses_by_rounding, measure_footprints, weight_matrices
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import read_config
from burnish.plan.inspect.ladder import RUNGS, ladder

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 32},
    "phi3": {"num_key_value_heads": 4, "pad_token_id": 0},
}


def write_model(folder: Path, family: str) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE, **FAMILIES[family]))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_rung_equals_the_loaded_model_to_the_byte(family: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path, family)
    events: list[Event] = []
    measured = measure_footprints(folder, events.append)
    assert set(measured) == set(RUNGS)
    assert events
    for rung in ladder(read_architecture(read_config(folder / "config.json")), measured):
        assert (rung.measured_footprint, rung.measured_constants) == (rung.footprint, rung.constants), rung.name


def test_matrices_come_layer_by_layer_and_equal_the_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_model(tmp_path, "qwen2")
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    names = []
    for name, weights in weight_matrices(folder):
        np.testing.assert_array_equal(weights, state[f"{name}.weight"].numpy())
        names.append(name)
    assert len(names) == 2 * 7
    layers = [layer_of(f"{name}.weight") for name in names]
    assert layers == sorted(layers, key=int)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.10.mlp.up_proj.weight", 10),
        ("transformer.h.3.attn.c_attn.weight", 3),
        ("model.layers.2.mlp.up_proj.bias", None),
        ("model.embed_tokens.weight", None),
        ("lm_head.weight", None),
        ("batch.3.weight", None),
    ],
)
def test_the_layer_of_a_name(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer


def test_losses_change_with_rounding_and_come_back_without(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "qwen2")
    rows = [TokenRow(str(n), tuple(range(n, n + 20)), (0, *[1] * 19), 0, 0) for n in range(3)]
    found = losses_by_rounding(
        folder, rows, {"fp32": None, "zero": np.zeros_like, "again": None, "same": np.copy}, discard
    )
    assert found["fp32"] == found["again"] == found["same"]
    assert found["zero"] != found["fp32"]
    assert [count for _, count in found["fp32"]] == [19, 19, 19]
