"""Every weight trained on a CUDA device: each optimizer, 16 bits with float32 weights beside them, memory that is short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.errors import Interrupted
from burnish.core.events import Event, Note, StepDone
from burnish.core.rows import TokenRow
from burnish.model.full import train_every_weight
from burnish.model.load import load_base
from burnish.model.place import load_placed
from burnish.train import sft
from burnish.train.loop import train

pytestmark = pytest.mark.gpu
FULL = MethodPlan(
    kind="full", rank=0, alpha=0.0, dropout=0.0, targets=(), quantisation="none", double_quantisation=False
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def run(
    base: Path, plan: Plan, rows: Sequence[TokenRow], folder: Path, stop: Callable[[], bool] = lambda: False
) -> tuple[list[float], list[str]]:
    """Train as the plan says, on its device; return the loss of each step, and what was noted."""
    seen: list[Event] = []
    dtype, counts = DTYPES[plan.train.compute_dtype], plan.train.layers_by_device
    if counts is None:
        model = load_base(base, device=plan.train.device, dtype=dtype)
    else:
        model = load_placed(base, devices=["cuda:0", "cuda:1"], layers_by_device=counts, dtype=dtype)
    train_every_weight(model)
    train(plan, sft.objective(plan.train, rows), model, folder=folder, emit=seen.append, stop=stop)
    losses = [event.loss for event in seen if isinstance(event, StepDone)]
    return losses, [event.text for event in seen if isinstance(event, Note)]


@pytest.mark.parametrize("in_backward", [None, True])
@pytest.mark.parametrize("optimizer", [None, "adamw_8bit", "paged_adamw_8bit", "muon", "adafactor"])
def test_each_optimizer_learns_in_bfloat16_and_goes_on(
    tiny_base: Path, tmp_path: Path, make_rows: Callable[..., list[TokenRow]], make_plan: Callable[..., Plan],
    optimizer: str | None, in_backward: bool | None,
) -> None:  # fmt: skip
    rows = make_rows(24)
    rate = 3e-2 if optimizer == "adafactor" else 2e-3
    plan = make_plan(
        rows, method=FULL, epochs=8.0, learning_rate=rate, optimizer=optimizer, optimizer_in_backward=in_backward,
        rows_per_step=1, device="cuda", compute_dtype="bfloat16", checkpoint_every=1000,
    )  # fmt: skip
    losses, _ = run(tiny_base, plan, rows, tmp_path / "whole")
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
    with pytest.raises(Interrupted):
        run(tiny_base, plan, rows, tmp_path / "cut", stop=lambda: True)
    resumed, _ = run(tiny_base, plan, rows, tmp_path / "cut")
    assert resumed == pytest.approx(losses[1:], rel=2e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
@pytest.mark.parametrize("in_backward", [None, True])
@pytest.mark.parametrize("optimizer", [None, "adamw_8bit", "paged_adamw_8bit", "muon", "adafactor"])
def test_weights_of_two_cards_are_trained_as_those_of_one(
    tiny_base: Path, tmp_path: Path, make_rows: Callable[..., list[TokenRow]], make_plan: Callable[..., Plan],
    optimizer: str | None, in_backward: bool | None,
) -> None:  # fmt: skip
    rows, found = make_rows(24), []
    layers = load_base(tiny_base).config.num_hidden_layers
    for counts in (None, (1, layers - 1)):
        plan = make_plan(
            rows, method=FULL, epochs=2.0, learning_rate=2e-3, optimizer=optimizer, optimizer_in_backward=in_backward,
            rows_per_step=1, device="cuda", max_gradient_norm=0.1, layers_by_device=counts, checkpoint_every=1000,
        )  # fmt: skip
        losses, _ = run(tiny_base, plan, rows, tmp_path / str(counts))
        found.append(losses)
    assert found[1] == pytest.approx(found[0], rel=1e-2)
    with pytest.raises(Interrupted):
        run(tiny_base, plan, rows, tmp_path / "cut", stop=lambda: True)
    resumed, _ = run(tiny_base, plan, rows, tmp_path / "cut")
    assert resumed == pytest.approx(found[1][1:], rel=1e-2)


def test_in_float32_the_card_and_the_cpu_agree(
    tiny_base: Path, tmp_path: Path, make_rows: Callable[..., list[TokenRow]], make_plan: Callable[..., Plan]
) -> None:
    """Weights that read one input are joined on the card, and train there."""
    rows = make_rows(24)
    found = {}
    for device in ("cpu", "cuda"):
        plan = make_plan(rows, method=FULL, epochs=3.0, learning_rate=1e-3, device=device)
        found[device], _ = run(tiny_base, plan, rows, tmp_path / device)
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-3)


def test_under_a_limit_of_the_card_layers_give_way_and_losses_stay(
    tiny_base: Path, tmp_path: Path, make_rows: Callable[..., list[TokenRow]], make_plan: Callable[..., Plan]
) -> None:
    rows = [
        TokenRow(str(i), tuple((i + 3 * j) % 390 + 3 for j in range(500)), (0,) + (1,) * 499, 0, 1) for i in range(64)
    ]
    plan = make_plan(rows, method=FULL, row_tokens=32_000, rows_per_step=1, device="cuda", compute_dtype="bfloat16")
    run(
        tiny_base, plan, rows, tmp_path / "first"
    )  # kernels are tried on copies of what they are given: not part of the peak
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    losses, quiet = run(tiny_base, plan, rows, tmp_path / "roomy")
    most = torch.cuda.max_memory_allocated()
    assert not any("memory" in note for note in quiet)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(0.75 * most / total)
        tight, told = run(tiny_base, plan, rows, tmp_path / "tight")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("memory ran out" in note for note in told)
    assert tight == pytest.approx(losses, rel=2e-2)
