"""What people see in a terminal: progress with time left on stderr, tables on stdout. Renders events; decides nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

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
from rich.table import Table

from burnish.core.events import Checkpointed, Event, Note, StageDone, StageStarted, StepDone
from burnish.core.events import Progress as Advanced
from burnish.core.ids import short
from burnish.core.units import format_bytes, format_seconds

PLAIN_EVERY_SECONDS = 10.0
"""Without a terminal (a log file, CI) progress is one line, this often."""


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
    """Print a table on stdout. The first column is left-aligned, the others right-aligned but for the last when it is text."""
    output = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        grid.add_column(
            column, header_style="dim", overflow="fold", justify="left" if index in (0, len(columns) - 1) else "right"
        )
    for row in rows:
        grid.add_row(*[cell.replace("[", "\\[") for cell in row])
    output.print(grid)


def line(text: str) -> None:
    """Print one line on stdout."""
    sys.stdout.write(text + "\n")
