from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from burnish.model.attention import (
    KERNELS,
    Attending,
    PackedLayout,
    Segment,
    fits,
    packed_attention,
    packing,
    row_mask,
)

# two groups: a prefix of 3 with tails of 2 and 4, and one sample of 3 without a prefix
LAYOUT = PackedLayout(
    (Segment(0, 3), Segment(3, 5, 0, 3), Segment(5, 9, 0, 3), Segment(9, 12)),
    torch.tensor([0, 1, 2, 3, 4, 3, 4, 5, 6, 0, 1, 2]),
)
SEEN = [
    "x...........", "xx..........", "xxx.........",  # the prefix, causally
    "xxxx........", "xxxxx.......",  # its first tail
    "xxx..x......", "xxx..xx.....", "xxx..xxx....", "xxx..xxxx...",  # its second
    ".........x..", ".........xx.", ".........xxx",  # another sample
]  # fmt: skip


def by_mask(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    key, value = (x.repeat_interleave(2, dim=1) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3).transpose(1, 2)


def test_a_token_sees_its_prefix_and_its_own_sample_only() -> None:
    drawn = ["".join("x" if seen else "." for seen in row) for row in row_mask(LAYOUT, torch.device("cpu")).tolist()]
    assert drawn == SEEN


def test_a_window_also_counts_positions_across_the_prefix() -> None:
    mask = row_mask(LAYOUT, torch.device("cpu"), window=3)
    assert ["".join("x" if seen else "." for seen in row) for row in mask[5:9].tolist()] == [
        ".xx..x......", "..x..xx.....", ".....xxx....", "......xxx...",
    ]  # fmt: skip


@pytest.mark.parametrize("window", [None, 3])
def test_values_and_gradients_equal_one_masked_attention(window: int | None) -> None:
    torch.manual_seed(0)
    shapes = {"query": 4, "key": 2, "value": 2}
    ours = {
        name: torch.randn(1, heads, 12, 8, dtype=torch.float64, requires_grad=True) for name, heads in shapes.items()
    }
    theirs = {name: tensor.detach().clone().requires_grad_() for name, tensor in ours.items()}
    module = torch.nn.Module()
    found, _ = packed_attention(module, **ours, attention_mask=None, packed=LAYOUT, scaling=0.3, sliding_window=window)
    expected = by_mask(**theirs, mask=row_mask(LAYOUT, torch.device("cpu"), window))
    weight = torch.randn_like(expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(found, expected)
    for name in shapes:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad)


@pytest.mark.parametrize("window", [None, 3])
def test_capped_scores_and_their_gradients_equal_the_formula(window: int | None) -> None:
    torch.manual_seed(0)
    ours = [torch.randn(1, heads, 12, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    found, _ = packed_attention(
        torch.nn.Module(), *ours, None, packed=LAYOUT, scaling=0.9, sliding_window=window, softcap=1.5
    )
    query, key, value = theirs[0], *(x.repeat_interleave(2, dim=1) for x in theirs[1:])
    scores = 1.5 * torch.tanh(0.9 * query @ key.transpose(2, 3) / 1.5)
    hidden = ~row_mask(LAYOUT, torch.device("cpu"), window)
    expected = (scores.masked_fill(hidden, float("-inf")).softmax(dim=-1) @ value).transpose(1, 2)
    weight = torch.randn_like(expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(found, expected)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_attention_weights_are_not_dropped() -> None:
    x = torch.randn(1, 2, 12, 8)
    found = [
        packed_attention(torch.nn.Module(), x, x, x, None, packed=LAYOUT, scaling=1.0, dropout=dropout)[0]
        for dropout in (0.0, 0.5)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (3, 1.5)])
def test_flex_attention_follows_the_same_rule(window: int | None, softcap: float | None) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(12, heads, 8) for heads in (4, 2, 2))
    asked = Attending(LAYOUT, 0.9, window, softcap)
    torch.testing.assert_close(
        KERNELS["flex"](q, k, v, asked), KERNELS["segments"](q, k, v, asked), rtol=1e-5, atol=1e-5
    )


def test_a_kernel_that_does_not_fit_is_not_used() -> None:
    query = torch.randn(1, 4, 12, 8)
    for kernel in ("varlen", "blocks", "flex"):
        assert not fits(kernel, query, Attending(LAYOUT, 1.0, None, None))
    assert not fits("masked", query, Attending(LAYOUT, 1.0, None, 30.0))


def test_samples_of_one_length_are_a_batch() -> None:
    torch.manual_seed(0)
    layout = PackedLayout((Segment(0, 6), Segment(6, 12)), torch.tensor([*range(6)] * 2))
    q, k, v = (torch.randn(12, heads, 8) for heads in (4, 2, 2))
    asked = Attending(layout, 0.9, None, None)
    expected = KERNELS["segments"](q, k, v, asked)
    torch.testing.assert_close(KERNELS["blocks"](q, k, v, asked), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(KERNELS["masked"](q, k, v, asked), expected, rtol=1e-5, atol=1e-5)


def test_packing_gives_the_model_back_as_it_was(make_tiny: Callable[..., PreTrainedModel]) -> None:
    model = make_tiny()
    ids = torch.arange(12)[None]
    before = model(input_ids=ids).logits
    with packing(model):
        inside = model(input_ids=ids, position_ids=LAYOUT.positions_T[None], packed=LAYOUT).logits
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not torch.allclose(inside, before)
