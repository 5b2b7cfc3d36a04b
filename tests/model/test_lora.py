from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import BaseModelError
from burnish.model.load import dequantised, linear_weight, quantise_nf4
from burnish.model.lora import (
    CONFIG,
    WEIGHTS,
    adaptable_layers,
    adapter_off,
    attach_lora,
    load_adapter,
    lora_layers,
    lora_parameters,
    merge_lora,
    read_adapter,
    resolve_targets,
    save_adapter,
)

Tiny = Callable[..., PreTrainedModel]
Make = Callable[..., MethodPlan]
IDS = torch.tensor([[5, 17, 90, 3, 44, 8, 101, 2], [7, 7, 12, 60, 61, 62, 1, 0]])


def disturb(model: PreTrainedModel) -> None:
    """Give B random values, so that the adapter changes the output."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            if name.endswith("lora_B"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def to_peft(model: PreTrainedModel, ours: PreTrainedModel, **changes: object) -> PeftModel:
    """Wrap a fresh base with PEFT's LoRA and give it the weights of our adapter."""
    targets = sorted({name.rpartition(".")[2] for name in lora_layers(ours)})
    settings = {"r": 4, "lora_alpha": 8.0, "target_modules": targets, "task_type": "CAUSAL_LM", **changes}
    wrapped = get_peft_model(model, LoraConfig(**settings))
    theirs = dict(wrapped.named_parameters())
    with torch.no_grad():
        for name, parameter in lora_parameters(ours).items():
            theirs[f"base_model.model.{name}.default.weight"].copy_(parameter)
    return wrapped


def loss_and_gradients(model: torch.nn.Module, parameters: dict[str, torch.nn.Parameter]) -> tuple[float, torch.Tensor]:
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in parameters.values()])  # pyright: ignore[reportOptionalMemberAccess]


def assert_same_gradients(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """The contract: equal to 1e-5 relative to the largest gradient."""
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-5


@pytest.mark.parametrize("quantised", [False, True], ids=["lora", "qlora"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3"])
def test_loss_and_gradients_equal_peft(make_tiny: Tiny, method: MethodPlan, architecture: str, quantised: bool) -> None:
    models = [make_tiny(architecture), make_tiny(architecture)]
    if quantised:
        for model in models:
            quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    ours, base = models
    attach_lora(ours, method, seed=1)
    disturb(ours)
    theirs = to_peft(base, ours)
    names = lora_parameters(ours)
    their_parameters = {
        name: dict(theirs.named_parameters())[f"base_model.model.{name}.default.weight"] for name in names
    }
    our_loss, our_gradients = loss_and_gradients(ours.train(), names)
    their_loss, their_gradients = loss_and_gradients(theirs.train(), their_parameters)
    assert our_loss == pytest.approx(their_loss, rel=1e-6)
    assert_same_gradients(our_gradients, their_gradients)


def test_dropout_is_drawn_as_in_peft(make_tiny: Tiny, make_method: Make) -> None:
    ours = make_tiny()
    attach_lora(ours, make_method(dropout=0.3), seed=1)
    disturb(ours)
    theirs = to_peft(make_tiny(), ours, lora_dropout=0.3)
    torch.manual_seed(5)
    our_loss, _ = loss_and_gradients(ours.train(), lora_parameters(ours))
    torch.manual_seed(5)
    their_loss = theirs.train()(input_ids=IDS, labels=IDS).loss.item()
    assert our_loss == pytest.approx(their_loss, rel=1e-6)
    assert our_loss != pytest.approx(make_tiny()(input_ids=IDS, labels=IDS).loss.item(), rel=1e-6)


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj"), ("model.layers.1.mlp.down_proj",)])
def test_peft_loads_what_we_save(make_tiny: Tiny, make_method: Make, tmp_path: Path, targets: tuple[str, ...]) -> None:
    ours, method = make_tiny(), make_method(targets=targets)
    attach_lora(ours, method, seed=2)
    disturb(ours)
    save_adapter(ours, tmp_path, method, "tiny")
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    theirs = PeftModel.from_pretrained(make_tiny(), str(tmp_path))
    torch.testing.assert_close(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("targets", ["all-linear", ["k_proj", "up_proj"]])
def test_we_load_what_peft_saves(make_tiny: Tiny, tmp_path: Path, targets: str | list[str]) -> None:
    torch.manual_seed(4)
    theirs = get_peft_model(make_tiny(), LoraConfig(r=3, lora_alpha=5, target_modules=targets, init_lora_weights=False))
    theirs.save_pretrained(str(tmp_path))
    ours = make_tiny()
    load_adapter(ours, tmp_path)
    torch.testing.assert_close(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits, rtol=1e-5, atol=1e-6)


def test_saving_and_loading_gives_the_same_bits(make_tiny: Tiny, method: MethodPlan, tmp_path: Path) -> None:
    first, second = make_tiny(), make_tiny()
    attach_lora(first, method, seed=2)
    disturb(first)
    save_adapter(first, tmp_path, method, "tiny")
    load_adapter(second, tmp_path)
    assert torch.equal(first(input_ids=IDS).logits, second(input_ids=IDS).logits)


def test_a_fresh_adapter_changes_nothing_and_off_means_the_base(make_tiny: Tiny, method: MethodPlan) -> None:
    model = make_tiny()
    base = model(input_ids=IDS).logits
    attach_lora(model, method, seed=0)
    torch.testing.assert_close(model(input_ids=IDS).logits, base)
    disturb(model)
    assert not torch.allclose(model(input_ids=IDS).logits, base, atol=1e-2)
    with adapter_off(model):
        assert torch.equal(model(input_ids=IDS).logits, base)
    assert not torch.allclose(model(input_ids=IDS).logits, base, atol=1e-2)


def test_initial_weights_depend_on_the_seed_and_the_layer_alone(make_tiny: Tiny, make_method: Make) -> None:
    def weights(seed: int, *targets: str) -> dict[str, torch.Tensor]:
        model = make_tiny()
        torch.manual_seed(torch.seed() % 1000)  # whatever was drawn before does not matter
        attach_lora(model, make_method(targets=targets), seed=seed)
        return {name: parameter.detach() for name, parameter in lora_parameters(model).items()}

    everything, queries, other = weights(0, "all-linear"), weights(0, "q_proj"), weights(1, "q_proj")
    for name, value in queries.items():
        assert torch.equal(value, everything[name])
        assert torch.equal(value, other[name]) == name.endswith("lora_B")
    a = queries["model.layers.0.self_attn.q_proj.lora_A"]
    assert a.abs().max().item() <= 64**-0.5  # kaiming_uniform with a = sqrt(5): bound 1 / sqrt(in)
    assert not torch.equal(a, queries["model.layers.1.self_attn.q_proj.lora_A"])


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_all_linear_means_every_linear_layer_but_the_head(make_tiny: Tiny, architecture: str) -> None:
    model = make_tiny(architecture)
    names = resolve_targets(model, ("all-linear",))
    assert len(names) == 3 * 7
    assert "lm_head" not in names
    assert len(resolve_targets(model, ("q_proj", "v_proj"))) == 6


def test_an_unknown_target_is_answered_with_the_names_there_are(make_tiny: Tiny) -> None:
    with pytest.raises(BaseModelError, match=r'"qproj".*down_proj, gate_proj, k_proj.*Did you mean "q_proj"\?'):
        resolve_targets(make_tiny(), ("qproj",))
    with pytest.raises(BaseModelError, match='"lm_head"'):
        resolve_targets(make_tiny(), ("lm_head",))


def test_a_second_adapter_is_refused(make_tiny: Tiny, method: MethodPlan) -> None:
    model = make_tiny()
    attach_lora(model, method, seed=0)
    with pytest.raises(BaseModelError, match="has an adapter already"):
        attach_lora(model, method, seed=0)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_merging_gives_the_same_logits(make_tiny: Tiny, method: MethodPlan, architecture: str, quantised: bool) -> None:
    model = make_tiny(architecture)
    if quantised:
        quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    attach_lora(model, method, seed=0)
    disturb(model)
    before = model(input_ids=IDS).logits
    weight = next(iter(lora_layers(model).values())).merged_weight()
    merged = merge_lora(model)
    assert not lora_layers(merged)
    layer = merged.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(layer, torch.nn.Linear)
    assert torch.equal(linear_weight(layer, torch.float32), weight)
    torch.testing.assert_close(merged(input_ids=IDS).logits, before, rtol=1e-4, atol=1e-4)


def test_dequantising_keeps_the_adapter_and_the_numbers(make_tiny: Tiny, method: MethodPlan) -> None:
    model = make_tiny()
    quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    attach_lora(model, method, seed=0)
    disturb(model)
    before = model(input_ids=IDS).logits
    assert torch.equal(dequantised(model)(input_ids=IDS).logits, before)
    assert len(lora_layers(model)) == 21


def saved(make_tiny: Tiny, method: MethodPlan, folder: Path) -> Path:
    model = make_tiny()
    attach_lora(model, method, seed=0)
    save_adapter(model, folder, method, "tiny")
    return folder


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 4096}, "r = 4096; a whole number from 1 to 1024"),
        ({"r": "4"}, "r = '4'"),
        ({"peft_type": "IA3"}, "not plain LoRA"),
        ({"use_dora": True}, "not plain LoRA.*use_dora"),
        ({"bias": "all"}, "not plain LoRA"),
        ({"lora_alpha": None}, "lora_alpha = None"),
        ({"target_modules": ["nothing"]}, 'no linear layer called "nothing"'),
        ({"target_modules": ["q_proj"]}, "does not fit this base"),
        ({"r": 8}, r"has shape \(4, 64\), this base needs \(8, 64\)"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    make_tiny: Tiny, method: MethodPlan, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    change_config(saved(make_tiny, method, tmp_path), **changes)
    with pytest.raises(BaseModelError, match=message):
        load_adapter(make_tiny(), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    make_tiny: Tiny, method: MethodPlan, tmp_path: Path, value: float
) -> None:
    tensors = load_file(saved(make_tiny, method, tmp_path) / WEIGHTS)
    name = next(iter(tensors))
    tensors[name][0, 0] = value
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(BaseModelError, match="not finite"):
        load_adapter(make_tiny(), tmp_path)


def test_a_torn_or_missing_adapter_is_an_error_of_ours(make_tiny: Tiny, method: MethodPlan, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="cannot read"):
        load_adapter(make_tiny(), tmp_path)
    weights = saved(make_tiny, method, tmp_path) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BaseModelError, match="cannot read"):
        load_adapter(make_tiny(), tmp_path)


def test_a_refused_adapter_leaves_the_model_as_it_was(make_tiny: Tiny, method: MethodPlan, tmp_path: Path) -> None:
    change_config(saved(make_tiny, method, tmp_path), r=8)
    model = make_tiny()
    before = model(input_ids=IDS).logits
    with pytest.raises(BaseModelError):
        load_adapter(model, tmp_path)
    assert not lora_layers(model)
    assert torch.equal(model(input_ids=IDS).logits, before)


def test_reading_adapters_for_months_keeps_nothing(make_tiny: Tiny, method: MethodPlan, tmp_path: Path) -> None:
    folder, layers = saved(make_tiny, method, tmp_path), adaptable_layers(make_tiny())
    read_adapter(folder, layers)
    tracemalloc.start()
    try:
        for _ in range(3):  # what is kept for good at first is not what grows
            read_adapter(folder, layers)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(60):
            read_adapter(folder, layers)
        assert (
            tracemalloc.get_traced_memory()[0] - before < 60 * 2 * len(layers) * 16
        )  # a quarter of what load_file keeps
    finally:
        tracemalloc.stop()
