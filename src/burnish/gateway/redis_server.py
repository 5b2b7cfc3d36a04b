"""A Redis server that gateways share: its connections, and scripts that run on it as one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, cast
from urllib.parse import urlsplit

from burnish.core.errors import ResourceError, StoreError, UsageError

Script = Callable[[Sequence[str], Sequence[Any]], list[Any]]
"""script(keys, arguments) -> what the script returns. Raises StoreError when the server fails."""


class RedisServer:
    """Connections to `url`. Raises ResourceError when the package is missing or the server does not answer."""

    def __init__(self, url: str) -> None:
        try:
            import redis
        except ImportError as error:
            raise ResourceError("Redis needs the package redis. Install it: pip install 'burnish[scale]'") from error
        self._errors = redis.RedisError
        if not url.startswith(("redis://", "rediss://", "unix://")):
            raise UsageError(
                f"{url.split(':')[0]!r} is no kind of Redis address; write redis://HOST:6379/0 (or rediss://, unix://)"
            )
        self._where = urlsplit(url).hostname or "the local socket"
        self.client: Any = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url, socket_timeout=10, socket_connect_timeout=10, decode_responses=True
        )
        try:
            self.client.ping()
        except redis.RedisError as error:
            raise ResourceError(f"Redis at {self._where} does not answer: {error}") from error

    def script(self, name: str) -> Script:
        """Return a script of this package, as a function."""
        run = self.client.register_script(resources.files("burnish.gateway").joinpath(name).read_text(encoding="utf-8"))

        def call(keys: Sequence[str], given: Sequence[Any]) -> list[Any]:
            try:
                return cast("list[Any]", run(keys=keys, args=given))
            except self._errors as error:
                raise StoreError(f"Redis at {self._where} failed: {error}") from error

        return call

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
