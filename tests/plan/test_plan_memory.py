"""Bytes that are arithmetic are exact; activations are those that autograd keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from burnish.core.artifacts import MethodPlan
from burnish.plan.activations import Workload, layer_activation_bytes
from burnish.plan.adapters import resolve_targets
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config
from burnish.plan.constants import constant
from burnish.plan.memory import product_shapes, quantisation_constant_bytes, training_components, weight_bytes

CALIBRATION = Path(__file__).with_name("calibration.jsonl")
"""Rows of calibrate.py, measured on two AMD EPYC 7002 cores, glibc 2.36, torch 2.13.0+cpu, 2026-11-22; lora with rows of 512
and 0 or 30 layers again with fused layers, in float32, 2026-11-29."""
LONG = Path(__file__).parents[2] / "benchmarks" / "results" / "long_context.jsonl"
"""Rows of benchmarks/long_context.py, measured on an H200."""
LLAMA = read_architecture(find_config("llama-3.1-8b-instruct"))
SMOL = read_architecture(find_config("smollm2-135m-instruct"))
TINY: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def method(kind: str = "qlora", **changes: Any) -> MethodPlan:
    values = {
        "kind": kind,
        "rank": 16,
        "alpha": 32.0,
        "dropout": 0.0,
        "targets": resolve_targets(SMOL, ("all-linear",), source="x"),
        "quantisation": "nf4" if kind == "qlora" else "none",
        "double_quantisation": kind == "qlora",
    }
    return MethodPlan.model_validate(values | changes)


def test_the_footprint_of_llama_8b_to_the_byte() -> None:
    assert weight_bytes(LLAMA, "none", "float32") == 32_121_045_504
    assert weight_bytes(LLAMA, "none", "bfloat16") == 2 * 8_030_261_248 + 512
    assert weight_bytes(LLAMA, "nf4", "bfloat16") == 5_591_539_712 + 512
    assert quantisation_constant_bytes(LLAMA, double_quantisation=True) == 111_000_448
    assert quantisation_constant_bytes(LLAMA, double_quantisation=False) == 436_207_616


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_equal_the_footprint_of_a_loaded_model(family: str, dtype: str) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[family](**TINY)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        )
    found = weight_bytes(read_architecture(config.to_dict()), "none", "float32" if dtype == "float32" else "bfloat16")
    assert found == model.get_memory_footprint()


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(
    "changes", [{}, {"intermediate_size": 328, "attention_bias": True}], ids=["even blocks", "broken blocks"]
)
def test_nf4_weights_and_constants_equal_those_that_bitsandbytes_makes(double: bool, changes: dict[str, Any]) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from burnish.model.load import quantise_nf4

    config = LlamaConfig(**(TINY | changes))
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    quantise_nf4(model, double_quantisation=double, device="cpu", dtype=torch.float32)
    architecture = read_architecture(config.to_dict())
    assert weight_bytes(architecture, "nf4", "float32") == model.get_memory_footprint()
    kept = 0
    for parameter in model.parameters():
        if parameter.dtype == torch.uint8:
            state: Any = parameter.quant_state  # pyright: ignore[reportAttributeAccessIssue]
            held = [
                state.absmax,
                *([state.state2.absmax, state.state2.code, state.offset, state.code] if double else []),
            ]
            kept += sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert quantisation_constant_bytes(architecture, double_quantisation=double) == kept


EVERY_WEIGHT: dict[str, Any] = {"rank": 0, "targets": ()}
ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"dropout": 0.1}),
    ("llama", {"plain": True}),
    ("llama", {"kind": "qlora"}),
    ("llama", {"kind": "qlora", "dropout": 0.1}),
    ("llama", {"targets": ("q_proj", "v_proj")}),
    ("llama", {"targets": ("down_proj", "o_proj")}),
    ("qwen2", {}),
    ("qwen3", {}),
    ("mistral", {}),
    ("gemma2", {}),
    ("gemma3_text", {}),
    ("gemma3_text", {"dropout": 0.1}),
    ("qwen3", {"plain": True}),
    ("phi3", {"targets": ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")}),
    ("llama", {"dora": True}),
    ("qwen2", {"dora": True, "dropout": 0.1}),
    ("qwen2", {"bias": "lora_only"}),
    ("qwen2", {"bias": "all", "targets": ("q_proj", "up_proj")}),
    ("llama", EVERY_WEIGHT),
    ("qwen2", EVERY_WEIGHT),
    ("qwen3", EVERY_WEIGHT),
    ("gemma3_text", EVERY_WEIGHT),
    ("phi3", EVERY_WEIGHT),
    ("llama", EVERY_WEIGHT | {"plain": True}),
    ("gemma3_text", EVERY_WEIGHT | {"plain": True}),
]


@pytest.mark.parametrize(
    ("family", "changes"), ACTIVATIONS, ids=lambda value: value if isinstance(value, str) else str(value)
)
def test_activations_are_the_bytes_that_autograd_keeps(family: str, changes: dict[str, Any]) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from burnish.core.rows import TokenRow
    from burnish.model.attention import packing
    from burnish.model.fused.replace import fused
    from burnish.model.load import quantise_nf4
    from burnish.model.lora import attach_lora
    from burnish.train import sft
    from burnish.train.pack import pack_row

    plan = method(**({"kind": "lora"} | changes))
    rows = [TokenRow(str(i), (5,) * 40 + (7 + i,) * 60, (0,) * 90 + (1,) * 10, 40, 90) for i in range(3)]
    sizes: list[dict[str, Any]] = [TINY | {"num_hidden_layers": layers} for layers in (2, 3)]
    config = {each["num_hidden_layers"]: CONFIG_MAPPING[family](**each) for each in sizes}

    @contextmanager
    def fast(model: Any) -> Iterator[None]:
        if plan.plain:
            yield
            return
        with fused(model):
            yield

    def kept_bytes(layers: int) -> int:
        model = AutoModelForCausalLM.from_config(config[layers]).requires_grad_(plan.rank == 0)
        if plan.kind == "qlora":
            quantise_nf4(model.eval(), double_quantisation=True, device="cpu", dtype=torch.float32)
        if plan.rank:
            attach_lora(model, plan, seed=0)
        model.train()
        frozen = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
        kept: dict[int, tuple[int, torch.Tensor]] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in frozen:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with packing(model), fast(model), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            sft.loss(model, pack_row(rows, torch.device("cpu")))
        return sum(size for size, _ in kept.values())

    work = Workload(row_tokens=40 + 3 * 60, attended_pairs=40 * 40 + 3 * 60 * 100, trained_tokens=30)
    predicted = layer_activation_bytes(read_architecture(config[3].to_dict()), plan, "cpu", "float32", work)
    assert predicted == pytest.approx(kept_bytes(3) - kept_bytes(2), rel=0.005)


def test_components_sum_to_the_peak_and_recomputing_layers_lowers_it() -> None:
    work = Workload(row_tokens=512, attended_pairs=512 * 64, trained_tokens=256)
    peaks: list[int] = []
    for layers in (0, 15, 30):
        found = training_components(
            SMOL, method(), device="cpu", dtype="float32", work=work, checkpointed_layers=layers
        )
        assert min(found.values()) >= 0
        peaks.append(sum(found.values()))
    assert peaks[0] > peaks[1] > peaks[2]


def test_adapter_gradients_and_states_take_sixteen_bytes_a_number() -> None:
    work = Workload(row_tokens=512, attended_pairs=512 * 64, trained_tokens=256)
    found = training_components(SMOL, method(), device="cpu", dtype="float32", work=work, checkpointed_layers=0)
    trained = 30 * 16 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    assert trained == 4_884_480
    assert found["adapter"] + found["gradients"] + found["optimizer"] == 16 * trained


def test_float8_copies_are_counted_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frozen weight that gradients are multiplied with in float8, as the fused layers of a tiny model hold them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from burnish.model.fused.frozen import RoundedBackward
    from burnish.model.fused.group import AdaptedGroup
    from burnish.model.fused.replace import fused

    monkeypatch.setattr("burnish.model.fused.replace.has_fp8", lambda device: True)
    config = LlamaConfig(**TINY)
    model = LlamaForCausalLM(config).requires_grad_(False)
    with fused(model, fp8="fp8"):
        groups = [
            value for layer in model.model.layers for value in vars(layer).values() if isinstance(value, AdaptedGroup)
        ]
        copies = [group.frozen.rounded for group in groups if isinstance(group.frozen, RoundedBackward)]
        assert len(groups) == 4 * len(model.model.layers)
        held = sum(tensor.numel() * tensor.element_size() for copy in copies for tensor in copy)
    architecture = read_architecture(config.to_dict())
    work = Workload(row_tokens=64, attended_pairs=64 * 64, trained_tokens=32)
    found = training_components(
        architecture,
        method("lora", base_dtype="fp8"),
        device="cuda",
        dtype="bfloat16",
        work=work,
        checkpointed_layers=0,
    )
    assert torch.float8_e4m3fn in {copy[0].dtype for copy in copies}
    assert found["rounded_weights"] == held


def test_full_fine_tuning_in_bfloat16_holds_eighteen_bytes_a_number_and_the_heads_gradient() -> None:
    """A copy to compute with (2), the weight (4), its gradient (4) and AdamW's states (8), as docs/methods/full.md says."""
    work = Workload(row_tokens=512, attended_pairs=512 * 64, trained_tokens=256)

    def of(**changes: Any) -> dict[str, int]:
        every = method("lora", rank=0, targets=())
        return training_components(
            LLAMA, every, device="cuda", dtype="bfloat16", work=work, checkpointed_layers=32, **changes
        )

    numbers, usual = 8_030_261_248, of()
    held = ("weights", "master_weights", "gradients", "optimizer")
    assert sum(usual[name] for name in held) == 18 * numbers + 512
    assert usual["adapter"] == 0
    assert usual["loss"] > 4 * 128_256 * 4096
    small = of(optimizer="adafactor", optimizer_in_backward=True)
    assert small["gradients"] == 4 * 128_256 * 4096, "one tensor at a time"
    assert small["optimizer"] < 4 * numbers / 500
    assert of(optimizer="adamw_8bit")["optimizer"] < usual["optimizer"] / 3
    assert of(optimizer="paged_adamw_8bit")["optimizer"] < usual["optimizer"] / 100
    assert numbers * 4 < of(optimizer="muon")["optimizer"] < numbers * 5


def test_products_in_bfloat16_on_a_cpu_are_counted_by_shape_and_kept_up_to_a_number() -> None:
    """SmolLM2's linears have 4 shapes, read 2 widths and write 3: 8 products and 15 of the adapters for each length of a row."""
    assert product_shapes(SMOL, method(), Workload(576, 0, 10)) == 8 + 15 + 6
    assert product_shapes(SMOL, method(), Workload(576, 0, 10, row_shapes=4, segment_shapes=70)) == 4 * 23 + 6 * 70
    assert product_shapes(SMOL, method("lora", rank=0, targets=()), Workload(576, 0, 10)) == 8 + 4 + 6

    def of(dtype: Any, device: Any, segments: int) -> int:
        work = Workload(576, 576 * 64, 100, row_shapes=4, segment_shapes=segments)
        found = training_components(SMOL, method(), device=device, dtype=dtype, work=work, checkpointed_layers=0)
        return found.get("products", 0)

    each = constant("cpu_bf16_product_bytes")
    assert of("bfloat16", "cpu", 70) == each * (92 + 420)
    assert of("bfloat16", "cpu", 10_000) == each * 1024
    assert of("float32", "cpu", 70) == of("bfloat16", "cuda", 70) == 0


@pytest.mark.parametrize("line", CALIBRATION.read_text(encoding="utf-8").splitlines())
def test_predicted_peaks_are_within_their_band_of_the_measured_ones(line: str) -> None:
    row = json.loads(line)
    samples = (row["tokens"] - row["prefix"]) // row["tail"]
    pairs = row["prefix"] ** 2 + samples * row["tail"] * (row["prefix"] + row["tail"])
    found = training_components(
        SMOL,
        method(row["method"], rank=row["rank"]),
        device="cpu",
        dtype="float32",
        work=Workload(row["tokens"], pairs, samples * row["tail"] // 2),
        checkpointed_layers=row["layers"],
    )
    assert row["peak"] == pytest.approx(sum(found.values()), rel=constant("memory_band"))


@pytest.mark.parametrize(
    "row", map(json.loads, LONG.read_text().splitlines()), ids=lambda row: f"{row['tokens']} tokens"
)
def test_steps_of_one_long_row_peak_where_the_plan_says(row: dict[str, Any]) -> None:
    """With a layer that is kept whole, its own gradients are the most; with none, those of a piece."""
    found = training_components(
        LLAMA, method(rank=row["rank"]), device="cuda", dtype="bfloat16",
        work=Workload(row["tokens"], 0, row["tokens"] - 1), checkpointed_layers=row["checkpointed_layers"],
        offloaded_layers=row["offloaded_layers"],
    )  # fmt: skip
    allocated = sum(found.values()) - found["context"] - found["allocator"]
    assert -0.03 <= allocated / (row["peak_gb"] * 1e9) - 1 <= 0.08
