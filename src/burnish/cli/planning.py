"""The verb `plan`: memory, minutes and money before anything is spent."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from burnish.cli.verbs import AddVerb, print_json
from burnish.core.errors import UsageError
from burnish.core.units import parse_bytes, parse_seconds, parse_usd

T = TypeVar("T")
FLAGS = ("gpu", "gpus", "fit", "deadline", "budget", "prices", "methods", "probe", "calibration")
FORMS = {
    "calibration": ("shows the runs of the home and plans nothing", ()),
    "probe": (
        "measures this machine and the recipe as it is; plans of the same shape use what it measured",
        ("prices",),
    ),
    "gpus": ("prints a table of its own", ("fit", "deadline", "budget", "prices")),
    "methods": ("shows methods beside each other, on one GPU and without limits", ("gpu",)),
}
"""Forms of the answer: what each shows, and which other flags it reads."""


def add_verbs(verb: AddVerb) -> None:
    """Add the verb of this file."""
    sub = verb("plan", "say what the run will need: memory, minutes, tokens, dollars, each with its because", _plan)
    sub.add_argument("recipe", type=Path, nargs="?", help="the recipe, a YAML file; not needed with --calibration")
    sub.add_argument("--gpu", metavar="NAME", help="plan for a rented GPU, such as h100, and not for this machine")
    sub.add_argument(
        "--gpus", metavar="NAMES", help="a table of GPUs, such as t4,l40s,a100,h100: fits or not, minutes, dollars"
    )
    sub.add_argument("--fit", metavar="MEMORY", type=_read(parse_bytes), help="choose settings that fit, such as 24GB")
    sub.add_argument(
        "--deadline", metavar="TIME", type=_read(parse_seconds), help="choose settings that end in time, such as 2h"
    )
    sub.add_argument(
        "--budget",
        metavar="MONEY",
        type=_read(parse_usd),
        help="choose settings that cost at most so much, such as 20usd",
    )
    sub.add_argument(
        "--methods",
        action="store_true",
        help="a table of full fine-tuning, LoRA, QLoRA and DPO: memory by component, GPUs needed",
    )
    sub.add_argument(
        "--probe",
        action="store_true",
        help="make 20 steps of the run here first (more while they wander), and plan with their seconds and bytes; "
        "kept for later plans",
    )
    sub.add_argument("--calibration", action="store_true", help="predicted against measured of each run so far")
    sub.add_argument("--prices", metavar="FILE", type=Path, help="your own prices, in the form that docs/plan.md shows")


def _read(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Let argparse tell why a value is refused."""

    def read(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _names(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the GPUs of a table. Raises UsageError where there is none in it."""
    if options.gpus is None:
        return ()
    names = tuple(name.strip() for name in options.gpus.split(",") if name.strip())
    if not names:
        raise UsageError(f"--gpus {options.gpus!r} names no GPU; write them with commas, such as t4,l40s,h100")
    return names


def _check_together(options: argparse.Namespace) -> None:
    """Raise UsageError for a flag that the asked form of answer would leave unread."""
    given = [flag for flag in FLAGS if getattr(options, flag) not in (None, False)]
    for form, (says, read) in FORMS.items():
        unread = [f"--{flag}" for flag in given if flag != form and flag not in read]
        if form in given and unread:
            raise UsageError(f"--{form} {says}; leave out {' and '.join(unread)}")


def _plan(options: argparse.Namespace) -> int:
    from burnish.core.recipe_file import load_recipe
    from burnish.doors.planning import Asked, calibration, gpus_for, methods_for, plan_for
    from burnish.plan.table import calibration_document, gpus_document, methods_document, planned_document
    from burnish.store.home import Home
    from burnish.views.planning import print_calibration, print_gpus, print_methods, print_planned

    home = Home(options.home)
    _check_together(options)
    if options.calibration:
        errors, known = calibration(home)
        print_json(calibration_document(errors, known)) if options.json else print_calibration(errors, known)
        return 0
    if options.recipe is None:
        raise UsageError("which recipe? Give its YAML file: burnish plan support.yaml")
    recipe = load_recipe(options.recipe, options.set)
    names = _names(options)
    asked = Asked(options.gpu, names, options.fit, options.deadline, options.budget, options.prices)
    if options.probe:
        from burnish import pipeline
        from burnish.terminal import Terminal

        with Terminal(quiet=options.quiet, verbose=options.verbose) as terminal:
            pipeline.probe(recipe, home, terminal.emit)
    if names:
        rows = gpus_for(recipe, home, asked)
        print_json(gpus_document(rows)) if options.json else print_gpus(recipe, rows)
        return 0
    if options.methods:
        gpu, methods = methods_for(recipe, home, asked)
        print_json(methods_document(gpu, methods)) if options.json else print_methods(gpu, methods)
        return 0
    found = plan_for(recipe, home, asked)
    if options.json:
        print_json(planned_document(found.plan, found.solution, found.context, found.model))
    else:
        print_planned(found)
    return 0
