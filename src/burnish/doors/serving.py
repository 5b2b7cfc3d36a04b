"""`burnish serve` and `burnish chat`: releases become something one can talk to."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish import wiring
from burnish.core.artifacts import Adapter, Release
from burnish.core.errors import ServeError, StoreError, UsageError, did_you_mean
from burnish.core.events import Emit, Note
from burnish.core.ids import short
from burnish.store.home import Home

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from burnish.gateway.app import Pick
    from burnish.gateway.asks import CountTokens
    from burnish.gateway.settings import Settings
    from burnish.serve.answer import ServedModel
    from burnish.serve.chat import Chat
    from burnish.serve.engine import Engine
    from burnish.text.tokenizer import Tokenizer

KEY_VARIABLE = "BURNISH_KEY"
DEFAULT_BASE = "smollm2-135m-instruct"
"""Served when nothing has been released yet."""


def newest_releases(home: Home) -> dict[str, Release]:
    """Return the newest release of each name."""
    return {release.name: release for release in sorted(home.all(Release), key=lambda item: item.version)}


def _open_engine(home: Home, releases: Sequence[Release], emit: Emit) -> tuple[Engine, wiring.Base, list[Release]]:
    """Load the base of the last release once, and the adapters of all that share it. Says which do not."""
    from burnish.core.artifacts import Plan
    from burnish.serve.engine import Engine

    if not releases:
        base = wiring.open_base(DEFAULT_BASE, emit)
        return Engine(wiring.load_for_serving(base, None, emit), adapters={}), base, []
    adapters = {release.id: home.load(Adapter, release.adapter) for release in releases}
    leading = releases[-1]
    base = wiring.open_base(leading.base.name, emit)
    if base.files.ref.digest != leading.base.digest:
        raise ServeError(
            f"the base {leading.base.name} here ({short(base.files.ref.digest)}) is not the one that {leading.name} was trained on "
            f"({short(leading.base.digest)}). Use the base it was trained on, or train again."
        )
    store = adapters[leading.id].method
    served: list[Release] = []
    for release in releases:
        adapter = adapters[release.id]
        same = (adapter.base.digest, adapter.method.quantisation) == (leading.base.digest, store.quantisation)
        text = _tokenizer(base, adapter).fingerprint(adapter.fingerprint.system)
        fits = text == adapter.fingerprint
        if same and fits:
            served.append(release)
        else:
            emit(
                Note(
                    "serve",
                    f"{release.name} is left out: it was trained on another base ({adapter.base.name}, {adapter.method.kind})",
                )
            )
    if leading not in served:
        raise ServeError(
            f"{leading.name} was trained with another template or calendar than this burnish writes. Run its recipe again."
        )
    folders = {release.name: home.path(adapters[release.id].weights_file).parent for release in served}
    missing = [name for name, folder in folders.items() if not folder.is_dir()]
    if missing:
        raise StoreError(f"the adapter files of {', '.join(missing)} are gone from {home.root}. Run the recipe again.")
    plan = home.load(Plan, leading.plan)
    return Engine(wiring.load_for_serving(base, plan, emit), adapters=folders), base, served


def _tokenizer(base: wiring.Base, adapter: Adapter) -> Tokenizer:
    """Return the base's tokenizer with the variables of the chat template that an adapter was trained with."""
    return base.tokenizer.with_variables(adapter.fingerprint.variables)


def _served_models(home: Home, base: wiring.Base, served: Sequence[Release]) -> dict[str, ServedModel]:
    from burnish.serve.answer import ServedModel

    models = {"base": ServedModel(adapter=None, system=None)}
    for release in served:
        adapter = home.load(Adapter, release.adapter)
        made = int(datetime.datetime.fromisoformat(release.created_at).timestamp()) if release.created_at else 0
        own = _tokenizer(base, adapter) if adapter.fingerprint.variables else None
        models[release.name] = ServedModel(
            adapter=release.name, system=adapter.fingerprint.system, created_s=made, tokenizer=own
        )
    return models


@dataclass(frozen=True)
class EngineApp:
    """The engine of this process as the gateway sees it: an ASGI application that answers /v1, and who counts prompts."""

    app: ASGIApp
    count: CountTokens
    close: Callable[[], None]
    pick: Callable[[Settings, Emit], Pick | None]


def open_engine_app(home: Home, emit: Emit) -> EngineApp:
    """Load every release that shares the newest one's base, or the base alone, and return what answers for them."""
    from burnish.serve.api import Service, create_app

    releases = list(newest_releases(home).values())
    engine, base, served = _open_engine(home, releases, emit)
    models = _served_models(home, base, served)
    app = create_app(Service(engine=engine, tokenizer=base.tokenizer, models=models))
    return EngineApp(
        app, wiring.prompt_counter(base.tokenizer, models), lambda: engine.close(drain=False),
        lambda settings, emit: wiring.intent_picker(home, served, settings.auto.models, emit),
    )  # fmt: skip


def open_chat(name: str, home: Home, date: str | None, emit: Emit) -> Chat:
    """Return a conversation with a release and its base. Raises UsageError when there is no such release."""
    from burnish.serve.chat import Chat
    from burnish.serve.voice import EngineVoice

    releases = newest_releases(home)
    if name not in releases:
        known = ", ".join(sorted(releases)) or "none yet; make one with: burnish run RECIPE"
        raise UsageError(f'no release is called "{name}" in {home.root}. Known: {known}.{did_you_mean(name, releases)}')
    day = _day(date)
    engine, base, served = _open_engine(home, [releases[name]], emit)
    models = _served_models(home, base, served)
    tuned = models[name]
    voice = EngineVoice(engine, base.tokenizer, name, tuned, today=lambda: day or datetime.date.today())
    return Chat(voice, name, tuned.system, today=lambda: day or datetime.date.today())


def _day(date: str | None) -> datetime.date | None:
    """Return the day that was given. Raises UsageError when it is none."""
    try:
        return None if date is None else datetime.date.fromisoformat(date)
    except ValueError as error:
        raise UsageError(f'"{date}" is no date: write it as YYYY-MM-DD.') from error


def open_remote_chat(name: str, url: str, home: Home, date: str | None) -> Chat:
    """Return a conversation with a model of a gateway, under the key of $BURNISH_KEY or the home's chat key.

    Raises UsageError when there is no key.
    """
    from burnish.doors.keys import CHAT_KEY, gateway_folder
    from burnish.serve.chat import Chat
    from burnish.serve.remote import GatewayVoice

    day = _day(date)
    path = gateway_folder(home) / CHAT_KEY
    key = os.environ.get(KEY_VARIABLE) or (path.read_text(encoding="utf-8").strip() if path.is_file() else None)
    if key is None:
        raise UsageError(
            f"no key to ask with: set ${KEY_VARIABLE}, or start the gateway in this home, which writes {path}."
        )
    voice = GatewayVoice(url, key, today=lambda: day or datetime.date.today())
    return Chat(voice, name, None, today=lambda: day or datetime.date.today())
