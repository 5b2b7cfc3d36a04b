"""The server of the review page: for one reviewer, on this machine alone, with a token that every request needs.

The page itself holds no data, so it needs no token. Its address carries the token behind `#`, which browsers send to nobody; the
page takes it out of the address bar and sends it as a header. A page of another origin can neither read it nor send the header.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, cast

import uvicorn
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from burnish.core.errors import ResourceError, UsageError
from burnish.page.template import render_page

BODY_BYTES = 4 << 20
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Desk:
    """What the page asks: `state()` says what is next; `act(action)` does what the reviewer says, and raises UsageError."""

    state: Callable[[], dict[str, Any]]
    act: Callable[[Mapping[str, Any]], None]


def create_app(desk: Desk, token: str) -> Starlette:
    """Return the ASGI application."""
    app = Starlette(
        routes=[
            Route("/", _page, methods=["GET"]),
            Route("/api/state", _state, methods=["GET"]),
            Route("/api/act", _act, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
    )
    app.state.desk, app.state.token = desk, token
    return app


def run(desk: Desk, port: int, tell: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. `tell` hears the address. Raises ResourceError when the port cannot be had."""
    token = secrets.token_urlsafe(24)
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise ResourceError(
            f"cannot listen on {HOST} port {port}: {error.strerror or error}. Choose another one with --port (0 takes a free one)."
        ) from error
    config = uvicorn.Config(
        create_app(desk, token), log_config=None, access_log=False, lifespan="off", server_header=False
    )
    tell(f"http://{HOST}:{listener.getsockname()[1]}/#{token}")
    with listener, contextlib.suppress(KeyboardInterrupt):  # the usual way to end a review
        uvicorn.Server(config).run(sockets=[listener])


async def _page(request: Request) -> Response:
    page, policy = _document()
    return HTMLResponse(page, headers={**_HEADERS, "Content-Security-Policy": policy})


async def _state(request: Request) -> Response:
    if not _allowed(request):
        return _refused(401, "the token is missing or wrong; open the address that the terminal shows")
    desk: Desk = request.app.state.desk
    return JSONResponse(await run_in_threadpool(desk.state), headers=_HEADERS)


async def _act(request: Request) -> Response:
    if not _allowed(request):
        return _refused(401, "the token is missing or wrong; open the address that the terminal shows")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES:
            return _refused(413, f"more than {BODY_BYTES} bytes")
    try:
        action = json.loads(body)
    except (ValueError, RecursionError):
        return _refused(400, "the body is no JSON")
    if not isinstance(action, dict):
        return _refused(400, "the body is no JSON object")
    desk: Desk = request.app.state.desk
    try:
        await run_in_threadpool(desk.act, cast("dict[str, Any]", action))
    except UsageError as error:
        return _refused(400, str(error))
    return JSONResponse(await run_in_threadpool(desk.state), headers=_HEADERS)


_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def _allowed(request: Request) -> bool:
    given = request.headers.get("Authorization", "").encode()
    return secrets.compare_digest(given, f"Bearer {request.app.state.token}".encode())


def _refused(status: int, says: str) -> Response:
    return JSONResponse({"error": says}, status_code=status, headers=_HEADERS)


@cache
def _document() -> tuple[str, str]:
    """Return the page, and the policy that lets a browser run its own style and script alone, known by their hashes."""
    room = resources.files("burnish.review")
    script = room.joinpath("page.js").read_text(encoding="utf-8")
    own = room.joinpath("page.css").read_text(encoding="utf-8")
    page = render_page("burnish.review", "page.html.j2", script=Markup(script), own=Markup(own))
    hashes = {tag: _hash(page, tag) for tag in ("script", "style")}
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
    return page, policy


def _hash(page: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    assert found is not None, f"the page has one <{tag}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"
