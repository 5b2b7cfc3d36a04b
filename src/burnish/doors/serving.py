"""`burnish serve` and `burnish chat`: releases become something one can talk to."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from burnish import wiring
from burnish.core.artifacts import Adapter, Release
from burnish.core.errors import ServeError, StoreError, UsageError, did_you_mean
from burnish.core.events import Emit, Note
from burnish.core.ids import short
from burnish.doors.releases import ReleasedModels, fits, resolve_release
from burnish.store.home import Home

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from burnish.gateway.app import Pick
    from burnish.gateway.asks import CountTokens
    from burnish.gateway.route import Resolve
    from burnish.gateway.settings import Settings
    from burnish.serve.chat import Chat
    from burnish.serve.interface import AnsweringEngine

KEY_VARIABLE = "BURNISH_KEY"
DEFAULT_BASE = "smollm2-135m-instruct"
"""Served when nothing has been released yet."""
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Lets torch ask Linux for huge pages: weights that each step reads from end to end come faster so. Heeded at its first tensor."""


def newest_releases(home: Home) -> dict[str, Release]:
    """Return the release that each name alone means, its newest champion; the one that was made last stands last."""
    releases = home.all(Release)
    found = {each.name: resolve_release(releases, each.name) for each in releases}
    known = [release for release in found.values() if release is not None]
    return {release.name: release for release in sorted(known, key=releases.index)}


def _open_engine(
    home: Home, releases: Sequence[Release], emit: Emit, *, vllm: Path | None = None, graphs: bool = True
) -> tuple[AnsweringEngine, wiring.Base, list[Release]]:
    """Load the base of the last release once, for the adapters of all that share it. Says which do not.

    vllm: the interpreter of the environment that has vLLM, which then answers instead of the own engine.
    graphs: on a GPU, let the own engine replay decoding steps.
    """
    if not releases:
        base = wiring.open_base(DEFAULT_BASE, emit)
        return _engine_of(home, base, None, vllm, emit, graphs=graphs), base, []
    adapters = {release.id: home.load(Adapter, release.adapter) for release in releases}
    leading = releases[-1]
    base = _base_of(adapters[leading.id], home, emit)
    store = adapters[leading.id].method
    served: list[Release] = []
    for release in releases:
        adapter = adapters[release.id]
        if adapter.method.quantisation == store.quantisation and fits(base, adapter):
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
    return _engine_of(home, base, leading, vllm, emit, graphs=graphs), base, served


def _engine_of(
    home: Home, base: wiring.Base, leading: Release | None, vllm: Path | None, emit: Emit, *, graphs: bool
) -> AnsweringEngine:  # fmt: skip
    """Load a base as the leading release was trained on it."""
    os.environ.setdefault(HUGE_PAGES, "1")
    from burnish.core.artifacts import Plan
    from burnish.serve.engine import Engine

    plan = None if leading is None else home.load(Plan, leading.plan)
    if vllm is None:
        return Engine(wiring.load_for_serving(base, plan, emit), graphs=graphs)
    if leading is not None and home.load(Adapter, leading.adapter).method.quantisation != "none":
        raise UsageError(
            f"{leading.name} was trained on a quantised base, which vLLM is not given. Serve it without --vllm."
        )
    from burnish.serve.vllm.engine import VllmEngine

    return VllmEngine(base.files.folder, vllm, emit=emit)


def _base_of(adapter: Adapter, home: Home, emit: Emit) -> wiring.Base:
    """Open the weights that an adapter answers on: its base, or the model that was trained whole."""
    wanted, folder = adapter.runs_on, home.path(adapter.weights_file).parent
    if adapter.model is not None and not folder.is_dir():
        raise StoreError(f"the model files of {adapter.name} are gone from {home.root}. Run the recipe again.")
    base = wiring.open_base(wanted.name if adapter.model is None else str(folder), emit)
    if base.files.ref.digest != wanted.digest:
        raise ServeError(
            f"the base {wanted.name} here ({short(base.files.ref.digest)}) is not the one that {adapter.name} was trained on "
            f"({short(wanted.digest)}). Use the base it was trained on, or train again."
        )
    return base


def _served_models(home: Home, base: wiring.Base, served: Sequence[Release], engine: AnsweringEngine) -> ReleasedModels:
    quantisation = home.load(Adapter, served[-1].adapter).method.quantisation if served else "none"
    return ReleasedModels(home, base, engine, quantisation)


@dataclass(frozen=True)
class EngineApp:
    """The engine of this process as the gateway sees it: an ASGI application that answers /v1, and what is known about it.

    count: tokens of prompts. context_tokens: of prompt and answer together at most.
    version: the release that a name means now, as NAME:VERSION. pick: for `model: auto`.
    """

    app: ASGIApp
    count: CountTokens
    context_tokens: int
    version: Resolve
    close: Callable[[], None]
    pick: Callable[[Settings, Emit], Pick | None]


def open_engine_app(home: Home, emit: Emit, *, vllm: Path | None = None, graphs: bool = True) -> EngineApp:
    """Load every release that shares the newest one's base, or the base alone, and return what answers for them."""
    from burnish.serve.api import Service, create_app

    releases = list(newest_releases(home).values())
    engine, base, served = _open_engine(home, releases, emit, vllm=vllm, graphs=graphs)
    models = _served_models(home, base, served, engine)
    app = create_app(Service(engine=engine, tokenizer=base.tokenizer, models=models))
    return EngineApp(
        app, wiring.prompt_counter(base.tokenizer, models), engine.context_tokens, models.version,
        lambda: engine.close(drain=False),
        lambda settings, emit: wiring.intent_picker(home, models.releases, settings.auto.models, emit),
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
    models = _served_models(home, base, served, engine)
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
