# ruff: noqa: B023 (each function is timed before its loop goes on)
"""The parts of a training step on a GPU, each in several ways, at the shapes of Llama 3.1 8B: milliseconds (medians).

python benchmarks/gpu_parts.py                # all
python benchmarks/gpu_parts.py products fp8   # some: products lora fp8 nf4 attention loss formulas
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from triton.testing import do_bench

from burnish.model.attention import KERNELS, Attending, PackedLayout, Segment, fits
from burnish.model.fused import formulas as written
from burnish.model.fused.formulas import AS_WRITTEN, COMPILED

T, D, WIDTH, V, R = 8192, 4096, 14336, 128256, 16
BF16 = torch.bfloat16


def say(name: str, work: Callable[[], Any], flops: float = 0.0, moved: float = 0.0) -> None:
    """Time one way and print it. Something that fails is printed too: the others go on."""
    try:
        ms = do_bench(work, warmup=20, rep=60, return_mode="median")
    except Exception as error:  # noqa: BLE001
        print(f"{name:58s} failed: {str(error)[:150]!r}", flush=True)
        return
    rate = f"{flops / ms / 1e9:6.0f} TFLOP/s" if flops else f"{moved / ms / 1e6:6.0f} GB/s" if moved else ""
    print(f"{name:58s} {ms:8.3f} ms {rate}", flush=True)


def new(*shape: int, scale: float = 0.02) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda", dtype=torch.float32) * scale).to(BF16)


def products() -> None:
    x, a = new(T, D, scale=1), new(T, WIDTH, scale=1)
    qkv, gate_up, down = new(6144, D), new(2 * WIDTH, D), new(D, WIDTH)
    say("qkv joined", lambda: F.linear(x, qkv), 2 * T * D * 6144)
    say("q, k, v one by one", lambda: [F.linear(x, w) for w in qkv.split([4096, 1024, 1024])], 2 * T * D * 6144)
    say("gate_up joined", lambda: F.linear(x, gate_up), 4 * T * D * WIDTH)
    say("gate, up one by one", lambda: [F.linear(x, w) for w in gate_up.split(WIDTH)], 4 * T * D * WIDTH)
    say("down", lambda: F.linear(a, down), 2 * T * D * WIDTH)
    dq, dg = new(T, 6144), new(T, WIDTH)
    say("d qkv joined", lambda: dq @ qkv, 2 * T * D * 6144)
    parts, weights = dq.split([4096, 1024, 1024], dim=1), qkv.split([4096, 1024, 1024])

    def one_by_one() -> torch.Tensor:
        dx = parts[0] @ weights[0]
        return dx.addmm_(parts[1], weights[1]).addmm_(parts[2], weights[2])

    say("d q, k, v one by one", one_by_one, 2 * T * D * 6144)
    both = new(T, 2 * WIDTH)
    say("d gate_up joined", lambda: both @ gate_up, 4 * T * D * WIDTH)
    say("d gate, up", lambda: (dg @ gate_up[:WIDTH]).addmm_(dg, gate_up[WIDTH:]), 4 * T * D * WIDTH)
    say("d down", lambda: x @ down, 2 * T * D * WIDTH)
    say("copy 470 MB", lambda: both.clone(), 0, 4 * both.numel())


def lora() -> None:
    x, gate_up = new(T, D, scale=1), new(2 * WIDTH, D)
    a, b, y = new(2 * R, D), [new(WIDTH, R) for _ in range(2)], new(T, 2 * WIDTH)
    h = x @ a.t()
    hs, bt = h.split(R, dim=1), [one.t() for one in b]
    out = torch.empty_like(y)
    say("gate_up alone", lambda: torch.mm(x, gate_up.t(), out=out))
    say("h = x A^T", lambda: x @ a.t(), 0, 2 * x.numel())
    say(
        "y += h B^T, in parts",
        lambda: [p.addmm_(i, j) for p, i, j in zip(y.split(WIDTH, 1), hs, bt, strict=True)],
        0,
        4 * y.numel(),
    )
    whole = torch.block_diag(*b)
    say("y += h B^T, whole", lambda: y.addmm_(h, whole.t()), 0, 4 * y.numel())

    def small_first() -> None:
        torch.mm(h, whole.t(), out=out)
        out.addmm_(x, gate_up.t())

    say("y = h B^T, then y += x W^T", small_first)
    say("y = h B^T alone", lambda: torch.mm(h, whole.t(), out=out), 0, 2 * y.numel())
    wide_x, wide_w = torch.cat([x, h], dim=1), torch.cat([gate_up, whole], dim=1)
    say("y = [x h] [W B]^T", lambda: torch.mm(wide_x, wide_w.t(), out=out))
    say("[dx dh] = dy [W B]", lambda: y @ wide_w)
    say("dx = dy W", lambda: y @ gate_up)
    say(
        "dh = dy B, in parts",
        lambda: torch.cat([p @ j for p, j in zip(y.split(WIDTH, 1), b, strict=True)], 1),
        0,
        2 * y.numel(),
    )
    say("dh = dy B, whole", lambda: y @ whole, 0, 2 * y.numel())
    say(
        "dB = dy^T h, parts, float32 out",
        lambda: [torch.mm(p.t(), i, out_dtype=torch.float32) for p, i in zip(y.split(WIDTH, 1), hs, strict=True)],
        0,
        2 * y.numel(),
    )
    say(
        "dB^T = h^T dy, parts",
        lambda: [i.t() @ p for p, i in zip(y.split(WIDTH, 1), hs, strict=True)],
        0,
        2 * y.numel(),
    )
    say("dB^T = h^T dy, whole", lambda: h.t() @ y, 0, 2 * y.numel())
    pair, h_2TR = torch.stack(b), h.view(T, 2, R).transpose(0, 1)  # neighbours of one width: group.py's runs
    out_2TO, y_2TO, dh_2TR = (z.view(T, 2, -1).transpose(0, 1) for z in (out, y, torch.empty_like(h)))
    say(
        "y = h B^T, in parts",
        lambda: [p.addmm_(i, j, beta=0) for p, i, j in zip(out.split(WIDTH, 1), hs, bt, strict=True)],
        0,
        2 * y.numel(),
    )
    say("y = h B^T, a batch", lambda: out_2TO.baddbmm_(h_2TR, pair.transpose(1, 2), beta=0), 0, 2 * y.numel())
    say("dh = dy B, a batch", lambda: dh_2TR.baddbmm_(y_2TO, pair, beta=0), 0, 2 * y.numel())
    say(
        "dB = dy^T h, a batch, float32 out",
        lambda: torch.bmm(y_2TO.transpose(1, 2), h_2TR, out_dtype=torch.float32),
        0,
        2 * y.numel(),
    )
    say("dA = dh^T x, float32 out", lambda: torch.mm(h.t(), x, out_dtype=torch.float32), 0, 2 * x.numel())
    say("dx += dh A", lambda: x.addmm_(h, a, alpha=1e-3), 0, 4 * x.numel())


def fp8() -> None:
    for name, inner, outer in (
        ("qkv", D, 6144),
        ("gate_up", D, 2 * WIDTH),
        ("down", WIDTH, D),
        ("d gate", WIDTH, D),
        ("o", D, D),
    ):
        x, w = new(T, inner, scale=1), new(outer, inner)
        (xq, xs), (wq, ws) = AS_WRITTEN.rounded(x), AS_WRITTEN.rounded(w)
        ws = ws.t().contiguous()
        one = torch.ones((), device="cuda")
        flops = 2 * T * inner * outer
        for fast in (True, False):
            say(
                f"{name} rows, fast {fast}",
                lambda: torch._scaled_mm(xq, wq.t(), xs, ws, out_dtype=BF16, use_fast_accum=fast),
                flops,
            )
            say(
                f"{name} tensor, fast {fast}",
                lambda: torch._scaled_mm(xq, wq.t(), one, one, out_dtype=BF16, use_fast_accum=fast),
                flops,
            )
        say(f"{name} bfloat16", lambda: x @ w.t(), flops)
        say(f"{name} rounding x", lambda: COMPILED.rounded(x), 0, 3 * x.numel())


def nf4() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = new(WIDTH, D)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    out = torch.empty_like(weight)
    say("unpack gate", lambda: dequantize_4bit(packed, state), 0, 2.5 * weight.numel())
    say("unpack gate into a buffer", lambda: dequantize_4bit(packed, state, out=out), 0, 2.5 * weight.numel())


def attention() -> None:
    for name, lengths in (("4 x 2048", [2048] * 4), ("mixed", [180, 90, 700, 2048, 60, 300] * 2 + [1436])):
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        segments = tuple(Segment(s, s + n) for s, n in zip(starts, lengths, strict=True))
        tokens = sum(lengths)
        layout = PackedLayout(segments, torch.cat([torch.arange(n) for n in lengths]).cuda())
        q, k, v = new(tokens, 32, 128, scale=1), new(tokens, 8, 128, scale=1), new(tokens, 8, 128, scale=1)
        for tensor in (q, k, v):
            tensor.requires_grad_()
        asked = Attending(layout, 128**-0.5, None, None)
        dout = new(tokens, 32, 128)
        forward = sum(2 * 2 * n * n / 2 * 4096 for n in lengths)
        for kernel in ("varlen", "blocks", "flex"):
            if not fits(kernel, q.transpose(0, 1)[None], asked):
                continue
            say(f"{name} {kernel} forward", lambda: KERNELS[kernel](q, k, v, asked), forward)
            try:
                out = KERNELS[kernel](q, k, v, asked)
            except Exception:  # noqa: BLE001
                continue
            say(
                f"{name} {kernel} backward",
                lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True),
                2.5 * forward,
            )
        cudnn(name, q, k, v, asked, dout, forward)


def cudnn(name: str, q: Any, k: Any, v: Any, asked: Attending, dout: Any, forward: float) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        if not fits("blocks", q.transpose(0, 1)[None], asked):
            return
        with sdpa_kernel(backend):
            say(f"{name} blocks {backend.name} forward", lambda: KERNELS["blocks"](q, k, v, asked), forward)
            try:
                out = KERNELS["blocks"](q, k, v, asked)
            except RuntimeError:
                continue
            say(
                f"{name} blocks {backend.name} backward",
                lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True),
                2.5 * forward,
            )


def loss() -> None:
    from burnish.model.losses import LossForm, likelihood, losses_as, target_loss

    hidden, head = new(T, D, scale=1).requires_grad_(), new(V, D)
    targets = torch.randint(0, V, (T,), device="cuda")
    for chunk in (1024, 2048, 4096):
        compiled = torch.compile(written.likelihood)
        for name, formula in (("our kernel", COMPILED.likelihood), ("compiled", compiled), ("as written", likelihood)):
            with losses_as(LossForm(chunk, formula)):
                say(f"loss, chunks of {chunk}, {name}", lambda: target_loss(hidden, head, targets), 4 * T * D * V)
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Liger
    except ImportError:
        return
    say("loss, Liger", lambda: Liger.apply(hidden, head, targets), 4 * T * D * V)


def formulas() -> None:
    x, w, g, u = new(T, D, scale=1), new(D), new(T, 2 * WIDTH, scale=1), new(T, WIDTH)
    gate, up = g.split(WIDTH, dim=1)
    cos, sin = new(T, 128, scale=1), new(T, 128, scale=1)
    qkv = new(T, 6144)
    for name, forms in (("compiled", COMPILED), ("as written", AS_WRITTEN)):
        say(f"norm {name}", lambda: forms.norm(x, w, 1e-5, False), 0, 4 * x.numel())
        say(f"add_norm {name}", lambda: forms.add_norm(x, x, w, 1e-5, False), 0, 8 * x.numel())
        _, inverse = forms.norm(x, w, 1e-5, False)
        say(f"norm_backward {name}", lambda: forms.norm_backward(x, x, w, inverse, False, x), 0, 10 * x.numel())
        say(f"gate {name}", lambda: forms.gate(gate, up, "silu"), 0, 6 * u.numel())
        say(f"gate_backward {name}", lambda: forms.gate_backward(u, gate, up, "silu"), 0, 12 * u.numel())
        q, k, v = forms.heads(qkv, cos, sin, (32, 8))
        say(f"heads {name}", lambda: forms.heads(qkv, cos, sin, (32, 8)), 0, 4 * qkv.numel())
        say(f"heads_backward {name}", lambda: forms.heads_backward(q, k, v, cos, sin), 0, 4 * qkv.numel())
    normed = torch.compile(written.norm)
    say("norm by the compiler", lambda: normed(x, w, 1e-5, False), 0, 4 * x.numel())
    turn, turn_back = torch.compile(written.heads), torch.compile(written.heads_backward)
    say("heads by the compiler", lambda: turn(qkv, cos, sin, (32, 8)), 0, 4 * qkv.numel())
    say("heads_backward by the compiler", lambda: turn_back(q, k, v, cos, sin), 0, 4 * qkv.numel())


PARTS = {
    "products": products,
    "lora": lora,
    "fp8": fp8,
    "nf4": nf4,
    "attention": attention,
    "loss": loss,
    "formulas": formulas,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    for part in sys.argv[1:] or PARTS:
        print(f"-- {part}", flush=True)
        PARTS[part]()
