from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, PhiConfig, PreTrainedModel

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


def their_name(name: str, adapted: set[str]) -> str:
    layer, _, leaf = name.rpartition(".")
    if leaf == "bias":
        return f"base_model.model.{layer}.base_layer.bias" if layer in adapted else f"base_model.model.{name}"
    return f"base_model.model.{name}.default.weight"


def to_peft(model: PreTrainedModel, ours: PreTrainedModel, **changes: object) -> PeftModel:
    """Wrap a fresh base with PEFT's LoRA and give it the weights of our adapter."""
    targets = sorted({name.rpartition(".")[2] for name in lora_layers(ours)})
    settings = {"r": 4, "lora_alpha": 8.0, "target_modules": targets, "task_type": "CAUSAL_LM", **changes}
    wrapped = get_peft_model(model, LoraConfig(**settings))
    theirs = dict(wrapped.named_parameters())
    with torch.no_grad():
        for name, parameter in lora_parameters(ours).items():
            theirs[their_name(name, set(lora_layers(ours)))].copy_(parameter)
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


BESIDE = {
    "biases of adapted layers": {"bias": "lora_only"}, "all biases": {"bias": "all", "targets": ("k_proj", "up_proj")},
    "lengths of rows": {"dora": True}, "lengths and biases": {"dora": True, "bias": "lora_only"},
    "lengths and dropout": {"dora": True, "dropout": 0.3}, "biases and dropout": {"bias": "lora_only", "dropout": 0.3},
}  # fmt: skip
"""What trains beside low-rank products."""


def biased(make_tiny: Tiny, architecture: str) -> PreTrainedModel:
    """Return a tiny base whose biases are not zero; Phi has them in norms and every linear layer, Qwen 2 in q, k and v."""
    model = make_tiny(architecture)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias") and not name.startswith("lm_head"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def peft_changes(method: MethodPlan) -> dict[str, object]:
    return {
        "bias": method.bias or "none",
        "use_dora": method.dora is not None,
        "lora_dropout": method.dropout,
        "use_rslora": method.rslora is not None,
    }


@pytest.mark.parametrize("quantised", [False, True], ids=["lora", "qlora"])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
@pytest.mark.parametrize("what", BESIDE)
def test_biases_and_lengths_of_rows_train_as_in_peft(
    make_tiny: Tiny, make_method: Make, tmp_path: Path, architecture: str, what: str, quantised: bool
) -> None:
    """Loss and every gradient, from values that training has moved; PEFT reads our files and we read PEFT's."""
    method = make_method(**BESIDE[what])
    ours, base = biased(make_tiny, architecture), biased(make_tiny, architecture)
    for model in (ours, base) if quantised else ():
        quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    attach_lora(ours, method, seed=1)
    names = lora_parameters(ours)
    assert any(name.endswith(".bias") for name in names) == (method.bias is not None and architecture == "qwen2")
    assert any(name.endswith("lora_magnitude_vector") for name in names) == (method.dora is not None)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in names.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    adapted = set(lora_layers(ours))
    targets = sorted({name.rpartition(".")[2] for name in adapted})
    settings = {"r": 4, "lora_alpha": 8.0, "target_modules": targets, "task_type": "CAUSAL_LM", **peft_changes(method)}
    theirs = get_peft_model(base, LoraConfig(**settings))
    trained = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    assert set(trained) == {their_name(name, adapted) for name in names}
    with torch.no_grad():
        for name, parameter in names.items():
            trained[their_name(name, adapted)].copy_(parameter)
    found = []
    for model, parameters in (
        (ours, list(names.values())),
        (theirs, [trained[their_name(name, adapted)] for name in names]),
    ):
        torch.manual_seed(5)
        found.append(loss_and_gradients(model.train(), dict(enumerate(parameters))))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert_same_gradients(found[0][1], found[1][1])

    save_adapter(ours, tmp_path / "ours", method, "tiny")
    again = PeftModel.from_pretrained(fresh(make_tiny, architecture, quantised), str(tmp_path / "ours"))
    theirs.save_pretrained(str(tmp_path / "theirs"))
    assert load_file(tmp_path / "ours" / WEIGHTS).keys() == load_file(tmp_path / "theirs" / WEIGHTS).keys()
    mine = fresh(make_tiny, architecture, quantised)
    load_adapter(mine, tmp_path / "theirs")
    expected = theirs.eval()(input_ids=IDS).logits
    for model in (ours.eval(), again, mine):
        torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)


def fresh(make_tiny: Tiny, architecture: str, quantised: bool) -> PreTrainedModel:
    model = biased(make_tiny, architecture)
    if quantised:
        quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    return model


@pytest.mark.parametrize("what", BESIDE)
def test_off_means_the_base_and_merging_keeps_what_trained_beside_products(
    make_tiny: Tiny, make_method: Make, what: str
) -> None:
    """With its adapter off PEFT keeps trained biases, which it warns of; ours is the base, as a reference has to be."""
    model = biased(make_tiny, "qwen2")
    before = model(input_ids=IDS).logits
    attach_lora(model, make_method(**BESIDE[what]), seed=1)
    torch.testing.assert_close(model(input_ids=IDS).logits, before, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.add_(0.05)
    tuned = model(input_ids=IDS).logits
    with adapter_off(model):
        assert torch.equal(model(input_ids=IDS).logits, before)
    assert (tuned - before).abs().max() > 1e-2
    torch.testing.assert_close(merge_lora(model)(input_ids=IDS).logits, tuned, rtol=1e-4, atol=1e-5)
    assert not lora_parameters(model)


def test_all_biases_are_those_of_norms_too(make_tiny: Tiny, make_method: Make) -> None:
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=131, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    ours, base = (AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False) for _ in range(2))
    base.load_state_dict(ours.state_dict())
    attach_lora(ours, make_method(bias="all", targets=("q_proj",)), seed=1)
    theirs = to_peft(base, ours, bias="all")
    trained = {name.removeprefix("base_model.model.") for name, p in theirs.named_parameters() if p.requires_grad}
    mine = {f"{name}.default.weight" if ".lora_" in name else name for name in lora_parameters(ours)}
    assert {name.replace(".base_layer.bias", ".bias") for name in trained} - mine == {"lm_head.bias"}
    our_loss, gradients = loss_and_gradients(ours.train(), lora_parameters(ours))
    assert torch.isfinite(gradients).all()
    assert our_loss == pytest.approx(theirs.train()(input_ids=IDS, labels=IDS).loss.item(), rel=1e-5)


def test_who_serves_many_adapters_is_told_what_this_one_trained(
    make_tiny: Tiny, make_method: Make, tmp_path: Path
) -> None:
    for changes, said in (({"dora": True}, "lengths of rows"), ({"bias": "lora_only"}, r"biases \(bias: lora_only\)")):
        model, method = make_tiny("qwen2"), make_method(**changes)
        attach_lora(model, method, seed=1)
        save_adapter(model, tmp_path, method, "tiny")
        with pytest.raises(BaseModelError, match=f"trained {said}.*load it with PEFT"):
            read_adapter(tmp_path, adaptable_layers(make_tiny("qwen2")))


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


def test_a_base_without_linear_layers_says_so(method: MethodPlan) -> None:
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=131, n_embd=32, n_layer=1, n_head=4))
    with pytest.raises(BaseModelError, match="in no linear layer that an adapter fits"):
        attach_lora(model, method, seed=0)


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
        ({"use_qalora": True}, "not plain LoRA.*use_qalora"),
        ({"use_dora": True}, "lora_magnitude_vector in only one of them"),
        ({"bias": "most"}, "not plain LoRA"),
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
