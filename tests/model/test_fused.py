"""Fused layers give the losses and gradients of PEFT on transformers' own layers, in each family and each form of the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import ResourceError
from burnish.model.attention import PackedLayout, Segment, packing
from burnish.model.fused.formulas import AS_WRITTEN, Activation, gate_backward_in_place
from burnish.model.fused.frozen import Fp8, join, joined_weight
from burnish.model.fused.layer import FusedLayer
from burnish.model.fused.replace import fused
from burnish.model.load import quantise_nf4
from burnish.model.lora import adapter_off, lora_layers, lora_parameters
from burnish.model.recompute import Recomputation
from one_step import adapted

IDS = torch.tensor([[5, 17, 90, 3, 44, 8, 101, 2], [7, 7, 12, 60, 61, 62, 1, 0]])
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")
Make = Callable[..., MethodPlan]
Tiny = Callable[..., PreTrainedModel]


def base(make_tiny: Tiny, family: str) -> PreTrainedModel:
    if family not in ("mistral", "gemma2", "llama with biases"):
        return make_tiny(family)
    sizes = {
        "vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
        "sliding_window": 6,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "llama with biases":
        del sizes["sliding_window"]
        config = LlamaConfig(**sizes, attention_bias=True, mlp_bias=True)
    else:
        config = MistralConfig(**sizes) if family == "mistral" else Gemma2Config(**sizes, query_pre_attn_scalar=16)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(std=0.1)
    return model.eval().requires_grad_(False)


def loss_and_gradients(model: torch.nn.Module, parameters: list[torch.nn.Parameter]) -> tuple[float, torch.Tensor]:
    torch.manual_seed(11)  # dropout
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in parameters])
    for parameter in parameters:
        parameter.grad = None
    return loss.item(), gradients


def assert_same(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert ((found[1] - expected[1]).abs().max() / expected[1].abs().max()).item() < 1e-5


def in_place(da: torch.Tensor, g: torch.Tensor, u: torch.Tensor, activation: Activation) -> tuple[torch.Tensor, ...]:
    gate_backward_in_place(da, g, u, activation)
    return g, u, da


def peft_of(
    model: PreTrainedModel, ours: PreTrainedModel, **changes: object
) -> tuple[torch.nn.Module, list[torch.nn.Parameter]]:
    """Put PEFT's adapter with the weights of ours on another model; return it and its weights in our order."""
    targets = sorted(lora_layers(ours))
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": targets, "task_type": "CAUSAL_LM", **changes})
    peft = get_peft_model(model, config).train()
    named = dict(peft.named_parameters())
    theirs = [named[f"base_model.model.{name}.default.weight"] for name in lora_parameters(ours)]
    with torch.no_grad():
        for mine, other in zip(lora_parameters(ours).values(), theirs, strict=True):
            other.copy_(mine)
    return peft, theirs


IN_PLACE = replace(AS_WRITTEN, gate_backward=in_place)


@pytest.mark.parametrize("form", ["one by one", "joined", "joined in place", "nf4", "nf4 joined"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_equal_those_of_peft(make_tiny: Tiny, method: MethodPlan, family: str, form: str) -> None:
    ours, theirs = base(make_tiny, family), base(make_tiny, family)
    for model in (ours, theirs) if "nf4" in form else ():
        quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    adapted(ours, method)
    peft, weights = peft_of(theirs, ours)
    expected = loss_and_gradients(peft, weights)
    formulas = IN_PLACE if "in place" in form else AS_WRITTEN
    with fused(ours, formulas, join_weights="joined" in form) as alone:
        assert not alone
        assert sum(isinstance(module, FusedLayer) for module in ours.modules()) == 3
        for _ in range(2):
            assert_same(loss_and_gradients(ours, list(lora_parameters(ours).values())), expected)
    assert not any(isinstance(module, FusedLayer) for module in ours.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_layers_give_the_same(make_tiny: Tiny, make_method: Make, family: str) -> None:
    model = adapted(base(make_tiny, family), make_method(dropout=0.1))
    parameters = list(lora_parameters(model).values())
    with fused(model):
        expected = loss_and_gradients(model, parameters)
        with Recomputation(model, 2):
            for _ in range(2):
                assert_same(loss_and_gradients(model, parameters), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_feed_forward_halves_that_are_computed_again_give_the_same_and_attention_is_computed_once(
    make_tiny: Tiny, make_method: Make, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(base(make_tiny, family), make_method(dropout=0.1))
    parameters = list(lora_parameters(model).values())
    mixed: list[FusedLayer] = []
    mix = FusedLayer._mix

    def counted(self: FusedLayer, *arguments: Any) -> torch.Tensor:
        mixed.append(self)
        return mix(self, *arguments)

    monkeypatch.setattr(FusedLayer, "_mix", counted)
    with fused(model):
        expected = loss_and_gradients(model, parameters)
        for whole, halves in ((0, 2), (1, 2)):
            mixed.clear()
            with Recomputation(model, whole, halves):
                assert_same(loss_and_gradients(model, parameters), expected)
            assert len(mixed) == 3 + whole
            assert_same(loss_and_gradients(model, parameters), expected)


def test_halves_keep_less_and_growing_goes_on_until_every_layer_keeps_its_input_alone(
    make_tiny: Tiny, method: MethodPlan
) -> None:
    model = adapted(base(make_tiny, "llama"), method)

    def kept() -> int:
        sizes: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = model(input_ids=IDS, labels=IDS).loss
        del loss
        return sum(sizes.values())

    with fused(model), Recomputation(model, 0, 0) as layers:
        seen = [(layers.whole, layers.feed_forward, kept())]
        while layers.grow():
            seen.append((layers.whole, layers.feed_forward, kept()))
    assert [each[:2] for each in seen] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0)]
    held = [each[2] for each in seen]
    assert held == sorted(held, reverse=True)
    assert held[3] < 0.8 * held[0]
    assert held[6] < held[3]


def test_the_last_product_of_a_layer_is_not_computed_twice(make_tiny: Tiny, method: MethodPlan) -> None:
    model = adapted(make_tiny(), method)
    with fused(model), Recomputation(model, 3):
        counted = []
        for layer in model.model.layers:
            for group in (layer.gate_up, layer.down):
                product = group.frozen.product
                group.frozen.product = lambda x, product=product, group=group, **kw: (
                    counted.append(id(group)) or product(x, **kw)
                )
        loss_and_gradients(model, list(lora_parameters(model).values()))
        gate_up, down = model.model.layers[0].gate_up, model.model.layers[0].down
        assert counted.count(id(gate_up)) == 2
        assert counted.count(id(down)) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_draws_what_peft_draws(make_tiny: Tiny, make_method: Make, family: str) -> None:
    ours = adapted(base(make_tiny, family), make_method(dropout=0.25))
    peft, weights = peft_of(base(make_tiny, family), ours, lora_dropout=0.25)
    expected = loss_and_gradients(peft, weights)
    with fused(ours):
        assert_same(loss_and_gradients(ours, list(lora_parameters(ours).values())), expected)


def test_rslora_equals_that_of_peft(make_tiny: Tiny, make_method: Make) -> None:
    ours = adapted(make_tiny(), make_method(rslora=True))
    peft, weights = peft_of(make_tiny(), ours, use_rslora=True)
    expected = loss_and_gradients(peft, weights)
    with fused(ours):
        assert_same(loss_and_gradients(ours, list(lora_parameters(ours).values())), expected)


@pytest.mark.parametrize("form", ["one by one", "joined", "nf4 joined"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("family", "count"), [("qwen2", 3), ("llama with biases", 7)])
def test_biases_train_in_fused_layers_as_in_peft(
    make_tiny: Tiny, make_method: Make, family: str, count: int, form: str, dropout: float
) -> None:
    ours, theirs = base(make_tiny, family), base(make_tiny, family)
    for model in (ours, theirs) if "nf4" in form else ():
        quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    adapted(ours, make_method(bias="lora_only", dropout=dropout))
    names = list(lora_parameters(ours))
    assert sum(name.endswith(".bias") for name in names) == count * ours.config.num_hidden_layers
    targets = sorted(lora_layers(ours))
    settings = LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", bias="lora_only", lora_dropout=dropout
    )
    peft = get_peft_model(theirs, settings).train()
    named = dict(peft.named_parameters())
    ends = {True: ".base_layer.bias", False: ".default.weight"}
    weights = [named[f"base_model.model.{name.removesuffix('.bias')}{ends[name.endswith('.bias')]}"] for name in names]
    with torch.no_grad():
        for mine, other in zip(lora_parameters(ours).values(), weights, strict=True):
            other.copy_(mine)
    expected = loss_and_gradients(peft, weights)
    with fused(ours, join_weights="joined" in form) as alone:
        assert not alone
        assert_same(loss_and_gradients(ours, list(lora_parameters(ours).values())), expected)
        with Recomputation(ours, 1, 1):
            assert_same(loss_and_gradients(ours, list(lora_parameters(ours).values())), expected)


def test_dora_takes_the_plain_path_and_is_named(make_tiny: Tiny, make_method: Make) -> None:
    model = adapted(make_tiny(), make_method(dora=True))
    with fused(model) as alone:
        assert len(alone) == model.config.num_hidden_layers
        assert alone[0].endswith("its adapters train the lengths of rows (DoRA)")


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("o_proj",), ("up_proj",), ("down_proj", "k_proj")])
def test_some_layers_may_have_no_adapter(make_tiny: Tiny, make_method: Make, targets: tuple[str, ...]) -> None:
    ours = adapted(make_tiny("qwen2"), make_method(targets=targets))
    peft, weights = peft_of(make_tiny("qwen2"), ours)
    expected = loss_and_gradients(peft, weights)
    with fused(ours, join_weights=True):
        assert_same(loss_and_gradients(ours, list(lora_parameters(ours).values())), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_adapter_off_fused_layers_give_the_base(make_tiny: Tiny, method: MethodPlan, family: str) -> None:
    model = base(make_tiny, family)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        adapted(model, method)
        with fused(model), adapter_off(model):
            torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_row_gives_each_sample_what_it_gets_alone(make_tiny: Tiny, method: MethodPlan, family: str) -> None:
    model = adapted(base(make_tiny, family), method)
    alone = [model.base_model(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in IDS]
    positions = torch.tensor([*range(8), *range(8)])
    layout = PackedLayout((Segment(0, 8), Segment(8, 16)), positions)
    with packing(model), fused(model):
        packed = model.base_model(
            input_ids=IDS.reshape(1, -1), position_ids=positions[None], use_cache=False, packed=layout
        ).last_hidden_state[0]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_joined_weights_stay_the_weights_of_their_layers(make_tiny: Tiny) -> None:
    attention = make_tiny().model.layers[0].self_attn
    linears = [attention.q_proj, attention.k_proj, attention.v_proj]
    before = [linear.weight.clone() for linear in linears]
    assert joined_weight(linears) is None
    join(linears)
    together = joined_weight(linears)
    assert torch.equal(together, torch.cat(before))
    assert all(torch.equal(linear.weight, weight) for linear, weight in zip(linears, before, strict=True))
    together[0, 0] = 5.0
    assert linears[0].weight[0, 0] == 5.0


def test_layers_of_unknown_kinds_take_the_plain_path_and_are_named(make_tiny: Tiny, method: MethodPlan) -> None:
    model = adapted(make_tiny(), method)
    model.model.layers[1].mlp.act_fn = torch.nn.ReLU()
    with fused(model) as alone:
        assert len(alone) == 1
        assert alone[0].startswith("model.layers.1: ReLU")
        loss_and_gradients(model, list(lora_parameters(model).values()))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize(("form", "cosine"), [("fp8", 0.995), ("fp8_all", 0.98)])
def test_with_a_float8_base_gradients_point_the_same_way(
    make_tiny: Tiny, method: MethodPlan, family: str, form: Fp8, cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU by the values of the float8 products; what rounding alone may change is a few hundredths."""
    monkeypatch.setattr("burnish.model.fused.replace.has_fp8", lambda device: True)
    model = adapted(base(make_tiny, family), method)
    parameters = list(lora_parameters(model).values())
    exact = loss_and_gradients(model, parameters)
    with fused(model, fp8=form) as alone:
        assert not alone
        found = loss_and_gradients(model, parameters)
    assert found[0] == pytest.approx(exact[0], rel=1e-5 if form == "fp8" else 0.02)
    assert torch.nn.functional.cosine_similarity(found[1], exact[1], dim=0) > cosine
    assert not torch.equal(found[1], exact[1])


def test_rounded_backward_leaves_the_weights_as_they_were(
    make_tiny: Tiny, method: MethodPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.model.fused.replace.has_fp8", lambda device: True)
    model = adapted(make_tiny(), method)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with fused(model, fp8="fp8"):
        loss_and_gradients(model, list(lora_parameters(model).values()))
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_float8_is_refused_where_no_card_multiplies_it(make_tiny: Tiny, method: MethodPlan) -> None:
    with (
        pytest.raises(ResourceError, match=r"needs a card that multiplies float8.*a CPU"),
        fused(adapted(make_tiny(), method), fp8="fp8"),
    ):
        pass


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40))
def test_rounding_to_float8_is_within_a_sixteenth_of_each_value_or_a_step_of_the_largest(row: list[float]) -> None:
    x = torch.tensor([row])
    rounded, scale = AS_WRITTEN.rounded(x)
    error = (rounded.float() * scale - x).abs()
    assert bool((error <= torch.maximum(x.abs() / 16, scale * 2.0**-10) * 1.001).all())


@pytest.mark.parametrize("form", ["one by one", "joined", "recomputed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_every_weight_equal_those_of_transformers(make_tiny: Tiny, family: str, form: str) -> None:
    ours, theirs = (base(make_tiny, family).requires_grad_(True).train() for _ in range(2))
    expected = loss_and_gradients(theirs, list(theirs.parameters()))
    weights = list(ours.parameters())
    with fused(ours, join_weights=form == "joined") as alone, Recomputation(ours, 3 if form == "recomputed" else 0):
        assert not alone
        for _ in range(2):
            assert_same(loss_and_gradients(ours, weights), expected)
        with torch.no_grad():  # a step moves weights in place, biases too: what is multiplied is what they are now
            for weight in (*weights, *theirs.parameters()):
                weight.mul_(1.01)
        assert_same(loss_and_gradients(ours, weights), loss_and_gradients(theirs, list(theirs.parameters())))


def test_layers_of_which_some_train_take_the_plain_path(make_tiny: Tiny) -> None:
    model = base(make_tiny, "llama").requires_grad_(True)
    model.model.layers[1].self_attn.q_proj.weight.requires_grad_(False)
    with fused(model) as alone:
        assert [note.partition(":")[0] for note in alone] == ["model.layers.1"]
