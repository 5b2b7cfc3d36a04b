"""The comparison with accelerate on docs/plan.md is what both say now, and its sentences hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import beside_accelerate  # pyright: ignore[reportMissingImports]

    return beside_accelerate


def test_the_page_holds_the_numbers_of_both(beside: Any) -> None:
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    assert beside.BEGIN in text
    assert beside.page(text) == text, "python benchmarks/beside_accelerate.py --write"


def test_accelerate_counts_a_tied_model_alike_and_leaves_out_a_head_of_its_own(beside: Any) -> None:
    for base, head in (("llama-3.2-1b-instruct", 0), ("phi-3.5-mini-instruct", 32_064 * 3072)):
        parameters = read_architecture(find_config(base)).parameters
        counted = beside.theirs(base).loaded["float32"] / 4
        assert counted + head == pytest.approx(parameters, rel=1e-6)


def test_its_number_for_training_is_eight_bytes_a_parameter_and_quantised_ones_have_none(beside: Any) -> None:
    said = beside.theirs("qwen3-1.7b")
    assert said.trained["float16"] == said.loaded["float32"] / 4 * 8
    assert said.trained["int8"] is said.trained["int4"] is None


def test_ours_is_within_a_twentieth_of_what_an_h100_took_and_its_is_below_all(beside: Any) -> None:
    for base in beside.BASES:
        for _, took, predicted in beside.measured(base):
            assert abs(predicted / took - 1) < 0.05
            assert beside.theirs(base).trained["float16"] < took
