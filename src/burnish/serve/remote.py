"""A chat's answers from a gateway, over HTTP. Loads no model."""

from __future__ import annotations

import datetime
import http.client
import json
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any
from urllib.parse import urlsplit

from burnish.core.errors import ServeError, UsageError
from burnish.serve.chat import Said
from burnish.text.messages import Message
from burnish.text.system import render_system

QUIET_S = 600
"""Seconds without a word from the gateway before an answer counts as lost."""


class GatewayVoice:
    """Answers with the models of a gateway. Raises UsageError when the URL is none."""

    def __init__(self, url: str, key: str, *, today: Callable[[], datetime.date] = datetime.date.today) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UsageError(f"{url!r} is no address of a gateway; write http://127.0.0.1:8731")
        self._parts, self._key, self._today = parts, key, today

    def pieces(self, model: str, system: str | None, turns: Sequence[Message], said: Said) -> Generator[str]:
        """Yield an answer's text as it comes. Closing the generator closes the connection, which stops the answer."""
        messages: list[Any] = [dict(turn) for turn in turns]
        if system is not None:
            messages.insert(0, {"role": "system", "content": render_system(system, self._today())})
        body = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=QUIET_S)
        began = time.perf_counter()
        try:
            headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            if response.status != 200:
                raise ServeError(_said_by(response))
            for line in response:
                piece = _read(line, said, began)
                if piece:
                    yield piece
        except (OSError, http.client.HTTPException) as error:
            where = f"{self._parts.hostname}:{self._parts.port or kind.default_port}"
            raise ServeError(f"the gateway at {where} does not answer: {error}. Start it: burnish serve") from error
        finally:
            connection.close()

    def close(self) -> None:
        """Nothing is held between two answers."""


def _read(line: bytes, said: Said, began: float) -> str:
    """Read one line of the stream; returns its text. Raises ServeError when the gateway tells an error."""
    data = line.removeprefix(b"data: ").strip()
    if not line.startswith(b"data: ") or data == b"[DONE]":
        return ""
    event = json.loads(data)
    if "error" in event:
        raise ServeError(str(event["error"]["message"]))
    if event.get("usage"):
        said.prompt_tokens, said.new_tokens = event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"]
    piece = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    if piece:
        said.seconds = time.perf_counter() - began
        said.first_s = said.first_s or said.seconds
    return piece


def _said_by(response: http.client.HTTPResponse) -> str:
    """Return what an answer that is no answer says."""
    text = response.read(100_000)
    try:
        return f"{json.loads(text)['error']['message']} (status {response.status})"
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered with status {response.status}"
