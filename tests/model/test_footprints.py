"""Loading in each precision takes the bytes that arithmetic says, on random models of several architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.core.events import discard
from burnish.model.inspect import measure_footprints
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config
from burnish.plan.inspect.ladder import RUNGS, ladder

SMALL: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {"tie_word_embeddings": True}),
        ("phi3", {}),
        ("mixtral", {"num_local_experts": 4}),
        ("gpt_neox", {}),
        ("gpt2", {"n_inner": 320}),
        ("glm4", {"head_dim": 32}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_footprints_equal_the_ladder_to_the_byte(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[family](**(SMALL | changes))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    measured = measure_footprints(tmp_path, discard)
    rungs = ladder(read_architecture(config.to_dict()), measured)
    assert [rung.name for rung in rungs] == list(RUNGS)
    for rung in rungs:
        assert rung.footprint == rung.measured_footprint, rung.name
        assert rung.constants == rung.measured_constants, rung.name


def test_the_ladder_of_llama_8b() -> None:
    rungs = {rung.name: rung for rung in ladder(read_architecture(find_config("llama-3.1-8b-instruct")))}
    assert rungs["fp32"].footprint == 32_121_045_504
    assert rungs["bf16"].footprint == 16_060_522_496 + 512
    assert rungs["int8"].footprint == 9_081_200_640 + 512
    assert rungs["nf4+dq"].footprint == 5_591_539_712 + 512
    assert rungs["nf4+dq"].constants == 111_000_448
    assert rungs["nf4"].constants == 436_207_616 + 64 * 32 * 7, "and the table of each linear"
