"""The gateway as one ASGI application. A request passes the edge, its key, its limits, its route, and then the upstream."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from burnish.core.errors import BurnishError
from burnish.core.refusal import Headers, Refusal
from burnish.gateway.admin import Admin, StoredRoute, keep_route, load_routes
from burnish.gateway.asks import ENDPOINTS, CountTokens, parse_body
from burnish.gateway.content import ContentLog
from burnish.gateway.database import Busy, Database
from burnish.gateway.edge import (
    REQUEST_ID,
    SECURITY,
    bearer,
    check_host,
    check_url,
    cors,
    preflight,
    single_headers,
    unauthenticated,
)
from burnish.gateway.failed_keys import FailedKeys, network_of, too_many
from burnish.gateway.feedback import keep_feedback, parse_feedback
from burnish.gateway.inner import call_for_json
from burnish.gateway.key_store import KeyStore
from burnish.gateway.keys import Key, split_key
from burnish.gateway.limits import SECOND, Granted, Ledger
from burnish.gateway.listing import askable, check_route, means, model_card, not_there
from burnish.gateway.metrics import Metrics
from burnish.gateway.openapi import OPENAPI
from burnish.gateway.passage import ClientGone, read_body, unknown_model
from burnish.gateway.route import Router
from burnish.gateway.sending import send_bytes, send_json
from burnish.gateway.serve_model import ModelCalls
from burnish.gateway.settings import Settings
from burnish.gateway.shared_attempts import SharedAttempts
from burnish.gateway.tracing import Tracing

log = logging.getLogger("burnish.gateway")
R = TypeVar("R")
ALLOWED: Mapping[str, frozenset[str]] = {
    "chat": frozenset({"/v1/models", "/v1/chat/completions", "/feedback"}),
    "user": frozenset({"/v1/models", *ENDPOINTS, "/feedback"}),
    "metrics": frozenset({"/metrics"}),
}
"""What each scope may ask; admin may ask everything."""
METHODS: Mapping[str, str] = {
    **dict.fromkeys(ENDPOINTS, "POST"), "/feedback": "POST", "/v1/models": "GET", "/metrics": "GET",
}  # fmt: skip
Pick = Callable[[str], Sequence[tuple[str, float]]]
"""pick(text) -> models by how alike the text is to what they were trained on (cosine), the most alike first."""
ROUTES_REFRESH_S = 5.0
SETTLERS = 2
"""Threads that settle in a shared database."""


@dataclass
class Parts:
    """What a gateway is made of.

    upstream: answers /v1. count: tokens of prompts, and context_tokens: what the engine holds of prompt and answer
    together, where they can be told. pick: for `model: auto`. assets: the chat page by path, as (content, type).
    workers: threads that ask the database. attempts: wrong keys by address, where replicas count them together.
    """

    settings: Settings
    database: Database
    secret: bytes
    ledger: Ledger
    upstream: ASGIApp
    router: Router
    count: CountTokens | None = None
    context_tokens: int | None = None
    pick: Pick | None = None
    content: ContentLog | None = None
    tracing: Tracing | None = None
    assets: Mapping[str, tuple[bytes, bytes, Headers]] = field(default_factory=dict[str, tuple[bytes, bytes, Headers]])
    workers: int = 1
    attempts: SharedAttempts | None = None


class Gateway:
    """Answers every request of one process."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.metrics = Metrics(parts.settings.metrics_models, lambda: self.at_work)
        self.keys = KeyStore(parts.database, parts.secret)
        self.failed_keys = FailedKeys(parts.settings.caps.failed_keys_per_minute)
        self.admin = Admin(parts.database, parts.secret, parts.ledger, parts.router)
        self.draining = False
        self.at_work = 0
        self.hosts = frozenset(host.lower() for host in parts.settings.hosts)
        self._pool = ThreadPoolExecutor(parts.workers, thread_name_prefix="burnish-gateway")
        self._settling = ThreadPoolExecutor(min(parts.workers, SETTLERS), thread_name_prefix="burnish-settle")
        self._routes_read = 0.0
        self._calls = ModelCalls(self)
        parts.router.on_rollback(self.rolled_back)
        self._background: set[asyncio.Task[None]] = set()

    async def in_thread(self, work: Callable[..., R], *given: Any) -> R:
        """Run what asks the database in a thread of its own, so that the event loop stays free."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *given)

    async def in_ledger(self, work: Callable[..., R], *given: Any) -> R:
        """Run a ledger's work: here when it takes microseconds and nobody else is at it, else in a thread that may wait."""
        if not self.parts.ledger.local:
            return await self.in_thread(work, *given)
        try:
            return work(*given, wait=False)
        except Busy:
            return await self.in_thread(work, *given)

    async def settle(self, key: Key, granted: Granted, tokens: int, nano_usd: int) -> None:
        """Count what was used, in threads of its own where it may wait: what gives back stands behind nobody who wants."""
        given = (key.account, granted.hold, tokens, nano_usd)
        if self.parts.ledger.local:
            await self.in_ledger(self.parts.ledger.settle, *given)
        else:
            await asyncio.get_running_loop().run_in_executor(self._settling, self.parts.ledger.settle, *given)

    async def authenticate(self, address: str, text: str) -> Key:
        """Return the valid key with this text that comes from an address. Raises Refusal: 401, or 429 after too many."""
        parts, failed, attempt = self.parts, self.failed_keys, None
        if parts.attempts is None or failed.knows(address, text):
            failed.check(address, text)
        else:
            most = parts.settings.caps.failed_keys_per_minute
            attempt = await self.in_thread(parts.attempts.begin, address, split_key(text) or "", most)
            if attempt.wait_us:
                raise too_many(attempt.wait_us / SECOND)
        local = parts.database.local
        key = self.keys.authenticate(text) if local else await self.in_thread(self.keys.authenticate, text)
        if key is None:
            if parts.attempts is None:
                failed.failed(address)
            raise unauthenticated()
        if parts.attempts is not None and attempt is not None and attempt.number:
            await self.in_thread(parts.attempts.accepted, address, key.id, attempt)
        failed.accepted(address, key.id)
        return key

    def start(self, task: asyncio.Task[None]) -> None:
        """Let a task go on by itself; `settled` waits for it, and the log tells how it failed."""
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("what went on beside an answer failed", exc_info=error)

    async def settled(self) -> None:
        """Wait for what goes on by itself, at the end."""
        self._calls.drop_copies()
        while self._background:
            await asyncio.wait(set(self._background))

    def tidy(self) -> None:
        """Remove what has been kept for its time; called now and then, whether or not anybody asks."""
        kept = (self.parts.content, self.parts.attempts)
        for each in kept:
            if each is not None:
                self.start(asyncio.get_running_loop().create_task(self.in_thread(each.clean)))

    def close(self) -> None:
        """Give the threads back and send what was traced."""
        self._pool.shutdown()
        self._settling.shutdown()
        if self.parts.tracing is not None:
            self.parts.tracing.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens, in OpenAI's error format."""
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1003})
            return
        exchange = Exchange(self, scope, receive, send)
        try:
            await exchange.answer()
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except ClientGone:
            self.metrics.refused.labels("client_gone").inc()
        except BurnishError as error:
            log.error("request %s: %s", exchange.id, error)
            await exchange.refuse(
                Refusal(503, "the gateway's storage does not answer", code="storage", retry_after_s=5)
            )
        except Exception:
            log.exception("request %s failed", exchange.id)
            await exchange.refuse(
                Refusal(503, "the gateway failed; its log says how", code="gateway_failed", retry_after_s=5)
            )

    async def call_model(self, exchange: Exchange, key: Key, value: dict[str, Any]) -> None:
        """Answer one of ENDPOINTS."""
        await self._refresh_routes()
        await self._calls.answer(exchange, key, value)

    async def keep_feedback(self, key: Key, value: dict[str, Any]) -> str:
        """Store what a person said about an answer; it counts as a request of the key's, without tokens."""
        said = parse_feedback(value)
        granted = await self._calls.reserve(key, 0, 0)
        try:
            identifier = await self.in_thread(keep_feedback, self.parts.database, key.account, said)
        finally:
            await self.settle(key, granted, 0, 0)
        model = said.model if said.model in self.metrics.known else "other"
        self.metrics.feedback.labels(model, said.kind).inc()
        return identifier

    async def _refresh_routes(self) -> None:
        """Hear now and then what other replicas and admins did to the routes."""
        now = time.monotonic()
        if now - self._routes_read > ROUTES_REFRESH_S:
            self._routes_read = now
            await self.in_thread(load_routes, self.parts.database, self.parts.router)

    def rolled_back(self, alias: str, model: str, why: str) -> None:
        """Record that a version was taken out of traffic, for every replica and for the audit."""
        log.warning("route %s: %s is out of traffic: %s", alias, model, why)
        self.metrics.rollbacks.labels(self.metrics.label(model)).inc()
        router = self.parts.router
        stored = StoredRoute(router.routes[alias], dict(router.out_of_traffic(alias)), router.mark(alias))
        work = self.in_thread(keep_route, self.parts.database, self.parts.secret, alias, stored, "gateway")
        self.start(asyncio.get_running_loop().create_task(work))


class Exchange:
    """One request and its answer."""

    def __init__(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        self.gateway, self.scope, self.receive, self._send = gateway, scope, receive, send
        self.settings = gateway.parts.settings
        self.began = time.perf_counter()
        self.id = secrets.token_hex(8)
        self.headers: dict[bytes, bytes] = {}
        self.own: Headers = [*SECURITY, (b"x-request-id", self.id.encode())]
        self.responded = False

    async def send(self, message: Any) -> None:
        """Send, remembering that the answer has begun."""
        self.responded = True
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error, unless the answer has begun."""
        self.gateway.metrics.refused.labels(refusal.code or str(refusal.status)).inc()
        if not self.responded:
            await send_json(self.send, refusal.status, refusal.body, [*refusal.headers, *self.own])

    async def answer(self) -> None:
        """Pass the edge, then answer what needs no key, then what needs one."""
        self.headers = single_headers(self.scope)
        given = self.headers.get(b"x-request-id")
        if given is not None and REQUEST_ID.fullmatch(given):
            self.id = given.decode()
            self.own[-1] = (b"x-request-id", given)
        check_host(self.headers, self.gateway.hosts)
        check_url(self.scope)
        allowed = cors(self.headers, self.settings.origins, self.scope["scheme"])
        self.own += allowed
        method, path = self.scope["method"], self.scope["path"]
        if method == "OPTIONS" and b"access-control-request-method" in self.headers:
            await send_bytes(
                self.send, 204, b"", b"text/plain", [*preflight(self.headers), *self.own] if allowed else self.own
            )
        elif not await self._open(method, path):
            await self._with_key(method, path)

    async def _open(self, method: str, path: str) -> bool:
        """Answer what needs no key; returns whether it was that."""
        asset = self.gateway.parts.assets.get(path)
        if method in ("GET", "HEAD") and asset is not None:
            body, kind, headers = asset
            await send_bytes(self.send, 200, body, kind, [*headers, *self.own])
        elif method in ("GET", "HEAD") and path == "/health/live":
            await send_json(self.send, 200, {"status": "ok"}, self.own)
        elif method in ("GET", "HEAD") and path == "/health/ready":
            await self._ready()
        elif method == "GET" and path == "/openapi.json":
            await send_json(self.send, 200, OPENAPI, self.own)
        elif method == "GET" and path == "/metrics" and self.settings.metrics_public:
            await self._metrics()
        else:
            return False
        return True

    async def _ready(self) -> None:
        if self.gateway.draining:
            raise Refusal(503, "stopping", code="draining", retry_after_s=5)
        try:
            status, _ = await call_for_json(
                self.gateway.parts.upstream, "/health/ready", self.settings.timeouts.connect_s
            )
        except TimeoutError:
            status = 0
        if status not in (200, 404):  # another engine may have no such path, and yet it answers
            raise Refusal(503, "the engine is not ready", code="upstream_not_ready", retry_after_s=5)
        await self.gateway.in_thread(self.gateway.keys.any_admin)
        await send_json(self.send, 200, {"status": "ok", "at_work": self.gateway.at_work}, self.own)

    async def _metrics(self) -> None:
        await send_bytes(
            self.send, 200, self.gateway.metrics.text(), b"text/plain; version=0.0.4; charset=utf-8", self.own
        )

    async def _with_key(self, method: str, path: str) -> None:
        """Check the key, then what it may ask, then answer."""
        address = network_of((self.scope["client"] or ("", 0))[0])
        key = await self.gateway.authenticate(address, bearer(self.headers))
        admin = path.startswith("/admin/")
        known = "/v1/models" if path.startswith("/v1/models/") else path
        if not admin and known not in METHODS:
            raise Refusal(404, not_there(path, METHODS), code="not_found")
        if key.scope != "admin" and known not in ALLOWED[key.scope]:
            raise Refusal(403, f"a key of scope {key.scope} may not ask this", code="scope_not_allowed")
        if not admin and method != METHODS[known]:
            raise Refusal(
                405, f"use {METHODS[known]}", code="method_not_allowed", headers=[(b"allow", METHODS[known].encode())]
            )
        if path == "/metrics":
            await self._metrics()
        elif known == "/v1/models":
            await self._models(key, path.removeprefix("/v1/models").removeprefix("/"))
        else:
            await self._with_body(key, method, path)

    async def _models(self, key: Key, name: str) -> None:
        found = await askable(self.gateway.parts, key)
        if not name:
            await send_json(self.send, 200, {"object": "list", "data": found}, self.own)
            return
        card = next((card for card in found if card["id"] == name), None)
        if card is None and key.may_ask(name) and await means(self.gateway.parts, name):
            card = model_card(name)  # versions are answered and not listed
        if card is None:
            raise unknown_model()
        await send_json(self.send, 200, card, self.own)

    async def _with_body(self, key: Key, method: str, path: str) -> None:
        """Answer what comes with a body."""
        most, seconds = self.settings.caps.body_bytes, self.settings.timeouts.body_s
        here = "body_is_here" in self.scope.get("state", ())
        body = await read_body(self.receive, self.headers, most, seconds, here=here)
        value: dict[str, Any] = parse_body(body) if body else {}
        if method == "GET" and not body:
            value = dict(parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if path.startswith("/admin/"):
            if method == "POST" and path.startswith("/admin/routes/"):
                await check_route(self.gateway.parts, value)
            status, answer = await self.gateway.in_thread(self.gateway.admin.answer, method, path, value, key)
            await send_json(self.send, status, answer, self.own)
        elif path == "/feedback":
            await send_json(self.send, 201, {"id": await self.gateway.keep_feedback(key, value)}, self.own)
        else:
            await self.gateway.call_model(self, key, value)
