"""Rows of benchmarks/train.py that need no GPU: what is planned beside what is measured, and memory over steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.core.artifacts import MethodPlan
from burnish.plan.activations import Workload
from burnish.plan.adapters import resolve_targets
from burnish.plan.architecture import read_architecture
from burnish.plan.memory import training_components

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GIB, MIB = 2**30, 2**20


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import train

    return train


def test_a_shape_of_8_layers_is_planned_with_all_80_on_a_card_that_holds_them(bench: Any) -> None:
    setting = bench.Setting(who="burnish", shape="llama-3.3-70b-of-8-layers", base="nf4")
    row = bench.planned_row(setting, {"tok_s": 15_000, "peak_gib": 20.0, "device": "NVIDIA H100 80GB HBM3"})
    assert row["says"] == "8 layers measured, 80 planned"
    assert row["planned"] is True
    assert row["fits"] is True
    linears = 80 * (8192 * (2 * 8192 + 2 * 1024) + 3 * 8192 * 28_672)
    weights = linears / 2 + 2 * 2 * 128_256 * 8192
    assert weights / GIB < row["peak_gib"] < 80
    part = row["plan_of_measured_layers"]
    assert part["layers"] == 8
    assert part["measured_tok_s"] == 15_000
    assert 10 < part["tok_s"] / row["tok_s"] < 15  # ten times the layers, most of them computed twice


OTHER_SHAPES = [
    row
    for row in map(json.loads, (BENCHMARKS / "results" / "train.jsonl").read_text(encoding="utf-8").splitlines())
    if row["who"] == "burnish" and not row.get("planned") and row["model"] != "llama-3.1-8b-shape"
]


@pytest.mark.parametrize("row", OTHER_SHAPES, ids=lambda row: f"{row['model']} {row['method']} {row['base_dtype']}")
def test_what_other_shapes_held_on_a_card_is_within_a_twentieth_of_the_plan(bench: Any, row: dict[str, Any]) -> None:
    """Of what torch allocated; the 8B shape is held against the plan in test_footprint.py."""
    shape = bench.SHAPES[row["model"].removesuffix("-shape")]
    architecture = read_architecture({"model_type": "llama", **bench.SHARED, **shape})
    full, nf4 = row["method"] == "full", row["base_dtype"] == "nf4"
    rank = 0 if full else row["rank"]
    method = MethodPlan(
        kind=row["method"], rank=rank, alpha=2.0 * rank, dropout=0.0, double_quantisation=nf4,
        targets=() if full else resolve_targets(architecture, ("all-linear",), source="x"),
        quantisation="nf4" if nf4 else "none",
    )  # fmt: skip
    in_backward = row.get("optimizer", "").endswith(bench.IN_BACKWARD)
    found = training_components(
        architecture, method, device="cuda", dtype="bfloat16", work=Workload(row["row_tokens"], 0, row["row_tokens"]),
        checkpointed_layers=row["checkpointed_layers"], optimizer_in_backward=in_backward,
        optimizer=row.get("optimizer", "adamw").removesuffix(bench.IN_BACKWARD),
    )  # fmt: skip
    predicted = sum(size for name, size in found.items() if name not in ("context", "allocator")) / GIB
    assert predicted == pytest.approx(row["peak_gib"], rel=0.05)
    assert row.get("memory_by_step", {}).get("grew_mib_after_step_3", 0.0) < 1.0


def test_memory_over_steps_is_told_where_it_changes_and_by_how_much_it_grew(bench: Any) -> None:
    flat = [(2 * GIB, GIB), (3 * GIB, GIB), (3 * GIB, GIB), *[(3 * GIB + 5, GIB)] * 497]
    assert bench.told_memory(flat) == {
        "steps": 500, "peak_gib": [[1, 2.0], [2, 3.0]], "held_gib": [[1, 1.0]], "grew_mib_after_step_3": 0.0,
    }  # fmt: skip
    leak = [(GIB + number * MIB, number * MIB) for number in range(100)]
    assert bench.told_memory(leak)["grew_mib_after_step_3"] == 96.0


def test_peers_have_the_weights_they_load_by_themselves_unless_asked(bench: Any) -> None:
    full = {who: bench.peer_weights(bench.Setting(who=who, method="full")) for who in ("unsloth", "trl", "trl_liger")}
    assert full == {"unsloth": "bfloat16", "trl": "float32", "trl_liger": "float32"}
    assert bench.peer_weights(bench.Setting(who="trl", method="full", weights="bfloat16")) == "bfloat16"
    assert bench.peer_weights(bench.Setting(who="trl")) == "bfloat16"
