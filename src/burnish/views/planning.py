"""What a plan says in the terminal: the numbers, what was chosen to keep to limits, a table of GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes, format_count, format_seconds
from burnish.doors.planning import Planned
from burnish.plan.calibrate import Correction, RunError
from burnish.plan.gpus import Gpu
from burnish.plan.methods import MethodRow
from burnish.plan.solve import GpuRow
from burnish.terminal import line, paragraph, table
from burnish.views.outcome import print_plan


def print_planned(found: Planned) -> None:
    """Print the plan, and with limits what to change in the recipe, and the longest context and largest model that fit."""
    print_plan(found.plan)
    solution = found.solution
    if solution is not None and solution.option is not None:
        changes = solution.option.changes
        said = [(key, str(value), solution.because[key]) for key, value in changes.items()]
        said += [(key, "", why) for key, why in solution.because.items() if key not in changes]
        line("")
        paragraph(
            "the recipe keeps to the limits as it is"
            if not changes
            else "change in the recipe: " + ", ".join(f"{key}: {value}" for key, value in changes.items())
        )
        table(f"chosen of {solution.tried} settings", ("what", "value", "because"), said)
    if found.context is not None:
        paragraph(f"longest context that fits: {found.context[0]:,} tokens ({found.context[1]})")
    if found.model is not None:
        model, why = found.model
        paragraph(f"largest known model that fits: {model.name}, {format_count(model.parameters)} ({why})")


def print_gpus(recipe: Recipe, rows: Sequence[GpuRow]) -> None:
    """Print fits or not, minutes and dollars on each GPU, and why not where not."""
    cells: list[tuple[str, ...]] = []
    for row in rows:
        plan, option = row.plan, row.solution.option
        changes: Mapping[str, Any] = {} if option is None else option.changes
        usd, spot = (None, None) if plan.cost is None else (plan.cost.usd, plan.cost.spot_usd)
        with_ = ", ".join(f"{key.removeprefix('method.')}={value}" for key, value in changes.items()) or "as it is"
        time = plan.time.total
        cells.append(
            (
                row.gpu.name,
                "NO" if option is None else "yes",
                with_ if option is not None else "-",
                format_bytes(plan.memory.peak_bytes),
                str(plan.train.checkpointed_layers),
                format_seconds(time.mid),
                "-" if usd is None else f"{usd.mid:.2f}",
                "-" if spot is None else f"{spot.mid:.2f}",
            )
        )
    columns = ("GPU", "fits", "recipe", "peak", "recomputed", "time", "USD", "spot USD")
    table(f"{recipe.name} on rented GPUs", columns, cells)
    for row in rows:
        plan, binding = row.plan, " ".join(each.text for each in row.solution.binding)
        time, usd = plan.time.total, None if plan.cost is None else plan.cost.usd
        money = "" if usd is None else f", {usd.low:.2f} to {usd.high:.2f} USD"
        line(
            f"{row.gpu.name}: {format_seconds(time.low)} to {format_seconds(time.high)}{money} [plan {short(plan.id)}]"
        )
        if row.solution.option is not None and row.solution.option.changes:
            changed = ", ".join(f"{key}={value}" for key, value in row.solution.option.changes.items())
            paragraph(f"the recipe with {changed}", mark="  ")
        paragraph(binding or plan.because["train.checkpointed_layers"], mark="  ")
        if row.context is not None and row.model is not None:
            paragraph(f"fit at most: rows of {row.context[0]:,} tokens; of known models {row.model[0].name}", mark="  ")
        paragraph(plan.because["cost.usd"], mark="  ")


def print_methods(gpu: Gpu, rows: Sequence[MethodRow]) -> None:
    """Print what each method would hold in the plain loop, and on how many GPUs it fits."""
    cells: list[tuple[str, ...]] = []
    for row in rows:
        largest = sorted(row.components.items(), key=lambda item: -item[1])[:4]
        host = f"; {format_bytes(row.host_bytes)} on the host" if row.host_bytes else ""
        many = row.gpus is not None and row.gpus > 1 and row.sharded_bytes is not None
        each = f" of {format_bytes(row.sharded_bytes or 0)}" if many else ""
        cells.append(
            (
                row.method,
                format_bytes(row.peak_bytes),
                str(row.checkpointed_layers),
                "over 64" if row.gpus is None else f"{row.gpus}{each}",
                "-" if row.step_seconds is None else f"{row.step_seconds:.2f} s",
                f"{row.because}{host}; largest: "
                + ", ".join(f"{name.replace('_', ' ')} {format_bytes(size)}" for name, size in largest),
            )
        )
    columns = ("method", "peak", "recomputed", f"GPUs ({gpu.name})", "step", "because")
    table(
        f"methods in a plain loop: transformers, PEFT, AdamW, the usual loss; one row of {rows[0].row_tokens:,} tokens",
        columns,
        cells,
    )


def print_calibration(errors: Sequence[RunError], known: Sequence[Correction]) -> None:
    """Print predicted against measured of each run by processor, and what that does to the next plan there."""
    if not errors:
        line("no run of this home was measured yet: train one, and its plan is held against it here")
        return
    for where in dict.fromkeys(each.machine or each.device for each in errors):
        _print_errors(where, [each for each in errors if (each.machine or each.device) == where])
        line("")
    for where in dict.fromkeys(each.machine or each.device for each in known):
        _print_corrections(where, [each for each in known if (each.machine or each.device) == where])


def _print_errors(where: str, errors: Sequence[RunError]) -> None:
    write = {"bytes": format_bytes, "seconds": format_seconds}
    cells = [
        (
            error.run,
            error.compared.what,
            write[error.compared.unit](error.compared.predicted),
            write[error.compared.unit](error.compared.measured),
            f"{error.compared.measured / error.compared.predicted:.2f}",
            "yes" if error.compared.within else "NO",
        )
        for error in errors
    ]
    columns = ("run", "what", "predicted", "measured", "ratio", "in band")
    table(f"runs on {where}", columns, cells)


def _print_corrections(where: str, known: Sequence[Correction]) -> None:
    rows = [
        (
            each.what,
            str(each.runs),
            f"{each.mean_error:.1%}",
            f"{each.within:.0%}",
            f"{each.factor:.2f}",
            "as before" if each.low is None else f"{each.low:.2f} to {each.high:.2f}",
            each.because,
        )
        for each in known
    ]
    columns = ("what", "runs", "mean error", "in band", "next plan times", "band", "because")
    table(f"what the next plan does with it on {where}", columns, rows)
