"""The same code on a CUDA device: QLoRA learns, resumes to the same bits, and agrees with the CPU in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.errors import Interrupted
from burnish.core.events import Event, StepDone, discard
from burnish.core.packing import count_steps, pack
from burnish.core.rows import TokenPair, TokenRow
from burnish.model.load import load_base
from burnish.model.lora import attach_lora
from burnish.train import dpo, sft
from burnish.train.loop import train
from burnish.train.objective import Objective
from burnish.train.pairs import pair_lengths

pytestmark = pytest.mark.gpu
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def run(
    base: Path, plan: Plan, rows: Sequence[TokenRow], folder: Path, stop: Callable[[], bool] = lambda: False
) -> list[float]:
    """Train as the plan says, on its device, and return the loss of each step."""
    losses: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, StepDone):
            losses.append(event.loss)

    model = load_base(
        base, quantisation=plan.method.quantisation, device=plan.train.device, dtype=DTYPES[plan.train.compute_dtype]
    )
    attach_lora(model, plan.method, seed=plan.train.seed)
    train(plan, sft.objective(plan.train, rows), model, folder=folder, emit=note, stop=stop)
    return losses


def test_qlora_in_bfloat16_learns_on_the_card(
    tiny_base: Path, tmp_path: Path, make_rows: Callable[..., list[TokenRow]],
    make_plan: Callable[..., Plan], make_method: Callable[..., MethodPlan],
) -> None:  # fmt: skip
    rows = make_rows(24)
    method = make_method(kind="qlora", quantisation="nf4")
    plan = make_plan(rows, method=method, epochs=8.0, learning_rate=1e-2, device="cuda", compute_dtype="bfloat16")
    losses = run(tiny_base, plan, rows, tmp_path)
    assert losses[-1] < 0.95 * losses[0]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_in_float32_the_card_and_the_cpu_agree(
    tiny_base: Path, tmp_path: Path, make_rows: Callable[..., list[TokenRow]], make_plan: Callable[..., Plan],
    make_method: Callable[..., MethodPlan], quantisation: str,
) -> None:  # fmt: skip
    rows = make_rows(24)
    method = make_method(kind="qlora" if quantisation == "nf4" else "lora", quantisation=quantisation)
    found = {}
    for device in ("cpu", "cuda"):
        plan = make_plan(rows, method=method, epochs=3.0, learning_rate=1e-3, device=device)
        found[device] = run(tiny_base, plan, rows, tmp_path / device)
    worst = max(abs(a - b) / b for a, b in zip(found["cuda"], found["cpu"], strict=True))
    assert worst < 1e-3, worst


def test_stopped_on_the_card_it_goes_on_as_near_as_a_second_run(
    tiny_base: Path, tmp_path: Path, make_rows: Callable[..., list[TokenRow]],
    make_plan: Callable[..., Plan], make_method: Callable[..., MethodPlan],
) -> None:  # fmt: skip
    """Backward of attention adds up in any order on a card, so bits differ from run to run; dropout's masks must not."""
    rows = make_rows(24)
    method = make_method(kind="qlora", quantisation="nf4", dropout=0.1)
    plan = make_plan(rows, method=method, epochs=3.0, device="cuda", compute_dtype="bfloat16")
    whole = run(tiny_base, plan, rows, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tiny_base, plan, rows, tmp_path / "cut", stop=lambda: True)
    assert run(tiny_base, plan, rows, tmp_path / "cut") == pytest.approx(whole[1:], rel=2e-3)


@pytest.mark.parametrize("kind", ["lora", "qlora", "preferences"])
def test_a_step_on_the_card_is_launched_without_waiting_for_it(
    tiny_base: Path, tmp_path: Path, make_rows: Callable[..., list[TokenRow]], make_plan: Callable[..., Plan],
    make_method: Callable[..., MethodPlan], kind: str,
) -> None:  # fmt: skip
    """torch raises for whatever waits, once kernels are compiled and tried; the numbers of the step before come by an event."""
    quantisation = "nf4" if kind == "qlora" else "none"
    changes = {
        "method": make_method(quantisation=quantisation), "device": "cuda", "compute_dtype": "bfloat16", "epochs": 8.0,
        "checkpoint_every": 1000,
    }  # fmt: skip
    if kind == "preferences":
        pairs = [TokenPair(f"pair-{i}", (3, 4, 5 + i), (7, 8, 9), (10, 11 + i)) for i in range(24)]
        steps = count_steps(len(pack(pair_lengths(pairs), 48, 0)), 8.0, 2)
        settings = {"kind": "dpo", "beta": 0.5, "loss": "sigmoid", "label_smoothing": 0.0}
        plan = make_plan([], steps=steps, preference=settings, **changes)
        objective: Objective[Any] = dpo.objective(plan.train, pairs)
    else:
        rows = make_rows(24)
        plan = make_plan(rows, **changes)
        objective = sft.objective(plan.train, rows)
    model = load_base(tiny_base, quantisation=quantisation, device="cuda", dtype=torch.bfloat16)
    attach_lora(model, plan.method, seed=0)
    told: list[StepDone] = []

    def note(event: Event) -> None:
        if isinstance(event, StepDone):
            told.append(event)
            torch.cuda.set_sync_debug_mode("error" if plan.train.steps // 2 <= event.step < plan.train.steps - 1 else 0)

    try:
        train(plan, objective, model, folder=tmp_path, emit=note, stop=lambda: False)
    finally:
        torch.cuda.set_sync_debug_mode(0)
    assert [step.step for step in told] == list(range(1, plan.train.steps + 1))
    assert all(step.seconds > 0.0 for step in told)


def test_memory_of_the_card_is_measured(
    tiny_base: Path, tmp_path: Path, make_rows: Callable[..., list[TokenRow]], make_plan: Callable[..., Plan]
) -> None:
    rows = make_rows(12)
    plan = make_plan(rows, device="cuda")
    model = load_base(tiny_base, device="cuda")
    attach_lora(model, plan.method, seed=0)
    measured = train(plan, sft.objective(plan.train, rows), model, folder=tmp_path, emit=discard, stop=lambda: False)
    assert 0 < measured.peak_device_bytes <= torch.cuda.max_memory_allocated()
