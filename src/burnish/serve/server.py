"""The process that listens: a socket, uvicorn, and an orderly end."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from burnish.core.events import Emit, Note
from burnish.core.listen import listen
from burnish.serve.api import Service, create_app

DRAIN_S = 30
"""Answers in the making get this long to end after SIGINT or SIGTERM."""


def run_server(service: Service, host: str, port: int, *, emit: Emit, stop: threading.Event | None = None) -> None:
    """Serve until SIGINT, SIGTERM or `stop`; then refuse new requests, finish the running ones and close the engine.

    Port 0 takes a free one; the address is told by a Note. Raises ResourceError when the port cannot be had.
    """
    listener = listen(host, port)
    service = dataclasses.replace(service, hosts=service.hosts | {host.lower()})
    config = uvicorn.Config(
        create_app(service), log_config=None, access_log=False, lifespan="off", server_header=False,
        timeout_graceful_shutdown=DRAIN_S, h11_max_incomplete_event_size=64 << 10,
    )  # fmt: skip
    server = uvicorn.Server(config)
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{listener.getsockname()[1]}/v1"
    emit(Note("serve", f"listening on {url} (models: {', '.join(service.models)}); Ctrl-C stops"))
    try:
        with _signals_kept(), _stopping(server, stop):
            server.run(sockets=[listener])
    finally:
        listener.close()
        service.engine.close(drain=False)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the server and nothing more.

    uvicorn raises the signal again when it is done, for whoever handled it before; by default that would end the
    process before the engine is closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _noted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _noted(number: int, frame: FrameType | None) -> None:
    """Stand in for the default handler while the server ends."""


@contextmanager
def _stopping(server: uvicorn.Server, stop: threading.Event | None) -> Iterator[None]:
    """End the server when `stop` is set."""
    if stop is None:
        yield
        return

    def wait() -> None:
        stop.wait()
        server.should_exit = True

    threading.Thread(target=wait, name="burnish-stop", daemon=True).start()
    yield
