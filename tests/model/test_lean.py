from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from burnish.core.artifacts import MethodPlan
from burnish.model.lean import LeanGated, LeanNorm, lean
from burnish.model.load import quantise_nf4
from burnish.model.lora import adapter_off, attach_lora, lora_parameters

Tiny = Callable[..., PreTrainedModel]
IDS = torch.tensor([[5, 17, 90, 3, 44, 8, 101, 2], [7, 7, 12, 60, 61, 62, 1, 0]])


def adapted(model: PreTrainedModel, method: MethodPlan) -> PreTrainedModel:
    attach_lora(model, method, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.train()


def loss_and_gradients(model: PreTrainedModel) -> tuple[float, torch.Tensor]:
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in lora_parameters(model).values()])
    for parameter in lora_parameters(model).values():
        parameter.grad = None
    return loss.item(), gradients


def test_the_norm_and_its_gradient_equal_those_of_transformers() -> None:
    torch.manual_seed(0)
    norm = LlamaRMSNorm(16, eps=1e-5).requires_grad_(False)
    norm.weight.copy_(torch.randn(16))
    ours, theirs = (
        torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)
    )
    weight = torch.randn(3, 5, 16)
    found, expected = LeanNorm(norm)(ours), norm(theirs)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize(
    ("architecture", "replaced"), [("llama", 3 + 7), ("qwen2", 3 + 7), ("qwen3", 3 + 7 + 6), ("gemma3", 0)]
)
def test_losses_and_gradients_equal_those_without(
    make_tiny: Tiny, method: MethodPlan, architecture: str, replaced: int, quantised: bool
) -> None:
    model = make_tiny(architecture)
    if quantised:
        quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    adapted(model, method)
    expected = loss_and_gradients(model)
    with lean(model):
        assert sum(isinstance(module, (LeanNorm, LeanGated)) for module in model.modules()) == replaced
        found = loss_and_gradients(model)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert ((found[1] - expected[1]).abs().max() / expected[1].abs().max()).item() < 1e-5


def test_afterwards_the_modules_are_the_ones_from_before(make_tiny: Tiny, method: MethodPlan) -> None:
    model = adapted(make_tiny(), method)
    before, names = list(model.modules()), list(lora_parameters(model))
    with lean(model):
        assert list(lora_parameters(model)) == names
    assert all(a is b for a, b in zip(before, model.modules(), strict=True))


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"targets": ("q_proj",)}])
def test_a_layer_that_needs_more_than_the_formula_is_left_alone(
    make_tiny: Tiny, make_method: Callable[..., MethodPlan], changes: dict[str, object]
) -> None:
    model = adapted(make_tiny(), make_method(**changes))
    with lean(model):
        assert not any(isinstance(module, LeanGated) for module in model.modules())


def test_less_is_kept_for_backward(make_tiny: Tiny, method: MethodPlan) -> None:
    model = adapted(make_tiny(), method)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def kept() -> int:
        held: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(input_ids=IDS, labels=IDS).loss
        assert loss.isfinite()
        return sum(held.values())

    before = kept()
    with lean(model):
        assert kept() < 0.9 * before


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_with_the_adapter_off_the_lean_layers_give_the_base(
    make_tiny: Tiny, method: MethodPlan, architecture: str
) -> None:
    model = make_tiny(architecture)
    with torch.no_grad():
        base = model(input_ids=IDS).logits
        adapted(model, method)
        with lean(model), adapter_off(model):
            found = model(input_ids=IDS).logits
        with lean(model):
            assert not torch.allclose(model(input_ids=IDS).logits, base, atol=1e-3)
    torch.testing.assert_close(found, base, rtol=1e-5, atol=1e-5)
