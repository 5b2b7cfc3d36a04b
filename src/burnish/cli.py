"""The command line: one function a verb. Parses, calls, prints; decides nothing.

Stage modules are imported inside the verbs, so that `burnish --help` needs no torch and answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from burnish import __version__
from burnish.core.errors import BurnishError, GateError, Interrupted, UsageError

STAGES = ("prepare", "plan", "train", "evaluate", "release", "run")
EPILOG = """exit codes: 0 done, 1 unexpected, 2 command or recipe, 3 data, 4 base model, 5 memory, disk, port or network,
6 training, 7 gate failed, 8 home folder, 9 serving, 130 interrupted. Read more: docs/start.md"""


class _Parser(argparse.ArgumentParser):
    """Raises UsageError instead of leaving the process, so that --json stays one JSON document."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See: {self.prog} --help")


def _port(text: str) -> int:
    """A TCP port: the system would take one beyond 65535 for another."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; it is a number from 0 (takes a free one) to 65535")
    return int(text)


def _add_common(parser: argparse.ArgumentParser, where: str) -> None:
    """Add the flags that may stand before or after the verb; `where` keeps both places apart until they are merged."""
    group = parser.add_argument_group("common flags, before or after the verb")
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest=f"{where}_set",
        help="change one recipe key, such as train.epochs=2",
    )
    group.add_argument(
        "--json", action="store_true", dest=f"{where}_json", help="print exactly one JSON document on stdout"
    )
    group.add_argument(
        "--home",
        metavar="FOLDER",
        default=None,
        dest=f"{where}_home",
        help="where work is kept (default: .burnish, or $BURNISH_HOME)",
    )
    group.add_argument(
        "-v", "--verbose", action="store_true", dest=f"{where}_verbose", help="more detail, and a traceback with errors"
    )
    group.add_argument("-q", "--quiet", action="store_true", dest=f"{where}_quiet", help="no progress")


def build_parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    parser = _Parser(prog="burnish", description="Raw documents in, a proven specialist model out.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"burnish {__version__}")
    _add_common(parser, "before")
    verbs = parser.add_subparsers(dest="verb", metavar="verb", required=True)

    def verb(name: str, summary: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=summary, description=summary[:1].upper() + summary[1:] + ".")
        _add_common(sub, "after")
        sub.set_defaults(run=run)
        return sub

    summaries = {
        "run": "do everything: prepare, plan, train, evaluate, gate, release",
        "prepare": "clean the data and prove it clean",
        "plan": "say what the run will need: memory, minutes, tokens, each with its because",
        "train": "prepare, plan and train an adapter",
        "evaluate": "train, then compare base and tuned with intervals",
        "release": "evaluate, then register the adapter if the gate passes",
        "check": "find mistakes in a recipe and its data without working",
    }
    new = verb("new", "write a recipe and a few example rows to begin with", _new)
    new.add_argument("name", help="name of the specialist")
    for name in ("check", *STAGES):
        sub = verb(name, summaries[name], _check if name == "check" else _stages)
        sub.add_argument("recipe", type=Path, help="the recipe, a YAML file")
    serve = verb("serve", "serve every release, and the base, as an OpenAI-compatible API", _serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=_port, default=8731, help="port to listen on (default: 8731)")
    chat = verb("chat", "talk to a release in the terminal, and to its base", _chat)
    chat.add_argument("name", help="alias of a release, such as flight-search")
    chat.add_argument("--once", metavar="TEXT", help="answer this one message and leave")
    chat.add_argument("--date", metavar="YYYY-MM-DD", help="the day of the conversation (default: today)")
    show = verb("show", "print an artifact, or list what there is", _show)
    show.add_argument("id", nargs="?", help="an id, the beginning of one, or latest")
    show.add_argument(
        "--kind", choices=("manifest", "plan", "adapter", "report", "release"), help="with latest: of this kind"
    )
    verb("doctor", "look at this machine: versions, memory, disk, device", _doctor)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    as_json, verbose = "--json" in (sys.argv[1:] if arguments is None else arguments), False
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options = _merge(build_parser().parse_args(arguments))
        as_json, verbose = options.json, options.verbose
        return int(options.run(options))
    except BurnishError as error:
        return _fail(error, as_json=as_json, verbose=verbose)
    except KeyboardInterrupt:
        return _fail(Interrupted("stopped. Run the same command to go on."), as_json=as_json, verbose=verbose)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # noqa: BLE001 - the edge of the process: any error at all becomes a message and an exit code
        unexpected = BurnishError(f"{type(error).__name__}: {error}. This is a fault of burnish; -v shows where.")
        return _fail(unexpected, as_json=as_json, verbose=verbose)


def _merge(options: argparse.Namespace) -> argparse.Namespace:
    before, after = vars(options), vars(options)
    options.set = [*before["before_set"], *after["after_set"]]
    for name in ("json", "verbose", "quiet"):
        setattr(options, name, before[f"before_{name}"] or after[f"after_{name}"])
    home = after["after_home"] or before["before_home"] or os.environ.get("BURNISH_HOME") or ".burnish"
    options.home = Path(home)
    return options


def _fail(error: BurnishError, *, as_json: bool, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    if as_json and not isinstance(error, GateError):
        value = {"error": {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}}
        _print_json(value)
    return error.exit_code


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


# ------------------------------------------------------------------------------------------------------------------- verbs


def _stages(options: argparse.Namespace) -> int:
    from burnish import pipeline, views
    from burnish.core.recipe import load_recipe
    from burnish.store.home import Home
    from burnish.terminal import Terminal

    recipe = load_recipe(options.recipe, options.set)
    home = Home(options.home)
    with Terminal(quiet=options.quiet, verbose=options.verbose) as terminal:
        if options.verb == "plan":
            plan = pipeline.estimate(recipe, home)
            _print_json({"id": plan.id, **plan.model_dump(mode="json")}) if options.json else views.print_plan(plan)
            return 0
        until = "release" if options.verb == "run" else options.verb
        outcome = pipeline.run(recipe, home, terminal.emit, until=until)
    if options.json:
        _print_json(outcome.as_json())
    else:
        views.print_outcome(outcome, recipe, home)
    if outcome.gate is not None and not outcome.gate.passed and options.verb in ("run", "release"):
        raise GateError("the gate failed: " + " ".join(outcome.gate.reasons))
    return 0


def _new(options: argparse.Namespace) -> int:
    from burnish.scaffold import write_scaffold

    paths = write_scaffold(options.name, Path.cwd())
    if options.json:
        _print_json({"written": [str(path) for path in paths]})
    else:
        for path in paths:
            sys.stdout.write(f"wrote {path}\n")
        sys.stdout.write(f"next: put your rows into {paths[1]}, then  burnish check {paths[0]}\n")
    return 0


def _check(options: argparse.Namespace) -> int:
    from burnish import doors, views
    from burnish.core.recipe import load_recipe
    from burnish.store.home import Home

    recipe = load_recipe(options.recipe, options.set)
    found = doors.check(recipe, Home(options.home))
    _print_json(found) if options.json else views.print_check(found)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from burnish import doors
    from burnish.store.home import Home
    from burnish.terminal import Terminal

    with Terminal(quiet=options.quiet, verbose=options.verbose) as terminal:
        doors.serve(Home(options.home), options.host, options.port, terminal.emit)
    return 0


def _chat(options: argparse.Namespace) -> int:
    from burnish import doors
    from burnish.store.home import Home
    from burnish.terminal import Terminal

    if options.once is None and options.json:
        raise UsageError("--json answers one message: add --once TEXT")
    with Terminal(quiet=options.quiet, verbose=options.verbose) as terminal:
        chat = doors.open_chat(options.name, Home(options.home), options.date, terminal.emit)
    try:
        if options.once is None:
            return chat.talk(sys.stdin, sys.stdout)
        answers = chat.once(options.once)
    finally:
        chat.close()
    _print_json(answers) if options.json else sys.stdout.write(f"{answers['answer']}\n")
    return 0


def _show(options: argparse.Namespace) -> int:
    from burnish import views
    from burnish.store.home import Home

    home = Home(options.home)
    if options.id is None:
        rows = views.artifact_rows(home)
        _print_json(rows) if options.json else views.print_artifacts(rows)
        return 0
    artifact = home.find(options.id, options.kind)
    value = {"kind": artifact.kind, "id": artifact.id, **artifact.model_dump(mode="json")}
    _print_json(value) if options.json else views.print_artifact(artifact, home)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from burnish import doors, views

    findings = doors.doctor(options.home)
    _print_json(findings) if options.json else views.print_doctor(findings)
    return 0 if findings["ok"] else 1
