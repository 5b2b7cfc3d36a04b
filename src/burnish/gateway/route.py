"""Which version answers: weights that stick to who asks, an override by header, shadows, and the way back to the champion."""

from __future__ import annotations

import hashlib
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from burnish.core.refusal import Refusal
from burnish.gateway.settings import Route

FEWEST = 20
"""A version is judged by no fewer answers."""
TOLERATED = 0.05
"""A champion without errors still leaves a newcomer this share of errors (times the route's factor)."""
Resolve = Callable[[str], str | None]
"""resolve(alias) -> the version that a release alias names now, or None when it names none."""
OnRollback = Callable[[str, str, str], None]
"""told(alias, model, why) when a version is taken out of traffic."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How an answer went: seconds to the first token of a stream, or until a whole answer."""

    good: bool
    first_s: float
    whole: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked of the upstream; `alias` is what the client asked for. shadow: a second version that gets a copy."""

    alias: str
    model: str
    shadow: str | None = None


class Router:
    """Chooses versions. Kept in memory: how the last answers of each version went."""

    def __init__(self, routes: Mapping[str, Route], resolve: Resolve | None = None) -> None:
        self._routes, self._resolve = dict(routes), resolve
        self._told: OnRollback | None = None
        self._seen: dict[tuple[str, str], deque[Seen]] = {}
        self._out: dict[str, dict[str, str]] = {}
        self._marks: dict[str, str] = {}

    def on_rollback(self, told: OnRollback) -> None:
        """Call `told` whenever a version is taken out of traffic."""
        self._told = told

    @property
    def routes(self) -> Mapping[str, Route]:
        """Every route by its alias."""
        return self._routes

    def out_of_traffic(self, alias: str) -> Mapping[str, str]:
        """Return the versions of a route that were taken out, with the reason."""
        return self._out.get(alias, {})

    def mark(self, alias: str) -> str:
        """Return the mark under which a route was set last: another one means that somebody set it again since."""
        return self._marks.get(alias, "")

    def set(self, alias: str, route: Route | None, mark: str = "") -> None:
        """Set or remove (None) a route. What was known about its versions is forgotten."""
        self._marks[alias] = mark
        self._routes.pop(alias, None)
        self._out.pop(alias, None)
        self._seen = {key: seen for key, seen in self._seen.items() if key[0] != alias}
        if route is not None:
            self._routes[alias] = route

    def take_out(self, alias: str, model: str, why: str) -> None:
        """Take a version out of traffic until its route is set again (another replica found it wanting)."""
        self._out.setdefault(alias, {}).setdefault(model, why)

    def choose(self, alias: str, sticky: str, override: str | None) -> Choice:
        """Return the version for a request. sticky: who asks; the same one gets the same version while weights stay.

        Raises Refusal when the override names no version of the route.
        """
        route = self._routes.get(alias)
        if route is None:
            if override is not None and override != alias:
                raise Refusal(422, f"{alias} has no route, so no version can be chosen", param="x-burnish-version")
            return Choice(alias, self._resolved(alias))
        known = [target.model for target in route.targets] or [route.champion]
        if override is not None:
            if override not in (*known, route.champion):
                raise Refusal(422, f"{alias} does not lead there. Known: {', '.join(known)}", param="x-burnish-version")
            return Choice(alias, self._resolved(override))
        out = self.out_of_traffic(alias)
        place = _share(f"{alias}\x00{sticky}")
        model = route.champion
        total, upto = sum(target.weight for target in route.targets), 0.0
        for target in route.targets:
            upto += target.weight / total
            if place < upto:
                model = route.champion if target.model in out else target.model
                break
        shadowed = route.shadow is not None and _share(f"shadow\x00{alias}\x00{sticky}") < route.shadow_share
        chosen, shadow = self._resolved(model), self._resolved(route.shadow) if route.shadow and shadowed else None
        return Choice(alias, chosen, shadow if shadow != chosen else None)

    def note(self, choice: Choice, *, good: bool, first_s: float | None, whole: bool = False) -> None:
        """Remember how an answer went; a version that does worse than the champion is taken out of traffic."""
        route = self._routes.get(choice.alias)
        if route is None:
            return
        seen = self._seen.setdefault((choice.alias, choice.model), deque(maxlen=route.window))
        seen.append(Seen(good, first_s if first_s is not None else 0.0, whole))
        champion = self._resolved(route.champion)
        if choice.model == champion or len(seen) < FEWEST:
            return
        why = _worse(seen, self._seen.get((choice.alias, champion), deque()), route)
        target = next((each.model for each in route.targets if self._resolved(each.model) == choice.model), None)
        if why is not None and target is not None and target not in self.out_of_traffic(choice.alias):
            self.take_out(choice.alias, target, why)
            if self._told is not None:
                self._told(choice.alias, target, why)

    def means(self, model: str) -> bool:
        """Return whether a name, listed or not, means a version now."""
        return self._resolve is not None and self._resolve(model) is not None

    def _resolved(self, model: str) -> str:
        found = self._resolve(model) if self._resolve is not None else None
        return model if found is None else found


def _share(text: str) -> float:
    """Return a number from 0 to 1 (exclusive) that always is the same for a text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") / 2**64


def _worse(seen: deque[Seen], champion: deque[Seen], route: Route) -> str | None:
    """Say how a version does worse than the champion, or None. Errors are held against 5% where the champion has fewer.

    Streams are compared with streams and whole answers with whole ones: who sticks to a version may ask for either alone.
    """
    errors = sum(not each.good for each in seen) / len(seen)
    usual = sum(not each.good for each in champion) / len(champion) if champion else 0.0
    if errors > route.errors_factor * max(usual, TOLERATED):
        return f"{errors:.0%} of its last {len(seen)} answers failed; the champion's: {usual:.0%}"
    for whole, what in ((False, "first token takes"), (True, "whole answer takes")):
        mine, its = (
            [each.first_s for each in found if each.whole == whole and each.good and each.first_s > 0]
            for found in (seen, champion)
        )
        if len(mine) < FEWEST or len(its) < FEWEST:
            continue
        slow, pace = statistics.median(mine), statistics.median(its)
        if slow > route.latency_factor * pace:
            return f"its {what} {slow:.2f} s (median), the champion's {pace:.2f} s"
    return None
