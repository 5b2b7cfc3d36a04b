"""An engine elsewhere as an ASGI application: requests go over pooled connections, answers come back as they are made."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from functools import lru_cache
from urllib.parse import SplitResult, quote, unquote, urlsplit

from starlette.types import Receive, Scope, Send

from burnish.core.errors import UsageError
from burnish.core.refusal import Headers, Refusal
from burnish.gateway.connections import BrokeOff, Connection, Connections

log = logging.getLogger("burnish.gateway")
PASSED_ON = frozenset({b"content-type", b"accept", b"x-request-id", b"traceparent", b"tracestate"})
"""Request headers that the upstream gets. The client's key is not among them."""
PASSED_BACK = frozenset({b"content-type", b"retry-after", b"cache-control", b"x-burnish-model", b"x-burnish-intent"})
PORTS = {"http": 80, "https": 443}
RETRY_PAUSE_S = 0.05
_BREAKS = re.compile(rb"[\x00\r\n]")
_IN_PATH = "/:@!$&'()*+,;=~"


class HttpUpstream:
    """Passes requests on to `url` (the part before /v1). Opened in the event loop that uses it.

    A connection that cannot be opened, or that the engine had closed before it was asked, is tried again `retries` times. A
    request that the engine may have begun never is: what ended the engine once might do so again.
    """

    def __init__(
        self, url: str, *, key: str | None = None, connect_s: float = 5, retries: int = 2, pool: int = 512
    ) -> None:
        """Raises UsageError for what is no address of an HTTP server, or a key that no header can hold."""
        parts, self._host = _address(url)
        default = PORTS[parts.scheme]
        self._tls, self._port = parts.scheme == "https", parts.port or default
        self._prefix = quote(parts.path, safe=_IN_PATH + "%")
        self._connect_s, self._retries, self._pool = connect_s, retries, pool
        name = f"[{self._host}]" if ":" in self._host else self._host
        self._own = f"host: {name}{'' if self._port == default else f':{self._port}'}\r\n".encode()
        self._own += b"accept-encoding: identity\r\n"  # what is counted must be read
        if key is not None:
            if not key.isascii() or not key.isprintable():
                raise UsageError("the key of the upstream has characters that no header can hold.")
            self._own += f"authorization: Bearer {key}\r\n".encode()
        elif parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._own += b"authorization: Basic " + base64.b64encode(login.encode()) + b"\r\n"
        self._connections: Connections | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises Refusal (503) when the upstream cannot be had or breaks off before its first byte.

        A client that hangs up is for the caller to notice: cancelling this call closes the upstream's connection.
        """
        body = (await receive()).get("body", b"")
        if self._connections is None:
            self._connections = Connections(
                self._host, self._port, tls=self._tls, connect_s=self._connect_s, most=self._pool
            )
        connections = self._connections
        connection, status, headers = await self._ask(connections, self._head(scope, len(body)) + body)
        try:
            if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in headers):
                raise Refusal(503, "the engine behind this gateway compresses its answers", code="upstream_failed")
            kept = [(name, value) for name, value in headers if name in PASSED_BACK]
            await send({"type": "http.response.start", "status": status, "headers": kept})
            more = True
            while more:
                piece, more = await connection.read()
                await send({"type": "http.response.body", "body": piece, "more_body": more})
        except BrokeOff as error:
            raise _broke_off() from error
        finally:
            connections.give_back(connection)

    async def _ask(self, connections: Connections, request: bytes) -> tuple[Connection, int, Headers]:
        """Return a connection with the head of its answer, after as many tries as it may take."""
        attempt = 0
        while True:
            try:
                return await _try(connections, request)
            except BrokeOff as error:
                if not error.stale:
                    raise _broke_off() from error
                connections.close()  # the others that wait are as old
                why: Exception = error
            except OSError as error:  # TimeoutError is one
                why = error
            if attempt == self._retries:
                log.warning("no engine at %s, port %d: %s", self._host, self._port, str(why) or repr(why))
                says = "the engine behind this gateway cannot be reached"
                raise Refusal(503, says, code="upstream_unreachable") from why
            await asyncio.sleep(RETRY_PAUSE_S * 2**attempt)
            attempt += 1

    def _head(self, scope: Scope, length: int) -> bytes:
        """Return what goes before the body. Raises Refusal (400) for a header that would be two."""
        lines = [f"{scope['method']} {self._prefix}{_quoted(scope['path'])} HTTP/1.1\r\n".encode(), self._own]
        for name, value in scope["headers"]:
            if name in PASSED_ON:
                if _BREAKS.search(value):
                    raise Refusal(400, f"the header {name.decode()} has a line break", code="invalid_header")
                lines += (name, b": ", value, b"\r\n")
        if length or scope["method"] != "GET":
            lines.append(b"content-length: %d\r\n" % length)
        return b"".join((*lines, b"\r\n"))

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        if self._connections is not None:
            self._connections.close()
            self._connections = None


@lru_cache(maxsize=64)  # few are asked often
def _quoted(path: str) -> str:
    return quote(path, safe=_IN_PATH)


def _address(url: str) -> tuple[SplitResult, str]:
    """Return the parts of an engine's address, and its host as names are looked up. Raises UsageError when it is none."""
    says = f"{url!r} is no address of an engine; write http://127.0.0.1:8000"
    try:
        parts = urlsplit(url.rstrip("/").removesuffix("/v1"))
        host = (parts.hostname or "").encode("idna").decode()
        whole = parts.scheme in PORTS and host and parts.port != 0
    except ValueError as error:
        raise UsageError(says) from error
    if not whole:
        raise UsageError(says)
    return parts, host


async def _try(connections: Connections, request: bytes) -> tuple[Connection, int, Headers]:
    """Ask once. A connection that gives no head is given back, whatever ended the wait."""
    connection, answered = await connections.take(), False
    try:
        status, headers = await connection.ask(request)
        answered = True
        return connection, status, headers
    finally:
        if not answered:
            connections.give_back(connection)


def _broke_off() -> Refusal:
    return Refusal(503, "the engine behind this gateway broke off", code="upstream_broke_off")
