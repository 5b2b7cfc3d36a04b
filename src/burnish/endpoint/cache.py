"""Replies on disk by the content of the request, so that nothing is asked and paid for twice.

The name of a file is the SHA-256 of all that decides the reply: address, model, turns, limits. The file holds the reply alone;
what was asked is not written down. Files are readable by their owner only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.core.completion import Reply
from burnish.core.ids import content_id
from burnish.store.files import write_bytes


class Cache:
    """A folder of replies."""

    def __init__(self, folder: Path) -> None:
        """Open a folder, made if missing."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def get(self, url: str, body: Mapping[str, Any]) -> Reply | None:
        """Return the reply to a request that was made before; None when there is none, or its file is damaged."""
        path = self._path(url, body)
        try:
            value = json.loads(path.read_bytes())
            return Reply(
                text=str(value["text"]),
                whole=bool(value["whole"]),
                prompt_tokens=int(value["prompt_tokens"]),
                new_tokens=int(value["new_tokens"]),
                cached=True,
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None  # damaged: asked again, and written anew

    def put(self, url: str, body: Mapping[str, Any], reply: Reply) -> None:
        """Keep a reply."""
        value = {
            "text": reply.text,
            "whole": reply.whole,
            "prompt_tokens": reply.prompt_tokens,
            "new_tokens": reply.new_tokens,
        }
        write_bytes(self._path(url, body), (json.dumps(value, ensure_ascii=True) + "\n").encode())

    def _path(self, url: str, body: Mapping[str, Any]) -> Path:
        name = content_id({"url": url, "body": dict(body)})
        return self._folder / name[:2] / f"{name}.json"
