from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import BaseModelError
from burnish.model.full import save_model
from burnish.model.load import dequantised, frozen_linears, is_nf4, linear_weight, load_base, quantise_nf4
from burnish.model.lora import attach_lora, lora_parameters, save_adapter

Tiny = Callable[..., PreTrainedModel]
IDS = torch.tensor([[5, 17, 90, 3, 44, 8, 101, 2]])


@pytest.fixture
def folder(make_tiny: Tiny, tmp_path: Path) -> Path:
    make_tiny().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_nf4_equals_what_transformers_makes(make_tiny: Tiny, tmp_path: Path, architecture: str, double: bool) -> None:
    make_tiny(architecture).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config, dtype=torch.float32, device_map="cpu"
    )
    ours = load_base(tmp_path, quantisation="nf4", double_quantisation=double)
    ours_nf4 = {name for name, module in ours.named_modules() if is_nf4(module)}
    assert ours_nf4 == {name for name, module in theirs.named_modules() if is_nf4(module)}
    assert len(ours_nf4) == 3 * 7
    for name in ours_nf4:
        first, second = (linear_weight(model.get_submodule(name), torch.float32) for model in (ours, theirs))
        assert torch.equal(first, second)
        assert ours.get_submodule(name).weight.quant_state.nested == double
    assert torch.equal(ours(input_ids=IDS).logits, theirs.eval()(input_ids=IDS).logits)


def test_a_loaded_base_is_frozen_and_whole(folder: Path, make_tiny: Tiny) -> None:
    model = load_base(folder)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(input_ids=IDS).logits, make_tiny()(input_ids=IDS).logits)


def test_nf4_is_small_and_changes_the_numbers_a_little(folder: Path, make_tiny: Tiny) -> None:
    plain, small = make_tiny(), load_base(folder, quantisation="nf4")
    layer = "model.layers.0.mlp.up_proj"
    assert small.get_submodule(layer).weight.numel() * 2 == plain.get_submodule(layer).weight.numel()
    error = linear_weight(small.get_submodule(layer), torch.float32) - plain.get_submodule(layer).weight
    assert 0.01 < (error.norm() / plain.get_submodule(layer).weight.norm()).item() < 0.15


def test_embeddings_and_head_stay_as_they_were(folder: Path, make_tiny: Tiny) -> None:
    small = load_base(folder, quantisation="nf4")
    assert torch.equal(small.get_input_embeddings().weight, make_tiny().get_input_embeddings().weight)
    assert small.get_output_embeddings().weight is small.get_input_embeddings().weight


def test_dequantised_weights_give_the_very_same_logits(folder: Path) -> None:
    model = load_base(folder, quantisation="nf4")
    before = model(input_ids=IDS).logits
    assert torch.equal(dequantised(model)(input_ids=IDS).logits, before)
    assert not any(is_nf4(module) for module in model.modules())


def test_bfloat16_loads_and_computes_in_bfloat16(folder: Path) -> None:
    model = load_base(folder, quantisation="nf4", dtype=torch.bfloat16)
    assert model(input_ids=IDS).logits.dtype == torch.bfloat16
    assert linear_weight(model.get_submodule("model.layers.0.mlp.up_proj"), torch.bfloat16).dtype == torch.bfloat16


def test_only_linear_layers_below_the_head_count(make_tiny: Tiny) -> None:
    assert "lm_head" not in frozen_linears(make_tiny())


def test_quantising_drops_the_float_weights(make_tiny: Tiny) -> None:
    model = make_tiny()
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    assert layer.weight is None


@pytest.mark.parametrize("damage", ["config", "weights"])
def test_a_folder_that_cannot_be_loaded_is_an_error_of_ours(folder: Path, damage: str) -> None:
    if damage == "config":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "nothing-known"}))
    else:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(BaseModelError, match="transformers cannot load"):
        load_base(folder)


def test_weights_that_are_not_there_are_not_made_up(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"lack 1 tensors.*model\.layers\.1\.mlp\.up_proj\.weight"):
        load_base(folder)


def test_loading_draws_nothing_on_the_terminal(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_base(folder, quantisation="nf4")
    assert capfd.readouterr() == ("", "")


GPT2 = {
    "vocab_size": 131,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def gpt2(folder: Path) -> PreTrainedModel:
    """Return a tiny GPT-2 as transformers has it, and write it."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**GPT2)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return model


def test_the_layers_of_gpt2_become_linear_and_compute_the_same(tmp_path: Path) -> None:
    theirs, ours, ids = gpt2(tmp_path), load_base(tmp_path), torch.arange(3, 20)[None]
    assert len(frozen_linears(ours)) == 8
    torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)


def test_gpt2_is_saved_as_transformers_reads_it(tmp_path: Path) -> None:
    theirs, ours, ids = gpt2(tmp_path / "base"), load_base(tmp_path / "base"), torch.arange(3, 20)[None]
    save_model(ours, tmp_path / "saved")
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "saved").eval()
    torch.testing.assert_close(again(input_ids=ids).logits, theirs(input_ids=ids).logits)
    torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_an_adapter_of_gpt2_is_read_by_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    theirs, ours, ids = gpt2(tmp_path / "base"), load_base(tmp_path / "base"), torch.arange(3, 20)[None]
    method = MethodPlan(
        kind="lora",
        rank=4,
        alpha=8.0,
        dropout=0.0,
        targets=("all-linear",),
        quantisation="none",
        double_quantisation=False,
    )
    attach_lora(ours, method, seed=1)
    for name, parameter in lora_parameters(ours).items():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(ours, tmp_path / "adapter", method, "gpt2")
    adapted = PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    with adapted.disable_adapter():
        plain = adapted(input_ids=ids).logits
    assert (adapted(input_ids=ids).logits - plain).abs().max() > 0.01
    torch.testing.assert_close(ours(input_ids=ids).logits, adapted(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
