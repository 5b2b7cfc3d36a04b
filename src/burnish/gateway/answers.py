"""What comes back from upstream: passed on as it is, and read on the way for what it used."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import jiter

_END_OF_EVENT = re.compile(rb"\r?\n\r?\n")
MOST_HELD = 1 << 20
"""Bytes of one event that are held at most."""


def _said(message: str, code: str) -> bytes:
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


BUSY = _said("the engine ran out of room for this answer; come again", "overloaded")
FAILED = _said("the engine failed before this answer was whole", "upstream_failed")
"""What a client is told of an error within a stream, as it is told of one before it."""


class Usage:
    """Tokens that an answer used: as the upstream says, or bounded from above by the text that came.

    pieces: the texts that came, if they are wanted, by where they belong. Choices of one stream come in turns, and what
    is personal would not be found in them mixed.
    """

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None
        self.new_tokens: int | None = None
        self.text_bytes = 0
        self.pieces: dict[str, list[str]] | None = None

    def read(self, value: Any) -> None:
        """Take the usage object of an answer or event, if it has a sound one."""
        usage: Any = cast("dict[str, Any]", value).get("usage") if isinstance(value, dict) else None
        if not isinstance(usage, dict):
            return
        counts = cast("dict[str, Any]", usage)
        prompt, new = counts.get("prompt_tokens"), counts.get("completion_tokens", 0)
        if isinstance(prompt, int) and isinstance(new, int) and prompt >= 0 and new >= 0:
            self.prompt_tokens, self.new_tokens = prompt, new

    def hear(self, where: str, text: str, more: str = "") -> None:
        """Take a piece of the answer's text. more: what was written around it, which counts and is not kept."""
        self.text_bytes += len(text.encode("utf-8", "replace")) + len(more.encode("utf-8", "replace"))
        if self.pieces is not None and text:
            self.pieces.setdefault(where, []).append(text)

    @property
    def said(self) -> str:
        """The texts that were kept, each whole."""
        return "\n".join("".join(pieces) for pieces in (self.pieces or {}).values())

    def counted(self, held_prompt: int, held_new: int) -> tuple[int, int]:
        """Return the tokens of prompt and answer. Without word from upstream: all of the prompt, and a byte a token."""
        if self.prompt_tokens is not None and self.new_tokens is not None:
            return self.prompt_tokens, self.new_tokens
        return held_prompt, min(held_new, self.text_bytes)


def read_answer(body: bytes, usage: Usage) -> None:
    """Read a whole answer's usage and texts."""
    try:
        value = jiter.from_json(body)
    except ValueError:
        return  # not JSON: it is passed on as it is, and what was held stays counted
    usage.read(value)
    for heard in _texts(value, "message"):
        usage.hear(*heard)


def _error(body: bytes) -> dict[str, Any] | None:
    """Return the error object of a body as OpenAI's clients read it, or None when it holds none."""
    try:
        value = jiter.from_json(body)
    except ValueError:
        return None
    error: Any = cast("dict[str, Any]", value).get("error") if isinstance(value, dict) else None
    return cast("dict[str, Any]", error) if isinstance(error, dict) else None


def is_error(body: bytes) -> bool:
    """Whether a body is an error object as OpenAI's clients read it."""
    error = _error(body)
    return error is not None and isinstance(error.get("message"), str)


def error_code(body: bytes) -> str | None:
    """Return the code of a body's error object, if it has one."""
    error = _error(body)
    code = None if error is None else error.get("code")
    return code if isinstance(code, str) else None


class EventReader:
    """Takes a stream of server-sent events in pieces of any size and gives back whole events.

    begun: a part of the answer has come; engines tell the role of who speaks before they work on it. done: its last
    word has come. failed: an event told an error that is the engine's, as one does whose answer breaks off, and code: the
    code of that error.
    """

    def __init__(self, usage: Usage, *, keep_usage: bool) -> None:
        """keep_usage: whether the event that holds the usage alone is for the client too."""
        self._usage, self._keep_usage = usage, keep_usage
        self._rest = b""
        self.begun = False
        self.done = False
        self.failed = False
        self.code: str | None = None

    def add(self, piece: bytes) -> bytes:
        """Return what may be passed on now."""
        self._rest += piece
        out: list[bytes] = []
        start = 0
        for found in _END_OF_EVENT.finditer(self._rest):
            event = self._rest[start : found.end()]
            start = found.end()
            out.append(self._read(event))
        self._rest = self._rest[start:]
        if len(self._rest) > MOST_HELD:
            raise ValueError("an event of the upstream has no end")
        return b"".join(out)

    def finish(self) -> bytes:
        """Return what came after the last blank line; it may be the last event."""
        rest, self._rest = self._rest, b""
        return self._read(rest)

    def _read(self, event: bytes) -> bytes:
        """Read one event; returns what of it is for the client. What failed in the engine is for the engine's log alone."""
        if not event.startswith(b"data:"):
            return event
        data = event[5:].strip()
        if data == b"[DONE]":
            self.begun = self.done = True
            return event
        try:
            value = jiter.from_json(data)
        except ValueError:
            return event
        self._usage.read(value)
        error: Any = cast("dict[str, Any]", value).get("error") if isinstance(value, dict) else None
        asked_wrong = isinstance(error, dict) and cast("dict[str, Any]", error).get("type") == "invalid_request_error"
        if error is not None and not asked_wrong:
            self.failed, self.code = True, error_code(data)
            event = BUSY if self.code == "overloaded" else FAILED
        for where, text, more in _texts(value, "delta"):
            self.begun = self.begun or (text or more) != ""
            self._usage.hear(where, text, more)
        self.begun = self.begun or error is not None or _says_more(value)
        alone = isinstance(value, dict) and cast("dict[str, Any]", value).get("choices") == [] and "usage" in value
        return event if self._keep_usage or not alone else b""


def _choices(value: Any) -> list[dict[str, Any]]:
    """Return the choices of an answer or event."""
    choices: Any = cast("dict[str, Any]", value).get("choices") if isinstance(value, dict) else None
    found = cast("list[Any]", choices) if isinstance(choices, list) else []
    return [cast("dict[str, Any]", choice) for choice in found if isinstance(choice, dict)]


def _says_more(value: Any) -> bool:
    """Whether an event without text is part of an answer: it ends a choice, or tells of a token that shows no text yet."""
    return any(choice.get(name) is not None for choice in _choices(value) for name in ("finish_reason", "logprobs"))


def _texts(value: Any, part: str) -> list[tuple[str, str, str]]:
    """Texts of an answer's choices: where each belongs, the text, and what else was written with it.

    part: message or delta; completions have `text`.
    """
    found: list[tuple[str, str, str]] = []
    for choice in _choices(value):
        place = str(choice.get("index"))
        inner: Any = choice.get(part)
        said = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}
        texts = {
            "text": choice.get("text"),
            **{name: said.get(name) for name in ("content", "reasoning_content", "reasoning")},
        }
        found += [(f"{place} {name}", text, "") for name, text in texts.items() if isinstance(text, str)]
        calls: Any = said.get("tool_calls")
        for call in cast("list[Any]", calls) if isinstance(calls, list) else []:
            told = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
            function: Any = told.get("function")
            given: Any = cast("dict[str, Any]", function).get("arguments") if isinstance(function, dict) else None
            found.append((f"{place} call {told.get('index')}", given if isinstance(given, str) else "", str(told)))
    return found
