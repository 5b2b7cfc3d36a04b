"""Measured constants of the plan: a table with what each means, where it comes from and when it was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class Constant:
    """A number that no arithmetic gives."""

    value: float
    meaning: str
    source: str
    date: str


@cache
def constants() -> dict[str, Constant]:
    """Return the table of constants.json."""
    table = json.loads(resources.files("burnish.plan").joinpath("constants.json").read_text(encoding="utf-8"))
    return {name: Constant(**row) for name, row in table.items()}


def constant(name: str) -> float:
    """Return the value of one constant."""
    return constants()[name].value
