"""HTTP/1.1 connections to an engine: a request goes out in one write, its answer is read as it comes, and both ends stay open.

A client of its own, because of what a request waits for before its first byte is out: aiohttp's takes a task, cookies, a proxy's
settings and a model of the request in objects to it, a third of a millisecond on a machine that has been idle for ten.
The parser is llhttp (by httptools), which also reads what clients send us; it is left strict.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import cast

import httptools

from burnish.core.refusal import Headers

HEAD_BYTES = 64 << 10
"""What comes of an answer without a byte of its body may not be larger: heads (100 and its like too), trailers, a chunk's line."""
HELD_BYTES = 64 << 10
"""Bytes of an answer that wait for whoever reads it; with more of them the engine is not listened to for a while."""
IDLE_S = 60.0
"""Connections that nobody used for so long are closed."""
STALE_S = 1.0
"""An engine that had closed a connection before it was asked tells so within this time."""


class BrokeOff(Exception):
    """A connection ended, or said what is not HTTP, before its answer was whole.

    stale: the engine had closed it before it was asked, as far as that can be told: it had been used before, it ended at once,
    and not a byte came. Otherwise the engine may have begun to work.
    """

    def __init__(self, says: str, *, stale: bool) -> None:
        super().__init__(says)
        self.stale = stale


class Connection(asyncio.Protocol):
    """One connection: one request at a time, `ask` and then `read` until there is no more."""

    def __init__(self, idle: deque[Connection]) -> None:
        self._idle = idle  # where it waits for its next request
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._error: str | None = None
        self._paused = self._begun = self._bounded = self._stays = False
        self._headers: Headers = []
        self._pieces: list[bytes] = []
        self._held = self._bodiless = 0
        self._asked_at = 0.0
        self.status = 0
        self.asked = self.ended = False
        self.used_at: float | None = None

    async def ask(self, request: bytes) -> tuple[int, Headers]:
        """Send a request and return the status and the headers of its answer. Raises BrokeOff."""
        self.asked, self.ended = True, False
        self._begun = self._bounded = self._stays = False
        self._headers, self._held, self._bodiless, self.status = [], 0, 0, 0
        self._asked_at = asyncio.get_running_loop().time()
        self._transport.write(request)
        while not self.status:
            await self._more()
        return self.status, self._headers

    async def read(self) -> tuple[bytes, bool]:
        """Return the bytes of the answer that have come, and whether more of them do. Raises BrokeOff."""
        while not self._pieces and not self.ended:
            await self._more()
        piece = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return piece, not self.ended

    def leave(self) -> bool:
        """End what was asked. Returns whether the connection can be used again; one whose answer is not whole is closed.

        So is one whose request is not all sent: an engine that answers before it has read that may take the rest for another.
        What came of an answer and was not read, because its client went, is nobody's: the next one must not begin with it.
        """
        self._pieces.clear()
        good = self.ended and self._error is None and self._stays and not self._transport.get_write_buffer_size()
        self.asked = False
        if not good:
            self.close()
        return good

    def close(self) -> None:
        """Close at once."""
        self._error = self._error or "closed"
        self._transport.abort()

    async def _more(self) -> None:
        """Wait until something comes."""
        loop = asyncio.get_running_loop()
        if self._error is not None:
            soon = loop.time() - self._asked_at < STALE_S
            raise BrokeOff(self._error, stale=self.used_at is not None and soon and not self._begun)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, says: str) -> None:
        """Let nobody use the connection any more, and tell who waits for it."""
        if self._error is None:
            self._error = says
        if self in self._idle:
            self._idle.remove(self)
        self._transport.abort()
        self._wake()

    # --------------------------------------------------------------------------------------- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Read a part of an answer."""
        if not self.asked or self.ended:
            self._fail("an answer came that nobody had asked for")
            return
        self._begun = True
        self._bodiless += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"the answer is not HTTP: {error}")
            return
        if self._bodiless > HEAD_BYTES and not self.ended:
            self._fail("a head or a trailer of the answer has no end")
        elif self._held > HELD_BYTES and not self.ended and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if self.status:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer: well, where its head says no length and so its end is the connection's (RFC 9112, 6.3)."""
        if self.status and not self._bounded and exc is None and self._error is None:
            self.ended = True
        self._fail("the connection was lost")

    # ------------------------------------------------------------------------------------------- what the parser calls

    def on_message_begin(self) -> None:
        """Note what comes after a whole answer: nobody asked for it, so nobody gets it, and nobody uses the connection again."""
        if self.ended:
            self._error = "more came than was asked for"

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. What comes as one after the body (a trailer) is none that anybody may act on."""
        if self.status or self.ended:
            return
        name = name.lower()
        self._bounded = self._bounded or name in (b"content-length", b"transfer-encoding")
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Tell the status, unless another head follows (100 and its like)."""
        status = self._parser.get_status_code()
        if self.ended:
            return
        if status < 100:
            self._fail(f"the answer's status is {status}")
        elif status < 200:
            self._headers, self._bounded = [], False
        else:
            self.status = status

    def on_body(self, body: bytes) -> None:
        """Keep a piece."""
        self._bodiless = 0
        if not self.ended:
            self._pieces.append(body)
            self._held += len(body)

    def on_message_complete(self) -> None:
        """Note that the answer is whole, and whether another may follow: the parser tells it here, and not any more afterwards."""
        self._stays = self._parser.should_keep_alive()
        self.ended = self.status != 0


class Connections:
    """Connections to one place, opened when they are needed; `most` of them at once, and who comes then waits."""

    def __init__(self, host: str, port: int, *, tls: bool, connect_s: float, most: int) -> None:
        self._host, self._port, self._connect_s = host, port, connect_s
        self._tls = ssl.create_default_context() if tls else None
        self._places = asyncio.Semaphore(most)
        self._idle: deque[Connection] = deque()
        self._sweeping: asyncio.TimerHandle | None = None

    async def take(self) -> Connection:
        """Return a connection that nobody uses. Raises OSError or TimeoutError when none can be opened."""
        await self._places.acquire()
        if self._idle:
            return self._idle.pop()
        connection = None
        try:
            async with asyncio.timeout(self._connect_s):
                connection = await self._open()
            return connection
        finally:
            if connection is None:
                self._places.release()

    async def _open(self) -> Connection:
        """Connect to the first of the host's addresses that answers. Each has a share of the time: some never say no."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        why = OSError(f"{self._host} has no address")
        for *_, (address, *_) in found:
            try:
                async with asyncio.timeout(self._connect_s / len(found)):
                    _, connection = await loop.create_connection(
                        lambda: Connection(self._idle), str(address), self._port, ssl=self._tls,
                        server_hostname=self._host if self._tls else None,
                    )  # fmt: skip
                return connection
            except OSError as error:
                why = error
        raise why

    def give_back(self, connection: Connection) -> None:
        """Take a connection back, whatever became of it."""
        self._places.release()
        if not connection.leave():
            return
        loop = asyncio.get_running_loop()
        connection.used_at = loop.time()
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweeping = loop.call_later(IDLE_S, self._sweep)

    def _sweep(self) -> None:
        """Close what has not been used for long."""
        self._sweeping = None
        loop = asyncio.get_running_loop()
        while self._idle and loop.time() - (self._idle[0].used_at or 0) >= IDLE_S:
            self._idle.popleft().close()
        if self._idle:
            self._sweeping = loop.call_at((self._idle[0].used_at or 0) + IDLE_S, self._sweep)

    def close(self) -> None:
        """Close those that nobody uses; the others end with what they do."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        while self._idle:
            self._idle.popleft().close()
