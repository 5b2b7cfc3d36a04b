"""Answers that the gateway sends whole, refusals among them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.types import Send


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
