"""`burnish serve`: the gateway, its chat page, and an engine in this process or elsewhere."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.core.errors import UsageError
from burnish.core.events import Emit, Note
from burnish.core.listen import listen
from burnish.doors.keys import CHAT_KEY, DATABASE_VARIABLE, gateway_folder
from burnish.gateway.admin import load_routes
from burnish.gateway.audit import record
from burnish.gateway.content import ContentLog
from burnish.gateway.database import Database, check_secret, open_database
from burnish.gateway.edge import LOCAL
from burnish.gateway.key_store import KeyStore
from burnish.gateway.keys import server_secret, write_private
from burnish.gateway.limits import Ledger
from burnish.gateway.redis_ledger import DEFAULT_PREFIX, RedisLedger
from burnish.gateway.redis_server import RedisServer
from burnish.gateway.route import Router
from burnish.gateway.settings import Settings, load_settings
from burnish.gateway.shared_attempts import RedisAttempts, SharedAttempts, SqlAttempts
from burnish.gateway.sql_ledger import sql_ledger
from burnish.gateway.tls import check_tls
from burnish.gateway.tracing import Tracing, exporting_provider
from burnish.store.home import Home

if TYPE_CHECKING:
    from burnish.doors.serving import EngineApp
    from burnish.gateway.upstream import HttpUpstream

SHARED_WORKERS = 16
"""Threads that wait for a shared database; a SQLite file is asked by one."""
SPARE_CONNECTIONS = 64
"""Connections to an engine elsewhere beside those of requests at work: for shadow copies, and for asking whether it is ready."""


@dataclass(frozen=True)
class ServeWish:
    """What `burnish serve` was asked: flags go before the file of settings.

    vllm: the interpreter of vLLM's environment. graphs: let the own engine replay decoding steps on a GPU.
    """

    host: str = "127.0.0.1"
    port: int = 8731
    config: Path | None = None
    upstream: str | None = None
    database: str | None = None
    redis: str | None = None
    vllm: Path | None = None
    graphs: bool = True

    def settings(self) -> Settings:
        """Return the settings with the flags in them."""
        given = {
            "upstream": self.upstream,
            "database": self.database or os.environ.get(DATABASE_VARIABLE),
            "redis": self.redis,
        }
        if self.upstream is not None and not self.upstream.startswith(("http://", "https://")):
            raise UsageError(f"{self.upstream!r} is no address of an engine; write http://127.0.0.1:8000")
        if self.vllm is not None and not os.access(self.vllm, os.X_OK):
            raise UsageError(
                f"--vllm {self.vllm}: there is no program; name the interpreter of vLLM's environment (bin/python)"
            )
        told = Settings() if self.config is None else load_settings(self.config)
        return Settings.model_validate({**told.model_dump(), **{name: value for name, value in given.items() if value}})


@dataclass(frozen=True)
class Started:
    """What is told when the gateway listens. admin_key: of the first start alone."""

    url: str
    chat_key_file: str
    admin_key: str | None


def serve(
    home: Home, wish: ServeWish, emit: Emit, tell: Callable[[Started], None], *, stop: threading.Event | None = None
) -> None:
    """Serve until SIGINT, SIGTERM or `stop`."""
    from burnish.gateway.app import Gateway, Parts
    from burnish.gateway.listing import lost_routes
    from burnish.gateway.server import run
    from burnish.web.page import assets

    settings = wish.settings()
    objection = check_tls(settings.tls_certificate, settings.tls_key)  # before anything is loaded, as a taken port
    listener = listen(wish.host, wish.port)
    folder = gateway_folder(home)
    secret = server_secret(folder)
    database = open_database(settings.database, folder)
    check_secret(database, secret)
    ledger, attempts = _counts(settings, database)
    engine: EngineApp | None = None
    try:
        if settings.upstream is None:
            from burnish.doors.serving import open_engine_app

            engine = open_engine_app(home, emit, vllm=wish.vllm, graphs=wish.graphs)
            upstream, closing = engine.app, lambda: None
        else:
            elsewhere = _elsewhere(settings, settings.upstream)
            upstream, closing = elsewhere, elsewhere.close
        router = Router(settings.routes, engine.version if engine else None)
        load_routes(database, router)
        shared = settings.database is not None or settings.redis is not None
        gateway = Gateway(
            Parts(
                settings, database, secret, ledger, upstream, router, count=engine.count if engine else None,
                context_tokens=engine.context_tokens if engine else None,
                pick=engine.pick(settings, emit) if engine else None, content=_content(settings, folder), assets=assets(),
                workers=SHARED_WORKERS if shared else 1, attempts=attempts,
                tracing=Tracing(exporting_provider()) if settings.tracing else None,
            )
        )  # fmt: skip
        if engine is not None:  # another one may come up later
            for says in asyncio.run(lost_routes(gateway.parts)):
                emit(Note("serve", says))
        url = _url(wish, settings, listener.getsockname()[1])

        def started() -> None:
            admin_key, chat_key_file = first_keys(KeyStore(database, secret), folder)
            record(database, secret, "gateway", "started", url, {"upstream": "engine" if engine else "elsewhere"})
            for says in _warnings(settings, wish.host, objection, KeyStore(database, secret)):
                emit(Note("serve", says))
            tell(Started(url, str(chat_key_file), admin_key))
            emit(Note("serve", f"listening on {url}/v1; chat page: {url}/ (its key: {chat_key_file}); Ctrl-C stops"))

        run(gateway, listener, closing=closing, stop=stop, started=started)
        gateway.close()
        record(database, secret, "gateway", "stopped", url, {})
    finally:
        listener.close()
        if engine is not None:
            engine.close()
        ledger.close()
        database.close()


def _warnings(settings: Settings, host: str, objection: str | None, store: KeyStore) -> list[str]:
    """Say what works and is hardly meant: a certificate that nobody accepts, keys in the open, budgets that count nothing."""
    said = [] if objection is None else [objection]
    if settings.tls_certificate is None and host not in LOCAL:
        said.append(
            f"keys and texts cross the network unprotected: {host} is not this machine alone, and there is no TLS. "
            "Name tls_certificate and tls_key in the settings, or put a proxy in front that ends TLS"
        )
    unpriced = [] if settings.prices else store.with_money()
    if unpriced:
        names = ", ".join(unpriced[:5]) + (", ..." if unpriced[5:] else "")
        said.append(
            f"budgets of money ({names}) count nothing: no model has a price; name some under `prices` in the settings"
        )
    return said


def _elsewhere(settings: Settings, address: str) -> HttpUpstream:
    """Return the engine at an address, as the settings say to ask it."""
    from burnish.gateway.upstream import HttpUpstream

    return HttpUpstream(
        address, key=_upstream_key(settings), connect_s=settings.timeouts.connect_s, retries=settings.retries,
        pool=settings.caps.at_once + SPARE_CONNECTIONS,
    )  # fmt: skip


def _url(wish: ServeWish, settings: Settings, port: int) -> str:
    scheme = "http" if settings.tls_certificate is None else "https"
    address = f"[{wish.host}]" if ":" in wish.host else wish.host
    return f"{scheme}://{address}:{port}"


def _counts(settings: Settings, database: Database) -> tuple[Ledger, SharedAttempts | None]:
    """Return where limits are counted, and wrong keys by address where replicas count them together."""
    if settings.redis is not None:
        server = RedisServer(settings.redis)
        return RedisLedger(server), RedisAttempts(server, DEFAULT_PREFIX)
    return sql_ledger(database), None if database.local else SqlAttempts(database)


def first_keys(store: KeyStore, folder: Path) -> tuple[str | None, Path]:
    """Make an admin key if there is none, and a chat key with its file if that is missing or refused.

    Once the gateway listens: nobody would ever see the admin key of a start that fails.

    Returns the admin key's text when it was made now, to be shown once, and the path of the chat key's file (0600).
    """
    admin = None if store.any_admin() else store.create("first admin", "admin", actor="first start")[1]
    path = folder / CHAT_KEY
    if not path.is_file() or store.authenticate(path.read_text(encoding="utf-8").strip()) is None:
        write_private(path, store.create("chat page and terminal", "chat", actor="first start")[1])
    path.chmod(0o600)
    return admin, path


def _upstream_key(settings: Settings) -> str | None:
    name = settings.upstream_key_variable
    if name is None:
        return None
    if name not in os.environ:
        raise UsageError(f"upstream_key_variable names ${name}, which is not set.")
    return os.environ[name]


def _content(settings: Settings, folder: Path) -> ContentLog | None:
    """Return where prompts and answers are kept, when the settings ask for it; what is older than its days goes in any case."""
    place = folder / "content"
    if not settings.content.keep:
        ContentLog(place, settings.content.days, str).clean()
        return None
    from burnish.data.private.cleaner import Treatment, make_cleaner

    clean = make_cleaner(Treatment())

    def redact(text: str) -> str:
        return clean(text).text

    kept = ContentLog(place, settings.content.days, redact)
    kept.clean()
    return kept


def started_json(started: Started) -> dict[str, Any]:
    """Return what `burnish serve --json` prints when it listens."""
    return {"url": started.url, "chat_key_file": started.chat_key_file, "admin_key": started.admin_key}
