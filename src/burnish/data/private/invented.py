"""Invented names of people, places and companies for surrogates, from invented.yaml."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import NamedTuple

import yaml


class Invented(NamedTuple):
    """Names to draw from."""

    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    places: tuple[str, ...]
    companies: tuple[str, ...]


@cache
def invented() -> Invented:
    """Return the names of invented.yaml, read once."""
    lists: dict[str, str] = yaml.safe_load(files("burnish.data.private").joinpath("invented.yaml").read_text("utf-8"))
    words = {key: tuple(names.split()) for key, names in lists.items()}
    companies = tuple(f"{name} {kind}" for name in words["companies"] for kind in words["company_kinds"])
    return Invented(words["first_names"], words["last_names"], words["places"], companies)
