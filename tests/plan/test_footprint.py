"""The plain loop's memory is that of an H100: 108 steps, a third of them run after the formulas were frozen."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from burnish.core.artifacts import MethodPlan
from burnish.plan.adapters import resolve_targets
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config
from burnish.plan.footprint import COMPONENTS, Job, device_state_bytes, host_state_bytes, step_components
from burnish.plan.gpus import get_gpu
from burnish.plan.memory import Workload, training_components
from burnish.plan.methods import compare_methods

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = [json.loads(line) for line in (BENCHMARKS / "results" / "plan_memory.jsonl").read_text().splitlines()]
LLAMA = read_architecture(find_config("llama-3.1-8b-instruct"))
GIB = 2**30


def predict(row: dict[str, Any]) -> int:
    architecture = read_architecture(find_config(row["base"]))
    layers = {"none": 0, "half": architecture.layers // 2, "all": architecture.layers}[row["recomputed"]]
    return sum(step_components(architecture, Job(row["method"], row["rows"], row["row_tokens"], layers)).values())


@pytest.mark.parametrize("part", ["fit", "held-out"])
def test_peaks_are_within_a_twentieth_and_never_more_than_three_hundredths_too_low(part: str) -> None:
    rows = [row for row in ROWS if row["part"] == part]
    errors = [predict(row) / row["peak"] - 1 for row in rows]
    assert len(errors) >= (48 if part == "fit" else 24)
    assert fmean(map(abs, errors)) < 0.005, "the bar is 0.05; the best published is 0.016 on its own set"
    assert min(errors) > -0.005
    assert max(errors) < 0.03


ENGINE_ROWS = [
    row
    for row in map(json.loads, (BENCHMARKS / "results" / "train.jsonl").read_text(encoding="utf-8").splitlines())
    if row["who"] == "burnish" and row["model"] == "llama-3.1-8b-shape" and row["base_dtype"] in ("bf16", "nf4")
]


@pytest.mark.parametrize("row", ENGINE_ROWS, ids=lambda row: f"{row['base_dtype']} {row['memory']} {row['rows']}")
def test_burnishs_own_loop_on_a_gpu_is_within_a_twentieth(row: dict[str, Any]) -> None:
    """Of what torch allocated (benchmarks/train.py): all but CUDA's context and what the allocator keeps beyond it."""
    nf4 = row["base_dtype"] == "nf4"
    method = MethodPlan(
        kind=row["method"], rank=row["rank"], alpha=32.0, dropout=0.0, double_quantisation=nf4,
        targets=resolve_targets(LLAMA, ("all-linear",), source="x"), quantisation="nf4" if nf4 else "none",
    )  # fmt: skip
    tokens = row["row_tokens"]
    found = training_components(
        LLAMA, method, device="cuda", dtype="bfloat16", work=Workload(tokens, 0, tokens),
        checkpointed_layers=row["checkpointed_layers"],
    )  # fmt: skip
    predicted = sum(size for name, size in found.items() if name not in ("context", "allocator")) / GIB
    assert predicted == pytest.approx(row["peak_gib"], rel=0.05)


def test_the_rows_cover_what_the_bar_asks_for() -> None:
    assert {row["method"] for row in ROWS} == {"full", "lora", "qlora"}
    assert len({row["base"] for row in ROWS}) == 4
    assert {row["row_tokens"] for row in ROWS} == {512, 2048, 8192}
    assert {row["recomputed"] for row in ROWS} == {"none", "half", "all"}
    assert len(ROWS) == 108


def test_the_held_out_third_is_drawn_by_hash_and_not_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plan_memory

    for part in ("fit", "held-out"):
        wanted = [tuple(cell.values()) for cell in plan_memory.cells(part)]
        keys = ("base", "method", "rows", "row_tokens", "recomputed")
        assert [tuple(row[key] for key in keys) for row in ROWS if row["part"] == part] == wanted


@pytest.mark.parametrize(
    ("method", "recomputed", "gib"),
    [("lora", 32, 18.76), ("lora", 16, 33.80), ("lora", 0, 49.84), ("qlora", 32, 9.12), ("qlora", 0, 40.20)],
)
def test_llama_8b_in_a_plain_loop_with_liger_is_as_the_peers_were_measured(
    method: Any, recomputed: int, gib: float
) -> None:
    found = step_components(LLAMA, Job(method, 4, 2048, recomputed, fused_kernels=True))
    assert sum(found.values()) / GIB == pytest.approx(gib, rel=0.02)


def test_states_by_hand() -> None:
    assert device_state_bytes("adamw", 1000, 2) == 4000
    assert device_state_bytes("adamw", 1000, 4) == 8000
    assert device_state_bytes("adamw_8bit", 256, 2) == 2 * 256 + 2 * 4
    assert device_state_bytes("sgd", 1000, 2) == device_state_bytes("paged_adamw", 1000, 2) == 0
    assert host_state_bytes("paged_adamw", 1000) == 8000
    assert host_state_bytes("paged_adamw_8bit", 256) == 520
    assert host_state_bytes("adamw", 1000) == 0


def test_full_fine_tuning_holds_every_weight_gradient_and_state() -> None:
    found = step_components(LLAMA, Job("full", 1, 512, 32))
    assert found["weights"] == 2 * 8_030_261_248 + 512, "and the rotary buffers in float32"
    assert found["gradients"] == 2 * 8_030_261_248
    assert found["optimizer"] == 4 * 8_030_261_248
    assert found["adapter"] == 0


def test_a_reference_is_a_second_copy_and_sharding_divides_what_is_stored() -> None:
    alone = step_components(LLAMA, Job("full", 1, 512, 32))
    copied = step_components(LLAMA, Job("full", 1, 512, 32, reference="copy"))
    assert copied["reference"] == alone["weights"]
    sharded = step_components(LLAMA, Job("full", 1, 512, 32, gpus=8))
    assert sharded["weights"] == alone["weights"] // 8
    assert sharded["optimizer"] == alone["optimizer"] // 8
    assert sharded["gathered_layers"] == 2 * 2 * (218_103_808 + 2 * 4096)
    assert sharded["activations"] == alone["activations"]


def test_accumulated_gradients_and_float32_adapters_take_more() -> None:
    plain = step_components(LLAMA, Job("lora", 1, 2048))
    assert plain["gradients"] == 0
    assert step_components(LLAMA, Job("lora", 1, 2048, accumulated=True))["gradients"] == 2 * 41_943_040
    single = step_components(LLAMA, Job("lora", 1, 2048, adapter_bytes=4))
    assert single["adapter"] == 4 * 41_943_040
    assert single["activations"] > plain["activations"]


def test_every_component_is_explained_and_none_is_negative() -> None:
    for method in ("full", "lora", "qlora"):
        found = step_components(LLAMA, Job(method, 2, 1024, 8))
        assert set(found) <= {*COMPONENTS, "layer_gradients"}
        assert min(found.values()) >= 0


def test_methods_are_compared_on_one_gpu_and_sharded(plan_of: Any, machines: dict[str, Any]) -> None:
    plan = plan_of("llama-3.1-8b-instruct", machines["h100"])
    rows = {row.method: row for row in compare_methods(LLAMA, plan, get_gpu("l40s"))}
    assert rows["full"].gpus == 2
    assert rows["full"].checkpointed_layers == 32
    assert rows["full, paged AdamW"].host_bytes == 8 * 8_030_261_248
    assert rows["QLoRA"].gpus == rows["LoRA"].gpus == 1
    assert rows["QLoRA"].peak_bytes < rows["full"].peak_bytes / 4
    large = read_architecture(find_config("llama-3.1-405b-instruct"))
    sharded = {row.method: row.gpus for row in compare_methods(large, plan, get_gpu("l40s"))}
    assert sharded["DPO, full"] is None
    assert sharded["QLoRA"] is not None
    assert sharded["QLoRA"] >= 8
