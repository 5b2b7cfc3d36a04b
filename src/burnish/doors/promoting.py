"""`burnish promote`: which version answers under an alias."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from burnish import wiring
from burnish.core.artifacts import Release
from burnish.core.errors import UsageError, did_you_mean
from burnish.core.events import Emit
from burnish.core.ids import content_id
from burnish.doors.releases import resolve_release
from burnish.store.home import Home

ALIAS = re.compile(r"(?!latest$|v[0-9]+$)[a-z0-9][a-z0-9_-]{0,31}")
"""What an alias may be called; `latest` and v1, v2, ... have a meaning of their own in MLflow."""


@dataclass(frozen=True)
class Promoted:
    """What an alias leads to now and led to before. moved: whether that is another version's adapter."""

    release: Release
    before: Release | None
    moved: bool

    def as_json(self) -> dict[str, Any]:
        """Return what `burnish promote --json` prints."""
        return {
            "name": self.release.name, "alias": self.release.alias, "version": self.release.version,
            "adapter": self.release.adapter, "before": None if self.before is None else self.before.version,
            "moved": self.moved,
        }  # fmt: skip


def check_alias(alias: str) -> str:
    """Return the alias. Raises UsageError when none may be called so."""
    if not ALIAS.fullmatch(alias):
        raise UsageError(
            f"{alias!r} cannot be an alias: it has 1 to 32 characters of a-z, 0-9, _ and -, begins with a letter or digit, "
            "and is neither latest nor v and a number. Examples: champion, challenger, canary."
        )
    return alias


def promote(home: Home, name: str, alias: str, emit: Emit) -> Promoted:
    """Let an alias lead to the release that `name` means (flight-search, flight-search:3, flight-search@challenger).

    The move is a version of its own, so the way back is another one, and servers that run follow at their next request.
    Raises UsageError when no release is meant or the alias cannot be one.
    """
    check_alias(alias)
    releases = home.all(Release)
    found = resolve_release(releases, name)
    if found is None:
        known = sorted({f"{each.name}:{each.version}" for each in releases})
        listed = ", ".join(known[:20]) or "none yet; make one with: burnish run RECIPE"
        raise UsageError(f"no release is called {name!r} in {home.root}. Known: {listed}.{did_you_mean(name, known)}")
    with home.working("promote", content_id({"name": found.name})):
        named = [each for each in home.all(Release) if each.name == found.name]
        before = resolve_release([each for each in named if each.alias == alias], f"{found.name}@{alias}")
        if before is not None and before.adapter == found.adapter:
            return Promoted(before, before, moved=False)
        wiring.mend_registry(home, emit)
        newest = max(named, key=lambda each: each.version)
        return Promoted(wiring.promote(found, alias, newest, home), before, moved=True)
