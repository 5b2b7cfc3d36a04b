"""The process that listens: a socket, bounds on how a request may come, and an end that lets answers finish."""

from __future__ import annotations

import asyncio
import gc
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


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds on the head of a request, in bytes, headers and seconds.

    uvicorn bounds the time between two requests, not that of a request which never ends its head (slowloris).
    """

    head_s = 10.0

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._timer: asyncio.TimerHandle | None = None
        self._in_head, self._size = True, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clock."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count bytes until a head is whole."""
        if self._in_head:
            self._size += len(data)
        super().data_received(data)
        if self._in_head and self._size > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too large.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True
        self._arm()

    def on_headers_complete(self) -> None:
        """A head is whole: pass it on, or refuse it."""
        self._disarm()
        self._in_head, self._size = False, 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        app = self.app
        if size > HEAD_BYTES or len(self.headers) > HEADERS:
            self.app = _head_too_large  # type: ignore[assignment]
        super().on_headers_complete()
        self.app = app

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self.head_s, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        self.transport.abort()


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
        """Now and then end connections that were closed and cannot be, because their client does not read what is left.

        And remove what was kept for its time.
        """
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
