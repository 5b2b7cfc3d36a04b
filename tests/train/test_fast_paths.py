"""Training with the fast paths gives what `method.plain` gives; what takes the plain path is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.events import Event, Note, StepDone
from burnish.core.rows import TokenRow
from burnish.model.lora import lora_parameters
from burnish.train import sft
from burnish.train.loop import train


def run(model: object, plan: Plan, rows: list[TokenRow], folder: Path) -> tuple[list[float], list[str]]:
    events: list[Event] = []
    train(plan, sft.objective(plan.train, rows), model, folder=folder, emit=events.append, stop=lambda: False)
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    return losses, [event.text for event in events if isinstance(event, Note)]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_plain_and_fast_training_go_the_same_way(
    tmp_path: Path, make_adapted: Callable[..., object], make_rows: Callable[..., list[TokenRow]],
    make_plan: Callable[..., Plan], make_method: Callable[..., MethodPlan], family: str,
) -> None:  # fmt: skip
    rows = make_rows(12)
    found = {}
    for plain in (None, True):
        plan = make_plan(rows, method=make_method(plain=plain), learning_rate=1e-3, epochs=2.0)
        found[plain], notes = run(make_adapted(family), plan, rows, tmp_path / str(plain))
        assert not notes
    assert found[None] == pytest.approx(found[True], rel=1e-4)


def test_what_takes_the_plain_path_is_told(
    tmp_path: Path, make_adapted: Callable[..., object], make_rows: Callable[..., list[TokenRow]],
    make_plan: Callable[..., Plan], make_method: Callable[..., MethodPlan],
) -> None:  # fmt: skip
    rows = make_rows(6)
    plan = make_plan(rows, method=make_method())
    model = make_adapted()
    model.model.layers[1].mlp.act_fn = torch.nn.ReLU()
    _, notes = run(model, plan, rows, tmp_path)
    assert any("plain path for 1 layers" in note and "ReLU" in note for note in notes)


def test_a_float16_step_that_overflows_is_skipped_and_told(
    tmp_path: Path, make_adapted: Callable[..., object], make_rows: Callable[..., list[TokenRow]],
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("burnish.train.optim.FIRST_SCALE", 2.0**40)
    rows = make_rows(12)
    plan = make_plan(rows, compute_dtype="float16", learning_rate=1e-3, epochs=30.0)
    model = make_adapted()
    trained = set(lora_parameters(model).values())
    for parameter in model.parameters():
        if parameter not in trained:
            parameter.data = parameter.data.half()
    losses, notes = run(model, plan, rows, tmp_path)
    skipped = [note for note in notes if "skipped" in note]
    assert 10 < len(skipped) < 40
    assert losses[-1] < losses[0]


def test_plans_made_before_plain_was_a_field_keep_their_id(make_method: Callable[..., MethodPlan]) -> None:
    assert "plain" not in make_method().identity()
    assert make_method(plain=True).identity()["plain"] is True


def test_a_plan_with_pieces_and_offloaded_layers_trains_the_same(
    tmp_path: Path, make_adapted: Callable[..., object], make_rows: Callable[..., list[TokenRow]],
    make_plan: Callable[..., Plan],
) -> None:  # fmt: skip
    rows = make_rows(12)
    found = []
    for changes in ({}, {"checkpointed_layers": 2, "feed_forward_again": 1, "offloaded_layers": 3, "piece_tokens": 7}):
        plan = make_plan(rows, learning_rate=1e-3, epochs=2.0, **changes)
        losses, notes = run(make_adapted(), plan, rows, tmp_path / str(len(found)))
        assert not notes
        found.append(losses)
    assert found[1] == pytest.approx(found[0], rel=1e-6)
