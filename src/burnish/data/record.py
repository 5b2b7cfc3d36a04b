"""What the parts of `prepare` hand to each other: where a row came from, the raw row, and its one canonical form."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from burnish.text.messages import FunctionCall, Message, ToolCall

_ISO_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?")
"""A day, or a day with a time, as tables and spreadsheets write every date: the time, in whatever zone, is not looked at."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row came from.

    source: as the recipe names it.
    file:   the file within it, or the table, or the URL without credentials.
    line:   line, row, page or paragraph, counted from 1.
    start, end: the span in bytes (files) or characters (extracted text); 0, 0 is the whole line.
    """

    source: str
    file: str
    line: int
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as a source gives it: the object in it, or the reason why there is none.

    text:   the row as text for the ledger, bounded.
    reason: None, or why it is no row, in a few fixed words that can be counted.
    detail: what exactly was wrong there.
    """

    origin: Origin
    value: dict[str, Any] | None
    text: str
    reason: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A row of any format in one form.

    messages: the conversation, its system prompt first; of a preference the prompt alone; of KTO with the judged answer.
    chosen, rejected: what follows the prompt of a preference: the better and the worse.
    label:    KTO: whether the last message is desirable.
    text:     plain text, or a piece of a document.
    tools:    OpenAI tool schemas.
    meta:     `format`; where given `date`, `group`, `created_at`, `license`, `language`; `unused`, the row's other
              keys; `layout`, how the row was spelled, without which it could not be written as it was read.
    split:    the split the row asks for.
    """

    messages: tuple[Message, ...] = ()
    chosen: tuple[Message, ...] | None = None
    rejected: tuple[Message, ...] | None = None
    label: bool | None = None
    text: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    split: str | None = None

    @property
    def unused(self) -> Mapping[str, Any]:
        """The row's keys that its format has no use for."""
        return self.meta.get("unused", {})

    def day(self) -> datetime.date | None:
        """Return the row's date, or None where it has none that is valid (YYYY-MM-DD, a time may follow)."""
        return _day(self.meta.get("date"))

    def day_created(self) -> datetime.date | None:
        """Return the day the row was made, by its date, else by `created_at`; None where neither is valid."""
        return self.day() or _day(self.meta.get("created_at"))

    def texts(self) -> Iterator[str]:
        """Yield everything a person could read in the row: exactly the texts that `mapped` changes."""
        seen: list[str] = []

        def look(text: str) -> str:
            seen.append(text)
            return text

        self.mapped(look)
        return iter(seen)

    def mapped(self, change: Callable[[str], str]) -> Record:
        """Return the record with `change` applied to every text: turns, calls, tools, licence, language, unused keys.

        Not to `date`, `group`, and days in `created_at`: by those the row is found and split. Numbers in calls, tools and
        unused keys are shown to `change` as text (a card number may be one) and become text where that changes them.
        """
        meta = dict(self.meta)
        for key in ("license", "language", "created_at"):
            if isinstance(said := meta.get(key), str) and not (key == "created_at" and _day(said)):
                meta[key] = change(said)
        layout: dict[str, Any] = meta.get("layout", {})
        if layout.get("context"):
            messages, characters = _with_context(self.messages, layout["context"], change)
            layout = {**layout, "context": characters}
        else:
            messages = _messages(self.messages, change)
        if self.unused:
            meta["unused"] = {key: _json(item, change) for key, item in self.unused.items()}
        mapped = replace(
            self,
            messages=messages,
            chosen=None if self.chosen is None else _messages(self.chosen, change),
            rejected=None if self.rejected is None else _messages(self.rejected, change),
            text=None if self.text is None else change(self.text),
            tools=tuple(_json(tool, change) for tool in self.tools),
            meta=meta,
        )
        if layout and _said(mapped) != _said(self):
            layout = _without_raw(layout)
        if layout:
            meta["layout"] = layout
        return mapped


def _day(said: object) -> datetime.date | None:
    found = _ISO_DATE.fullmatch(said) if isinstance(said, str) else None
    try:
        return None if found is None else datetime.date.fromisoformat(found[1])
    except ValueError:
        return None


def _said(record: Record) -> tuple[Any, ...]:
    return record.messages, record.chosen, record.rejected, record.tools


def _without_raw(layout: Any) -> Any:
    """Leave out the JSON that was kept exactly as it was typed: it still says what the record no longer says."""
    if isinstance(layout, dict):
        items = cast(dict[Any, Any], layout).items()
        return {key: _without_raw(item) for key, item in items if key != "raw"}
    return layout


def _messages(messages: tuple[Message, ...], change: Callable[[str], str]) -> tuple[Message, ...]:
    return tuple(_message(message, change) for message in messages)


def _message(message: Message, change: Callable[[str], str]) -> Message:
    if len(message) == 2:
        return {"role": message["role"], "content": change(message["content"])}
    new = message.copy()
    new["content"] = change(message["content"])
    if "name" in message:
        new["name"] = change(message["name"])
    if "tool_calls" in message:
        new["tool_calls"] = [_call(call, change) for call in message["tool_calls"]]
    return new


def _call(call: ToolCall, change: Callable[[str], str]) -> ToolCall:
    function = call["function"]
    before = json.loads(function["arguments"])
    after = _json(before, change)
    if after == before:  # the same JSON typed another way is no change
        return call
    new = call.copy()
    new["function"] = FunctionCall(name=function["name"], arguments=json.dumps(after, ensure_ascii=False))
    return new


def _with_context(
    messages: tuple[Message, ...], characters: int, change: Callable[[str], str]
) -> tuple[tuple[Message, ...], int]:
    """Change the first request in its two parts, so that the row can still be written with both.

    `characters` is the length of the second part, which stands after an empty line.
    """
    first = 1 if messages[0]["role"] == "system" else 0
    before = _messages(messages[:first], change)
    content = messages[first]["content"]
    request, context = change(content[: -characters - 2]), change(content[-characters:])
    joined = Message(role="user", content=f"{request}\n\n{context}" if context else request)
    return (*before, joined, *_messages(messages[first + 1 :], change)), len(context)


def _json(value: Any, change: Callable[[str], str]) -> Any:
    """Apply `change` to every text of a JSON value, keys and numbers included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        new: dict[str, Any] = {}
        for key, item in cast(dict[str, Any], value).items():
            name = base = change(key)
            twin = 2
            while name in new:  # two keys that became one placeholder are still two
                name, twin = f"{base} {twin}", twin + 1
            new[name] = _json(item, change)
        return new
    if isinstance(value, list):
        items: list[Any] = []
        for item in cast(list[Any], value):
            items.append(_json(item, change))
        return items
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = str(value)
        changed = change(text)
        return value if changed == text else changed
    return value
