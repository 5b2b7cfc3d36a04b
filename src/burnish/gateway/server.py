"""The process that listens: a socket, bounds on how a request may come, and an end that lets answers finish."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from burnish.core.refusal import Refusal
from burnish.gateway.app import Gateway
from burnish.gateway.sending import send_json
from burnish.gateway.tls import check_tls

HEAD_BYTES = 32 << 10
HEADERS = 100
CONNECTIONS = 4096
HEAD_TICKS = 5
"""Tenths of a second between two looks for heads that do not end. A timer for each head would cost every request something."""
UNREAD_TICKS = 20
"""Tenths of a second that a closed connection has for what is left in it, once or twice."""
TIDY_TICKS = 6_000
"""Tenths of a second between two looks at what is kept for a time only: ten minutes."""
STILL_S = 0.05
"""How often a gateway that stops looks whether all is done."""


async def _head_too_large(scope: Scope, receive: Receive, send: Send) -> None:
    refusal = Refusal(
        431, f"the headers may have {HEAD_BYTES} bytes and be {HEADERS} at most", code="headers_too_large"
    )
    await send_json(send, refusal.status, refusal.body, [(b"connection", b"close")])


class _Joined:
    """A transport that sends the head of an answer with what follows it: two writes cost twice and wake the client twice.

    A head that nothing follows at once goes out in the next turn of the event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._held = transport, loop, b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send, unless it begins an answer."""
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._held = data
            self._loop.call_soon(self._send_held)
            return
        self._transport.write(data)

    def _send_held(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def close(self) -> None:
        """Close, once all is sent."""
        self._send_held()
        self._transport.close()


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds on the head of a request, in bytes, headers and seconds.

    uvicorn bounds the time between two requests, not that of a request which never ends its head (slowloris).
    """

    head_s = 10.0

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._in_head, self._size = True, 0
        self.head_ends = math.inf
        """When the head that is waited for must be whole, by the event loop's clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._joined = _Joined(transport, self.loop)
        self.head_ends = self.loop.time() + self.head_s
        if len(self.connections) > CONNECTIONS:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Count bytes that are none of a body: heads, trailers, what stands before a chunk."""
        self._size += len(data)
        super().data_received(data)
        if self._size > HEAD_BYTES and not self.transport.is_closing():
            if self._in_head:
                self.send_400_response("The headers are too large.")
            else:  # an answer may be on its way, which nothing may be put into
                self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. What comes as one after the body (a trailer) is none: it would be kept as long as more come."""
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Count anew: bytes of a body are for who reads it to bound."""
        self._size = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True
        self.head_ends = self.loop.time() + self.head_s

    def on_headers_complete(self) -> None:
        """A head is whole: pass it on, or refuse it."""
        self.head_ends = math.inf
        self._in_head, self._size = False, 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        app = self.app
        if size > HEAD_BYTES or len(self.headers) > HEADERS:
            self.app = _head_too_large  # type: ignore[assignment]
        super().on_headers_complete()
        self.cycle.transport = self._joined  # type: ignore[assignment]
        self.app = app

    def on_message_complete(self) -> None:
        """A request is whole: whoever has not begun to read its body need not wait for it."""
        super().on_message_complete()
        self._size = 0
        self.scope.setdefault("state", {})["body_is_here"] = True


class Server(uvicorn.Server):
    """Ends in order: new calls get 503 while those at work finish, then the listener closes. A second signal ends at once."""

    def __init__(
        self, config: uvicorn.Config, gateway: Gateway, closing: Callable[[], object], started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._gateway, self._closing, self._told = gateway, closing, started
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unread: set[Any] = set()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start, remember the loop that a signal wakes, and tell that it listens."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self.should_exit = self.should_exit or self._gateway.draining  # it was told to stop before it began
        self._told()

    async def on_tick(self, counter: int) -> bool:
        """Now and then look what is over: heads that do not end, and what was kept for its time.

        And connections that were closed and cannot be, because their client does not read what is left.
        """
        if counter % HEAD_TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedHttp) and connection.head_ends < now:
                    connection.transport.abort()
        if counter % UNREAD_TICKS == 0:
            closing = {each for each in self.server_state.connections if each.transport.is_closing()}  # type: ignore[union-attr]
            for connection in closing & self._unread:
                connection.transport.abort()  # type: ignore[union-attr]
            self._unread = closing
        if counter % TIDY_TICKS == 0:
            self._gateway.tidy()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. The signal is not raised again afterwards: the caller still has things to close."""
        if self._gateway.draining or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self.stop()

    def stop(self) -> None:
        """Begin to stop, from any thread."""
        self._gateway.draining = True
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._drain(), self._loop)

    async def _drain(self) -> None:
        ends = asyncio.get_running_loop().time() + self._gateway.parts.settings.timeouts.drain_s
        while self._gateway.at_work and asyncio.get_running_loop().time() < ends and not self.force_exit:
            await asyncio.sleep(STILL_S)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Close connections, cancel what still runs, and let all that was used be counted."""
        await super().shutdown(sockets)
        await self._gateway.settled()
        closed = self._closing()
        if asyncio.iscoroutine(closed):
            await closed


def run(
    gateway: Gateway, listener: socket, *, closing: Callable[[], object] = lambda: None, stop: threading.Event | None = None,
    started: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Serve on a listening socket until SIGINT, SIGTERM or `stop`. closing: called in the loop at the end.

    Raises UsageError when the TLS files cannot be used.
    """
    settings = gateway.parts.settings
    check_tls(settings.tls_certificate, settings.tls_key)
    http = type("Bounded", (BoundedHttp,), {"head_s": settings.timeouts.head_s})
    config = uvicorn.Config(
        gateway, interface="asgi3", http=http, ws="none", lifespan="off", proxy_headers=False, log_config=None,
        access_log=False, server_header=False, timeout_keep_alive=75, timeout_graceful_shutdown=1,
        ssl_certfile=settings.tls_certificate, ssl_keyfile=settings.tls_key,
    )  # fmt: skip
    server = Server(config, gateway, closing, started)
    gc.freeze()  # a pass of the collector over all of an engine's objects would hold every answer up
    try:
        with _stopping(server, stop):
            server.run(sockets=[listener])
    finally:
        gc.unfreeze()


@contextmanager
def _stopping(server: Server, stop: threading.Event | None) -> Generator[None]:
    """End the server when `stop` is set."""
    if stop is None:
        yield
        return

    ended = threading.Event()

    def wait() -> None:
        stop.wait()
        if not ended.is_set():
            server.stop()

    watcher = threading.Thread(target=wait, name="burnish-stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        stop.set()
        watcher.join()
