"""API keys: 256 random bits, shown once, kept as a keyed hash and found by a public prefix.

A key reads bk_<id>_<secret>. The id (12 characters) may be shown and logged; of the secret only HMAC-SHA256 under the
server's own secret is kept, so that a stolen database gives no key away and cannot be given new ones.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from burnish.core.errors import StoreError, UsageError
from burnish.gateway.limits import Limits

Scope = Literal["admin", "user", "chat", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SECRET_VARIABLE = "BURNISH_GATEWAY_SECRET"
SECRET_CHARACTERS = 32
"""The server's secret may not be shorter."""
NAME_CHARACTERS = 100
_KEY = re.compile(r"bk_([a-z2-7]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/-]{0,127}\*?|\*", re.ASCII)
_NOBODY = b"\x00" * 32


@dataclass(frozen=True, slots=True)
class Key:
    """What is known about a key. Times in microseconds since 1970.

    account: what limits and budgets are counted by; a rotated key keeps that of the one it replaces.
    models: names that may be asked for; one that ends in * allows all that begin so. None allows every model.
    """

    id: str
    account: str
    name: str
    scope: Scope
    models: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    created_us: int = 0
    expires_us: int | None = None
    revoked_us: int | None = None

    def may_ask(self, model: str) -> bool:
        """Whether the key may ask for this model."""
        return self.models is None or any(
            model.startswith(allowed[:-1]) if allowed.endswith("*") else model == allowed for allowed in self.models
        )

    def valid_at(self, now_us: int) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_us is None and (self.expires_us is None or now_us < self.expires_us)


def new_key() -> tuple[str, str]:
    """Return a fresh id and the whole key, which is shown once and kept nowhere."""
    identifier = base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]
    return identifier, f"bk_{identifier}_{secrets.token_urlsafe(32)}"


def split_key(text: str) -> str | None:
    """Return the id in a key, or None when the text is no key."""
    found = _KEY.fullmatch(text)
    return None if found is None else found.group(1)


def key_hash(secret: bytes, key: str) -> bytes:
    """Return what is kept of a key: HMAC-SHA256 (RFC 2104) under the server's secret."""
    begun = _begun(secret).copy()
    begun.update(key.encode())
    return begun.digest()


@lru_cache(maxsize=4)  # beginning is most of the work for a text this short
def _begun(secret: bytes) -> hmac.HMAC:
    return hmac.new(secret, b"key\x00", hashlib.sha256)


def same_key(secret: bytes, key: str, kept: bytes | None) -> bool:
    """Compare a key with its kept hash (None: the id is unknown) in the same time whatever the answer."""
    return hmac.compare_digest(key_hash(secret, key), _NOBODY if kept is None else kept) and kept is not None


def check_name(name: str) -> str:
    """Return the name of a key. Raises UsageError when it is empty, too long or cannot be printed."""
    if not 0 < len(name) <= NAME_CHARACTERS or not name.isprintable():
        raise UsageError(f"the name of a key has 1 to {NAME_CHARACTERS} printable characters, found {len(name)}.")
    return name


def check_models(models: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the models a key may ask for. Raises UsageError for a name that no model can have."""
    for model in models or ():
        if not _MODEL.fullmatch(model):
            raise UsageError(
                f"{model!r} cannot name a model. Examples: flight-search, flight-search:7, flight-search*, base."
            )
    return None if models is None else tuple(models)


def server_secret(folder: Path) -> bytes:
    """Return the server's secret: $BURNISH_GATEWAY_SECRET, or the file `secret` (0600) in the folder, made if missing.

    Raises UsageError when the variable is too short, StoreError when others may read the file or it cannot be made.
    """
    given = os.environ.get(SECRET_VARIABLE)
    if given is not None:
        if len(given) < SECRET_CHARACTERS:
            raise UsageError(f"${SECRET_VARIABLE} needs {SECRET_CHARACTERS} characters or more, found {len(given)}.")
        return given.encode()
    path = folder / "secret"
    try:
        if not path.exists():
            write_private(path, secrets.token_hex(32))
        if path.stat().st_mode & 0o077:
            raise StoreError(f"{path} may be read by others. Make it yours alone: chmod 600 {path}")
        return path.read_text(encoding="ascii").strip().encode()
    except OSError as error:
        raise StoreError(
            f"cannot use {path}: {error.strerror or error}. It holds the secret that keys are kept under."
        ) from error


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all. Of two that write it first, one wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        if path.name == "secret":
            try:
                os.link(beside, path)
            except FileExistsError:
                return
        else:
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
