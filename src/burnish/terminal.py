"""What people see in a terminal: progress with time left on stderr, tables on stdout. Renders events; decides nothing."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from types import TracebackType

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from burnish.core.events import Checkpointed, Event, Note, StageDone, StageStarted, StepDone
from burnish.core.events import Progress as Advanced
from burnish.core.ids import short
from burnish.core.units import format_bytes, format_seconds

PLAIN_EVERY_SECONDS = 10.0
"""Without a terminal (a log file, CI) progress is one line, this often."""

GAP, INDENT, NARROWEST = 2, 4, 8
"""Of a table: spaces between columns, spaces before what stands below a row, and the least a column shrinks to."""
MIDDLE, READABLE = 40, 48
"""The widest a column between the first and the last is where a table does not fit, and the least width to read sentences in."""
NUMBER = re.compile(r"([-+]?[\d,.]+(e[-+]?\d+)?%?( [A-Za-z]{1,3})?)|-|")


WIDEST = 1 << 20
"""Columns of a pipe or a file: nobody looks at its width."""


class _Output(Console):
    """Standard output: as wide as the terminal or $COLUMNS says; a pipe or file takes lines of any length.

    A pipe that is no longer read (`| head`) is left to the edge of the process; rich would exit with 1.
    """

    def __init__(self) -> None:
        bounded = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
        super().__init__(file=sys.stdout, highlight=False, soft_wrap=True, width=None if bounded else WIDEST)

    def on_broken_pipe(self) -> None:
        """Pass it on."""
        raise BrokenPipeError


class Terminal:
    """Listens to events and shows them. Use as a context manager; pass `terminal.emit` as the `Emit`."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        """Quiet shows errors only; verbose adds checkpoints."""
        self.quiet, self.verbose = quiet, verbose
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._steps_seconds = 0.0
        self._progress = Progress(
            TextColumn("  [dim]{task.description}"),
            BarColumn(28),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            TextColumn("[dim]elapsed"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def emit(self, event: Event) -> None:
        """Show one event."""
        if self.quiet:
            return
        match event:
            case StageStarted():
                self._steps_seconds = 0.0
                self._say(f"[bold]{event.stage}[/bold]")
            case StageDone():
                self._clear()
                how = "already done" if event.cached else f"done in {format_seconds(event.seconds)}"
                self._say(
                    f"[green]✓[/green] [bold]{event.stage:<9}[/bold] [dim]{short(event.artifact_id)}[/dim]  {how}"
                )
            case StepDone():
                self._steps_seconds += event.seconds
                note = f"loss {event.loss:.3f} · {event.tokens / event.seconds:.0f} tok/s · {format_bytes(event.rss_bytes)}"
                note += "".join(f" · {name.replace('_', ' ')} {value:.2f}" for name, value in event.told.items())
                self._advance("training", event.step, event.steps, "steps", note)
            case Advanced():
                self._advance(event.what, event.done, event.total, event.unit, event.unit)
            case Note():
                self._say(f"  {event.text}", markup=False)
            case Checkpointed() if self.verbose:
                self._say(f"  checkpoint at step {event.step}", markup=False)
            case _:
                return

    def _say(self, text: str, *, markup: bool = True) -> None:
        self.console.print(text, markup=markup)

    def _clear(self) -> None:
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self._bars.clear()

    def _advance(self, what: str, done: int, total: int, unit: str, note: str) -> None:
        if self.console.is_terminal:
            bar = self._bars.get(what)
            if bar is None:
                bar = self._bars[what] = self._progress.add_task(what, total=total, note=note)
            self._progress.update(bar, completed=done, total=total, note=note)
            if done >= total:
                self._progress.remove_task(self._bars.pop(what))
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_EVERY_SECONDS or done >= total:
            self._last_line = now
            left = (
                f", {format_seconds(self._steps_seconds / done * (total - done))} left"
                if self._steps_seconds and done
                else ""
            )
            extra = f" ({note})" if note != unit else ""
            self._say(f"  {what}: {done} of {total} {unit}{extra}{left}", markup=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout, as wide as the terminal at most, and as it needs in a pipe or file.

    The first column is left-aligned, the others right-aligned but for the last when it is text. Where little room is left for
    the sentences of the last column, each stands below its row.
    """
    output, body = _Output(), [tuple(row) for row in rows]
    head, widths, below = tuple(columns), *_fitted(output.width, columns, body)
    right = [0 < index < len(head) - 1 or (index > 0 and _are_numbers(body)) for index in range(len(head))]
    output.print(title, style="bold", markup=False)
    for number, row in enumerate([head, *body]):
        style = "dim" if number == 0 else ""
        for text in _row_lines(output, row[: len(widths)], widths, right):
            output.print(text, style=style, markup=False)
        if below and row[-1]:
            for text in _wrapped(output, row[-1], INDENT):
                output.print(text, style="dim", markup=False)


def _wrapped(console: Console, text: str, indent: int) -> Iterator[str]:
    for each in Text(text).wrap(console, max(NARROWEST, console.width - indent)):
        yield " " * indent + each.plain.rstrip()


def _fitted(width: int, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[int], bool]:
    """Return the widths of the columns, and whether the last one, which is not among them then, stands below its row."""
    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    if sum(widths) + GAP * (len(widths) - 1) <= width:
        return widths, False
    widths[1:-1] = [min(each, MIDDLE) for each in widths[1:-1]]
    left = width - sum(widths[:-1]) - GAP * (len(widths) - 1)
    below = left < READABLE and widths[-1] > 1.5 * left
    if below:
        widths.pop()
    while sum(widths) + GAP * (len(widths) - 1) > width and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths, below


def _are_numbers(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the last column holds numbers, with or without a unit, in every row."""
    return all(NUMBER.fullmatch(row[-1]) for row in rows)


def _row_lines(console: Console, row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    cells = [
        [line.plain.rstrip() for line in Text(cell).wrap(console, width)] if cell else []
        for cell, width in zip(row, widths, strict=True)
    ]
    for lines in zip_longest(*cells, fillvalue=""):
        padded = [
            " " * (width - cell_len(text)) + text if at_right else set_cell_size(text, width)
            for text, width, at_right in zip(lines, widths, right, strict=False)
        ]
        yield (" " * GAP).join(padded).rstrip()


def paragraph(text: str, *, mark: str = "") -> None:
    """Print a sentence on stdout, broken between words; all lines stand as far in as `mark`, which begins the first one."""
    output = _Output()
    for number, each in enumerate(_wrapped(output, text, cell_len(mark))):
        output.print(each if number else mark + each.lstrip(), markup=False)


def line(text: str) -> None:
    """Print one line on stdout."""
    sys.stdout.write(text + "\n")
