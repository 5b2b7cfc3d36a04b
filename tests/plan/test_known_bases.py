"""Shapes of models without their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish.core.errors import BaseModelError
from burnish.plan.bases import find_config, published_id, reference
from burnish.plan.refused import why_refused


def test_a_model_is_found_by_short_name_hub_id_and_folder(tmp_path: Path) -> None:
    short = find_config("llama-3.1-8b-instruct")
    assert find_config("meta-llama/Llama-3.1-8B-Instruct") == short
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    assert find_config(str(tmp_path)) == {"model_type": "llama"}


def test_a_model_is_found_by_what_stands_after_its_owner() -> None:
    for name in ("llama-3.1-8b", "Llama-3.1-8B", "mistral-7b-v0.1", "llama-3.3-70b-instruct", "qwen2.5-7b"):
        assert published_id(name).lower().endswith("/" + name.lower())
        assert find_config(name) == find_config(published_id(name))
    assert published_id("llama-3.1-8b") == "meta-llama/Llama-3.1-8B"
    assert published_id("llama-3.1-8b-instruct") == "meta-llama/Llama-3.1-8B-Instruct"
    assert published_id("someone/llama-3.1-8b") == "someone/llama-3.1-8b"


def test_a_config_json_can_be_given_itself_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    assert find_config(str(path)) == {"model_type": "llama"}
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BaseModelError, match="is a file; give its folder"):
        find_config(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, "quantised (gptq)"),
        ({"model_type": "gpt_oss"}, "apart"),
        ({"model_type": "granite"}, None),
        ({"model_type": "mistral3", "text_config": {"model_type": "mistral"}}, None),
        ({"model_type": "a_model_that_sees", "text_config": {"model_type": "falcon"}}, "apart"),
        ({"model_type": "gpt2"}, None),
    ],
)
def test_a_base_that_a_run_refuses_is_told(config: dict[str, object], why: str | None) -> None:
    found = why_refused(config)
    assert (found is None) == (why is None)
    assert why is None or (found is not None and why in found)


def test_an_unknown_model_is_said_with_the_nearest_name() -> None:
    with pytest.raises(
        BaseModelError, match=r'"llama-3.1-8b-instuct" is not known here. Nearest: llama-3.1-8b-instruct, '
    ):
        find_config("llama-3.1-8b-instuct")
    with pytest.raises(BaseModelError, match=r"Nearest: qwen2\.5-7b-instruct"):
        find_config("someone/Qwen2.5-7B-Instruct-GPTQ")
    with pytest.raises(BaseModelError, match="Known: smollm2-135m-instruct, "):
        find_config("zzzzzzzz")


@pytest.mark.parametrize("text", [None, "{", "[1]", "[" * 100_000])
def test_a_folder_without_a_readable_config_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"config\.json"):
        find_config(str(tmp_path))


def test_a_reference_without_weights_says_that_it_is_one() -> None:
    config = find_config("qwen3-8b")
    assert reference("qwen3-8b", config).digest.startswith("config:")
    assert reference("a", config).digest == reference("b", config).digest
