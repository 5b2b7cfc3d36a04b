"""`burnish inspect` as people call it: with weights, without, as JSON, as a page, and with wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from burnish.cli import main


def inspected(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["inspect", *arguments, "--json", "-q"]) == 0
    return json.loads(capsys.readouterr().out)


def test_with_weights_every_rung_equals_the_loaded_model_to_the_byte(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspected(capsys, str(tiny_base), "--sample", "0")
    for row in found["ladder"]:
        assert row["measured_bytes"] == row["predicted_bytes"], row["precision"]
        assert row["measured_constants_bytes"] == row["predicted_constants_bytes"], row["precision"]
    weights = found["weights"]
    assert len(weights["matrices"]) == 2 * 7
    assert [row["layer"] for row in weights["layers"]] == [0, 1]
    assert len(weights["schemes"]) == 44
    assert found["perplexity"] is None


def test_perplexity_of_rounded_weights_comes_with_intervals_and_sizes(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {row["format"]: row for row in inspected(capsys, str(tiny_base), "--perplexity", "4")["perplexity"]}
    assert len(rows) == 11
    assert rows["fp32"]["difference"] == rows["fp32"]["low"] == rows["fp32"]["high"] == 0.0
    assert all(row["low"] <= row["difference"] <= row["high"] for row in rows.values())
    assert (
        rows["int4 channel absmax"]["bytes"]
        < rows["int8 channel absmax"]["bytes"]
        < rows["bf16"]["bytes"]
        < rows["fp32"]["bytes"]
    )
    assert abs(rows["bf16"]["difference"]) < abs(rows["int4 channel absmax"]["difference"])


def test_the_page_loads_nothing_and_holds_every_section(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["inspect", str(tiny_base), "--perplexity", "3", "--report", str(page), "-q"]) == 0
    assert str(page) in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    for section in ("ladder", "modules", "trainable", "weights", "rounding", "perplexity", "formats", "worked"):
        assert f'id="{section}"' in text
    assert "<script" not in text
    assert "src=" not in text
    assert "href=" not in text.replace('href="#', "").replace('href="data:,"', "")
    assert main(["inspect", "qwen3-8b", "--report", str(page), "-q"]) == 0
    assert 'id="weights"' not in page.read_text(encoding="utf-8")


def test_a_folder_with_a_configuration_alone_is_enough(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text((tiny_base / "config.json").read_text())
    found = inspected(capsys, str(tmp_path))
    assert found["weights"] is None
    assert found["parameters"] == inspected(capsys, str(tiny_base), "--no-weights")["parameters"]


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["qwen3-8c"], 4, "qwen3-8b"),
        (["qwen3-8b", "--rank", "0"], 2, "1 to 1024"),
        (["qwen3-8b", "--targets", "q_prj"], 2, 'Did you mean "q_proj"?'),
        (["qwen3-8b", "--perplexity", "10"], 2, "--weights"),
        (["qwen3-8b", "--perplexity", "-1"], 2, "2 texts or more"),
        (["qwen3-8b", "--sample", "-5"], 2, "--sample"),
        (["no/such-model-at-all", "--no-weights"], 4, "not known here"),
    ],
)
def test_wrong_input_says_what_to_do(
    arguments: list[str], code: int, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *arguments]) == code
    assert part in capsys.readouterr().err


@pytest.fixture
def folders(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders with something missing: `bare` has nothing, the others one file of weights that is not read, or a wrong shape."""
    monkeypatch.chdir(tmp_path)
    shape = json.loads((tiny_base / "config.json").read_text(encoding="utf-8"))
    files = {"bare": "", "gguf": "model-q4.gguf", "bin": "pytorch_model.bin", "alone": "adapter_model.safetensors"}
    for name, file in files.items():
        (tmp_path / name).mkdir()
        if file:
            (tmp_path / name / file).write_bytes(b"GGUF")
    (tmp_path / "only_gguf").mkdir()
    (tmp_path / "only_gguf" / "model-q4.gguf").write_bytes(b"GGUF")
    for name in ("gguf", "bin", "alone"):
        (tmp_path / name / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    lacking = {key: value for key, value in shape.items() if key not in ("vocab_size", "head_dim")}
    uneven = {key: value for key, value in shape.items() if key != "head_dim"} | {"hidden_size": 65}
    for name, config in (("lacking", lacking), ("uneven", uneven), ("other", shape | {"model_type": "mamba"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["./bare"], "holds no config.json. It has no weights: put model.safetensors beside config.json"),
        (["./only_gguf"], "It has model-q4.gguf, a format of llama.cpp that burnish does not read"),
        (["./gguf", "--weights"], "It has model-q4.gguf, a format of llama.cpp"),
        (["./gguf/model-q4.gguf"], "is a file; give its folder"),
        (["./bin", "--weights"], "It has pytorch_model.bin, pickled weights that can run code"),
        (["./alone", "--weights"], "has no model.safetensors. It has adapter_model.safetensors"),
        (["./lacking"], "vocab_size is missing"),
        (["./uneven"], "is no multiple of num_attention_heads"),
        (["./other"], "model_type is 'mamba', which the plan cannot count. Known: llama"),
        (["./nowhere"], 'there is no folder "./nowhere"'),
        ([""], "holds no config.json"),
    ],
)
def test_a_folder_that_is_no_base_says_what_it_holds_and_what_to_do(
    folders: Path, arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *arguments, "--json"]) == 4
    told = capsys.readouterr()
    assert part in json.loads(told.out)["error"]["message"]
    assert "Errno" not in told.err
    assert "Did you mean" not in told.err, "a state-space model is no misspelt Llama"


@pytest.mark.parametrize(("folder", "part"), [("gguf", "model-q4.gguf, a format of llama.cpp"), ("bin", "pickled")])
def test_weights_that_are_passed_over_are_told(
    folders: Path, folder: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", f"./{folder}", "--json"]) == 0
    told = capsys.readouterr()
    assert "no weights are looked at, only config.json" in told.err
    assert part in told.err
    assert json.loads(told.out)["weights"] is None


def test_a_damaged_weight_file_is_an_error_of_the_base(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in tiny_base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["inspect", str(tmp_path), "-q"]) == 4
    assert "BaseModelError" in capsys.readouterr().err


def test_without_weights_no_torch_is_imported() -> None:
    code = (
        "import sys; from burnish.cli import main; main(['inspect', 'llama-3.1-70b-instruct', '--json']); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_weights_that_burnish_cannot_load_are_looked_at_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **shape, **heads)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    shown = capsys.readouterr()
    assert "not measured by loading" in shown.err
    found = json.loads(shown.out)
    assert found["ladder"][0]["measured_bytes"] is None
    assert len(found["weights"]["matrices"]) == 14
    assert main(["inspect", str(tmp_path), "--report", str(tmp_path / "page.html"), "-q"]) == 0
