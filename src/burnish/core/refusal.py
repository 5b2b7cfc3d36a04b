"""A request that is not answered, in the format that OpenAI's clients expect, and what may address a server of ours."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping, Sequence

Headers = list[tuple[bytes, bytes]]
KINDS: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's word for what is wrong, by status; others are `invalid_request_error` below 500, `server_error` from there on."""


class Refusal(Exception):
    """HTTP status, headers and error object. Every 429 and 503 says when to come again."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None,
        retry_after_s: float | None = None, headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.code = code
        if status in (429, 503) and retry_after_s is None:
            retry_after_s = 1
        self.headers: Headers = list(headers)
        if retry_after_s is not None:
            self.headers.append((b"retry-after", str(max(math.ceil(retry_after_s), 1)).encode()))
        if status == 401:
            self.headers.append((b"www-authenticate", b"Bearer"))
        kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def is_address(name: str) -> bool:
    """Return whether a host is a bare IP address: a page can let its own name point to one, and never becomes one."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
