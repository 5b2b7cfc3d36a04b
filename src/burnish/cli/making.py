"""Verbs that make things: new, check, the stages and run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from burnish.cli.verbs import AddVerb, print_json
from burnish.core.errors import GateError

CHAMPION = "champion"
SUMMARIES = {
    "check": "find mistakes in a recipe and its data without working",
    "prepare": "clean the data and prove it clean",
    "train": "prepare, plan and train an adapter",
    "evaluate": "train, then compare base and tuned with intervals",
    "release": "evaluate, then register the adapter if the gate passes",
    "run": "do everything: prepare, plan, train, evaluate, gate, release",
}


def add_verbs(verb: AddVerb) -> None:
    """Add the verbs of this file."""
    new = verb("new", "write a recipe and a few example rows to begin with", _new)
    new.add_argument("name", help="name of the specialist")
    new.add_argument(
        "--from",
        dest="starter",
        metavar="USE-CASE",
        help="begin from support, extract, sql, classify, summarise or voice",
    )
    for name, summary in SUMMARIES.items():
        sub = verb(name, summary, _check if name == "check" else _stages)
        sub.add_argument("recipe", type=Path, help="the recipe, a YAML file")
        if name in ("run", "release"):
            sub.add_argument(
                "--alias", default=CHAMPION, help=f"what the release is called by (default: {CHAMPION}; or challenger)"
            )
        if name == "prepare":
            sub.add_argument("--report", type=Path, metavar="FILE", help="write an HTML page about the dataset here")
    promote = verb(
        "promote", "let an alias lead to a version: a challenger, a new champion, or the old one again", _promote
    )
    promote.add_argument("name", help="a release: flight-search, flight-search:3 or flight-search@challenger")
    promote.add_argument("--alias", default=CHAMPION, help=f"the alias that is moved (default: {CHAMPION})")


def _stages(options: argparse.Namespace) -> int:
    from burnish import pipeline
    from burnish.core.recipe_file import load_recipe
    from burnish.doors.promoting import check_alias
    from burnish.store.home import Home
    from burnish.terminal import Terminal
    from burnish.views.outcome import print_outcome

    recipe = load_recipe(options.recipe, options.set)
    home = Home(options.home)
    alias = check_alias(options.alias) if options.verb in ("run", "release") else pipeline.CHAMPION
    with Terminal(quiet=options.quiet, verbose=options.verbose) as terminal:
        until = "release" if options.verb == "run" else options.verb
        outcome = pipeline.run(recipe, home, terminal.emit, until=until, alias=alias)
    if options.verb == "prepare" and options.report is not None and outcome.manifest is not None:
        from burnish.doors.data import write_data_report

        write_data_report(home, outcome.manifest, options.report, recipe)
    if options.json:
        print_json(outcome.as_json())
    else:
        print_outcome(outcome, recipe, home)
    if outcome.gate is not None and not outcome.gate.passed and options.verb in ("run", "release"):
        raise GateError("the gate failed: " + " ".join(outcome.gate.reasons))
    return 0


def _promote(options: argparse.Namespace) -> int:
    from burnish.doors.promoting import promote
    from burnish.store.home import Home
    from burnish.terminal import Terminal

    with Terminal(quiet=options.quiet, verbose=options.verbose) as terminal:
        done = promote(Home(options.home), options.name, options.alias, terminal.emit)
    if options.json:
        print_json(done.as_json())
        return 0
    told = f"{done.release.name}@{done.release.alias}"
    if not done.moved:
        sys.stdout.write(f"{told} leads there already: it is version {done.release.version}\n")
        return 0
    before = "" if done.before is None else f"; before: version {done.before.version}"
    sys.stdout.write(f"{told} leads to {options.name} now, as version {done.release.version}{before}\n")
    return 0


def _new(options: argparse.Namespace) -> int:
    from burnish.scaffold.write import write_scaffold

    paths = write_scaffold(options.name, Path.cwd(), options.starter)
    if options.json:
        print_json({"written": [str(path) for path in paths]})
    else:
        for path in paths:
            sys.stdout.write(f"wrote {path}\n")
        sys.stdout.write(f"next: put your rows into {paths[1]}, then  burnish check {paths[0]}\n")
    return 0


def _check(options: argparse.Namespace) -> int:
    from burnish.core.recipe_file import load_recipe
    from burnish.doors.check import check
    from burnish.store.home import Home
    from burnish.views.findings import print_check

    recipe = load_recipe(options.recipe, options.set)
    found = check(recipe, Home(options.home))
    print_json(found) if options.json else print_check(found)
    return 0
