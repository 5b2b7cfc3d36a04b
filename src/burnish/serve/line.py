"""Who waits for the engine: requests for answers, for vectors, and those whose adapter is being read."""

from __future__ import annotations

from collections import deque

from burnish.serve.failures import QueueFull
from burnish.serve.request import Embedding, Request


class Line:
    """At most `limit` of all kinds together. Not for several threads at once: the engine's lock is held around it.

    reading: requests whose callers read an adapter, or wait for another one that does. They count before they can stand in line:
    each holds a thread, and there must not be as many as ask.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.requests: deque[Request] = deque()
        self.embeddings: deque[Embedding] = deque()
        self.reading = 0

    def __len__(self) -> int:
        return len(self.requests) + len(self.embeddings) + self.reading

    def check_room(self) -> None:
        """Raise QueueFull when nobody more may wait."""
        if len(self) >= self.limit:
            raise QueueFull(f"{len(self)} requests wait already, which is the limit; try again later")

    def add(self, asked: Request | Embedding) -> None:
        """Let a request wait behind those of its kind."""
        if isinstance(asked, Request):
            self.requests.append(asked)
        else:
            self.embeddings.append(asked)

    def leave(self) -> tuple[list[Request], list[Embedding]]:
        """Take everybody out who stands in line, and return them."""
        left = list(self.requests), list(self.embeddings)
        self.requests.clear()
        self.embeddings.clear()
        return left
