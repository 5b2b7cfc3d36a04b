"""`burnish new`: a recipe and example rows that run as they are, to be replaced by one's own."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from burnish.core.errors import UsageError
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


def write_scaffold(name: str, folder: Path) -> tuple[Path, Path]:
    """Write NAME.yaml and NAME.jsonl into `folder`. Raises UsageError for a bad name and for files that exist."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise UsageError(
            f'"{name}" is no name for a specialist: use a-z, 0-9, ".", "_", "-", at most 63 characters.'
        ) from error
    recipe, rows = folder / f"{name}.yaml", folder / f"{name}.jsonl"
    for path in (recipe, rows):
        if path.exists():
            raise UsageError(f"{path} exists. Choose another name, or move the file away.")
    lines = [json.dumps(row) for row in _rows()]
    write_bytes(rows, ("\n".join(lines) + "\n").encode())
    write_bytes(recipe, RECIPE.format(name=name).encode())
    return recipe, rows


def _rows() -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for team, problems in PROBLEMS.items():
        for problem in problems:
            for urgent, frames in FRAMES.items():
                answer = json.dumps({"team": team, "urgent": urgent}, separators=(",", ":"))
                rows += [{"instruction": frame.format(problem=problem), "response": answer} for frame in frames]
    return rows
