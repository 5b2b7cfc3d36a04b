"""A budget in tokens and dollars that holds: what a request may cost is set aside before it is sent, and settled after.

The journal is a file to which lines are added, one for each sum set aside and one for what it became. So a run that was
killed goes on with what is left; what it had set aside for a request whose end nobody saw counts as spent.
"""

from __future__ import annotations

import json
import math
import os
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from burnish.core.errors import StoreError
from burnish.store.files import unwritable

PICO = 10**12
"""Dollars are counted in whole millionths of a millionth, so that sums are exact."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars for a million tokens of prompt and of answer."""

    prompt: float = 0.0
    answer: float = 0.0

    def pico(self, prompt_tokens: int, new_tokens: int) -> int:
        """Return the price in millionths of a millionth of a dollar, rounded up for each token."""
        return prompt_tokens * math.ceil(self.prompt * 10**6) + new_tokens * math.ceil(self.answer * 10**6)


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent: tokens and dollars; `unknown` of the tokens were set aside for requests whose end nobody saw."""

    tokens: int
    dollars: float
    unknown: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """A sum set aside for one request."""

    name: str
    prompt_tokens: int
    new_tokens: int
    prices: Prices


class Budget:
    """Safe for several threads of one process; the caller sees to it that no two processes share a journal."""

    def __init__(self, journal: Path, *, tokens: int | None, dollars: float | None) -> None:
        """Open a journal, made if missing. tokens, dollars: the limits over all runs of this journal; None for none."""
        self._most_tokens = tokens
        self._most_pico = None if dollars is None else math.floor(dollars * PICO)
        self._held: dict[str, tuple[int, int]] = {}
        self._tokens, self._pico, self._unknown = _read(journal)
        self._changed = threading.Condition()
        self._run, self._number = uuid.uuid4().hex[:12], 0
        try:
            journal.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise unwritable(journal, error) from error
        if journal.stat().st_size and not journal.read_bytes().endswith(b"\n"):
            os.write(self._file, b"\n")  # a line that a crash cut off

    def reserve(self, prompt_tokens: int, new_tokens: int, prices: Prices) -> Reservation | None:
        """Set aside the most that a request may cost; None when that is more than is left.

        Waits while sums that others have set aside may still come back.
        """
        tokens, pico = prompt_tokens + new_tokens, prices.pico(prompt_tokens, new_tokens)
        with self._changed:
            while not self._fits(tokens, pico):
                if not self._held:
                    return None
                self._changed.wait()
            self._number += 1
            made = Reservation(f"{self._run}-{self._number}", prompt_tokens, new_tokens, prices)
            self._write({"reserve": made.name, "tokens": tokens, "pico": pico})
            self._held[made.name] = (tokens, pico)
            return made

    def settle(self, made: Reservation, prompt_tokens: int, new_tokens: int) -> None:
        """Put what a request really cost in the place of what was set aside for it."""
        tokens, pico = prompt_tokens + new_tokens, made.prices.pico(prompt_tokens, new_tokens)
        with self._changed:
            self._write({"settle": made.name, "tokens": tokens, "pico": pico})
            del self._held[made.name]
            self._tokens += tokens
            self._pico += pico
            self._changed.notify_all()

    def settle_unknown(self, made: Reservation) -> None:
        """Count all that was set aside: the request may have been billed, and nobody knows how much."""
        self._unknown += made.prompt_tokens + made.new_tokens
        self.settle(made, made.prompt_tokens, made.new_tokens)

    @property
    def spent(self) -> Spent:
        """What was spent so far, over all runs; without what is set aside at the moment."""
        with self._changed:
            return Spent(self._tokens, self._pico / PICO, self._unknown)

    @property
    def exceeded(self) -> bool:
        """Whether more was billed than allowed: the endpoint did not hold to the limit of tokens it was given."""
        with self._changed:
            return (self._most_tokens is not None and self._tokens > self._most_tokens) or (
                self._most_pico is not None and self._pico > self._most_pico
            )

    def close(self) -> None:
        """Close the journal."""
        os.close(self._file)

    def _fits(self, tokens: int, pico: int) -> bool:
        tokens += self._tokens + sum(held for held, _ in self._held.values())
        pico += self._pico + sum(held for _, held in self._held.values())
        return (self._most_tokens is None or tokens <= self._most_tokens) and (
            self._most_pico is None or pico <= self._most_pico
        )

    def _write(self, value: dict[str, Any]) -> None:
        os.write(self._file, (json.dumps(value) + "\n").encode())


def _read(journal: Path) -> tuple[int, int, int]:
    """Return tokens and picodollars spent so far, and how many of the tokens were never settled."""
    if not journal.exists():
        return 0, 0, 0
    open_sums: dict[str, tuple[int, int]] = {}
    tokens = pico = 0
    for number, line in enumerate(journal.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        try:
            value = cast("dict[str, Any]", json.loads(line))
            sums = int(value["tokens"]), int(value["pico"])
            name = str(value["reserve"] if "reserve" in value else value["settle"])
        except (ValueError, KeyError, TypeError) as error:
            if line.startswith(b"{") and not line.endswith(b"}"):
                continue  # cut off by a crash: the request was not sent yet, or what was set aside for it counts
            raise StoreError(
                f"{journal}:{number} is damaged ({error}), so what was spent is not known. Put the file back from a copy, "
                "or delete it to begin a new budget."
            ) from error
        if "reserve" in value:
            open_sums[name] = sums
        else:
            open_sums.pop(name, None)
            tokens, pico = tokens + sums[0], pico + sums[1]
    unknown = sum(held for held, _ in open_sums.values())
    return tokens + unknown, pico + sum(held for _, held in open_sums.values()), unknown
