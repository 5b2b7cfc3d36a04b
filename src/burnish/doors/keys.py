"""`burnish keys`: the gateway's keys from the command line, whether or not a gateway runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from burnish.core.errors import UsageError
from burnish.gateway.audit import entries
from burnish.gateway.database import Database, check_secret, open_database
from burnish.gateway.key_store import KEPT, KeyStore
from burnish.gateway.keys import Key, server_secret
from burnish.gateway.limits import SECOND, Limits
from burnish.gateway.show import key_json, moment
from burnish.gateway.sql_ledger import sql_ledger
from burnish.store.home import Home

DATABASE_VARIABLE = "BURNISH_DATABASE"
CHAT_KEY = "chat.key"
"""The file in the gateway's folder that holds a key for the chat page and the terminal."""


def gateway_folder(home: Home) -> Path:
    """Return the folder of a home that holds the gateway's database, secret and chat key."""
    return home.root / "gateway"


@contextmanager
def opened(options: argparse.Namespace) -> Generator[tuple[Database, bytes]]:
    """Open the gateway's database of the given home, or at --database, with the secret that its keys are kept under."""
    folder = gateway_folder(Home(options.home))
    secret = server_secret(folder)
    database = open_database(options.database or os.environ.get(DATABASE_VARIABLE), folder)
    try:
        check_secret(database, secret)
        yield database, secret
    finally:
        database.close()


def _limits(options: argparse.Namespace) -> Limits:
    return Limits(**{each.name: vars(options)[each.name] for each in fields(Limits)})


def create_key(options: argparse.Namespace) -> dict[str, Any]:
    """Make a key; the result holds its text."""
    with opened(options) as (database, secret):
        lives = None if options.expires is None else options.expires * SECOND
        key, text = KeyStore(database, secret).create(
            options.name, options.scope, models=options.models, limits=_limits(options), lives_us=lives
        )
    return {**key_json(key), "key": text}


def list_keys(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return every key without its text."""
    with opened(options) as (database, secret):
        return [key_json(key) for key in KeyStore(database, secret).all()]


def _with_use(database: Database, key: Key) -> dict[str, Any]:
    used = {
        period: {"tokens": tokens, "usd": money / 1e9}
        for period, (tokens, money) in sql_ledger(database).used(key.account).items()
    }
    return {**key_json(key), "used": used}


def show_key(options: argparse.Namespace) -> dict[str, Any]:
    """Return a key with what it has used by day and month (where limits are counted in SQL)."""
    with opened(options) as (database, secret):
        return _with_use(database, KeyStore(database, secret).find(options.id))


def limit_key(options: argparse.Namespace) -> dict[str, Any]:
    """Change limits and models of a key."""
    given = vars(options)
    changed = {each.name: given[each.name] for each in fields(Limits) if each.name in given}
    if not changed and "models" not in given:
        raise UsageError("nothing is named that shall change. See: burnish keys limit --help")
    with opened(options) as (database, secret):
        key = KeyStore(database, secret).limit(options.id, changed, given.get("models", KEPT))
        return _with_use(database, key)


def rotate_key(options: argparse.Namespace) -> dict[str, Any]:
    """Make a new key in place of one."""
    with opened(options) as (database, secret):
        store = KeyStore(database, secret)
        key, text = store.rotate(options.id, grace_us=options.grace * SECOND)
        return {**key_json(key), "key": text, "old_valid_until": moment(store.find(options.id).expires_us)}


def revoke_key(options: argparse.Namespace) -> dict[str, Any]:
    """Refuse a key from now on."""
    with opened(options) as (database, secret):
        return key_json(KeyStore(database, secret).revoke(options.id))


def read_audit(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the newest rows of the audit. Raises StoreError when a seal is broken."""
    with opened(options) as (database, secret):
        return [
            {"number": row.number, "at": moment(row.at_us), "actor": row.actor, "action": row.action,
             "subject": row.subject, "detail": row.detail}
            for row in entries(database, secret, last=options.limit)
        ]  # fmt: skip
