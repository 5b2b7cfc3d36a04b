"""An engine elsewhere as an ASGI application: requests go over pooled connections, answers come back as they are made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
from starlette.types import Receive, Scope, Send
from yarl import URL

from burnish.core.refusal import Refusal

PASSED_ON = frozenset({b"content-type", b"accept", b"x-request-id", b"traceparent", b"tracestate"})
"""Request headers that the upstream gets. The client's key is not among them."""
PASSED_BACK = frozenset({b"content-type", b"retry-after", b"cache-control", b"x-burnish-model", b"x-burnish-intent"})
RETRY_PAUSE_S = 0.05
CHUNK_BYTES = 1 << 16


class HttpUpstream:
    """Passes requests on to `url` (the part before /v1). Opened in the event loop that uses it.

    Before the first byte of an answer a lost connection is tried again `retries` times; after it, never.
    """

    def __init__(
        self, url: str, *, key: str | None = None, connect_s: float = 5, retries: int = 2, pool: int = 512
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._headers: Mapping[str, str] = {} if key is None else {"authorization": f"Bearer {key}"}
        self._connect_s, self._retries, self._pool = connect_s, retries, pool
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises Refusal (503) when the upstream cannot be had or breaks off before its first byte.

        A client that hangs up is for the caller to notice: cancelling this call closes the upstream's connection.
        """
        body = (await receive()).get("body", b"")
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in PASSED_ON}
        response = await self._request(scope, body, {**headers, **self._headers})
        async with response:
            kept = [(name.lower(), value) for name, value in response.raw_headers if name.lower() in PASSED_BACK]
            await send({"type": "http.response.start", "status": response.status, "headers": kept})
            try:
                async for piece in response.content.iter_any():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except aiohttp.ClientError as error:
                raise Refusal(503, "the engine behind this gateway broke off", code="upstream_broke_off") from error
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _request(self, scope: Scope, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Return the response once its head is there, after as many tries as it may take."""
        attempt = 0
        while True:
            try:
                return await self._open().request(
                    scope["method"],
                    self._place(scope["path"]),
                    data=body or None,
                    headers=headers,
                    allow_redirects=False,
                )
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if attempt == self._retries:
                    says = "the engine behind this gateway cannot be reached"
                    raise Refusal(503, says, code="upstream_unreachable") from error
            await asyncio.sleep(RETRY_PAUSE_S * 2**attempt)
            attempt += 1

    def _place(self, path: str) -> URL:
        """Return the URL of a path; those of the few that are asked often are kept."""
        if path.startswith("/v1/models/"):
            return URL(self._url + path)
        if path not in self._urls:
            self._urls[path] = URL(self._url + path)
        return self._urls[path]

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._pool, keepalive_timeout=60, ttl_dns_cache=60),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
                cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, skip_auto_headers=("User-Agent", "Accept-Encoding"),
                read_bufsize=CHUNK_BYTES, max_line_size=16384,
            )  # fmt: skip
        return self._session

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None
