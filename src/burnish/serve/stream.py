"""The answer to one request while it is being made: token ids, read from a thread or from asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from enum import Enum

from burnish.core.errors import BurnishError
from burnish.model.sampling import Likelihood


class End(Enum):
    """How an answer ended: at a stop token, at its length limit, or because its reader no longer wanted it."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class Stream:
    """Token ids of one answer, in order. Iterate with `for` in a thread or with `async for` in an event loop.

    After the last token `end` says how the answer ended; if it failed, iterating raises the error. An answer ends
    exactly once, whoever comes first: the engine, or `cancel`. One reader per stream. When the request asked for them,
    `likelihoods[i]` belongs to the i-th token and `stopped_by` is the stop token that ended the answer with its own;
    `prompt_likelihoods` are those of the prompt from its second token on, all there when the first token or the end is.
    """

    def __init__(self, prompt_tokens: int, on_cancel: Callable[[Stream], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self.new_tokens = 0
        self.end: End | None = None
        self.error: BurnishError | None = None
        self.likelihoods: list[Likelihood] = []
        self.prompt_likelihoods: list[Likelihood] = []
        self.stopped_by: tuple[int, Likelihood] | None = None
        self._on_cancel = on_cancel
        self._tokens: deque[int] = deque()
        self._changed = threading.Condition()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    @property
    def ended(self) -> bool:
        """Whether no further token will come."""
        return self.end is not None or self.error is not None

    def put(self, token: int, likelihood: Likelihood | None = None) -> None:
        """Append a token (called by the engine). Ignored after the end."""
        with self._changed:
            if not self.ended:
                if likelihood is not None:
                    self.likelihoods.append(likelihood)
                self._tokens.append(token)
                self.new_tokens += 1
                self._wake()

    def read(self, likelihoods: Sequence[Likelihood]) -> None:
        """Append what is told of further tokens of the prompt (called by the engine). Ignored after the end."""
        with self._changed:
            if not self.ended:
                self.prompt_likelihoods += likelihoods

    def finish(self, outcome: End | BurnishError) -> bool:
        """End the answer; returns False when it had ended before."""
        with self._changed:
            if self.ended:
                return False
            if isinstance(outcome, End):
                self.end = outcome
            else:
                self.error = outcome
            self._wake()
            return True

    def cancel(self) -> None:
        """Stop the answer: tokens not read yet are dropped, and the engine's row is free before its next step."""
        if self.finish(End.CANCELLED):
            with self._changed:
                self._tokens.clear()
            self._on_cancel(self)

    def __iter__(self) -> Iterator[int]:
        """Yield tokens as they come. Raises the engine's error if the answer failed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tokens or self.ended)
                token = self._take()
            if token is None:
                return
            yield token

    async def __aiter__(self) -> AsyncIterator[int]:
        """Yield tokens as they come; the event loop stays free. Raises the engine's error if the answer failed."""
        arrived = asyncio.Event()
        with self._changed:
            self._waiter = (asyncio.get_running_loop(), arrived)
        while True:
            with self._changed:
                arrived.clear()
                waiting = not self._tokens and not self.ended
                token = None if waiting else self._take()
            if waiting:
                await arrived.wait()
            elif token is None:
                return
            else:
                yield token

    def _take(self) -> int | None:
        """Return the next token, or None at the end."""
        if self._tokens:
            return self._tokens.popleft()
        if self.error is not None:
            raise self.error
        return None

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._waiter is not None:
            loop, arrived = self._waiter
            try:
                loop.call_soon_threadsafe(arrived.set)
            except RuntimeError:  # the loop is closed: nobody reads any more
                self._waiter = None
