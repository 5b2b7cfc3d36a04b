"""A rendered row to look at: which text has loss, and what it is, for a terminal and for a page.

What is trained is told by marks, underlines and words as well as by colour, so that it can be read in grey, printed, and by
a screen reader.
"""

from __future__ import annotations

import html as markup
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from burnish.text.check import TokenIds
from burnish.text.tokenizer import Tokenizer

Kind = Literal["system", "prompt", "answer", "special"]

FOLD_CHARACTERS = 600
"""A run longer than this is folded: its beginning and end are shown, the middle on request."""

_COLOURS: dict[Kind, str] = {"system": "36", "prompt": "39", "answer": "32", "special": "35"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Control characters could drive the terminal, marks of writing direction could show a text that is not there.


class Run(NamedTuple):
    """Neighbouring tokens of one kind: their text, whether they have loss, and how many they are."""

    text: str
    trained: bool
    kind: Kind
    tokens: int


def runs(tokenizer: Tokenizer, row: TokenIds) -> list[Run]:
    """Cut a row into runs. The texts together are the text of the row, special tokens included."""
    keys = [_key(tokenizer, row, at) for at in range(len(row.ids))]
    found: list[Run] = []
    start, shown = 0, ""
    for end in range(1, len(keys) + 1):
        if end < len(keys) and keys[end] == keys[start]:
            continue
        # Decoded from the beginning: a piece alone may lose the space it begins with.
        text = tokenizer.backend.decode(list(row.ids[:end]), skip_special_tokens=False)
        if text.startswith(shown):
            piece = text[len(shown) :]
        else:  # a character whose bytes lie on both sides of the border
            piece = tokenizer.backend.decode(list(row.ids[start:end]), skip_special_tokens=False)
        trained, kind = keys[start]
        found.append(Run(piece, trained, kind, end - start))
        start, shown = end, text
    return found


def _key(tokenizer: Tokenizer, row: TokenIds, at: int) -> tuple[bool, Kind]:
    trained = bool(row.mask[at])
    if row.ids[at] in tokenizer.special_ids:
        return trained, "special"
    return trained, "system" if at < row.prefix else "answer" if trained else "prompt"


def summary(found: Sequence[Run]) -> str:
    """Return one sentence about the row."""
    tokens = sum(run.tokens for run in found)
    trained = sum(run.tokens for run in found if run.trained)
    share = trained / tokens if tokens else 0.0
    return f"{trained:,} of {tokens:,} tokens are trained ({share:.0%})"


def terminal(found: Sequence[Run], *, colour: bool) -> str:
    """Return the row for a terminal. Trained text stands between ⟦ and ⟧, with colour also underlined."""
    lines = [f"{summary(found)}; trained text stands between ⟦ and ⟧"]
    text: list[str] = []
    for at, run in enumerate(found):
        begins = run.trained and not (at and found[at - 1].trained)
        ends = run.trained and not (at + 1 < len(found) and found[at + 1].trained)
        shown = visible(_folded(run.text))
        if colour:
            style = _COLOURS[run.kind] + (";1;4" if run.trained else "")
            # Each line by itself: an underline must not run on to the end of the screen.
            shown = "\n".join(f"\x1b[{style}m{line}\x1b[0m" if line else "" for line in shown.split("\n"))
        text.append(("⟦" if begins else "") + shown + ("⟧" if ends else ""))
    return "\n".join([*lines, "".join(text)])


def visible(text: str) -> str:
    """Return the text with control characters, but not newlines and tabs, written as escapes."""
    return _CONTROL.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text
    )


def _folded(text: str) -> str:
    if len(text) <= FOLD_CHARACTERS:
        return text
    begin, middle, end = _fold(text)
    return f"{begin} [… {len(middle):,} characters …] {end}"


def _fold(text: str) -> tuple[str, str, str]:
    first, last = FOLD_CHARACTERS * 2 // 3, FOLD_CHARACTERS // 3
    return text[:first], text[first:-last], text[-last:]


STYLE = """<style>
.burnish-row{font:14px/1.5 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid;padding:.5em;
color:#111;background:#fff}
.burnish-row .system{font-style:italic;color:#444}
.burnish-row .special{border:1px dotted #555;color:#555;font-size:.85em}
.burnish-row mark{background:#d9f2d9;color:#000;font-weight:bold;text-decoration:underline}
.burnish-row .words{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.burnish-row details{display:inline}.burnish-row summary{display:inline;cursor:pointer;border-bottom:1px dashed}
</style>"""
"""Put once on a page that shows rows: no script, no font and no picture from anywhere else."""


def html(found: Sequence[Run], *, style: bool = True) -> str:
    """Return the row as a piece of a page that stands by itself; `style=False` where the page has STYLE already."""
    parts = [STYLE] if style else []
    parts.append(f"<figure><figcaption>{markup.escape(summary(found))}; they are underlined.</figcaption>")
    parts.append('<div class="burnish-row" dir="auto">')
    for at, run in enumerate(found):
        begins = run.trained and not (at and found[at - 1].trained)
        ends = run.trained and not (at + 1 < len(found) and found[at + 1].trained)
        parts.append('<mark><span class="words">(trained: </span>' if begins else "")
        parts.append(f'<span class="{run.kind}" title="{_title(run)}">{_html_text(run.text)}</span>')
        parts.append('<span class="words">, end of trained) </span></mark>' if ends else "")
    return "".join([*parts, "</div></figure>"])


def _title(run: Run) -> str:
    return f"{run.kind}, {run.tokens} {'token' if run.tokens == 1 else 'tokens'}, {'trained' if run.trained else 'not trained'}"


def _html_text(text: str) -> str:
    if len(text) <= FOLD_CHARACTERS:
        return markup.escape(visible(text))
    begin, middle, end = (markup.escape(visible(part)) for part in _fold(text))
    count = len(text) - FOLD_CHARACTERS
    return f"{begin}<details><summary>{count:,} more characters</summary>{middle}</details>{end}"
