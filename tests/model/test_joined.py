"""Layers computed together give the losses and gradients of PEFT, in each family, and of the same layers one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig, PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.model.joined import joined
from burnish.model.lean import lean
from burnish.model.load import quantise_nf4
from burnish.model.lora import attach_lora, lora_layers, lora_parameters
from burnish.model.memory import checkpoint_layers

IDS = torch.tensor([[5, 17, 90, 3, 44, 8, 101, 2], [7, 7, 12, 60, 61, 62, 1, 0]])
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")
Make = Callable[..., MethodPlan]
Tiny = Callable[..., PreTrainedModel]


def base(make_tiny: Tiny, family: str) -> PreTrainedModel:
    if family not in ("mistral", "gemma2"):
        return make_tiny(family)
    sizes = {
        "vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    config = MistralConfig(**sizes) if family == "mistral" else Gemma2Config(**sizes, query_pre_attn_scalar=16)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    return model.eval().requires_grad_(False)


def adapted(model: PreTrainedModel, method: MethodPlan) -> PreTrainedModel:
    attach_lora(model, method, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.train()


def loss_and_gradients(model: torch.nn.Module, parameters: list[torch.nn.Parameter]) -> tuple[float, torch.Tensor]:
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in parameters])
    for parameter in parameters:
        parameter.grad = None
    return loss.item(), gradients


def assert_same(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert ((found[1] - expected[1]).abs().max() / expected[1].abs().max()).item() < 1e-5


@pytest.mark.parametrize("quantised", [False, True], ids=["lora", "qlora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_equal_those_of_peft(
    make_tiny: Tiny, method: MethodPlan, family: str, quantised: bool
) -> None:
    ours, theirs = base(make_tiny, family), base(make_tiny, family)
    for model in (ours, theirs) if quantised else ():
        quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    adapted(ours, method)
    targets = sorted({name.rpartition(".")[2] for name in lora_layers(ours)})
    peft = get_peft_model(theirs, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")).train()
    named = dict(peft.named_parameters())
    pairs = [(p, named[f"base_model.model.{name}.default.weight"]) for name, p in lora_parameters(ours).items()]
    with torch.no_grad():
        for mine, other in pairs:
            other.copy_(mine)
    expected = loss_and_gradients(peft, [other for _, other in pairs])
    with lean(ours), joined(ours) as alone:
        assert not alone
        assert_same(loss_and_gradients(ours, [mine for mine, _ in pairs]), expected)
    assert all(layer.joined is None for layer in lora_layers(ours).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_one_product_serves_all_layers_that_read_the_same_input(
    make_tiny: Tiny, method: MethodPlan, family: str
) -> None:
    """Fails too when transformers passes copies of the input, which would be right but slow."""
    model = adapted(base(make_tiny, family), method)
    nodes: dict[str, object] = {}
    for name, layer in lora_layers(model).items():
        layer.register_forward_hook(lambda _, __, y, name=name: nodes.update({name: y.grad_fn.next_functions[0][0]}))
    with joined(model):
        model(input_ids=IDS)
    for number in range(3):
        q, k, v, gate, up = (
            nodes[f"model.layers.{number}.{name}"]
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
        )
        assert q is k is v
        assert gate is up
        assert q is not gate


def test_recomputed_layers_are_joined_too(make_tiny: Tiny, method: MethodPlan) -> None:
    model = adapted(make_tiny(), method)
    parameters = list(lora_parameters(model).values())
    expected = loss_and_gradients(model, parameters)
    with joined(model), checkpoint_layers(model, 3):
        for _ in range(2):
            assert_same(loss_and_gradients(model, parameters), expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"dropout": 0.5}, "dropout"), ({"targets": ("q_proj",)}, "nothing to be joined with")],
)
def test_layers_that_cannot_be_joined_are_named_with_the_reason(
    make_tiny: Tiny, make_method: Make, changes: dict[str, object], reason: str
) -> None:
    model = adapted(make_tiny(), make_method(**changes))
    with joined(model) as alone:
        assert alone[0].startswith("model.layers.0.self_attn: ")
        assert reason in alone[0]
        assert all(layer.joined is None for layer in lora_layers(model).values())


def test_a_joined_layer_is_asked_with_another_input(make_tiny: Tiny, method: MethodPlan) -> None:
    model = adapted(make_tiny(), method)
    attention = model.model.layers[0].self_attn
    first, second = torch.randn(2, 1, 5, 64, generator=torch.Generator().manual_seed(1))
    expected = attention.k_proj(second)
    with joined(model):
        attention.q_proj(first)
        torch.testing.assert_close(attention.k_proj(second), expected)
