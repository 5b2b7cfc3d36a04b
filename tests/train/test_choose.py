"""Paths are chosen by time among those that give what the plain path gives, and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest
import torch

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.events import Event
from burnish.core.rows import TokenRow
from burnish.model.fused.paths import ON_CPU, PLAIN, Paths
from burnish.model.lora import lora_parameters
from burnish.train import choose as choosing
from burnish.train import sft
from burnish.train.choose import CHOICES, ON_A_GPU, PASSES, TIMED, WARM, WORTH, choose, measured, shape_id

Rows = Callable[..., list[TokenRow]]


def test_a_path_that_gives_other_numbers_is_left_out_and_told(
    make_adapted: Callable[..., object], make_rows: Rows, make_plan: Callable[..., Plan]
) -> None:
    rows = make_rows(9)
    plan, model, told = make_plan(rows), make_adapted(), list[Event]()
    objective = sft.objective(plan.train, rows)
    stages = [{"no loss at all": {"loss_chunk": -1}}]
    assert measured(plan, objective, model, objective.longest(), ON_CPU, stages, told.append) == ("usual", ON_CPU)
    assert told[0].text.startswith("no loss at all: left out, loss 0 beside the plain path's")
    assert told[1].text.startswith("paths by measurement: usual (usual ")
    assert all(parameter.grad is None for parameter in lora_parameters(model).values())


def test_if_none_is_right_training_takes_the_plain_path(
    make_adapted: Callable[..., object], make_rows: Rows, make_plan: Callable[..., Plan]
) -> None:
    rows = make_rows(9)
    plan, told = make_plan(rows), list[Event]()
    objective = sft.objective(plan.train, rows)
    wrong = replace(ON_CPU, loss_chunk=-1)
    assert measured(plan, objective, make_adapted(), objective.longest(), wrong, [], told.append) == ("plain", PLAIN)


def test_parts_are_chosen_one_after_the_other_each_beside_the_best_of_those_before(
    make_adapted: Callable[..., object],
    make_rows: Rows,
    make_plan: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seconds are given here; the numbers are computed on each path."""
    rows = make_rows(9)
    plan, told, tried = make_plan(rows), list[Event](), list[tuple[object, int]]()
    objective = sft.objective(plan.train, rows)
    given = {(None, 128): 1.0, ("masked", 128): 0.5, ("segments", 128): 0.7, ("masked", 64): 0.495, ("masked", 32): 0.4}
    real = choosing._passes

    def timed(*arguments: object, **more: object) -> object:
        found = real(*arguments, **more)
        paths = arguments[4]
        if paths == PLAIN:
            return found
        tried.append((paths.attention, paths.loss_chunk))
        return found._replace(seconds=[9.0] * WARM + [given[tried[-1]]] * TIMED)

    monkeypatch.setattr(choosing, "_passes", timed)
    stages = (
        {"masked attention": {"attention": "masked"}, "segments": {"attention": "segments"}},
        {"64 at once": {"loss_chunk": 64}, "32 at once": {"loss_chunk": 32}},
    )
    name, paths = measured(plan, objective, make_adapted(), objective.longest(), ON_CPU, stages, told.append)
    assert tried == list(given)
    assert name == "masked attention, 32 at once"
    assert paths == replace(ON_CPU, attention="masked", loss_chunk=32)
    assert "32 at once 400 ms, 64 at once 495 ms, masked attention 500 ms" in told[-1].text


def test_a_measurement_is_twenty_passes_of_every_part_and_worth_it_from_four_hundred_on() -> None:
    assert PASSES == 20
    assert WORTH * PASSES == 400
    changed = {key for stage in ON_A_GPU for change in stage.values() for key in change}
    assert changed == {"attention", "loss_compiled", "compiled"}


def test_nothing_is_measured_where_there_is_no_choice(
    tmp_path: Path, make_adapted: Callable[..., object], make_rows: Rows, make_plan: Callable[..., Plan],
    make_method: Callable[..., MethodPlan],
) -> None:  # fmt: skip
    rows, told = make_rows(9), list[Event]()
    plan = make_plan(rows)
    objective = sft.objective(plan.train, rows)
    assert choose(plan, objective, make_adapted(), home=tmp_path, emit=told.append) == ON_CPU
    plain = make_plan(rows, method=make_method(plain=True))
    assert choose(plain, objective, make_adapted(), home=tmp_path, emit=told.append) == PLAIN
    assert not told
    assert not list(tmp_path.iterdir())


def test_runs_of_another_shape_have_a_verdict_of_their_own(
    make_adapted: Callable[..., object], make_rows: Rows, make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan(make_rows(9))
    model = make_adapted()
    shapes = {
        shape_id(plan, model, 48, "a card"), shape_id(plan, model, 48, "another"), shape_id(plan, model, 49, "a card"),
        shape_id(plan, make_adapted("qwen3"), 48, "a card"),
    }  # fmt: skip
    assert len(shapes) == 4
    assert shape_id(make_plan(make_rows(9), learning_rate=0.5), make_adapted(), 48, "a card") in shapes


@pytest.mark.skipif(which("g++") is None, reason="torch compiles for a CPU with g++")
def test_compiled_formulas_and_joined_weights_give_what_the_plain_path_gives(
    make_adapted: Callable[..., object], make_rows: Rows, make_plan: Callable[..., Plan]
) -> None:
    rows = make_rows(9)
    plan, told = make_plan(rows), list[Event]()
    objective = sft.objective(plan.train, rows)
    compiled = replace(ON_CPU, compiled=True, joined=True, loss_compiled=True)
    name, _ = measured(plan, objective, make_adapted(), objective.longest(), compiled, [], told.append)
    assert name == "usual", told


def test_a_verdict_is_remembered_and_one_that_cannot_be_read_is_measured_again(
    tmp_path: Path, make_adapted: Callable[..., object], make_rows: Rows, make_plan: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rows, told, asked = make_rows(9), list[Event](), list[str]()

    def measure(*args: object) -> tuple[str, Paths]:
        asked.append("measured")
        return "loss as written", replace(ON_CPU, loss_chunk=32)

    monkeypatch.setattr(choosing, "measured", measure)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    plan = make_plan(rows, device="cuda", epochs=400.0)
    cpu = plan.train.model_copy(update={"device": "cpu"})

    def chosen() -> Paths:
        return choose(plan, sft.objective(cpu, rows), make_adapted(), home=tmp_path, emit=told.append)  # type: ignore[arg-type]

    first = chosen()
    assert (first, chosen()) == (replace(ON_CPU, loss_chunk=32), first)
    assert len(asked) == 1
    assert told[-1].text == "paths as measured before: loss as written"
    (key, verdict), *_ = json.loads((tmp_path / CHOICES).read_text()).items()
    for broken in ({"name": "usual", "paths": {"unknown": 1}}, {"name": "usual"}, [], None):
        (tmp_path / CHOICES).write_text(json.dumps({key: broken, "another": verdict}))
        assert chosen() == first
        kept = json.loads((tmp_path / CHOICES).read_text())
        assert kept == {key: verdict, "another": verdict}
    assert len(asked) == 5


@pytest.mark.gpu
def test_on_a_card_the_verdict_is_remembered(
    tmp_path: Path, make_adapted: Callable[..., object], make_rows: Rows, make_plan: Callable[..., Plan]
) -> None:
    rows, told = make_rows(9), list[Event]()
    plan = make_plan(rows, device="cuda", compute_dtype="bfloat16", epochs=200.0)
    model = make_adapted()
    trained = set(lora_parameters(model).values())
    for parameter in model.parameters():
        if parameter not in trained:
            parameter.data = parameter.data.to(torch.bfloat16)
    model.to("cuda")
    objective = sft.objective(plan.train, rows)
    first = choose(plan, objective, model, home=tmp_path, emit=told.append)
    assert first.fused, told
    assert len(json.loads((tmp_path / CHOICES).read_text())) == 1
    assert choose(plan, objective, model, home=tmp_path, emit=told.append) == first
    assert told[-1].text.startswith("paths as measured before")
