"""The same loop on a CUDA device. Run by `make gpu`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.events import Event, StepDone
from burnish.core.rows import TokenRow
from burnish.model.load import is_nf4, load_base
from burnish.model.lora import attach_lora, lora_parameters
from burnish.train.loop import train

pytestmark = pytest.mark.gpu

Rows = Callable[..., list[TokenRow]]
Adapted = Callable[..., PreTrainedModel]
MakePlan = Callable[..., Plan]


def never() -> bool:
    return False


def run(plan: Plan, rows: list[TokenRow], model: PreTrainedModel, folder: Path) -> list[StepDone]:
    seen: list[Event] = []
    train(plan, rows, model, folder=folder, emit=seen.append, stop=never)
    return [event for event in seen if isinstance(event, StepDone)]


def test_float32_losses_on_the_gpu_equal_those_on_the_cpu(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows = make_rows(24)
    on_cpu = run(make_plan(rows), rows, make_adapted(), tmp_path / "cpu")
    on_gpu = run(make_plan(rows, device="cuda"), rows, make_adapted().cuda(), tmp_path / "cuda")
    assert [step.loss for step in on_gpu] == pytest.approx([step.loss for step in on_cpu], rel=1e-3)
    assert on_gpu[0].gradient_norm == pytest.approx(on_cpu[0].gradient_norm, rel=1e-3)
    assert on_gpu[-1].device_bytes > 0


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_bfloat16_training_learns_and_goes_on_bit_for_bit(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, make_method: Callable[..., MethodPlan],
    tiny_base: Path, tmp_path: Path, quantisation: str,
) -> None:  # fmt: skip
    rows = make_rows(24)
    method = make_method(quantisation=quantisation)
    plan = make_plan(rows, method=method, device="cuda", compute_dtype="bfloat16", epochs=8.0)

    def fresh() -> PreTrainedModel:
        model = load_base(tiny_base, quantisation=quantisation, device="cuda", dtype=torch.bfloat16)
        assert any(is_nf4(module) for module in model.modules()) == (quantisation == "nf4")
        attach_lora(model, method, seed=0)
        return model

    steps = run(plan, rows, fresh(), tmp_path / "undisturbed")
    assert steps[-1].loss < steps[0].loss
    assert all(parameter.dtype == torch.float32 for parameter in lora_parameters(fresh()).values())

    def die(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, rows, fresh(), folder=tmp_path / "killed", emit=die, stop=never)
    train(plan, rows, fresh(), folder=tmp_path / "killed", emit=lambda event: None, stop=never)
    weights = [
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("killed", "undisturbed")
    ]
    assert weights[0] == weights[1]
