"""Every error burnish raises on purpose, and the exit code each one gives.

BurnishError              1   anything of ours not listed below
|- UsageError             2   the command line asks for something that does not exist
|- RecipeError            2   the recipe is wrong; every problem is listed at once
|- DataError              3   the data cannot become a dataset
|- BaseModelError         4   the base model is unknown, damaged or unreachable
|- ResourceError          5   not enough memory, disk, or a port or network that is needed
|- TrainingError          6   training cannot go on (no trained tokens, loss not finite)
|- GateError              7   the result is worse than the recipe's gate asks
|- StoreError             8   the home folder is unwritable, damaged, or in use by another run
|- ServeError             9   the engine or a request to it is wrong
`- Interrupted          130   Ctrl-C, after the state was saved

A message says what was found, where, what is allowed and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class BurnishError(Exception):
    """Root of the tree. `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class UsageError(BurnishError):
    """The command line asks for something that does not exist."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a recipe: where, what was found, and what is allowed."""

    key: str
    found: str
    allowed: str


class RecipeError(BurnishError):
    """The recipe is wrong, or a file beside it. Shows all problems at once, and where to read more."""

    exit_code: ClassVar[int] = 2

    def __init__(self, source: str, problems: Iterable[Problem], page: str = "docs/recipe.md") -> None:
        self.source, self.page = source, page
        self.problems = tuple(problems)
        many = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        width = max((len(f"{p.key} = {p.found}") for p in self.problems), default=0)
        lines = [f"{source} has {many}"]
        lines += [f"  {f'{p.key} = {p.found}':<{width}}   {p.allowed}" for p in self.problems]
        lines.append(f"  Read: {page}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[str, tuple[Problem, ...], str]]:
        """Pickle by the arguments, not by the finished message."""
        return type(self), (self.source, self.problems, self.page)


class DataError(BurnishError):
    """The data cannot become a dataset."""

    exit_code: ClassVar[int] = 3


class BaseModelError(BurnishError):
    """The base model is unknown, damaged or unreachable."""

    exit_code: ClassVar[int] = 4


class ResourceError(BurnishError):
    """Memory, disk, a port or the network is missing."""

    exit_code: ClassVar[int] = 5


class TrainingError(BurnishError):
    """Training cannot go on."""

    exit_code: ClassVar[int] = 6


class GateError(BurnishError):
    """The result falls short of the recipe's gate."""

    exit_code: ClassVar[int] = 7


class StoreError(BurnishError):
    """The home folder is unwritable, damaged, or in use."""

    exit_code: ClassVar[int] = 8


class ServeError(BurnishError):
    """The engine, or a request to it, is wrong."""

    exit_code: ClassVar[int] = 9


class Interrupted(BurnishError):
    """The person pressed Ctrl-C and the state was saved."""

    exit_code: ClassVar[int] = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean "x"?' for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.65)
    return f' Did you mean "{near[0]}"?' if near else ""
