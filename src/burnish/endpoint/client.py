"""One request after the other to one endpoint: sent, retried, bounded in time and size, never more at once than allowed."""

from __future__ import annotations

import datetime
import email.utils
import json
import os
import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from burnish.core.completion import Reply
from burnish.core.errors import ResourceError, UsageError
from burnish.core.recipe_augment import LOOPBACK, Model

CONNECT_S = 10.0
LONGEST_WAIT_S = 300.0
"""An endpoint that asks to wait longer (Retry-After) is not waited for."""
BYTES_A_TOKEN, OTHER_BYTES = 32, 1 << 16
"""An answer of more bytes than its tokens can be is cut off."""
TEMPORARY = (408, 409, 425, 429)
ABOUT_THE_PROMPT = (400, 413, 422)
"""Statuses that may be about one prompt alone, such as one that is too long; others are about all of them."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one attempt came to. billed: prompt and answer tokens, None where nobody knows. retry_s: try again, after so long."""

    reply: Reply
    billed: tuple[int, int] | None
    retry_s: float | None = None
    unreachable: bool = False


class Client:
    """Speaks to one endpoint. Safe for several threads; `stop` ends all waiting."""

    def __init__(self, model: Model, *, backoff_s: float = 1.0) -> None:
        """Take the key from the environment. Raises UsageError when its variable is not set."""
        self.model = model
        self.url = f"{model.endpoint}/chat/completions"
        self._key = key_of(model)
        headers = {"User-Agent": "burnish", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(model.timeout_s, connect=min(CONNECT_S, model.timeout_s)),
            limits=httpx.Limits(max_connections=model.at_once, max_keepalive_connections=model.at_once),
            follow_redirects=False,  # a redirect would carry the key to another address
            trust_env=urlsplit(model.endpoint).hostname not in LOOPBACK,  # no proxy between this machine and itself
        )
        self._backoff_s = backoff_s
        self._stopped = threading.Event()
        self._quiet_until = 0.0

    def stop(self) -> None:
        """Let every wait end, and send nothing more."""
        self._stopped.set()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def wait(self, attempt: int, retry_s: float) -> bool:
        """Wait before attempt number `attempt` (from 1), at least `retry_s`; False when it is too long or all is stopped.

        The time doubles with each attempt, and half of it is drawn, so that many clients do not come back at once.
        """
        if retry_s > LONGEST_WAIT_S:
            return False
        own = min(60.0, self._backoff_s * 2 ** (attempt - 1)) * (0.5 + random.random() / 2)
        return not self._stopped.wait(max(own, retry_s))

    def send(self, body: Mapping[str, Any], most_tokens: int) -> Sent:
        """Send one request and return what came of it. Raises UsageError or ResourceError for what is wrong with all of them."""
        while (pause := self._quiet_until - time.monotonic()) > 0:
            if self._stopped.wait(pause):
                break
        if self._stopped.is_set():
            return Sent(Reply(trouble="stopped"), (0, 0))
        deadline = time.monotonic() + self.model.timeout_s
        try:
            with self._http.stream("POST", self.url, json=dict(body)) as response:
                content = self._content(response, most_tokens, deadline)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Sent(Reply(trouble=f"cannot connect: {self._plain(error)}"), (0, 0), 0.0, unreachable=True)
        except _TooLong as error:
            return Sent(Reply(trouble=str(error)), None)
        except (httpx.HTTPError, _TooLate) as error:  # the request was sent, and may be billed
            return Sent(Reply(trouble=f"{self._plain(error)}"), None, 0.0, unreachable=True)
        if response.status_code == 200:
            return self._read(content, most_tokens)
        return self._refused(response, content)

    def _content(self, response: httpx.Response, most_tokens: int, deadline: float) -> bytes:
        most = most_tokens * BYTES_A_TOKEN + OTHER_BYTES
        parts: list[bytes] = []
        size = 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > most:
                raise _TooLong(f"the answer is longer than {most} bytes, though {most_tokens} tokens were asked for")
            if time.monotonic() > deadline:
                raise _TooLate(f"no whole answer within {self.model.timeout_s:g} s")
        return b"".join(parts)

    def _read(self, content: bytes, most_tokens: int) -> Sent:
        """Read a good answer. One that is no answer of the protocol is tried again; it may be billed."""
        try:
            value = json.loads(content)
            choice = value["choices"][0]
            message: dict[str, Any] = choice["message"]
            text: Any = message.get("content")
            finish: Any = choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            return Sent(Reply(trouble=f"no answer of the chat API: {type(error).__name__}"), None, 0.0)
        billed = _usage(value)
        if message.get("refusal"):
            return Sent(Reply(trouble="the model refused"), billed)
        if not isinstance(text, str) or not text.strip():
            return Sent(Reply(trouble="an empty answer"), billed)
        prompt_tokens, new_tokens = billed or (0, 0)
        whole = finish != "length" and new_tokens <= most_tokens
        return Sent(Reply(_utf8(text), whole, None, prompt_tokens, new_tokens), billed)

    def _refused(self, response: httpx.Response, content: bytes) -> Sent:
        status = response.status_code
        said = self._said(content)
        trouble = f"HTTP {status}{f': {said}' if said else ''}"
        if status in TEMPORARY or status >= 500:
            wait = retry_after(response.headers.get("Retry-After"))
            if status == 429 and wait:  # for everybody, not for this request alone
                self._quiet_until = max(self._quiet_until, time.monotonic() + min(wait, LONGEST_WAIT_S))
            return Sent(Reply(trouble=trouble), (0, 0), wait)
        if status in ABOUT_THE_PROMPT:
            return Sent(Reply(trouble=trouble), (0, 0))
        if status in (401, 403):
            name = self.model.key_variable
            hint = f"Is the key in {name} right?" if name else "Name the variable of the key: key_variable."
            raise UsageError(f"{self.model.endpoint} does not let us in ({trouble}). {hint}")
        if 300 <= status < 400:
            raise ResourceError(f"{self.model.endpoint} points elsewhere (HTTP {status}). Give the address itself.")
        raise ResourceError(
            f"{self.url} answers {trouble}. Is the address right, with /v1, and the model {self.model.model!r}?"
        )

    def _said(self, content: bytes) -> str:
        """Return what the endpoint says of an error, in one short line without the key."""
        try:
            value: Any = json.loads(content)
        except (ValueError, RecursionError):
            return ""
        error: Any = cast("dict[str, Any]", value).get("error", value) if isinstance(value, dict) else value
        said: Any = cast("dict[str, Any]", error).get("message", "") if isinstance(error, dict) else error
        return self._plain(said) if isinstance(said, str) else ""

    def _plain(self, said: object) -> str:
        text = " ".join(str(said).split()) or type(said).__name__
        return (text if self._key is None else text.replace(self._key, "***"))[:200]


class _TooLong(Exception):
    """The answer has more bytes than the asked tokens can have."""


class _TooLate(Exception):
    """The answer did not end in time."""


def key_of(model: Model) -> str | None:
    """Return the key from the environment; None where the recipe names no variable. Raises UsageError when it is not set."""
    if model.key_variable is None:
        return None
    key = os.environ.get(model.key_variable, "").strip()
    if not key:
        raise UsageError(
            f"the environment variable {model.key_variable} is not set. It holds the key for {model.endpoint}; set it in "
            "your shell, never in a file of the project."
        )
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"the environment variable {model.key_variable} holds signs that no key has.")
    return key


def retry_after(value: str | None) -> float:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3: seconds or a date); 0 for none."""
    if value is None:
        return 0.0
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", value):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


def _usage(value: Mapping[str, Any]) -> tuple[int, int] | None:
    usage: Any = value.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [cast("dict[str, Any]", usage).get(name) for name in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int) and 0 <= count < 10**9 for count in counts):
        return None
    return cast("tuple[int, int]", tuple(counts))


def _utf8(text: str) -> str:
    """Return the text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode()
