"""What every request passes before the API sees it: the addressed host, the calling page, the size of the body."""

from __future__ import annotations

import json
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.core.refusal import Refusal, is_address


class Guard:
    """An ASGI application around another one.

    A web page anywhere can make a browser send requests to 127.0.0.1. Requests are refused when their Host is not one
    of ours (a page that rebinds its own name to this address; a bare IP address cannot be rebound and is let through)
    or when they carry the Origin of a foreign page.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], body_bytes: int) -> None:
        self.app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse in OpenAI's error format."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers: dict[bytes, bytes] = dict(scope["headers"])
            self._check_host(headers)
            self._check_length(headers)
        except Refusal as error:
            await _refuse(error, send)
            return
        await self.app(scope, self._limited(receive), send)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        addressed = _name_of(f"//{headers.get(b'host', b'').decode('latin-1')}")
        if addressed is None or not (addressed in self._hosts or is_address(addressed)):
            raise Refusal(
                403, f"this server does not answer for the host {addressed!r}; use {', '.join(sorted(self._hosts))}"
            )
        origin = headers.get(b"origin")
        if origin is not None and _name_of(origin.decode("latin-1")) not in (*self._hosts, addressed):
            raise Refusal(403, "this server does not answer pages of other origins")

    def _check_length(self, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._body_bytes:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request body is larger than {self._body_bytes} bytes", code="request_too_large")

    def _limited(self, receive: Receive) -> Receive:
        """Count the body as it comes: a chunked one announces no length."""
        read = 0

        async def limited_receive() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._body_bytes:
                raise self._too_large()
            return message

        return limited_receive


def _name_of(url: str) -> str | None:
    """Return the host name in a URL, lower case, without port and brackets; None when there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


async def _refuse(error: Refusal, send: Send) -> None:
    body = json.dumps(error.body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *error.headers,
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
