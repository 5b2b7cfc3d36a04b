"""Rows of benchmarks/train.py that need no GPU: what is planned beside what is measured, and memory over steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
