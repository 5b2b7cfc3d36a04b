"""Keys and the audit as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from burnish.terminal import line, table


def print_keys(keys: Sequence[Mapping[str, Any]]) -> None:
    """Print one row a key."""
    table(
        f"{len(keys)} keys",
        ("id", "name", "scope", "models", "limits", "state"),
        [
            (key["id"], key["name"], key["scope"], _models(key), _limits(key) or "none", _state(key))
            for key in keys
        ],
    )  # fmt: skip


def print_key(key: Mapping[str, Any]) -> None:
    """Print what is known about one key, and its use."""
    line(f"{key['id']}  {key['name']}  ({key['scope']}, {_state(key)})")
    line(f"models   {_models(key)}")
    line(f"limits   {_limits(key) or 'none'}")
    rows = [(period, f"{used['tokens']:,}", f"{used['usd']:.4f}") for period, used in key["used"].items()]
    if rows:
        table("used", ("period (UTC)", "tokens", "dollars"), rows)


def print_audit(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line a row of the audit."""
    table(
        "audit (all seals hold)",
        ("number", "at", "who", "did", "to"),
        [(str(row["number"]), row["at"], row["actor"], row["action"], row["subject"]) for row in rows],
    )


def _models(key: Mapping[str, Any]) -> str:
    return "all" if key["models"] is None else ", ".join(key["models"])


def _limits(key: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in key["limits"].items())


def _state(key: Mapping[str, Any]) -> str:
    if key["revoked"] is not None:
        return f"revoked {key['revoked']}"
    if key["expires"] is None:
        return "valid"
    over = datetime.fromisoformat(key["expires"]) <= datetime.now(UTC)
    return f"{'expired' if over else 'until'} {key['expires']}"
