"""`burnish plan`: for this machine or another, within limits, on several GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from burnish import wiring
from burnish.core.errors import UsageError
from burnish.core.recipe import Recipe
from burnish.store.home import Home

if TYPE_CHECKING:
    from burnish.core.artifacts import Plan
    from burnish.plan.bases import KnownModel
    from burnish.plan.calibrate import Correction, RunError
    from burnish.plan.gpus import Gpu
    from burnish.plan.methods import MethodRow
    from burnish.plan.solve import GpuRow, Inputs, Limits, Solution


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks of a plan."""

    gpu: str | None = None
    gpus: Sequence[str] = ()
    memory_bytes: int | None = None
    seconds: float | None = None
    usd: float | None = None
    prices: Path | None = None

    @property
    def limited(self) -> bool:
        """Whether anything is limited."""
        return (self.memory_bytes, self.seconds, self.usd) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and with limits how it was chosen and what else would fit. Longest context and largest model with reasons."""

    plan: Plan
    solution: Solution | None
    context: tuple[int, str] | None
    model: tuple[KnownModel, str] | None


def plan_for(recipe: Recipe, home: Home, asked: Asked) -> Planned:
    """Plan for this machine, or for the GPU asked for, within the limits.

    Raises ResourceError that says which limit binds and by how much.
    """
    from burnish.plan.gpus import get_gpu
    from burnish.plan.hardware import detect, rented
    from burnish.plan.largest import largest_context, largest_model
    from burnish.plan.prices import read_prices
    from burnish.plan.solve import machine_for, require, solve

    if asked.gpu is not None:
        _check_device(recipe, "--gpu")
    inputs, limits = _inputs(recipe, home, asked)
    if asked.gpu is not None:
        machine = rented(get_gpu(asked.gpu))
    else:
        machine = detect()
        if asked.memory_bytes is not None and machine.device == "cpu" and recipe.train.device != "cpu":
            machine = rented(machine_for(asked.memory_bytes, inputs.prices or read_prices()))
    solution = solve(inputs, machine, limits) if asked.limited else None
    plan = inputs.plan(machine) if solution is None else require(solution, f"recipe {recipe.name}").plan
    context = largest_context(inputs, plan, machine)
    return Planned(plan, solution, context, largest_model(plan, plan.memory.available_bytes))


def gpus_for(recipe: Recipe, home: Home, asked: Asked) -> list[GpuRow]:
    """Plan for each GPU asked for, within the limits."""
    from burnish.plan.gpus import get_gpus
    from burnish.plan.hardware import rented
    from burnish.plan.largest import largest_context, largest_model
    from burnish.plan.solve import compare_gpus

    _check_device(recipe, "--gpus")
    chosen = get_gpus(asked.gpus)
    inputs, limits = _inputs(recipe, home, asked)
    return [
        replace(
            row,
            context=largest_context(inputs, row.plan, rented(row.gpu)),
            model=largest_model(row.plan, row.plan.memory.available_bytes),
        )
        for row in compare_gpus(inputs, chosen, limits)
    ]


def methods_for(recipe: Recipe, home: Home, asked: Asked) -> tuple[Gpu, list[MethodRow]]:
    """Compare methods on the GPU asked for, on this machine's, or on an H100."""
    from burnish.plan.architecture import read_architecture
    from burnish.plan.gpus import find_gpu, get_gpu
    from burnish.plan.hardware import detect, rented
    from burnish.plan.methods import compare_methods

    inputs, _ = _inputs(recipe, home, asked)
    here = detect(probe=False)
    gpu = get_gpu(asked.gpu) if asked.gpu else find_gpu(here.gpu_name) if here.gpu_name else get_gpu("h100")
    return gpu, compare_methods(read_architecture(inputs.config), inputs.plan(rented(gpu)), gpu)


def calibration(home: Home) -> tuple[list[RunError], list[Correction]]:
    """Return predicted against measured of each stored run, and what the runs say about the next plan."""
    from burnish.plan.calibrate import corrections, machines

    errors = wiring.stored_errors(home)
    return errors, [each for machine in machines(errors) for each in corrections(errors, machine).values()]


def _check_device(recipe: Recipe, flag: str) -> None:
    if recipe.train.device == "cpu":
        raise UsageError(
            f"{flag} rents a GPU, and train.device is cpu, so it would stand idle. Leave out {flag} to plan for this "
            "machine's CPU, or give --set train.device=auto."
        )


def _inputs(recipe: Recipe, home: Home, asked: Asked) -> tuple[Inputs, Limits]:
    from burnish.plan.solve import Limits

    inputs = wiring.planning_inputs(recipe, home, asked.prices)
    return inputs, Limits(asked.memory_bytes, asked.seconds, asked.usd)
