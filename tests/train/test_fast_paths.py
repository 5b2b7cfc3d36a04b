"""Training with the fast paths gives what `method.plain` gives; what takes the plain path is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.events import Event, Note, StepDone
from burnish.core.rows import TokenRow
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
    plan = make_plan(rows, method=make_method(dropout=0.1))
    _, notes = run(make_adapted(dropout=0.1), plan, rows, tmp_path)
    assert any("plain path for 6 modules" in note and "method.dropout" in note for note in notes)


def test_plans_made_before_plain_was_a_field_keep_their_id(make_method: Callable[..., MethodPlan]) -> None:
    assert "plain" not in make_method().identity()
    assert make_method(plain=True).identity()["plain"] is True
