"""A request that is not answered, in the format that OpenAI's clients expect."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from starlette.types import Send

Headers = list[tuple[bytes, bytes]]


class Refusal(Exception):
    """HTTP status and error object. Every 429 and 503 says when to come again."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None,
        retry_after_s: float | None = None, headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.code = code
        if status in (429, 503) and retry_after_s is None and code != "request_larger_than_limit":
            retry_after_s = 1
        self.headers: Headers = list(headers)
        if retry_after_s is not None:
            self.headers.append((b"retry-after", str(max(math.ceil(retry_after_s), 1)).encode()))
        if status == 401:
            self.headers.append((b"www-authenticate", b"Bearer"))
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            status, "invalid_request_error" if status < 500 else "server_error"
        )
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def send_json(send: Send, status: int, value: object, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Send a JSON answer whole."""
    await send_bytes(
        send, status, json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), b"application/json", headers
    )


async def send_bytes(
    send: Send, status: int, body: bytes, kind: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Send an answer whole."""
    own = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
