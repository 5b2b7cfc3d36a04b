"""What a specialist forgot: the token loss of base and tuned on 200 fixed general texts that no dataset holds.

The texts lie in `general_texts.txt`, one a line, written for this purpose (science, cooking, letters, dialogue,
code, sums, sport, verse), so that they are in no model's training data. A tuned model that predicts them worse than
its base has paid for its speciality with general English; the paired difference in nats per token says how much.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from burnish.core.rows import TokenRow

TASK = "general"
"""Name of this measurement among the tasks of a report; no task of a recipe may bear it."""


def general_texts() -> tuple[str, ...]:
    """Return the texts in their fixed order."""
    return tuple(
        resources.files("burnish.evaluate").joinpath("general_texts.txt").read_text(encoding="utf-8").splitlines()
    )


def general_rows(encode: Callable[[str], list[int]]) -> list[TokenRow]:
    """Return the texts as rows in which every token but the first, which nothing comes before, has loss.

    encode: text -> token ids, with the token that begins a text if the model was trained with one.
    """
    rows: list[TokenRow] = []
    for number, text in enumerate(general_texts(), start=1):
        ids = tuple(encode(text))
        rows.append(TokenRow(f"{TASK}-{number:03d}", ids, (0, *[1] * (len(ids) - 1)), prefix=0, prompt=0))
    return rows
