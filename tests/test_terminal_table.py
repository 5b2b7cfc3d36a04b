"""Tables of the terminal: no line is wider than it, sentences can be read, nothing is lost."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from burnish.terminal import paragraph, table

COLUMNS = ("what", "value", "because")
WHY = "largest parts: weights 513.1 MiB, process 510.2 MiB, prepared 201.2 MiB, and what the allocator keeps between blocks"
ROWS = [
    ("memory.peak_bytes", "1.6 GiB", WHY),
    ("time.train", "3 min 35 s (3 min 0 s to 6 min 0 s)", "operations over tokens"),
    ("train.steps", "26", ""),
]


def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, rows: list[tuple[str, ...]]
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    table("a plan", COLUMNS, rows)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [20, 60, 80, 100, 160])
def test_no_line_is_too_wide_and_no_word_is_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    lines = printed(capsys, monkeypatch, width, ROWS)
    assert lines[0] == "a plan"
    assert max(map(len, lines)) <= max(width, 28), "three columns of eight and what is between them"
    assert all(line == line.rstrip() for line in lines)
    squeezed = "".join("".join(lines).split())
    for what, _, why in ROWS:
        assert "".join(why.split()) in squeezed or width < 60
        assert what in squeezed or width < 60


@pytest.mark.parametrize("width", [60, 80, 100])
def test_sentences_stand_below_their_row_where_a_column_would_be_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    lines = printed(capsys, monkeypatch, width, ROWS)
    at = next(i for i, line in enumerate(lines) if line.startswith("memory.peak_bytes"))
    assert lines[at].endswith("1.6 GiB")
    assert lines[at + 1].startswith("    largest parts: weights")
    assert lines[2] == "    because"
    assert lines[-1].split() == ["train.steps", "26"]


def test_with_room_they_are_a_column(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(capsys, monkeypatch, 240, ROWS)
    assert len(lines) == 2 + len(ROWS)
    assert lines[2].endswith(WHY)


def test_a_last_column_of_numbers_is_aligned_right(capsys: pytest.CaptureFixture[str]) -> None:
    table("sizes", ("rank", "all"), [("1", "512"), ("256", "131,072"), ("x", "-")])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "rank      all",
        "1         512",
        "256   131,072",
        "x           -",
    ]


def test_square_brackets_and_wide_letters_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table("[bold]", ("a", "b"), [("[red]", "\u65e5\u672c")])
    assert capsys.readouterr().out.splitlines() == ["[bold]", "a      b", "[red]  \u65e5\u672c"]


def test_a_table_without_rows_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    table("none", ("a", "b"), [])
    assert capsys.readouterr().out.splitlines() == ["none", "a  b"]


def test_a_paragraph_is_broken_between_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    paragraph("a base that is larger than the GPU does not fit it", mark="  - ")
    assert capsys.readouterr().out.splitlines() == ["  - a base that is larger than the GPU", "    does not fit it"]


PROGRAM = f"from burnish.terminal import paragraph, table; table('a plan', {COLUMNS!r}, {ROWS!r}); paragraph({WHY!r}, mark='  - ')"


def run(program: Sequence[str], columns: str | None, **output: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with its output where `output` says, as a shell would: $COLUMNS is unset, or set by somebody."""
    told = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    told |= {} if columns is None else {"COLUMNS": columns}
    return subprocess.run(
        [sys.executable, *program], env=told, text=True, check=True, stdin=subprocess.DEVNULL, **output
    )


@pytest.mark.parametrize("where", ["pipe", "file"])
def test_a_pipe_and_a_file_take_lines_of_any_length(where: str, tmp_path: Path) -> None:
    if where == "pipe":
        out = run(["-c", PROGRAM], None, stdout=subprocess.PIPE).stdout
    else:
        with (tmp_path / "out").open("w") as file:
            run(["-c", PROGRAM], None, stdout=file)
        out = (tmp_path / "out").read_text()
    title, head, *rows, last = out.splitlines()
    assert (title, head.split()) == ("a plan", list(COLUMNS))
    assert len(rows) == len(ROWS)
    for row, cells in zip(rows, ROWS, strict=True):
        assert row.startswith(cells[0])
        assert cells[1] in row
        assert row.endswith(cells[2])
        assert row == row.rstrip()
    assert last == f"  - {WHY}"
    assert max(map(len, rows)) > 120


def test_a_width_that_is_asked_for_holds_in_a_pipe_too() -> None:
    lines = run(["-c", PROGRAM], "60", stdout=subprocess.PIPE).stdout.splitlines()
    assert 50 < max(map(len, lines)) <= 60


def test_a_terminal_is_not_written_over_its_edge() -> None:
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 72, 0, 0))
    try:
        run(["-c", PROGRAM], None, stdout=writer, stderr=writer)
        shown = re.sub(r"\x1b\[[\d;]*m", "", os.read(reader, 1 << 16).decode())
    finally:
        os.close(reader)
        os.close(writer)
    assert 60 < max(len(each.rstrip("\r")) for each in shown.split("\n")) <= 72


def test_a_verbs_table_goes_whole_into_a_pipe(tmp_path: Path) -> None:
    models = [f"{'a-long-name-of-a-model-' * 3}{number}" for number in range(3)]
    asked = ["-m", "burnish", "keys", "create", "somebody", "--models", ",".join(models)]
    run([*asked, "--home", str(tmp_path)], None, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out = run(["-m", "burnish", "keys", "list", "--home", str(tmp_path)], None, stdout=subprocess.PIPE).stdout
    (row,) = [each for each in out.splitlines() if "somebody" in each]
    assert all(name in row for name in models)
