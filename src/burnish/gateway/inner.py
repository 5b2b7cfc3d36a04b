"""Requests that the gateway itself makes of its upstream: what it wants to know, and copies that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope

from burnish.core.refusal import Refusal


async def call_for_json(upstream: ASGIApp, path: str, seconds: float) -> tuple[int, bytes]:
    """Ask the upstream a GET of the gateway's own and return status and body."""
    heard = _Heard()
    async with asyncio.timeout(seconds):
        await upstream(inner_scope("GET", path, []), _no_more(b""), heard)
    return heard.status, b"".join(heard.pieces)


async def throw_away(upstream: ASGIApp, scope: Scope, body: bytes, seconds: float) -> bool:
    """Let upstream answer to nobody (a shadow copy); returns whether it answered well."""
    heard = _Heard(keep=False)
    try:
        async with asyncio.timeout(seconds):
            await upstream(scope, _no_more(body), heard)
    except (TimeoutError, Refusal):
        return False
    return heard.status == 200


class _Heard:
    """A `send` that keeps the status and, if wished, the body."""

    def __init__(self, *, keep: bool = True) -> None:
        self.status, self.pieces, self._keep = 0, list[bytes](), keep

    async def __call__(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        if self._keep:
            self.pieces.append(message.get("body", b""))


def inner_scope(method: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> Scope:
    """Return the scope of a request from the gateway to its upstream."""
    own = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), *headers]
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": own,
        "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 0), "state": {},
    }  # fmt: skip


def _no_more(body: bytes) -> Receive:
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
