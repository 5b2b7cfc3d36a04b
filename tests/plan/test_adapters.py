"""Adapters are counted exactly, and a target that does not exist is never passed over."""

from __future__ import annotations

import pytest

from burnish.core.errors import RecipeError
from burnish.plan.adapters import lora_parameters, resolve_targets
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config

LLAMA = read_architecture(find_config("llama-3.1-8b-instruct"))
PHI = read_architecture(find_config("phi-3.5-mini-instruct"))


def test_lora_on_attention_and_on_everything_by_hand() -> None:
    assert (
        lora_parameters(LLAMA, ("q_proj", "k_proj", "v_proj", "o_proj"), 32)
        == 32 * 32 * (8192 + 5120 + 5120 + 8192)
        == 27_262_976
    )
    everything = resolve_targets(LLAMA, ("all-linear",), source="x")
    assert lora_parameters(LLAMA, everything, 16) == 41_943_040
    assert lora_parameters(LLAMA, everything, 32) == 83_886_080


def test_all_linear_is_the_sorted_names_of_the_layers_linears() -> None:
    assert resolve_targets(LLAMA, ("all-linear",), source="x") == (
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    )
    assert resolve_targets(PHI, ("all-linear", "o_proj"), source="x") == (
        "down_proj",
        "gate_up_proj",
        "o_proj",
        "qkv_proj",
    )


def test_named_targets_are_sorted_and_counted_once() -> None:
    assert resolve_targets(LLAMA, ("v_proj", "q_proj", "v_proj"), source="x") == ("q_proj", "v_proj")


def test_all_unknown_targets_are_said_at_once_with_the_known_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_targets(PHI, ("q_proj", "o_proj", "gate_proj"), source="support.yaml")
    assert len(caught.value.problems) == 2
    text = str(caught.value)
    assert "support.yaml has 2 problems" in text
    assert "Known for phi3: qkv_proj, o_proj, gate_up_proj, down_proj, or all-linear." in text
    assert 'Did you mean "qkv_proj"?' in text
