"""What an admin key may do over HTTP: keys, routes, the audit, feedback. The same functions as the command line's."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from burnish.core.errors import BurnishError
from burnish.core.refusal import Refusal
from burnish.core.section import Section
from burnish.gateway.audit import append, entries
from burnish.gateway.database import Database
from burnish.gateway.feedback import Page, all_feedback
from burnish.gateway.key_store import KEPT, KeyStore
from burnish.gateway.keys import Key, Scope, split_key
from burnish.gateway.limits import MOST, NANO, SECOND, Ledger, Limits
from burnish.gateway.route import Router
from burnish.gateway.settings import AUTO, NAME_IN_PATH, Route
from burnish.gateway.show import key_json, moment

Whole = Annotated[int, Field(ge=1, le=MOST, strict=True)]
Money = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False, strict=True)]
Name = Annotated[str, Field(max_length=200)]


class LimitsGiven(Section):
    """Limits as JSON says them: money in dollars."""

    requests_per_minute: Whole | None = None
    tokens_per_minute: Whole | None = None
    concurrency: Whole | None = None
    tokens_per_day: Whole | None = None
    tokens_per_month: Whole | None = None
    usd_per_day: Money | None = None
    usd_per_month: Money | None = None

    def given(self) -> dict[str, int | None]:
        """Return those that were given, None among them, as they are counted."""
        found: dict[str, int | None] = {}
        for name in self.model_fields_set:
            value: float | None = getattr(self, name)
            if name.startswith("usd_"):
                found[f"nano_{name}"] = None if value is None else max(round(value * NANO), 1)
            else:
                found[name] = None if value is None else int(value)
        return found


class KeyWanted(Section):
    """A key to be made."""

    name: Name
    scope: Scope = "user"
    models: tuple[Name, ...] | None = None
    limits: LimitsGiven = LimitsGiven()
    lives_s: Annotated[int, Field(ge=1, le=100 * 366 * 86400, strict=True)] | None = None


class KeyChange(Section):
    """What changes of a key's limits and models: null takes a limit away, and what is not named stays."""

    models: tuple[Name, ...] | None = None
    limits: LimitsGiven = LimitsGiven()


class Rotation(Section):
    """How long the old key stays valid."""

    grace_s: Annotated[int, Field(ge=0, le=366 * 86400, strict=True)] = 86400


class Admin:
    """Answers /admin/*. `answer(...)` runs in a thread: everything in it asks the database."""

    def __init__(self, database: Database, secret: bytes, ledger: Ledger, router: Router) -> None:
        self._database, self._secret, self._ledger, self._router = database, secret, ledger, router
        self._keys = KeyStore(database, secret)

    def answer(self, method: str, path: str, value: dict[str, Any], key: Key) -> tuple[int, Any]:
        """Return status and JSON. value: the body, or what the query says. Raises Refusal."""
        parts = path.removeprefix("/admin/").split("/")
        table: dict[tuple[str, str, int], Callable[..., Any]] = {
            ("GET", "keys", 1): self._list, ("POST", "keys", 1): self._create, ("GET", "keys", 2): self._show,
            ("POST", "keys", 2): self._limit, ("DELETE", "keys", 2): self._revoke, ("POST", "keys", 3): self._rotate,
            ("GET", "routes", 1): self._routes, ("POST", "routes", 2): self._set_route,
            ("DELETE", "routes", 2): self._drop_route, ("GET", "audit", 1): self._audit,
            ("GET", "feedback", 1): self._feedback,
        }  # fmt: skip
        found = table.get((method, parts[0], len(parts)))
        if found is None or (len(parts) == 3 and parts[2] != "rotate"):
            raise Refusal(404, f"there is no {method} {path[:100]}", code="not_found")
        try:
            return found(key, value, *parts[1:2])
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in problem["loc"]) or "body"
            message = f"{where}: {problem['msg'].removeprefix('Value error, ')}"
            raise Refusal(422, message, param=where, code="invalid_value") from error
        except BurnishError as error:
            status = 404 if "no key has the id" in str(error) else 422 if error.exit_code == 2 else 503
            raise Refusal(status, str(error), code="invalid_value" if status == 422 else None) from error

    def _list(self, key: Key, value: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"keys": [key_json(each) for each in self._keys.all()]}

    def _create(self, key: Key, value: dict[str, Any]) -> tuple[int, Any]:
        wanted = KeyWanted.model_validate(value)
        made, text = self._keys.create(
            wanted.name, wanted.scope, models=wanted.models, limits=Limits(**wanted.limits.given()),
            lives_us=None if wanted.lives_s is None else wanted.lives_s * SECOND, actor=key.id,
        )  # fmt: skip
        return 201, {**key_json(made), "key": text}

    def _show(self, key: Key, value: dict[str, Any], identifier: str) -> tuple[int, Any]:
        found = self._keys.find(identifier)
        used = self._ledger.used(found.account)
        return 200, {**key_json(found), "used": {p: {"tokens": t, "usd": m / NANO} for p, (t, m) in used.items()}}

    def _limit(self, key: Key, value: dict[str, Any], identifier: str) -> tuple[int, Any]:
        change = KeyChange.model_validate(value)
        models = change.models if "models" in change.model_fields_set else KEPT
        return 200, key_json(self._keys.limit(identifier, change.limits.given(), models, actor=key.id))

    def _revoke(self, key: Key, value: dict[str, Any], identifier: str) -> tuple[int, Any]:
        return 200, key_json(self._keys.revoke(identifier, actor=key.id))

    def _rotate(self, key: Key, value: dict[str, Any], identifier: str) -> tuple[int, Any]:
        grace = Rotation.model_validate(value).grace_s
        made, text = self._keys.rotate(identifier, grace_us=grace * SECOND, actor=key.id)
        return 201, {**key_json(made), "key": text, "old_valid_until": moment(self._keys.find(identifier).expires_us)}

    def _routes(self, key: Key, value: dict[str, Any]) -> tuple[int, Any]:
        load_routes(self._database, self._router)
        return 200, {
            "routes": {
                alias: {**route.model_dump(mode="json"), "out_of_traffic": dict(self._router.out_of_traffic(alias))}
                for alias, route in self._router.routes.items()
            }
        }

    def _set_route(self, key: Key, value: dict[str, Any], alias: str) -> tuple[int, Any]:
        if split_key(alias) is not None or len(alias) > 128 or re.fullmatch(NAME_IN_PATH, alias) is None:
            says = "an alias has 1 to 128 letters, digits, and . _ @ : - after the first"
            raise Refusal(422, says, param="alias", code="invalid_value")
        if alias == AUTO:
            raise Refusal(
                422,
                "auto picks a model by the request: no route can have its name",
                param="alias",
                code="invalid_value",
            )
        route, mark = Route.model_validate(value), secrets.token_hex(8)
        keep_route(self._database, self._secret, alias, StoredRoute(route, {}, mark), key.id)
        self._router.set(alias, route, mark)
        return 200, {alias: route.model_dump(mode="json")}

    def _drop_route(self, key: Key, value: dict[str, Any], alias: str) -> tuple[int, Any]:
        if alias not in self._router.routes:
            raise Refusal(404, "there is no such route", code="not_found")
        keep_route(self._database, self._secret, alias, None, key.id)
        self._router.set(alias, None)
        return 200, {"removed": alias}

    def _audit(self, key: Key, value: dict[str, Any]) -> tuple[int, Any]:
        rows = entries(self._database, self._secret, last=200)
        return 200, {"audit": [{"number": r.number, "at": moment(r.at_us), "actor": r.actor, "action": r.action,
                                "subject": r.subject, "detail": r.detail} for r in rows]}  # fmt: skip

    def _feedback(self, key: Key, value: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"feedback": all_feedback(self._database, Page.model_validate(value))}


@dataclass(frozen=True, slots=True)
class StoredRoute:
    """A route as all replicas share it, with the versions out of its traffic and the mark of the admin's last change."""

    route: Route
    out: Mapping[str, str]
    mark: str


def keep_route(database: Database, secret: bytes, alias: str, stored: StoredRoute | None, actor: str) -> None:
    """Store a route, or that there is none, for every replica and the next start."""
    record: Any = None
    if stored is not None:
        record = {"route": stored.route.model_dump(mode="json"), "out": dict(stored.out), "mark": stored.mark}
    detail = {} if record is None else {"out": record["out"], "route": record["route"]}
    with database.transaction() as cursor:
        cursor.execute(
            "INSERT INTO gateway_routes VALUES (?, ?) ON CONFLICT (alias) DO UPDATE SET route = excluded.route",
            (alias, json.dumps(record)),
        )
        append(cursor, secret, actor, "route removed" if stored is None else "route set", alias, detail)


def load_routes(database: Database, router: Router) -> None:
    """Take over the routes that were stored, which go before those of the settings."""
    with database.reading() as cursor:
        cursor.execute("SELECT alias, route FROM gateway_routes ORDER BY alias")
        rows = cursor.rows()
    for alias, text in rows:
        record: Any = json.loads(text)
        route = None if record is None else Route.model_validate(record["route"])
        mark: str = "" if record is None else record.get("mark", "")
        if router.routes.get(alias) != route or router.mark(alias) != mark:
            router.set(alias, route, mark)
        out: dict[str, str] = {} if record is None else record["out"]
        for model, why in out.items():
            router.take_out(alias, model, why)
