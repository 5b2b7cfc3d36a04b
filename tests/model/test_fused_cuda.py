"""The same on a CUDA device: every kernel and every form of the weights against the plain path in higher precision."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from burnish.core.artifacts import MethodPlan
from burnish.model.attention import KERNELS, Attending, Kernel, PackedLayout, Segment, fits
from burnish.model.fused import formulas
from burnish.model.fused.frozen import Fp8
from burnish.model.fused.paths import PLAIN, Paths, on_gpu, on_paths
from burnish.model.load import quantise_nf4
from burnish.model.lora import attach_lora, lora_parameters
from burnish.model.losses import LossForm, losses_as, target_loss
from burnish.model.recompute import Recomputation
from burnish.train import sft
from burnish.train.pack import PackedRow

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
SIZES = {
    "vocab_size": 1031, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES),
    "qwen2": lambda: Qwen2Config(**{key: value for key, value in SIZES.items() if key != "head_dim"}),
    "qwen3": lambda: Qwen3Config(**SIZES),
    "gemma2": lambda: Gemma2Config(**SIZES, sliding_window=48, query_pre_attn_scalar=64),
}
LAYOUTS = {
    "alone": (Segment(0, 64), Segment(64, 128), Segment(128, 192), Segment(192, 256)),
    "mixed": (Segment(0, 100), Segment(100, 103), Segment(103, 256)),
    "prefix": (Segment(0, 40), Segment(40, 90, 0, 40), Segment(90, 150, 0, 40), Segment(150, 256)),
}


def layout(name: str) -> PackedLayout:
    segments = LAYOUTS[name]
    positions = [torch.arange(segment.end - segment.start) + segment.seen for segment in segments]
    return PackedLayout(segments, torch.cat(positions).to(CUDA))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kernel", ["varlen", "blocks", "flex", "masked"])
def test_kernels_and_their_gradients_equal_the_segments_in_float64(
    kernel: Kernel, name: str, window: int | None, softcap: float | None
) -> None:
    torch.manual_seed(0)
    asked = Attending(layout(name), 0.125, window, softcap)
    given = [torch.randn(256, heads, 64, device=CUDA) for heads in (4, 2, 2)]
    ours = [x.to(torch.bfloat16).requires_grad_() for x in given]
    if not fits(kernel, ours[0].transpose(0, 1)[None], asked):
        pytest.skip("this kernel does not compute this")
    theirs = [x.detach().double().requires_grad_() for x in ours]
    weight = torch.randn(256, 4, 64, device=CUDA)
    found, expected = KERNELS[kernel](*ours, asked), KERNELS["segments"](*theirs, asked)
    assert relative(found, expected) < 1e-2
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert relative(mine.grad, other.grad) < 1.5e-2


def build(family: str, method: MethodPlan) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation="sdpa").float()
    model.eval().requires_grad_(False)
    attach_lora(model, method, seed=0)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    return model.train()


def packed_row() -> PackedRow:
    draw = torch.Generator().manual_seed(1)
    at = torch.arange(0, 255, 2)
    return PackedRow(
        row_ids=("a",), tokens=256, ids_T=torch.randint(0, 1031, (256,), generator=draw).to(CUDA), layout=layout("mixed"),
        at_N=at.to(CUDA), targets_N=torch.randint(0, 1031, at.shape, generator=draw).to(CUDA),
    )  # fmt: skip


def loss_and_gradients(
    model: PreTrainedModel, paths: Paths, *, fp8: Fp8 | None = None, layers: int = 0
) -> tuple[float, list[torch.Tensor]]:
    with on_paths(model, paths, fp8=fp8) as alone, Recomputation(model, layers):
        assert not alone
        loss = sft.loss(model, packed_row())
        loss.backward()
    gradients = [parameter.grad.clone() for parameter in lora_parameters(model).values()]
    for parameter in lora_parameters(model).values():
        parameter.grad = None
    return loss.item(), gradients


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("family", CONFIGS)
def test_compiled_joined_layers_equal_the_plain_path_in_float32(
    family: str, layers: int, make_method: Callable[..., MethodPlan]
) -> None:
    model = build(family, make_method()).to(CUDA)
    expected = loss_and_gradients(model, PLAIN)
    found = loss_and_gradients(model, on_gpu(1031), layers=layers)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for mine, other in zip(found[1], expected[1], strict=True):
        assert (mine - other).abs().max() < 1e-4 * other.abs().max()


@pytest.mark.parametrize("form", ["float32", "nf4"])
def test_trained_biases_equal_the_plain_path_in_float32(form: str, make_method: Callable[..., MethodPlan]) -> None:
    model = build("qwen2", make_method(bias="lora_only")).to(CUDA)
    if form == "nf4":
        quantise_nf4(model, double_quantisation=True, device="cuda", dtype=torch.float32)
    assert sum(name.endswith(".bias") for name in lora_parameters(model)) == 9
    expected = loss_and_gradients(model, PLAIN)
    found = loss_and_gradients(model, on_gpu(1031), layers=1)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for mine, other in zip(found[1], expected[1], strict=True):
        assert (mine - other).abs().max() < 1e-4 * other.abs().max()


@pytest.mark.parametrize("attention", ["varlen", "flex"])
@pytest.mark.parametrize("form", ["bf16", "nf4"])
@pytest.mark.parametrize("family", CONFIGS)
def test_in_bfloat16_they_are_as_near_to_float32_as_the_plain_path(
    family: str, form: str, attention: Kernel, make_method: Callable[..., MethodPlan]
) -> None:
    if (family, attention) == ("gemma2", "flex"):
        pytest.skip(
            "with capped scores FlexAttention compiles alone, not within a model: the choice of paths leaves it out"
        )
    model = build(
        family, make_method(kind="qlora" if form == "nf4" else "lora", quantisation="nf4" if form == "nf4" else "none")
    )
    exact = copy.deepcopy(model).to(CUDA)
    half = model
    adapters = lora_parameters(half)
    for module in half.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not any(parameter is adapter for adapter in adapters.values()):
                setattr(module, name, torch.nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))
    if form == "nf4":
        for one, dtype in ((exact, torch.float32), (half, torch.bfloat16)):
            quantise_nf4(one, double_quantisation=True, device="cuda", dtype=dtype)
    half.to(CUDA)
    expected = loss_and_gradients(exact, PLAIN)
    plain = loss_and_gradients(half, PLAIN)
    paths = on_gpu(1031)
    fast = loss_and_gradients(
        half, Paths(**{**{n: getattr(paths, n) for n in Paths.__slots__}, "attention": attention})
    )
    assert fast[0] == pytest.approx(expected[0], rel=5e-3)
    worst = [max(relative(a, b) for a, b in zip(found[1], expected[1], strict=True)) for found in (plain, fast)]
    assert worst[1] < max(1.5 * worst[0], 0.02), worst


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="needs a card that multiplies float8",
)
@pytest.mark.parametrize(("form", "cosine"), [("fp8", 0.99), ("fp8_all", 0.98)])
def test_with_a_float8_base_adapter_gradients_point_the_same_way(
    make_method: Callable[..., MethodPlan], form: Fp8, cosine: float
) -> None:
    model = build("llama", make_method())
    adapters = lora_parameters(model)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not any(parameter is adapter for adapter in adapters.values()):
                setattr(module, name, torch.nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))
    model.to(CUDA)
    expected = loss_and_gradients(model, on_gpu(1031))
    found = loss_and_gradients(model, on_gpu(1031), fp8=form)
    assert found[0] == pytest.approx(expected[0], rel=1e-2)
    for mine, other in zip(found[1], expected[1], strict=True):
        assert torch.nn.functional.cosine_similarity(mine.flatten(), other.flatten(), dim=0) > cosine


def test_nf4_weights_are_unpacked_as_bitsandbytes_does() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from burnish.model.fused.kernels import unpack

    torch.manual_seed(0)
    weight = (torch.randn(96, 1088, device=CUDA) * 0.02).to(torch.bfloat16)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    found = torch.full_like(weight, float("nan"))
    unpack(packed, state, found)
    assert torch.equal(found, dequantize_4bit(packed, state))


@pytest.mark.parametrize("width", [64, 300, 4096, 14336, 28672])
def test_rows_are_rounded_as_the_formula_says(width: int) -> None:
    from burnish.model.fused.kernels import rounded

    torch.manual_seed(0)
    x = torch.randn(9, width + 5, device=CUDA).to(torch.bfloat16)[:, :width]
    (found, scale), (expected, scales) = rounded(x), formulas.rounded(x)
    torch.testing.assert_close(scale, scales)
    assert (found.float() != expected.float()).float().mean() < 1e-3
    assert relative(found.float() * scale, x.float()) < 0.04


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("width", [64, 576, 4096, 28672])
def test_rows_are_normed_as_the_formula_says(width: int, offset: bool) -> None:
    from burnish.model.fused.kernels import norm

    torch.manual_seed(0)
    x, weight = (torch.randn(*shape, device=CUDA) for shape in ((9, width + 8), (width,)))
    for dtype, limit in ((torch.float32, 1e-6), (torch.bfloat16, 4e-3)):
        rows, by = x.to(dtype)[:, :width], weight.to(dtype)
        (found, inverse), (expected, exact) = (
            norm(rows, by, 1e-5, offset),
            formulas.norm(rows.double(), by.double(), 1e-5, offset),
        )
        assert relative(found, expected) < limit
        assert inverse.shape == (9, 1)
        assert relative(inverse, exact) < 1e-6


@pytest.mark.parametrize(("heads", "key_heads", "size", "tokens"), [(32, 8, 128, 300), (9, 3, 64, 33), (14, 2, 80, 7)])
def test_heads_are_turned_there_and_back_as_the_formula_says(
    heads: int, key_heads: int, size: int, tokens: int
) -> None:
    from burnish.model.fused import kernels

    torch.manual_seed(0)
    for dtype, limit in ((torch.float32, 1e-6), (torch.bfloat16, 4e-3), (torch.float16, 1e-3)):
        cos, sin = (torch.randn(tokens, size, device=CUDA).to(dtype) for _ in range(2))
        qkv = torch.randn(tokens, (heads + 2 * key_heads) * size, device=CUDA).to(dtype)
        found = kernels.heads(qkv, cos, sin, (heads, key_heads))
        expected = formulas.heads(qkv.double(), cos.double(), sin.double(), (heads, key_heads))
        assert all(relative(a, b) < limit for a, b in zip(found, expected, strict=True))
        assert torch.equal(found[2], expected[2].to(dtype)), "values are not turned"
        # Gradients come as attention's backward leaves them: a head's tokens beside each other, or a token's heads.
        turned = [part.transpose(0, 1).contiguous().transpose(0, 1) for part in found]
        expected = formulas.heads_backward(*(part.double() for part in found), cos.double(), sin.double())
        for gradients in (found, turned):
            assert relative(kernels.heads_backward(*gradients, cos, sin), expected) < limit


@pytest.mark.parametrize("width", [100, 8192, 128_256])
def test_a_row_of_logits_has_the_likelihood_of_the_formula(width: int) -> None:
    from burnish.model.fused import kernels

    torch.manual_seed(0)
    for dtype, limit in ((torch.float32, 1e-6), (torch.bfloat16, 4e-3)):
        logits = (torch.randn(37, width, device=CUDA) * 5).to(dtype)
        logits[0, : width // 2] = -torch.inf
        logits[1, -1] = 80.0
        targets = torch.randint(width // 2, width, (37,), device=CUDA)
        nats, gradient = formulas.likelihood(logits.double(), targets)
        found, written = kernels.likelihood(logits, targets)
        assert written is logits
        torch.testing.assert_close(found.double(), nats, rtol=1e-5, atol=1e-5)
        assert relative(written, gradient) < limit


@pytest.mark.parametrize("chunk", [100, 1000])
def test_the_compiled_loss_equals_cross_entropy(chunk: int) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(777, 64, device=CUDA), torch.randn(1031, 64, device=CUDA)
    targets = torch.randint(0, 1031, (777,), device=CUDA)
    ours, theirs = (hidden.clone().requires_grad_() for _ in range(2))
    with losses_as(LossForm(chunk, formulas.COMPILED.likelihood)):
        found = target_loss(ours, head, targets)
    expected = torch.nn.functional.cross_entropy(theirs @ head.t(), targets, reduction="sum")
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert relative(ours.grad, theirs.grad) < 1e-5
