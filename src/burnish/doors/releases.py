"""Names that people ask for become releases: `flight-search`, `flight-search@challenger`, `flight-search:7`, `base`."""

from __future__ import annotations

import datetime
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from burnish import wiring
from burnish.core.artifacts import Adapter, Release
from burnish.store.home import Home

if TYPE_CHECKING:
    from burnish.serve.adapters import AdapterSource
    from burnish.serve.answer import ServedModel
    from burnish.serve.interface import AnsweringEngine
    from burnish.text.tokenizer import Tokenizer

BASE = "base"
CHAMPION = "champion"
NAME = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._-]{0,63})(?:@(?P<alias>[a-z0-9][a-z0-9_-]{0,31})|:(?P<version>[1-9][0-9]{0,8}))?"
)
"""What a name may look like. It is looked up among releases and never becomes a path."""


def resolve_release(releases: Sequence[Release], name: str) -> Release | None:
    """Return the release that a name means, or None: the newest with that alias, that version, or the newest champion.

    Where nothing of that name is a champion the newest version answers.
    """
    asked = NAME.fullmatch(name)
    if asked is None:
        return None
    named = sorted((each for each in releases if each.name == asked["name"]), key=lambda each: each.version)
    if asked["version"] is not None:
        return next((each for each in named if each.version == int(asked["version"])), None)
    wanted = [each for each in named if each.alias == (asked["alias"] or CHAMPION)]
    if asked["alias"] is None and not wanted:
        wanted = named
    return wanted[-1] if wanted else None


def adapter_source(home: Home, adapter: Adapter) -> AdapterSource:
    """Return where a release's adapter lies, and the digests that its files must have."""
    from burnish.serve.adapters import AdapterSource

    folder: Path = home.path(adapter.weights_file).parent
    return AdapterSource(folder, (adapter.weights_file.sha256, adapter.config_file.sha256))


def own_tokenizer(base: wiring.Base, adapter: Adapter) -> Tokenizer:
    """Return the base's tokenizer with the variables of the chat template that an adapter was trained with."""
    return base.tokenizer.with_variables(adapter.fingerprint.variables)


def fits(base: wiring.Base, adapter: Adapter) -> bool:
    """Return whether an adapter answers on this base (or its weights are the base), with the text that this burnish writes."""
    text = own_tokenizer(base, adapter).fingerprint(adapter.fingerprint.system)
    return adapter.runs_on.digest == base.files.ref.digest and text == adapter.fingerprint


class ReleasedModels(Mapping[str, "ServedModel"]):
    """Every release that fits the engine's base, and the base. Releases made while it serves are found at their first request.

    Lists the base, each name, and each alias of it that is not the champion's; versions are found and not listed. An adapter is
    made known to the engine when it is first asked for, by its digest: two names of one adapter share its memory.
    """

    def __init__(self, home: Home, base: wiring.Base, engine: AnsweringEngine, quantisation: str) -> None:
        self._home, self._base, self._engine, self._quantisation = home, base, engine, quantisation
        self._releases: list[Release] = []
        self._seen = -1
        self._adapters: dict[str, Adapter] = {}
        self._fits: dict[str, bool] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> ServedModel:
        """Raise KeyError when no release that fits has this name."""
        from burnish.serve.answer import ServedModel

        if name == BASE:
            return ServedModel(adapter=None, system=None, digest=self._base.files.ref.digest)
        with self._lock:
            release = resolve_release(self._fitting(), name)
            if release is None:
                raise KeyError(name)
            adapter = self._adapters[release.adapter]
            key = adapter.id if adapter.model is None else None
            if key is not None and key not in self._engine.adapters:
                self._engine.add_adapter(adapter.id, adapter_source(self._home, adapter), lazy=True)
        made = int(datetime.datetime.fromisoformat(release.created_at).timestamp()) if release.created_at else 0
        own = own_tokenizer(self._base, adapter) if adapter.fingerprint.variables else None
        return ServedModel(key, adapter.fingerprint.system, made, own, adapter.weights_file.sha256)

    def version(self, name: str) -> str | None:
        """Return NAME:VERSION of the release that a name means now, or None when it means none that fits."""
        with self._lock:
            release = resolve_release(self._fitting(), name)
        return None if release is None else f"{release.name}:{release.version}"

    def releases(self, only: Sequence[str] | None = None) -> dict[str, Release]:
        """Return what each name means now: every name alone, or those that are asked for and mean something."""
        with self._lock:
            fitting = self._fitting()
        names = dict.fromkeys(each.name for each in fitting) if only is None else only
        found = {name: resolve_release(fitting, name) for name in names}
        return {name: release for name, release in found.items() if release is not None}

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            releases = self._fitting()
        names = {release.name: None for release in releases}
        aliases = {f"{each.name}@{each.alias}": None for each in releases if each.alias != CHAMPION}
        return iter([BASE, *names, *aliases])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _fitting(self) -> list[Release]:
        """Return the releases that fit, read again when one was made."""
        folder = self._home.root / "artifacts" / Release.kind
        seen = folder.stat().st_mtime_ns if folder.is_dir() else 0
        if seen != self._seen:
            found: list[Release] = []
            for release in self._home.all(Release):
                if release.adapter not in self._adapters:
                    adapter = self._home.load(Adapter, release.adapter)
                    same = adapter.method.quantisation == self._quantisation
                    self._adapters[release.adapter] = adapter
                    self._fits[release.adapter] = same and fits(self._base, adapter)
                if self._fits[release.adapter]:
                    found.append(release)
            self._releases, self._seen = found, seen
        return self._releases
