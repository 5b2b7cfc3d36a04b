"""Which models there are: for a key that may ask for them, and for a route that shall lead to them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import jiter
from pydantic import ValidationError

from burnish.core.refusal import Refusal
from burnish.gateway.inner import call_for_json
from burnish.gateway.keys import Key
from burnish.gateway.settings import AUTO, NAME_IN_PATH, Route

if TYPE_CHECKING:
    from burnish.gateway.app import Parts


async def askable(parts: Parts, key: Key) -> list[dict[str, Any]]:
    """Return the models that a key may ask for: the upstream's, the routes, and auto where there is a choice."""
    found = await _listed(parts)
    names = {card["id"] for card in found}
    own = [alias for alias in parts.router.routes if alias not in names]
    own += [AUTO] if parts.pick is not None and len(names) + len(own) > 1 else []
    cards = [card for card in (*found, *map(model_card, own)) if key.may_ask(card["id"])]
    return cards if parts.pick is None or [card["id"] for card in cards] != [AUTO] else []  # it could pick nothing


async def means(parts: Parts, name: str) -> bool:
    """Return whether a name that is not listed means a model: versions are answered and not listed."""
    if parts.router.means(name):
        return True
    if re.fullmatch(NAME_IN_PATH, name) is None:
        return False
    try:
        status, _ = await call_for_json(parts.upstream, f"/v1/models/{name}", parts.settings.timeouts.first_token_s)
    except TimeoutError:
        return False
    return status == 200


def model_card(name: str) -> dict[str, Any]:
    """Return what OpenAI's API tells about a model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "burnish"}


def not_there(path: str, known: Collection[str]) -> str:
    """Say that there is nothing at a path, and where it may be: many clients want an address with /v1, many one without."""
    meant = f"/v1{path}" if not path.startswith("/v1") else path.rstrip("/")
    if meant in known:
        return f"there is no {path[:100]!r} here; it is {meant}"
    return f"there is no {path[:100]!r} here. Known: {', '.join(each for each in known if each.startswith('/v1'))}"


async def check_route(parts: Parts, value: dict[str, Any]) -> None:
    """Raise Refusal (422) for a route to a model that is not there: its share of clients would get 404."""
    try:
        wanted = Route.model_validate(value)
    except ValidationError:
        return  # told by whoever sets it
    lost, listed = await _missing(parts, _leads_to(wanted))
    if lost:
        known = ", ".join(sorted(listed)[:20])
        says = f"a route may not lead to {lost[0]!r}, which is not there. Known: {known}, and versions of them"
        raise Refusal(422, says, param="model", code="model_not_found")


async def lost_routes(parts: Parts) -> list[str]:
    """Say of each route that leads to a model that is not there what that means. Raises Refusal (503)."""
    said: list[str] = []
    for alias, route in parts.router.routes.items():
        lost, listed = await _missing(parts, _leads_to(route))
        if lost:
            known = ", ".join(sorted(listed)[:20])
            says = (
                f"the route {alias!r} leads to {lost[0]!r}, which is not there yet, and gives 404 where it would answer"
            )
            said.append(f"{says}. Known: {known}, and versions of them")
    return said


def _leads_to(route: Route) -> list[str]:
    """Return the names of all models that a route may ask."""
    names = (route.champion, *(target.model for target in route.targets), route.shadow)
    return [name for name in dict.fromkeys(names) if name is not None]


async def _listed(parts: Parts) -> list[dict[str, Any]]:
    """Return the models that the upstream lists. Raises Refusal (503)."""
    try:
        status, body = await call_for_json(parts.upstream, "/v1/models", parts.settings.timeouts.first_token_s)
    except TimeoutError as error:
        says = "the engine took too long to say which models it has"
        raise Refusal(503, says, code="upstream_timeout") from error
    if status != 200:
        raise Refusal(503, "the engine does not say which models it has", code="upstream_failed")
    found: list[dict[str, Any]] = jiter.from_json(body)["data"]
    return found


async def _missing(parts: Parts, models: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return those of the names that mean nothing to the upstream, and the names it lists."""
    listed = [card["id"] for card in await _listed(parts)]
    lost: list[str] = []
    for name in models:
        if name in listed or await means(parts, name):
            continue
        lost.append(name)
    return lost, listed
