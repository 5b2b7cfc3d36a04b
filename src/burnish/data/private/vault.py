"""The vault: values taken out of texts, encrypted in a file of their own, and put back by who has the key.

A text holds [EMAIL#letters]; the file holds one line of JSON for each value: the letters, a nonce and the value under
AES-256-GCM, the kind and letters authenticated with it. Letters and encryption use two keys derived from the one given,
so processes with the same key write the same letters and their files can be joined line by line.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.core.errors import DataError
from burnish.data.private.kinds import Found, Kind
from burnish.data.private.surrogates import Draw, token

KEY_VARIABLE = "BURNISH_VAULT_KEY"
KEY_BYTES = 32
_NONCE_BYTES = 12
_LETTERS = 24
"""Letters of a token, 96 bits: two values among a billion share theirs with a chance of 1 in 10^11."""
_TOKEN = re.compile(rf"\[(?P<kind>{'|'.join(Kind)})#(?P<letters>[a-r]{{{_LETTERS}}})\]")


def new_key(path: Path) -> None:
    """Write a new key to a file that only its owner may read. Raises FileExistsError rather than replace a key."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(base64.b64encode(os.urandom(KEY_BYTES)).decode() + "\n")


def read_key(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> bytes:
    """Return the key from a file of mode 0600, or from BURNISH_VAULT_KEY: 32 bytes in base64. It is never shown.

    Raises DataError if there is none, others may read the file, or it is not 32 bytes.
    """
    if path is None:
        text, where = environment.get(KEY_VARIABLE, ""), f"the environment variable {KEY_VARIABLE}"
        if not text:
            raise DataError(f"{where} is not set: set it to 32 random bytes in base64, or name a key file")
    else:
        where = f"the key file {path}"
        if not path.is_file():
            raise DataError(f"{where} does not exist: make one with `burnish.data.private.vault.new_key`")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise DataError(f"{where} has mode {mode:04o}, so others may read it: set it to 0600")
        text = path.read_text(encoding="ascii", errors="replace")
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise DataError(f"{where} does not hold {KEY_BYTES} bytes in base64: make a new key")
    return key


class Vault:
    """An action for `replace` that remembers, in an encrypted file, what each token stands for."""

    def __init__(self, path: Path, key: bytes) -> None:
        """Open or begin a vault's file. `key` as `read_key` gives it. Raises DataError if the key is not the vault's."""
        if len(key) != KEY_BYTES:
            raise DataError(f"a vault's key has {KEY_BYTES} bytes, this one {len(key)}: make one with `new_key`")
        self.path = path
        self._token_key = hmac.new(key, b"burnish vault tokens", hashlib.sha256).digest()
        self._cipher = _cipher(hmac.new(key, b"burnish vault values", hashlib.sha256).digest())
        self._sealed: dict[str, dict[str, str]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._learn(line)
            for letters in list(self._sealed)[:1]:
                self._value(letters)

    def __call__(self, item: Found, value: str) -> str:
        """Return the token for a value, and write the value to the file if it is new."""
        letters = token(Draw(self._token_key, item.kind, value), _LETTERS)
        known = self._sealed.get(letters)
        if known is None:
            nonce = os.urandom(_NONCE_BYTES)
            sealed = self._cipher.encrypt(nonce, value.encode("utf-8", "surrogatepass"), _bound(item.kind, letters))
            self._append({"id": letters, "kind": item.kind, "nonce": _b64(nonce), "value": _b64(sealed)})
        return f"[{item.kind}#{letters}]"

    def reveal(self, text: str) -> str:
        """Return the text with the tokens of this vault replaced by their values, to the letter; other tokens stay."""
        return _TOKEN.sub(lambda m: self._value(m["letters"]) if m["letters"] in self._sealed else m[0], text)

    def __len__(self) -> int:
        """Return how many values it holds."""
        return len(self._sealed)

    def _value(self, letters: str) -> str:
        from cryptography.exceptions import InvalidTag

        entry = self._sealed[letters]
        bound = _bound(Kind(entry["kind"]), letters)
        try:
            plain = self._cipher.decrypt(base64.b64decode(entry["nonce"]), base64.b64decode(entry["value"]), bound)
        except InvalidTag as error:
            raise DataError(f"the key does not open the vault {self.path}: give the key it was made with") from error
        return plain.decode("utf-8", "surrogatepass")

    def _learn(self, line: str) -> None:
        try:
            entry: dict[str, str] = json.loads(line)
            self._sealed[entry["id"]] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"the vault {self.path} is damaged: a line is no entry. Restore it from a copy") from error

    def _append(self, entry: dict[str, str]) -> None:
        # One write of one line at the file's end: processes that share the file do not cut each other's lines.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            file.write((json.dumps(entry) + "\n").encode())
        self._sealed[entry["id"]] = entry


def _cipher(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _bound(kind: Kind, letters: str) -> bytes:
    return f"{kind}#{letters}".encode()


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
