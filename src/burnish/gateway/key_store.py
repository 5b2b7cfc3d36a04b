"""Keys in the gateway's tables: made, found, rotated, revoked. Every change is in the audit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import lru_cache
from typing import Any

from burnish.core.errors import UsageError, did_you_mean
from burnish.gateway.audit import append
from burnish.gateway.database import Cursor, Database
from burnish.gateway.keys import SCOPES, Key, Scope, check_models, check_name, key_hash, new_key, same_key, split_key
from burnish.gateway.limits import Limits

COLUMNS = "id, account, name, scope, models, limits, created_us, expires_us, revoked_us"
FIND = f"SELECT hash, {COLUMNS} FROM gateway_keys WHERE id = ?"
ROTATION_GRACE_US = 24 * 3600 * 1_000_000


class Kept(Enum):
    """Says that something stays as it was; None says something else."""

    KEPT = 0


KEPT = Kept.KEPT


class KeyStore:
    """The keys of one gateway. `actor` says in the audit who did something: a key's id, or the command line."""

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database, self._secret = database, secret

    def create(
        self, name: str, scope: Scope, *, models: Sequence[str] | None = None, limits: Limits | None = None,
        lives_us: int | None = None, actor: str = "command line",
    ) -> tuple[Key, str]:  # fmt: skip
        """Make a key and return it with its text, which cannot be had again. lives_us: until it expires."""
        if scope not in SCOPES:
            raise UsageError(
                f"the scope {scope!r} is not known. Known: {', '.join(SCOPES)}.{did_you_mean(scope, SCOPES)}"
            )
        allowed = check_models(models)
        identifier, text = new_key()
        with self._database.transaction() as cursor:
            now = cursor.now_us()
            expires = None if lives_us is None else now + lives_us
            key = Key(identifier, identifier, check_name(name), scope, allowed, limits or Limits(), now, expires)
            self._insert(cursor, key, text)
            granted = {"scope": scope, **key.limits.as_json(), "models": allowed, "expires_us": expires}
            append(cursor, self._secret, actor, "key created", key.id, {"name": name, **granted})
        return key, text

    def authenticate(self, text: str) -> Key | None:
        """Return the valid key with this text, or None. The time taken does not tell a wrong secret from a wrong id."""
        identifier = split_key(text)
        if identifier is None:
            return None
        with self._database.reading() as cursor:
            cursor.execute(FIND, (identifier,))
            found = cursor.rows()
            now = cursor.now_us()
        kept, row = (bytes(found[0][0]), found[0][1:]) if found else (None, None)
        if not same_key(self._secret, text, kept) or row is None:
            return None
        key = _key(row)
        return key if key.valid_at(now) else None

    def all(self) -> list[Key]:
        """Return every key, the oldest first."""
        with self._database.reading() as cursor:
            cursor.execute(f"SELECT {COLUMNS} FROM gateway_keys ORDER BY created_us, id")
            return [_key(row) for row in cursor.rows()]

    def find(self, identifier: str) -> Key:
        """Return a key by its id. Raises UsageError when there is none."""
        with self._database.reading() as cursor:
            return _find(cursor, identifier)

    def any_admin(self) -> bool:
        """Whether a valid admin key exists."""
        with self._database.reading() as cursor:
            now = cursor.now_us()
            cursor.execute(
                "SELECT 1 FROM gateway_keys WHERE scope = 'admin' AND revoked_us IS NULL "
                "AND (expires_us IS NULL OR expires_us > ?) LIMIT 1",
                (now,),
            )
            return bool(cursor.rows())

    def with_money(self) -> list[str]:
        """Return the ids of keys that are not revoked and have a budget of money."""
        with self._database.reading() as cursor:
            cursor.execute("SELECT id FROM gateway_keys WHERE revoked_us IS NULL AND limits LIKE ?", ("%nano_usd%",))
            return [str(row[0]) for row in cursor.rows()]

    def rotate(
        self, identifier: str, *, grace_us: int = ROTATION_GRACE_US, actor: str = "command line"
    ) -> tuple[Key, str]:
        """Make a new key in place of one, which stays valid for the grace. Both count on one account."""
        new_id, text = new_key()
        with self._database.transaction() as cursor:
            old, now = _find(cursor, identifier), cursor.now_us()
            if not old.valid_at(now):
                raise UsageError(f"the key {identifier} is revoked or has expired. Make a new one: burnish keys create")
            lives = None if old.expires_us is None else now + old.expires_us - old.created_us
            key = Key(new_id, old.account, old.name, old.scope, old.models, old.limits, now, lives)
            self._insert(cursor, key, text)
            ends = now + grace_us if old.expires_us is None else min(old.expires_us, now + grace_us)
            cursor.execute("UPDATE gateway_keys SET expires_us = ? WHERE id = ?", (ends, old.id))
            append(cursor, self._secret, actor, "key rotated", old.id, {"new": key.id, "old_valid_until_us": ends})
        return key, text

    def revoke(self, identifier: str, *, actor: str = "command line") -> Key:
        """Refuse a key from now on, in every replica."""
        with self._database.transaction() as cursor:
            key, now = _find(cursor, identifier), cursor.now_us()
            if key.revoked_us is None:
                cursor.execute("UPDATE gateway_keys SET revoked_us = ? WHERE id = ?", (now, key.id))
                append(cursor, self._secret, actor, "key revoked", key.id, {})
            return _find(cursor, identifier)

    def limit(
        self, identifier: str, changed: Mapping[str, int | None], models: Sequence[str] | Kept | None = KEPT,
        *, actor: str = "command line",
    ) -> Key:  # fmt: skip
        """Change limits of a key (None takes one away) and the models it may ask; what is not named stays as it was."""
        with self._database.transaction() as cursor:
            # Holds the row, so that of two changes at once each finds what the other left.
            cursor.execute("UPDATE gateway_keys SET limits = limits WHERE id = ?", (identifier,))
            key = _find(cursor, identifier)
            limits = replace(key.limits, **changed)
            allowed = key.models if isinstance(models, Kept) else check_models(models)
            values = (json.dumps(limits.as_json()), None if allowed is None else json.dumps(allowed), key.id)
            cursor.execute("UPDATE gateway_keys SET limits = ?, models = ? WHERE id = ?", values)
            append(cursor, self._secret, actor, "key limited", key.id, {**limits.as_json(), "models": allowed})
            return _find(cursor, identifier)

    def _insert(self, cursor: Cursor, key: Key, text: str) -> None:
        models = None if key.models is None else json.dumps(key.models)
        limits = json.dumps(key.limits.as_json())
        values = (
            key.id,
            key.account,
            key_hash(self._secret, text),
            key.name,
            key.scope,
            models,
            limits,
            key.created_us,
        )
        cursor.execute("INSERT INTO gateway_keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", (*values, key.expires_us))


def _find(cursor: Cursor, identifier: str) -> Key:
    cursor.execute(f"SELECT {COLUMNS} FROM gateway_keys WHERE id = ?", (identifier,))
    found = cursor.rows()
    if not found:
        shown = split_key(identifier) or identifier[:12]  # a whole key may have been pasted
        raise UsageError(f"no key has the id {shown!r}. See the ids: burnish keys list")
    return _key(found[0])


@lru_cache(maxsize=4096)  # a key that asks again has the same row, and a Key of nine parts costs more than to look
def _key(row: tuple[Any, ...]) -> Key:
    identifier, account, name, scope, models, limits, created, expires, revoked = row
    return Key(identifier, account, name, scope, _models(models), _limits(limits), created, expires, revoked)


@lru_cache(maxsize=4096)  # keys share few texts
def _limits(text: str) -> Limits:
    return Limits(**json.loads(text))


@lru_cache(maxsize=4096)
def _models(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(json.loads(text))
