"""Recipes, machines and manifests to plan for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from burnish.core.artifacts import FileRef, Histogram, Ledger, Manifest, Plan, SourceFile, Split, TextFingerprint
from burnish.core.packing import Length
from burnish.core.recipe_file import parse_recipe
from burnish.plan.bases import find_config, reference
from burnish.plan.hardware import Hardware
from burnish.plan.make import make_plan

LAPTOP = Hardware(cores=2, ram_bytes=16 * 2**30, cpu_name="two cores", gemm_gflops=150.0)
H100 = Hardware(
    cores=16,
    ram_bytes=128 * 2**30,
    cpu_name="server",
    gemm_gflops=1500.0,
    gpu_name="NVIDIA H100 80GB HBM3",
    gpu_bytes=80_000 * 2**20,
    gpu_capability=(9, 0),
)
TODAY = date(2026, 11, 24)
"""The day that prices are as old as they are in these tests."""
LENGTHS: list[Length] = [("monday" if row % 2 else "friday", 60, 50 + row % 37) for row in range(400)]


def _file(name: str) -> FileRef:
    return FileRef(path=name, sha256="f" * 64, size_bytes=10)


def _split(rows: int, *, tokens: int, unique: int, trained: int, longest: int, answer: int) -> Split:
    return Split(
        rows=rows,
        tokens=tokens,
        unique_tokens=unique,
        trained_tokens=trained,
        longest_tokens=longest,
        longest_answer_tokens=answer,
        lengths=Histogram(edges=(0, 256), counts=(rows,)),
        file=_file("rows"),
        token_file=_file("tokens"),
    )


@pytest.fixture
def lengths() -> list[Length]:
    """400 training rows of two days: a prefix of 60 tokens, 50 to 86 after it."""
    return LENGTHS


@pytest.fixture
def manifest() -> Manifest:
    """The dataset that `lengths` belong to, with a test split."""
    tails = sum(tail for _, _, tail in LENGTHS)
    return Manifest(
        sources=(
            SourceFile(
                path="requests.jsonl", sha256="5" * 64, size_bytes=160_000, lines=520, formats={"messages": 520}
            ),
        ),
        fingerprint=TextFingerprint(tokenizer_sha256="1" * 64, template_sha256="2" * 64, system=None),
        ledger=Ledger(rows_in=520, rows_kept=520, rejected={}),
        splits={
            "train": _split(400, tokens=tails + 400 * 60, unique=tails + 120, trained=16_000, longest=146, answer=48),
            "test": _split(120, tokens=15_000, unique=8_000, trained=4_800, longest=140, answer=50),
        },
        personal_data={},
        leakage={},
        rejected_file=_file("rejected.jsonl"),
        settings={},
    )


@pytest.fixture
def plan_of() -> Callable[..., Plan]:
    """Plan for a bundled base, with anything changed."""

    def make(base: str = "smollm2-135m-instruct", hardware: Hardware = LAPTOP, **changes: Any) -> Plan:
        asked = {"name": "flight-search", "base": base, "data": "requests.jsonl", "method": "qlora"} | changes.pop(
            "recipe", {}
        )
        config = find_config(base)
        values: dict[str, Any] = {
            "manifest": None,
            "data_bytes": 160_000,
            "base": reference(base, config),
            "today": TODAY,
            "config": config,
        }
        return make_plan(parse_recipe(asked, source="test"), hardware=hardware, **(values | changes))

    return make


@pytest.fixture
def machines() -> dict[str, Hardware]:
    """A laptop without GPU and a server with one."""
    return {"laptop": LAPTOP, "h100": H100}
