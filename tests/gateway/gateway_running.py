"""A gateway in a thread of the test's process, and an upstream over HTTP that behaves as the model's name says."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from gateway_storage import SECRET

from burnish.core.listen import listen
from burnish.gateway.app import Gateway, Parts
from burnish.gateway.content import ContentLog
from burnish.gateway.database import Database, open_database
from burnish.gateway.key_store import KeyStore
from burnish.gateway.limits import Limits
from burnish.gateway.route import Router
from burnish.gateway.server import run
from burnish.gateway.settings import Settings
from burnish.gateway.sql_ledger import sql_ledger
from burnish.gateway.upstream import HttpUpstream

WORDS = ["Hel", "lo ", "wor", "ld ", "🛫"]

REFUSALS: dict[str, tuple[int, dict[str, str]]] = {
    "fails": (500, {"message": "secret stack trace"}),
    "challenger-fails": (500, {"message": "secret stack trace"}),
    "busy": (503, {"message": "queue"}),
    "broken-adapter": (503, {"message": "secret path", "code": "adapter_unusable"}),
    "denied": (401, {"message": "bad upstream key"}),
    "unknown": (404, {"message": "no such model", "code": "model_not_found"}),
    "own-429": (429, {"message": "too many", "code": "rate_limit_exceeded"}),
}
"""What models of these names answer: status and error."""


class BadUpstream:
    """An OpenAI-like server over real HTTP. What it does stands in the model's name; what it saw is kept."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.hung_up: Counter[str] = Counter()
        self.open = 0
        self.models = ["ok", "champion", "challenger", "base"]
        self.words: dict[str, list[str]] = {}
        self._listener = listen("127.0.0.1", 0)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            self._app, interface="asgi3", log_config=None, lifespan="off", access_log=False, http="httptools"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._listener]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)

    def close(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/health/ready":
            await self._json(send, 200, {"status": "ok"})
            return
        if scope["path"] == "/v1/models":
            names = self.models
            await self._json(send, 200, {"object": "list", "data": [{"id": n, "object": "model"} for n in names]})
            return
        if scope["path"].startswith("/v1/models/"):
            await self._json(send, 200 if scope["path"].endswith("/ok:3") else 404, {})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        value = json.loads(body)
        self.seen.append(value)
        self.headers.append({name.decode(): text.decode() for name, text in scope["headers"]})
        self.open += 1
        work = asyncio.create_task(self._answer(value, send))
        gone = asyncio.create_task(receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.hung_up[value["model"]] += 1
        finally:
            self.open -= 1
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _answer(self, value: dict[str, Any], send: Any) -> None:
        how = value["model"]
        if how in REFUSALS:
            status, message = REFUSALS[how]
            headers = [(b"retry-after", b"7")] if how == "busy" else []
            await self._json(send, status, {"error": message}, headers)
        elif how == "plain-429":
            await send({"type": "http.response.start", "status": 429, "headers": [(b"content-type", b"text/html")]})
            await send({"type": "http.response.body", "body": b"<h1>slow down: secret-host-7</h1>"})
        elif how == "not-json":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"hello"})
        else:
            if how in ("slow-first", "challenger-slow"):
                await asyncio.sleep(0.15 if how == "challenger-slow" else 30)
            if how == "slow-whole":
                await asyncio.sleep(1.5)
            if value.get("stream"):
                await self._events(how, value, send)
            else:
                await self._json(send, 200, self._whole(value))

    def _whole(self, value: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.words.get(value["model"], WORDS))}
        return {
            "id": "x", "object": "chat.completion", "created": 1, "model": value["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
        }  # fmt: skip

    async def _events(self, how: str, value: dict[str, Any], send: Any) -> None:
        kind = [(b"content-type", b"text/event-stream"), (b"set-cookie", b"a=b"), (b"server", b"secret/1.0")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        usage = value.get("stream_options", {}).get("include_usage") and how != "no-usage"

        async def event(choices: list[Any], **more: Any) -> None:
            data = {
                "id": "x",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": how,
                "choices": choices,
                **more,
            }
            line = b"data: " + json.dumps(data).encode() + (b"\r\n\r\n" if how == "crlf" else b"\n\n")
            for at in range(0, len(line), 7 if how == "crumbs" else len(line)):
                await send(
                    {
                        "type": "http.response.body",
                        "body": line[at : at + (7 if how == "crumbs" else len(line))],
                        "more_body": True,
                    }
                )

        if how.startswith("role-"):  # as engines do: who speaks is told before anything is worked out
            await event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
            await asyncio.sleep(30 if how == "role-then-silence" else 0.2)
        for at, word in enumerate(self.words.get(how, WORDS) * (400 if how in ("endless", "flood") else 1)):
            if how == "breaks" and at == 2:
                raise RuntimeError("the upstream's process dies here")
            await event(
                [{"index": 0, "delta": {"content": word * (4000 if how == "flood" else 1)}, "finish_reason": None}]
            )
            if how == "endless":
                await asyncio.sleep(0.05)
        await event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if usage:
            await event([], usage={"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _json(self, send: Any, status: int, value: Any, headers: Any = ()) -> None:
        body = json.dumps(value).encode()
        own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
        await send({"type": "http.response.body", "body": body})


@dataclass
class Running:
    """A gateway that listens, with a key of each scope."""

    upstream_url: str
    folder: Path
    settings: Settings = field(default_factory=Settings)
    extra: dict[str, Any] = field(default_factory=dict)
    upstream: Any = None

    def __post_init__(self) -> None:
        self.database: Database = open_database(self.settings.database, self.folder)
        self.keys = KeyStore(self.database, SECRET)
        self.ledger = sql_ledger(self.database)
        elsewhere = HttpUpstream(self.upstream_url, connect_s=2, retries=self.settings.retries)
        told = self.extra.pop("content_days", None)
        content = None if told is None else ContentLog(self.folder / "content", told, self.extra.pop("redact"))
        parts = Parts(
            self.settings, self.database, SECRET, self.ledger, self.upstream or elsewhere, Router(self.settings.routes),
            content=content,
        )  # fmt: skip
        self.gateway = Gateway(replace(parts, **self.extra))
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.stop = threading.Event()
        ready = threading.Event()
        self.thread = threading.Thread(
            target=run, args=(self.gateway, listener),
            kwargs={"closing": elsewhere.close, "stop": self.stop, "started": ready.set},
        )  # fmt: skip
        self.thread.start()
        ready.wait(10)
        self.admin = self.keys.create("admin", "admin")[1]
        self.client = httpx.Client(base_url=self.url, timeout=20)
        for _ in range(400):
            try:
                self.client.get("/health/live")
                break
            except httpx.ConnectError:
                time.sleep(0.01)

    def key(self, scope: Any = "user", models: Any = None, **limits: int) -> str:
        """Make a key."""
        return self.keys.create("test", scope, models=models, limits=Limits(**limits))[1]

    def ask(
        self, key: str | None, model: str = "ok", headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """Ask for one answer."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        own = {} if key is None else {"authorization": f"Bearer {key}"}
        return self.client.post("/v1/chat/completions", json=body, headers={**own, **(headers or {})})

    def used(self, key: str) -> int:
        """Tokens that a key has used today, once nothing of it is held any more."""
        found = self.keys.authenticate(key)
        assert found is not None
        until = time.monotonic() + 10
        while True:
            with self.database.transaction() as cursor:
                cursor.execute("SELECT count(*) FROM gateway_holds WHERE account = ?", (found.account,))
                held = cursor.rows()[0][0]
            if held == 0:
                return max((tokens for tokens, _ in self.ledger.used(found.account).values()), default=0)
            assert time.monotonic() < until, "a reservation was never settled"
            time.sleep(0.01)

    def close(self) -> None:
        """Stop, and see that it stops."""
        self.client.close()
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.gateway.close()
        self.database.close()


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream: JSON values, and "[DONE]"."""
    datas = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]
