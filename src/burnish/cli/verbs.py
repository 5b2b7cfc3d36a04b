"""What the verbs share: the parser, the common flags, one JSON document on stdout."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol

from burnish.core.errors import UsageError

Run = Callable[[argparse.Namespace], int]


class AddVerb(Protocol):
    """Adds a verb to the command line, with the common flags, and returns its parser."""

    def __call__(self, name: str, summary: str, run: Run) -> argparse.ArgumentParser:
        """`summary` begins in lower case and ends without a full stop; `run` returns the exit code."""
        ...


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of leaving the process, so that --json stays one JSON document."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as UsageError."""
        raise UsageError(f"{message}. See: {self.prog} --help")


def with_values_below_zero(arguments: Iterable[str]) -> list[str]:
    """Return the arguments with `--fit -3GB` as `--fit=-3GB`, so that the flag says what it takes.

    argparse takes what begins with a dash for a flag, plain numbers excepted; no flag of burnish begins with a digit.
    """
    joined: list[str] = []
    for argument in arguments:
        flag = joined[-1] if joined else ""
        if re.fullmatch(r"--[a-z][a-z-]*", flag) and re.match(r"-[$.]?\d", argument):
            joined[-1] = f"{flag}={argument}"
        else:
            joined.append(argument)
    return joined


def port(text: str) -> int:
    """A TCP port: the system would take one beyond 65535 for another."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; it is a number from 0 (takes a free one) to 65535")
    return int(text)


def add_common(parser: argparse.ArgumentParser, where: str) -> None:
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


def print_json(value: Any) -> None:
    """Print the one JSON document of a command."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
