"""The command line: one function a verb. Parses, calls, prints; decides nothing.

Stage modules are imported inside the verbs, so that `burnish --help` needs no torch and answers at once. Each module
beside this one holds a group of verbs, and `add_verbs` adds them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from burnish import __version__
from burnish.cli import advising, data, keys, looking, making, planning, serving
from burnish.cli.verbs import Parser, Run, add_common, print_json, with_values_below_zero
from burnish.core.errors import BurnishError, GateError, Interrupted

EPILOG = """exit codes: 0 done, 1 unexpected, 2 command or recipe, 3 data, 4 base model, 5 memory, disk, port or network,
6 training, 7 gate failed, 8 home folder, 9 serving, 130 interrupted. Read more: docs/start.md"""
GROUPS = (making, planning, advising, data, serving, keys, looking)


def build_parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    parser = Parser(prog="burnish", description="Raw documents in, a proven specialist model out.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"burnish {__version__}")
    add_common(parser, "before")
    verbs = parser.add_subparsers(dest="verb", metavar="verb", required=True)

    def verb(name: str, summary: str, run: Run) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=summary, description=summary[:1].upper() + summary[1:] + ".")
        add_common(sub, "after")
        sub.set_defaults(run=run)
        return sub

    for group in GROUPS:
        group.add_verbs(verb)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    as_json, verbose = "--json" in given, False
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options = _merge(build_parser().parse_args(with_values_below_zero(given)))
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
    """Merge the common flags, which may stand before the verb, after it, and after a verb within a verb."""
    given = vars(options)
    places = [place for place in ("before", "after", "within") if f"{place}_home" in given]
    options.set = [change for place in places for change in given[f"{place}_set"]]
    for name in ("json", "verbose", "quiet"):
        setattr(options, name, any(given[f"{place}_{name}"] for place in places))
    homes = [given[f"{place}_home"] for place in reversed(places)]
    options.home = Path(next(filter(None, [*homes, os.environ.get("BURNISH_HOME")]), ".burnish"))
    return options


def _fail(error: BurnishError, *, as_json: bool, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    if as_json and not isinstance(error, GateError):
        value = {"error": {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}}
        print_json(value)
    return error.exit_code
