"""How keys are told to people and programs: JSON without secrets, times in ISO 8601."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from burnish.gateway.keys import Key
from burnish.gateway.limits import NANO, SECOND


def moment(at_us: int | None) -> str | None:
    """Return a time as 2026-11-29T16:00:00Z."""
    return None if at_us is None else datetime.fromtimestamp(at_us // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def key_json(key: Key) -> dict[str, Any]:
    """Return what may be told about a key."""
    limits = {
        name.replace("nano_usd", "usd"): value / NANO if name.startswith("nano_usd") else value
        for name, value in key.limits.as_json().items()
    }
    return {
        "id": key.id,
        "name": key.name,
        "scope": key.scope,
        "models": None if key.models is None else list(key.models),
        "limits": limits,
        "account": key.account,
        "created": moment(key.created_us),
        "expires": moment(key.expires_us),
        "revoked": moment(key.revoked_us),
    }
