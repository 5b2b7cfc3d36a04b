"""What every request passes before anything reads it: its host, its URL, the page that sends it, its key's header."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import unquote_to_bytes, urlsplit

from starlette.types import Scope

from burnish.core.refusal import Headers, Refusal, is_address

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_KEY_IN_URL = re.compile(
    rb"bk_[a-z2-7]{12}|(?:^|[&;])(?:api[_-]?key|key|token|access_token|authorization)=", re.IGNORECASE
)
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9-]{1,64}(?: ?, ?[A-Za-z0-9-]{1,64}){0,63}")
SECURITY: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def single_headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers. Raises Refusal when one that decides who asks what is there twice: two readers may differ."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in found and name in (b"host", b"authorization", b"content-length", b"origin", b"transfer-encoding"):
            raise Refusal(400, f"the header {name.decode()} is there twice", code="invalid_header")
        found[name] = value
    return found


def check_host(headers: dict[bytes, bytes], hosts: frozenset[str]) -> str:
    """Return the name the gateway is addressed by. Raises Refusal when it is not one of ours.

    A page anywhere can let its own name point to 127.0.0.1 and so be read as if it came from here; a bare address cannot.
    """
    return _own_host(headers.get(b"host", b""), hosts)


@lru_cache(maxsize=256)
def _own_host(given: bytes, hosts: frozenset[str]) -> str:
    text = given.decode("latin-1")
    try:
        parts = urlsplit(f"//{text}")
        name, port = parts.hostname, parts.port
    except ValueError:
        name, port = None, None
    plain = name is not None and text.lower() in (name, f"[{name}]", f"{name}:{port}", f"[{name}]:{port}")
    if name is None or not plain or not (name in hosts or name in LOCAL or is_address(name)):
        says = "this gateway does not answer for that host; name it under `hosts` in its settings"
        raise Refusal(403, says, code="host_not_allowed")
    return name


def check_url(scope: Scope) -> None:
    """Raise Refusal when the URL holds a key: URLs are kept in histories and logs."""
    query, path = bytes(scope["query_string"]), bytes(scope.get("raw_path") or b"")
    if b"%" in query or b"%" in path:
        query, path = unquote_to_bytes(query), unquote_to_bytes(path)
    if (query and _KEY_IN_URL.search(query)) or b"bk_" in path:
        raise Refusal(
            400, "a key must not stand in a URL, where it is logged and remembered: send it as `Authorization: Bearer`, "
            "and rotate this one", code="key_in_url",
        )  # fmt: skip


def cors(headers: dict[bytes, bytes], origins: Collection[str], scheme: str) -> Headers:
    """Return the headers for a page of another origin that is on the list; none for the gateway's own page.

    Raises Refusal for a page of any other origin.
    """
    origin = headers.get(b"origin")
    if origin is None:
        return []
    text = origin.decode("latin-1")
    if text == f"{scheme}://{headers.get(b'host', b'').decode('latin-1')}":
        return []
    if text not in origins:
        raise Refusal(
            403, "pages of that origin may not call this gateway; list it under `origins`", code="origin_not_allowed"
        )
    return [
        (b"access-control-allow-origin", origin), (b"vary", b"origin"),
        (b"access-control-expose-headers", b"x-request-id, x-burnish-model, x-burnish-intent, x-burnish-prompt, retry-after, "
         b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
         b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"),
    ]  # fmt: skip


def preflight(headers: dict[bytes, bytes]) -> Headers:
    """Return what a browser is told that asks whether a listed page may call.

    Such a page may send every header that it asks for: OpenAI's own client sends a dozen in browsers (`x-stainless-...`),
    and a header of its own gives a page nothing, as no cookie and no address stands for a key here.
    """
    wanted = headers.get(b"access-control-request-headers", b"")
    asked = wanted if _HEADER_NAMES.fullmatch(wanted) else b"authorization, content-type"
    return [
        (b"access-control-allow-methods", b"GET, POST, DELETE"), (b"access-control-allow-headers", asked),
        (b"access-control-max-age", b"600"),
    ]  # fmt: skip


def bearer(headers: dict[bytes, bytes]) -> str:
    """Return the key that was sent. Raises Refusal (401), the same for every way in which it can be wrong."""
    kind, _, text = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() != "bearer" or not text.strip():
        raise unauthenticated()
    return text.strip()


def unauthenticated() -> Refusal:
    """Return the one answer to a missing, malformed, unknown, wrong, expired or revoked key."""
    return Refusal(
        401, "this needs a valid key: send it as `Authorization: Bearer bk_...` (make one with: burnish keys create NAME)",
        code="invalid_api_key",
    )  # fmt: skip
