"""Write a recipe and example rows: the plain pair, or one of the starters for a use case (starters/*.yaml, *.jsonl)."""

from __future__ import annotations

import json
import os
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from burnish.core.errors import UsageError, did_you_mean
from burnish.core.recipe import Name
from burnish.store.files import write_bytes

RECIPE = """\
name: {name}
base: smollm2-135m-instruct      # bundled name, Hub id or folder
data: {name}.jsonl               # one JSON object a line: instruction and response, or messages
method: qlora                    # or {{kind: lora, rank: 32, alpha: 64, dropout: 0.05, targets: [q_proj, v_proj]}}
gate: {{json_valid: 0.9}}          # smallest values on the held-out rows; no gate, no refusal
system: You route support messages. Answer with JSON only.
"""
PROBLEMS = {
    "billing": (
        "I was charged twice",
        "my invoice shows the wrong amount",
        "the refund never arrived",
        "my card was declined",
    ),
    "login": ("I cannot sign in", "the reset mail never comes", "my account is locked", "two-factor codes are refused"),
    "delivery": (
        "my parcel is late",
        "the box came damaged",
        "the tracking link is dead",
        "I got someone else's order",
    ),
}
FRAMES = {
    False: (
        "Hi, {problem}. Can you have a look?",
        "{problem}, no hurry though",
        "Small thing: {problem}.",
        "Hello team, {problem}. Thanks!",
    ),
    True: (
        "URGENT: {problem}!",
        "{problem} and I need this solved today",
        "This is the third time I write, {problem}.",
        "Please help right now, {problem}",
    ),
}


@cache
def starters() -> tuple[str, ...]:
    """Return the names of the use cases that a recipe can begin from, sorted."""
    files = resources.files("burnish.scaffold").joinpath("starters").iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def write_scaffold(name: str, folder: Path, starter: str | None = None) -> tuple[Path, Path]:
    """Write NAME.yaml and NAME.jsonl into `folder`: the plain pair, or that of a starter.

    Raises UsageError for a bad name, an unknown starter (with the nearest), and for files that exist: none is overwritten.
    """
    check_name(name)
    text, lines = _plain(name) if starter is None else _starter(starter, name)
    recipe, rows = folder / f"{name}.yaml", folder / f"{name}.jsonl"
    for path in (recipe, rows):
        refuse_existing(path)
    write_bytes(rows, lines.encode())
    write_bytes(recipe, text.encode())
    return recipe, rows


def check_name(name: str) -> None:
    """Raise UsageError unless a specialist may be called so."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise UsageError(
            f'"{name}" is no name for a specialist: use a-z, 0-9, ".", "_", "-", at most 63 characters.'
        ) from error
    if name == "base":
        raise UsageError('"base" is how people ask for the model without an adapter. Choose another name.')


def refuse_existing(path: Path) -> None:
    """Raise UsageError for a path that something lies at, a dangling link included: nothing is overwritten."""
    if os.path.lexists(path):
        raise UsageError(f"{path} exists. Choose another name, or move the file away.")


def _plain(name: str) -> tuple[str, str]:
    return RECIPE.format(name=name), "".join(json.dumps(row) + "\n" for row in _rows())


def _starter(starter: str, name: str) -> tuple[str, str]:
    if starter not in starters():
        known = ", ".join(starters())
        raise UsageError(
            f'no starter is called "{starter}". Known: {known}.{did_you_mean(starter.lower(), starters())}'
        )
    files = resources.files("burnish.scaffold").joinpath("starters")
    recipe = files.joinpath(f"{starter}.yaml").read_text(encoding="utf-8").replace("{name}", name)
    return recipe, files.joinpath(f"{starter}.jsonl").read_text(encoding="utf-8")


def _rows() -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for team, problems in PROBLEMS.items():
        for problem in problems:
            for urgent, frames in FRAMES.items():
                answer = json.dumps({"team": team, "urgent": urgent}, separators=(",", ":"))
                rows += [{"instruction": frame.format(problem=problem), "response": answer} for frame in frames]
    return rows
