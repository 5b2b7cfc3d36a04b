"""Verbs that look: show, inspect and doctor."""

from __future__ import annotations

import argparse
from pathlib import Path

from burnish.cli.verbs import AddVerb, print_json


def add_verbs(verb: AddVerb) -> None:
    """Add the verbs of this file."""
    show = verb("show", "print an artifact, or list what there is", _show)
    show.add_argument("id", nargs="?", help="an id, the beginning of one, or latest")
    show.add_argument(
        "--kind", choices=("manifest", "plan", "adapter", "report", "release"), help="with latest: of this kind"
    )
    inspect = verb("inspect", "look into a base model: formats, adapters, what rounding its weights loses", _inspect)
    inspect.add_argument("model", help="bundled name, known model, folder or Hub id")
    inspect.add_argument("--rank", type=int, default=16, help="rank of the adapters that are shown (default: 16)")
    inspect.add_argument(
        "--targets", default="all-linear", help="linears with an adapter, by comma (default: all-linear)"
    )
    which = inspect.add_mutually_exclusive_group()
    which.add_argument("--weights", action="store_true", default=None, help="fetch the weights where they are not here")
    which.add_argument("--no-weights", dest="weights", action="store_false", help="the configuration is enough")
    inspect.add_argument(
        "--perplexity", type=int, default=0, metavar="TEXTS", help="measure it on so many of the 200 general texts"
    )
    inspect.add_argument(
        "--sample", type=int, default=32_768, help="weights of a matrix that are rounded; 0: all (default: 32768)"
    )
    inspect.add_argument("--report", type=Path, metavar="FILE", help="write the HTML page about it here")
    verb("doctor", "look at this machine: versions, memory, disk, device", _doctor)


def _show(options: argparse.Namespace) -> int:
    from burnish.store.home import Home
    from burnish.views.artifacts import artifact_rows, print_artifact, print_artifacts

    home = Home(options.home)
    if options.id is None:
        rows = artifact_rows(home)
        print_json(rows) if options.json else print_artifacts(rows)
        return 0
    artifact = home.find(options.id, options.kind)
    value = {"kind": artifact.kind, "id": artifact.id, **artifact.model_dump(mode="json")}
    print_json(value) if options.json else print_artifact(artifact, home)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from burnish.doors.inspect import inspect, write_inspection
    from burnish.terminal import Terminal
    from burnish.views.inspect import print_inspection

    with Terminal(quiet=options.quiet, verbose=options.verbose) as terminal:
        found = inspect(
            options.model,
            rank=options.rank,
            targets=[name.strip() for name in options.targets.split(",")],
            weights=options.weights,
            perplexity=options.perplexity,
            sample=options.sample,
            emit=terminal.emit,
        )
    if options.report is not None:
        write_inspection(found, options.report)
    print_json(found) if options.json else print_inspection(found, options.report)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from burnish.doors.doctor import doctor
    from burnish.views.findings import print_doctor

    findings = doctor(options.home)
    print_json(findings) if options.json else print_doctor(findings)
    return 0 if findings["ok"] else 1
