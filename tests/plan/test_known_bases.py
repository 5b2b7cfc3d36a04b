"""Shapes of models without their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish.core.errors import BaseModelError
from burnish.plan.bases import find_config, reference


def test_a_model_is_found_by_short_name_hub_id_and_folder(tmp_path: Path) -> None:
    short = find_config("llama-3.1-8b-instruct")
    assert find_config("meta-llama/Llama-3.1-8B-Instruct") == short
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    assert find_config(str(tmp_path)) == {"model_type": "llama"}


def test_an_unknown_model_is_said_with_the_nearest_name() -> None:
    with pytest.raises(
        BaseModelError, match=r'"llama-3.1-8b-instuct" is not known here. Nearest: llama-3.1-8b-instruct, '
    ):
        find_config("llama-3.1-8b-instuct")
    with pytest.raises(BaseModelError, match=r"Nearest: qwen2\.5-7b-instruct"):
        find_config("someone/Qwen2.5-7B-Instruct-GPTQ")
    with pytest.raises(BaseModelError, match="Known: smollm2-135m-instruct, "):
        find_config("zzzzzzzz")


@pytest.mark.parametrize("text", [None, "{", "[1]"])
def test_a_folder_without_a_readable_config_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"config\.json"):
        find_config(str(tmp_path))


def test_a_reference_without_weights_says_that_it_is_one() -> None:
    config = find_config("qwen3-8b")
    assert reference("qwen3-8b", config).digest.startswith("config:")
    assert reference("a", config).digest == reference("b", config).digest
