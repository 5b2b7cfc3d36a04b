"""Packed layers compute what plain ones do and give their weights back bit by bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from burnish.model.banked_linear import BankedModel
from burnish.model.load import quantise_nf4
from burnish.model.packed_linear import PackedLinear, can_pack


def linears(*sizes: tuple[int, bool]) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(48, outputs, bias=bias).requires_grad_(False) for outputs, bias in sizes]


BF16 = pytest.param(torch.bfloat16, marks=pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 on this CPU"
))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 15, 16, 17, 300])
@pytest.mark.parametrize("sizes", [[(64, False)], [(64, True), (16, False), (16, True)], [(33, True), (7, True)]])
def test_layers_of_one_input_as_one_product(sizes: list[tuple[int, bool]], tokens: int, dtype: torch.dtype) -> None:
    some = [linear.to(dtype) for linear in linears(*sizes)]
    x = torch.randn(1, tokens, 48, dtype=dtype)
    want = torch.cat([linear(x) for linear in some], dim=-1)
    weights = [linear.weight.clone() for linear in some]
    packed = PackedLinear(some)
    rtol, atol = (1e-5, 1e-6) if dtype == torch.float32 else (1e-2, 1e-2)
    torch.testing.assert_close(packed(x), want, rtol=rtol, atol=atol)
    assert all(linear.weight.numel() == 0 for linear in some), "the weights are in memory twice"
    packed.unpack()
    assert all(torch.equal(linear.weight, weight) for linear, weight in zip(some, weights, strict=True))


def test_few_counts_of_tokens_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps half a megabyte for each count that it meets."""
    packed = PackedLinear(linears((8, True)))
    seen: set[int] = set()
    product = packed._product

    def seeing(x: torch.Tensor) -> torch.Tensor:
        seen.add(x.numel() // 48)
        return product(x)

    monkeypatch.setattr(packed, "_product", seeing)
    for tokens in range(1, 272):
        assert packed(torch.randn(tokens, 48)).shape == (tokens, 8)
    assert set(range(4, 17)) <= seen, "the few tokens of a step are not made many"
    assert len(seen) <= 32


def test_kept_weights_stay() -> None:
    (linear,) = linears((64, False))
    packed = PackedLinear([linear], keep=True)
    assert linear.weight.shape == (64, 48)
    packed.unpack()
    assert linear.weight.shape == (64, 48)


def test_other_layers_stay_as_they_are(make_tiny: Callable[..., PreTrainedModel]) -> None:
    assert not can_pack([linear.to(torch.float16) for linear in linears((8, False))])
    assert not can_pack([*linears((8, False)), linears((8, False))[0].to(torch.bfloat16)])
    model = make_tiny()
    quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    assert not can_pack([model.model.layers[0].mlp.up_proj])


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_a_model_comes_back_as_it_was(make_tiny: Callable[..., PreTrainedModel], architecture: str) -> None:
    model = make_tiny(architecture)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.arange(20)[None]
    want = model(ids).logits
    banked = BankedModel(model)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, want, rtol=1e-4, atol=1e-4)
    banked.take_off()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(model(ids).logits, want)
