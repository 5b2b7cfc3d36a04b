"""What a decoder layer asks of a device for one packed row: operations that are no views, each of which a GPU launches.

    python benchmarks/launches.py                  # counted on a CPU: the number is the same on every device
    python benchmarks/launches.py --device cuda    # launches as the driver sees them, and the host's time for them

Two tiny models, one with two layers more than the other; what the deeper one has more of is told per layer. A formula between
products counts as one operation, as it is one kernel where it is compiled, and so does attention, each way. The host's time is
of rows of 16 tokens, so next to nothing of it is arithmetic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.model import attention
from burnish.model.attention import PackedLayout, Segment
from burnish.model.full import train_every_weight
from burnish.model.fused import frozen, group
from burnish.model.fused.formulas import AS_WRITTEN, COMPILED, Activation, Formulas, gate_backward_in_place
from burnish.model.fused.replace import fused
from burnish.model.load import quantise_nf4
from burnish.model.lora import attach_lora, lora_parameters
from burnish.model.lora_linear import LoraLinear
from burnish.model.recompute import Recomputation

Method = Literal["lora", "qlora", "full"]
METHODS: tuple[Method, ...] = get_args(Method)
NO_KERNEL = frozenset(
    {"empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided", "_unsafe_view", "detach"}
)
"""Operations that are not views by their signature and start no kernel."""
TOKENS = 16


class Operations(TorchDispatchMode):
    """Counts operations that are no views, but for those within `as_one`."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[str]()
        self.within = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition("::")[2].partition(".")[0]
        if not self.within and not func.is_view and name not in NO_KERNEL:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))

    def as_one(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work`, which counts as one operation."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.seen[name] += not self.within
            self.within += 1
            try:
                return work(*args, **kwargs)
            finally:
                self.within -= 1

        return counted


@contextmanager
def as_on_a_gpu(operations: Operations) -> Iterator[None]:
    """Within the block what is one kernel there counts as one: attention each way, products in float32, NF4 weights unpacked."""
    products, unpack = group.exact_product, frozen.unpack_nf4
    group.exact_product = operations.as_one("product in float32", products)
    frozen.unpack_nf4 = operations.as_one("unpack NF4", unpack)
    kernel = attention._SegmentAttention
    forward, backward = kernel.forward, kernel.backward
    kernel.forward = staticmethod(operations.as_one("attention", forward))
    kernel.backward = staticmethod(operations.as_one("attention", backward))
    try:
        yield
    finally:
        kernel.forward, kernel.backward = staticmethod(forward), staticmethod(backward)
        group.exact_product, frozen.unpack_nf4 = products, unpack


def tiny(method: Method, layers: int, device: str) -> PreTrainedModel:
    """Return a model of so many layers, in bfloat16, that is trained by a method."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    model.eval().requires_grad_(False)
    if method == "qlora":
        quantise_nf4(model, double_quantisation=True, device=device, dtype=torch.bfloat16)
    if method == "full":
        train_every_weight(model)
    else:
        plan = MethodPlan(
            kind=method, rank=8, alpha=16.0, dropout=0.0, targets=("all-linear",),
            quantisation="nf4" if method == "qlora" else "none", double_quantisation=True,
        )  # fmt: skip
        attach_lora(model, plan, seed=0)
    return model.to(device).train()


@contextmanager
def row_of(model: PreTrainedModel, formulas: Formulas, again: int, device: str) -> Iterator[Callable[[], Tensor]]:
    """Yield a function that computes a packed row's last hidden states on fused layers, the first `again` computed again."""
    segments = Segment(0, 7), Segment(7, TOKENS)
    layout = PackedLayout(segments, torch.cat([torch.arange(7), torch.arange(TOKENS - 7)]).to(device))
    ids = torch.arange(TOKENS, device=device)[None]
    adds = any(isinstance(module, LoraLinear) for module in model.modules())
    for parameter in lora_parameters(model).values():  # gradients are there from the start, as in train/updates.py
        parameter.grad = torch.zeros_like(parameter)
    with attention.packing(model), fused(model, formulas, join_weights=True, adds=adds), Recomputation(model, again):
        yield (
            lambda: (
                model.base_model(
                    input_ids=ids, position_ids=layout.positions_T[None], use_cache=False, packed=layout
                ).last_hidden_state
            )
        )


def in_place(da: Tensor, g: Tensor, u: Tensor, activation: Activation) -> tuple[Tensor, Tensor, Tensor]:
    """The gate's backward as a GPU has it."""
    gate_backward_in_place(da, g, u, activation)
    return g, u, da


def counted(method: Method, layers: int, again: int) -> tuple[Counter[str], Counter[str]]:
    """Return the operations of a second row's forward pass, and of its backward pass."""
    operations = Operations()
    written = replace(AS_WRITTEN, gate_backward=in_place)
    as_one = {each.name: operations.as_one(each.name, getattr(written, each.name)) for each in fields(Formulas)}
    model = tiny(method, layers, "cpu")
    with as_on_a_gpu(operations), row_of(model, replace(written, **as_one), again, "cpu") as row:
        row().float().sum().backward()  # now gradients are there, to which the next row's are added
        operations.seen.clear()
        with operations:
            hidden = row()
            forward = Counter(operations.seen)
            hidden.float().sum().backward()
    return forward, operations.seen - forward


def per_layer(method: Method, again: bool = False) -> tuple[dict[str, float], dict[str, float]]:
    """Return the operations of a layer forward and backward."""
    few, more = (counted(method, layers, layers if again else 0) for layers in (2, 4))
    return tuple(
        {name: (deep[name] - flat[name]) / 2 for name in deep if deep[name] != flat[name]}
        for flat, deep in zip(few, more, strict=True)
    )  # type: ignore[return-value]


def host_seconds(method: Method, device: str, rounds: int = 30) -> float:
    """Return the median seconds of processor time that a layer's row takes, forward and backward."""
    found = []
    for layers in (2, 10):
        model = tiny(method, layers, device)
        times = []
        with row_of(model, COMPILED if device == "cuda" else AS_WRITTEN, 0, device) as row:
            for _ in range(rounds):
                if device == "cuda":
                    torch.cuda.synchronize()
                began = time.process_time()
                row().float().sum().backward()
                times.append(time.process_time() - began)
        found.append(statistics.median(times[rounds // 3 :]))
    return (found[1] - found[0]) / 8


def driver_launches(method: Method) -> float:
    """Return the kernels that a layer's row launches on a GPU, by the driver's own record."""
    from torch.profiler import ProfilerActivity, profile

    found = []
    for layers in (2, 10):
        with row_of(tiny(method, layers, "cuda"), COMPILED, 0, "cuda") as row:
            for _ in range(4):
                row().float().sum().backward()
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
                row().float().sum().backward()
                torch.cuda.synchronize()
        found.append(sum(each.count for each in seen.key_averages() if "LaunchKernel" in each.key))
    return (found[1] - found[0]) / 8


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--each", action="store_true", help="name the operations")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for method in METHODS:
        line: dict[str, Any] = {"method": method, "host_us": round(host_seconds(method, asked.device) * 1e6)}
        if asked.device == "cuda":
            line["launches"] = driver_launches(method)
        else:
            for again in (False, True):
                forward, backward = per_layer(method, again)
                name = "again" if again else "kept"
                line[name] = [sum(forward.values()), sum(backward.values())]
                if asked.each:
                    print(method, name, "forward", forward, "backward", backward, sep="\n  ")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
