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
from burnish.model.fused.paths import ON_CPU, PLAIN
from burnish.model.lora import lora_parameters
from burnish.train import sft
from burnish.train.choose import CHOICES, choose, measured, shape_id

Rows = Callable[..., list[TokenRow]]


def test_a_path_that_gives_other_numbers_is_left_out_and_told(
    make_adapted: Callable[..., object], make_rows: Rows, make_plan: Callable[..., Plan]
) -> None:
    rows = make_rows(9)
    plan, model, told = make_plan(rows), make_adapted(), list[Event]()
    objective = sft.objective(plan.train, rows)
    among = {"no loss at all": replace(ON_CPU, loss_chunk=-1), "usual": ON_CPU}
    assert measured(plan, objective, model, objective.longest(), among, told.append) == ("usual", ON_CPU)
    assert told[0].text.startswith("no loss at all: left out, loss 0 beside the plain path's")
    assert told[1].text.startswith("paths by measurement: usual (usual ")
    assert all(parameter.grad is None for parameter in lora_parameters(model).values())


def test_if_none_is_right_training_takes_the_plain_path(
    make_adapted: Callable[..., object], make_rows: Rows, make_plan: Callable[..., Plan]
) -> None:
    rows = make_rows(9)
    plan, told = make_plan(rows), list[Event]()
    objective = sft.objective(plan.train, rows)
    among = {"no loss at all": replace(ON_CPU, loss_chunk=-1)}
    assert measured(plan, objective, make_adapted(), objective.longest(), among, told.append) == ("plain", PLAIN)


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
    among = {"compiled": replace(ON_CPU, compiled=True, joined=True)}
    name, _ = measured(plan, objective, make_adapted(), objective.longest(), among, told.append)
    assert name == "compiled", told


@pytest.mark.gpu
def test_on_a_card_the_verdict_is_remembered(
    tmp_path: Path, make_adapted: Callable[..., object], make_rows: Rows, make_plan: Callable[..., Plan]
) -> None:
    rows, told = make_rows(9), list[Event]()
    plan = make_plan(rows, device="cuda", compute_dtype="bfloat16", epochs=100.0)
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
