"""What comes back from upstream: passed on as it is, and read on the way for what it used."""

from __future__ import annotations

import re
from typing import Any, cast

import jiter

_END_OF_EVENT = re.compile(rb"\r?\n\r?\n")
MOST_HELD = 1 << 20
"""Bytes of one event that are held at most."""


class Usage:
    """Tokens that an answer used: as the upstream says, or bounded from above by the text that came."""

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None
        self.new_tokens: int | None = None
        self.text_bytes = 0
        self.pieces: list[str] | None = None

    def read(self, value: Any) -> None:
        """Take the usage object of an answer or event, if it has a sound one."""
        usage: Any = cast("dict[str, Any]", value).get("usage") if isinstance(value, dict) else None
        if not isinstance(usage, dict):
            return
        counts = cast("dict[str, Any]", usage)
        prompt, new = counts.get("prompt_tokens"), counts.get("completion_tokens", 0)
        if isinstance(prompt, int) and isinstance(new, int) and prompt >= 0 and new >= 0:
            self.prompt_tokens, self.new_tokens = prompt, new

    def hear(self, text: str) -> None:
        """Take a piece of the answer's text."""
        self.text_bytes += len(text.encode("utf-8", "replace"))
        if self.pieces is not None:
            self.pieces.append(text)

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
    for text in _texts(value, "message"):
        usage.hear(text)


def is_error(body: bytes) -> bool:
    """Whether a body is an error object as OpenAI's clients read it."""
    try:
        value = jiter.from_json(body)
    except ValueError:
        return False
    error: Any = cast("dict[str, Any]", value).get("error") if isinstance(value, dict) else None
    return isinstance(error, dict) and isinstance(cast("dict[str, Any]", error).get("message"), str)


class EventReader:
    """Takes a stream of server-sent events in pieces of any size and gives back whole events.

    begun: a part of the answer has come; engines tell the role of who speaks before they work on it. done: its last
    word has come. failed: an event told an error that is the engine's, as one does whose answer breaks off.
    """

    def __init__(self, usage: Usage, *, keep_usage: bool) -> None:
        """keep_usage: whether the event that holds the usage alone is for the client too."""
        self._usage, self._keep_usage = usage, keep_usage
        self._rest = b""
        self.begun = False
        self.done = False
        self.failed = False

    def add(self, piece: bytes) -> bytes:
        """Return what may be passed on now."""
        self._rest += piece
        out: list[bytes] = []
        start = 0
        for found in _END_OF_EVENT.finditer(self._rest):
            event = self._rest[start : found.end()]
            start = found.end()
            if self._read(event):
                out.append(event)
        self._rest = self._rest[start:]
        if len(self._rest) > MOST_HELD:
            raise ValueError("an event of the upstream has no end")
        return b"".join(out)

    def finish(self) -> bytes:
        """Return what came after the last blank line; it may be the last event."""
        rest, self._rest = self._rest, b""
        return rest if self._read(rest) else b""

    def _read(self, event: bytes) -> bool:
        """Read one event; returns whether it is for the client."""
        if not event.startswith(b"data:"):
            return True
        data = event[5:].strip()
        if data == b"[DONE]":
            self.begun = self.done = True
            return True
        try:
            value = jiter.from_json(data)
        except ValueError:
            return True
        self._usage.read(value)
        error: Any = cast("dict[str, Any]", value).get("error") if isinstance(value, dict) else None
        asked_wrong = isinstance(error, dict) and cast("dict[str, Any]", error).get("type") == "invalid_request_error"
        self.failed |= error is not None and not asked_wrong
        for text in _texts(value, "delta"):
            self.begun |= text != ""
            self._usage.hear(text)
        self.begun = self.begun or error is not None or _says_more(value)
        alone = isinstance(value, dict) and cast("dict[str, Any]", value).get("choices") == [] and "usage" in value
        return self._keep_usage or not alone


def _says_more(value: Any) -> bool:
    """Whether an event without text is part of an answer: it ends a choice, or tells of a token that shows no text yet."""
    choices = cast("dict[str, Any]", value).get("choices") if isinstance(value, dict) else None
    each = [cast("dict[str, Any]", choice) for choice in cast("list[Any]", choices or []) if isinstance(choice, dict)]
    return any(choice.get(name) is not None for choice in each for name in ("finish_reason", "logprobs"))


def _texts(value: Any, part: str) -> list[str]:
    """Texts of an answer's choices: `part` is message or delta; completions have `text`."""
    found: list[str] = []
    choices = cast("dict[str, Any]", value).get("choices") if isinstance(value, dict) else None
    for choice in cast("list[Any]", choices) if isinstance(choices, list) else []:
        if isinstance(choice, dict):
            each = cast("dict[str, Any]", choice)
            inner = each.get(part)
            texts = [each.get("text")]
            if isinstance(inner, dict):
                said = cast("dict[str, Any]", inner)
                texts += [said.get(name) for name in ("content", "reasoning_content", "reasoning")]
                if said.get("tool_calls"):
                    texts.append(str(said["tool_calls"]))
            found += [text for text in texts if isinstance(text, str)]
    return found
