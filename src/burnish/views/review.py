"""Reviewing in the terminal: a row, a letter, the next row. And how far the review is, as tables."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from burnish.core.errors import UsageError
from burnish.data.review.desk import Desk
from burnish.terminal import line, table

HELP = "a accept   e edit   r reject   s later   u take back   q end"
_MARK = re.compile(r"^----- (\d+) .* -----$", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a terminal would obey instead of showing it."""


def review_in_terminal(desk: Desk, reader: TextIO, writer: TextIO, editor: Callable[[str], str] | None) -> None:
    """Show row after row and ask for a letter, until there is no more, or q, or the end of the input.

    editor: changes a text in the person's editor; None asks for the texts line by line.
    """
    desk.write()
    while (row := desk.next()) is not None:
        shown = desk.shown(row)
        status = desk.status()
        writer.write(f"\n{status['done'] + 1} of {status['queue']}  {_safe(_head(shown))}\n")
        for title, text in _texts(shown):
            writer.write(f"\n{title}:\n{_indented(text)}\n")
        writer.write(f"\n{HELP} > ")
        writer.flush()
        said = reader.readline()
        word = said.strip().lower()[:1]
        if not said or word == "q":
            break
        try:
            _do(desk, row.id, word, shown, reader, writer, editor)
        except UsageError as error:
            writer.write(f"{error}\n")
    writer.write("\n")


def _do(
    desk: Desk,
    row_id: str,
    word: str,
    shown: dict[str, Any],
    reader: TextIO,
    writer: TextIO,
    editor: Callable[[str], str] | None,
) -> None:
    if word == "a":
        desk.judge(row_id, "accept")
    elif word == "r":
        writer.write("why (may be empty) > ")
        writer.flush()
        desk.judge(row_id, "reject", None, reader.readline().strip())
    elif word == "e":
        turns = [(turn["label"], turn["text"]) for turn in shown["turns"]]
        texts = _by_lines(turns, reader, writer) if editor is None else from_sheet(editor(sheet(turns)), len(turns))
        desk.judge(row_id, "edit", texts)
    elif word == "s":
        desk.skip(row_id)
    elif word == "u":
        writer.write("taken back\n" if desk.undo() else "nothing was said in this session\n")
    else:
        writer.write(f"{HELP}\n")


def sheet(turns: Sequence[tuple[str, str]]) -> str:
    """Return the turns as one text for an editor: a line with number and role before each."""
    return "".join(f"----- {number} {label} -----\n{text}\n" for number, (label, text) in enumerate(turns, start=1))


def from_sheet(text: str, count: int) -> list[str]:
    """Return the texts of an edited sheet. Raises UsageError when its lines with numbers are not as they were."""
    parts = _MARK.split(text)
    if [int(number) for number in parts[1::2]] != list(range(1, count + 1)):
        raise UsageError("the lines ----- number role ----- must stay as they are; nothing was saved")
    return [part.strip("\n") for part in parts[2::2]]


def edit_in(command: str) -> Callable[[str], str]:
    """Return the function that lets a person change a text in an editor, such as $EDITOR."""

    def edit(text: str) -> str:
        with tempfile.TemporaryDirectory(prefix="burnish-review-") as folder:
            path = Path(folder) / "row.txt"
            path.write_text(text, encoding="utf-8")
            done = subprocess.run([*shlex.split(command), str(path)], check=False)
            if done.returncode:
                raise UsageError(f"{command} ended with {done.returncode}; nothing was saved")
            return path.read_text(encoding="utf-8", errors="replace")

    return edit


def own_editor() -> Callable[[str], str] | None:
    """Return the person's editor: $VISUAL, else $EDITOR; None where neither is set."""
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    return edit_in(command) if command else None


def print_status(status: dict[str, Any]) -> None:
    """Print how far the review is, who agrees with whom, and which rows are used."""
    rows: dict[str, int] = status["rows"]
    table(f"rows of {status['folder']}", tuple(rows), [tuple(f"{count:,}" for count in rows.values())])
    if status["reviewers"]:
        table("reviewers", ("name", "rows"), [(name, f"{count:,}") for name, count in status["reviewers"].items()])
    if status["agreement"]:
        table(
            "agreement",
            ("who", "rows of both", "same verdict", "Cohen's kappa (95%)"),
            [_agreed(pair) for pair in status["agreement"]],
        )
    if rows["disputed"]:
        line(f"{rows['disputed']} rows are in dispute and not used: look at them with --show disputed")
    if rows["waiting"]:
        line(
            f"{rows['waiting']} rows wait for {status['needed']} reviewers each"
            if status["needed"] > 1
            else f"{rows['waiting']} rows wait"
        )
    line(f"{rows['used']} rows are used: {Path(status['folder']) / 'rows.jsonl'}")


def _agreed(pair: dict[str, Any]) -> tuple[str, ...]:
    kappa = "not defined" if pair["kappa"] is None else f"{pair['kappa']:.2f} ({pair['low']:.2f} to {pair['high']:.2f})"
    return " and ".join(pair["reviewers"]), f"{pair['rows']:,}", f"{pair['agreed']:,}", kappa


def _head(shown: dict[str, Any]) -> str:
    detail = f": {shown['detail']}" if shown["detail"] else ""
    more = [str(shown["shown"][key]) for key in ("by", "place") if key in shown["shown"]]
    if "grade" in shown["shown"]:
        more.append(f"graded {shown['shown']['grade']} of 5")
    return ", ".join([shown["id"][:8], shown["kind"], f"{shown['verdict']}{detail}", *more])


def _texts(shown: dict[str, Any]) -> list[tuple[str, str]]:
    about: dict[str, Any] = shown["shown"]
    found = [(title, str(about[title])) for title in ("made from", "as it stands", "passage") if title in about]
    if shown["quote"] is not None:
        found.append(("quote", shown["quote"]))
    found += [(turn["label"], turn["text"]) for turn in shown["turns"]]
    if "why" in about:
        found.append(("the judge says", str(about["why"])))
    for other in shown["others"]:
        said: list[str] = [other["verdict"], other["note"], *(other["edited"] or [])]
        found.append((f"{other['reviewer']} says", "\n".join(filter(None, said))))
    return found


def _by_lines(turns: Sequence[tuple[str, str]], reader: TextIO, writer: TextIO) -> list[str]:
    texts: list[str] = []
    for label, text in turns:
        writer.write(f"new text of the {label} (empty keeps it) > ")
        writer.flush()
        texts.append(reader.readline().strip() or text)
    return texts


def _indented(text: str) -> str:
    return "\n".join(f"  {_safe(each)}" for each in text.split("\n"))


def _safe(text: str) -> str:
    return _CONTROL.sub("\ufffd", text)
