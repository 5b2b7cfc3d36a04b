"""Operations by hand, and seconds that follow from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.core.artifacts import Interval, MethodPlan
from burnish.plan.adapters import resolve_targets
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config
from burnish.plan.gpus import find_gpu, get_gpu, gpus
from burnish.plan.hardware import Hardware, rented
from burnish.plan.time import EvaluateWork, Rates, TrainWork, evaluate_seconds, rates, train_operations, train_seconds

LLAMA = read_architecture(find_config("llama-3.1-8b-instruct"))
LORA = MethodPlan(
    kind="lora",
    rank=32,
    alpha=32.0,
    dropout=0.0,
    targets=("k_proj", "o_proj", "q_proj", "v_proj"),
    quantisation="none",
    double_quantisation=False,
)


def work(tokens: int = 1000, trained: int = 0, seen: float = 0.0, layers: int = 0) -> TrainWork:
    return TrainWork(tokens=tokens, trained=trained, seen=seen, packed_rows=1, steps=1, checkpointed_layers=layers)


def test_a_token_of_lora_costs_four_operations_a_weight_and_six_an_adapter_number() -> None:
    assert train_operations(LLAMA, LORA, work(1)) == 4 * 6_979_321_856 + 6 * 27_262_976


def test_recomputing_all_layers_costs_a_third_pass() -> None:
    assert train_operations(LLAMA, LORA, work(1, layers=32)) == 6 * 6_979_321_856 + 6 * 27_262_976


def test_the_head_counts_for_tokens_with_loss_only() -> None:
    assert (
        train_operations(LLAMA, LORA, work(10, trained=3)) - train_operations(LLAMA, LORA, work(10))
        == 4 * 3 * 128_256 * 4096
    )


def test_attention_counts_by_the_tokens_seen() -> None:
    assert (
        train_operations(LLAMA, LORA, work(1, seen=100)) - train_operations(LLAMA, LORA, work(1))
        == 12 * 32 * 4096 * 100
    )


def test_twice_the_rate_halves_the_products() -> None:
    slow = Rates(Interval(low=1e9, mid=2e9, high=4e9), Interval(low=1e9, mid=2e9, high=4e9), "")
    found = evaluate_seconds(LLAMA, EvaluateWork(read=1, trained=0, generated=0), slow)
    assert (found.low, found.mid, found.high) == pytest.approx(
        tuple(2 * 6_979_321_856 / rate for rate in (4e9, 2e9, 1e9))
    )


def test_a_band_surrounds_its_middle_and_no_probe_widens_it() -> None:
    probed = rates(Hardware(cores=2, gemm_gflops=100.0), "cpu")
    guessed = rates(Hardware(cores=2), "cpu")
    for rate in (probed, guessed):
        assert rate.train.low < rate.train.mid < rate.train.high
    assert guessed.train.high / guessed.train.low > probed.train.high / probed.train.low
    assert "guessed" in guessed.source


def test_units_for_bfloat16_make_a_cpu_faster_and_are_named() -> None:
    plain, fast = (rates(Hardware(cores=2, gemm_gflops=100.0, cpu_bf16=bf16), "cpu") for bf16 in (False, True))
    assert fast.train.mid / plain.train.mid == pytest.approx(fast.decode.mid / plain.decode.mid)
    assert fast.train.mid > plain.train.mid
    assert "bfloat16" in fast.source
    assert "bfloat16" not in plain.source


def test_a_run_takes_longer_with_more_tokens() -> None:
    rate = rates(Hardware(cores=2, gemm_gflops=100.0), "cpu")
    assert (
        train_seconds(LLAMA, LORA, work(2000), "cpu", rate).mid
        > train_seconds(LLAMA, LORA, work(1000), "cpu", rate).mid
    )


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10G", "A10G"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
    ],
)
def test_gpus_are_known_by_the_name_that_nvidia_smi_gives(said: str, name: str) -> None:
    assert find_gpu(said).name == name


def test_an_unknown_gpu_is_taken_as_the_slowest_and_says_so() -> None:
    found = find_gpu("Frobnicator 9")
    assert found.tflops == min(gpu.tflops for gpu in gpus())
    assert "not in the table" in found.source


def test_the_reference_of_preferences_costs_a_forward_pass_once() -> None:
    plain = train_operations(LLAMA, LORA, work(10, trained=3, seen=5))
    asked = train_operations(LLAMA, LORA, replace(work(10, trained=3, seen=5), reference_share=0.5))
    forward = 2 * 6_979_321_856 + 4 * 32 * 4096 * 5
    assert asked - plain == 5 * forward + 0.5 * 2 * 3 * 128_256 * 4096


ENGINE = Path(__file__).parents[2] / "benchmarks" / "results" / "train.jsonl"
ENGINE_ROWS = [
    row
    for row in map(json.loads, ENGINE.read_text(encoding="utf-8").splitlines())
    if row["who"] == "burnish" and row["model"] == "llama-3.1-8b-shape" and row["method"] != "full"
]


@pytest.mark.parametrize("row", ENGINE_ROWS, ids=lambda row: f"{row['base_dtype']} {row['memory']} {row['rows']}")
def test_a_step_of_fused_layers_on_an_h200_is_within_a_fifth(
    row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """benchmarks/train.py: the 8B shape, rows of 2048 tokens or chats of 180."""
    monkeypatch.syspath_prepend(str(ENGINE.parents[1]))
    import fit_constants  # pyright: ignore[reportMissingImports]

    found = fit_constants.planned_training(row)
    assert found.mid == pytest.approx(row["step_s"], rel=0.2)
    assert found.low <= row["step_s"] <= found.high


@pytest.mark.parametrize(("waited", "told"), [(0.02, True), (0.3, False), (0.0, False)])
def test_a_probe_says_when_launching_decides_its_steps(waited: float, told: bool) -> None:
    from burnish.core.artifacts import Probe, ProbeMeasured
    from burnish.plan.probe import LAUNCHING, Measured

    took = ProbeMeasured(steps=15, tokens=15_000, seconds=3.0, peak_bytes=10**9, waited=waited)
    assert (LAUNCHING in Measured(Probe(shape={}, measured=took), "cuda").because) is told


@pytest.mark.parametrize(
    ("quantised", "tokens", "seen", "again", "measured"),
    [
        (False, 8_192, 1_024.5, 0, 0.4906),
        (True, 8_192, 1_024.5, 0, 0.4952),
        (True, 78_475, 39_238.0, 32, 27.9),
    ],
    ids=["rows of 2,048", "NF4, rows of 2,048", "NF4, one row of 78,475, all layers again"],
)
def test_steps_of_a_large_model_take_what_an_h200_took(
    quantised: bool, tokens: int, seen: float, again: int, measured: float
) -> None:
    """benchmarks/results/train.jsonl and long_context.jsonl: the card decides, and attention decides on long rows."""
    method = LORA.model_copy(
        update={
            "rank": 32 if again else 16,
            "targets": resolve_targets(LLAMA, ("all-linear",), source="x"),
            "quantisation": "nf4" if quantised else "none",
        }
    )
    step = TrainWork(tokens, tokens, seen, packed_rows=1, steps=1, checkpointed_layers=again)
    found = train_seconds(LLAMA, method, step, "cuda", rates(rented(get_gpu("h200")), "cuda"))
    assert found.mid == pytest.approx(measured, rel=0.1)
