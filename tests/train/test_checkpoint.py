from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from burnish.core.artifacts import Plan
from burnish.core.errors import StoreError, TrainingError
from burnish.train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from burnish.train.optim import adamw, put_states, states_of

PLAN = "a" * 64


@pytest.fixture
def state(
    make_rows: Callable[..., list], make_plan: Callable[..., Plan]
) -> tuple[dict[str, nn.Parameter], torch.optim.AdamW]:
    torch.manual_seed(0)
    parameters = {"x.lora_A": nn.Parameter(torch.randn(2, 3)), "x.lora_B": nn.Parameter(torch.randn(3, 2))}
    optimizer = adamw(make_plan(make_rows(3)).train, parameters.values())
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return parameters, optimizer


def save_step(folder: Path, state: tuple[dict[str, nn.Parameter], torch.optim.AdamW], step: int) -> Path:
    parameters, optimizer = state
    return save_checkpoint(
        folder, parameters, states_of([optimizer], parameters), step=step, plan=PLAN, events_bytes=10 * step
    )


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path, state, make_rows, make_plan) -> None:
    save_step(tmp_path, state, 3)
    parameters, optimizer = state
    fresh = {name: nn.Parameter(torch.zeros_like(parameter)) for name, parameter in parameters.items()}
    other = adamw(make_plan(make_rows(3)).train, fresh.values())
    found = latest_checkpoint(tmp_path, PLAN)
    assert found is not None
    assert (found[1].step, found[1].events_bytes) == (3, 30)
    put_states([other], fresh, load_checkpoint(found[0], fresh))
    for name, parameter in parameters.items():
        assert torch.equal(fresh[name], parameter)
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(other.state[fresh[name]][key], optimizer.state[parameter][key])


def test_the_last_two_are_kept(tmp_path: Path, state) -> None:
    for step in (2, 4, 6, 8):
        save_step(tmp_path, state, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000006", "step-00000008"]


@pytest.mark.parametrize("damage", ["weights", "optimizer", "state", "no state", "state of another kind"])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, state, damage: str) -> None:
    save_step(tmp_path, state, 2)
    newest = save_step(tmp_path, state, 4)
    if damage == "weights":
        (newest / "adapter.safetensors").write_bytes((newest / "adapter.safetensors").read_bytes()[:-4])
    elif damage == "optimizer":
        (newest / "optimizer.safetensors").unlink()
    elif damage == "state":
        (newest / "state.json").write_text('{"step": 4')
    elif damage == "no state":
        (newest / "state.json").unlink()
    else:
        (newest / "state.json").write_text(json.dumps({"step": 4}))
    found = latest_checkpoint(tmp_path, PLAN)
    assert found is not None
    assert found[1].step == 2
    assert save_step(tmp_path, state, 4) == newest  # the run goes on and writes it again
    again = latest_checkpoint(tmp_path, PLAN)
    assert again is not None
    assert again[1].step == 4


def test_what_was_being_written_when_the_run_died_is_removed(tmp_path: Path, state) -> None:
    save_step(tmp_path, state, 2)
    (tmp_path / ".writing-abc").mkdir()
    (tmp_path / ".writing-abc" / "adapter.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path, PLAN) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_nothing_saved_means_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nothing", PLAN) is None


def test_the_checkpoint_of_another_plan_is_not_taken(tmp_path: Path, state) -> None:
    save_step(tmp_path, state, 2)
    with pytest.raises(TrainingError, match="belongs to plan aaaaaaaaaaaa, not bbbbbbbbbbbb"):
        latest_checkpoint(tmp_path, "b" * 64)


def test_a_place_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path, state) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        save_step(tmp_path / "file", state, 2)
