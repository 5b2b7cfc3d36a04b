"""The formats a row may have, told apart by its keys, and one form for all of them.

| format | keys |
|---|---|
| messages | messages: [{role, content}, ...] |
| instruction-response | instruction, response |
| alpaca | instruction, output, and maybe input |
| prompt-completion | prompt, completion |

Every row may also carry `date` (ISO, the day of the request), `split` (train or test) and `system`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from burnish.text.messages import Message, Role

Format = Literal["messages", "instruction-response", "alpaca", "prompt-completion"]

_KEYS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "instruction-response": ("instruction", "response"),
    "alpaca": ("instruction", "output"),
    "prompt-completion": ("prompt", "completion"),
}
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
SPLITS = ("train", "test")


class RowRefused(Exception):
    """A row that cannot be used: the reason in a few fixed words that can be counted, and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Row:
    """A row of any format. `turns` are its messages, without what `system` and `context` (Alpaca's input) add."""

    format: Format
    turns: tuple[Message, ...]
    context: str | None = None
    system: str | None = None
    date: str | None = None
    split: str | None = None
    unused: dict[str, Any] = field(default_factory=dict[str, Any])

    def messages(self) -> list[Message]:
        """Return the conversation as a model sees it."""
        turns = [Message(role=turn["role"], content=turn["content"]) for turn in self.turns]
        if self.context:
            turns[0]["content"] += "\n\n" + self.context
        return [Message(role="system", content=self.system), *turns] if self.system else turns

    def day(self) -> datetime.date | None:
        """Return the row's date, or None where it has none that is valid."""
        if self.date is None or not _ISO_DATE.fullmatch(self.date):
            return None
        try:
            return datetime.date.fromisoformat(self.date)
        except ValueError:
            return None

    def mapped(self, change: Callable[[str], str]) -> Row:
        """Return the row with `change` applied to every text in it."""
        turns = tuple(Message(role=turn["role"], content=change(turn["content"])) for turn in self.turns)
        context = None if self.context is None else change(self.context)
        system = None if self.system is None else change(self.system)
        return replace(self, turns=turns, context=context, system=system)


def detect(value: dict[str, Any]) -> Format:
    """Tell the format by the keys. Raises RowRefused when none fits, or more than one."""
    found: list[Format] = [name for name, keys in _KEYS.items() if all(key in value for key in keys)]
    if not found:
        raise RowRefused("unknown format", f"its keys are {', '.join(sorted(value)) or 'none'}")
    if len(found) > 1:
        raise RowRefused("more than one format", " and ".join(found))
    return found[0]


def read_row(value: dict[str, Any]) -> Row:
    """Read a row of any known format. Raises RowRefused with the reason."""
    name = detect(value)
    rest = dict(value)
    date, split, system = (_optional_text(rest, key) for key in ("date", "split", "system"))
    if split is not None and split not in SPLITS:
        raise RowRefused("unknown split", f'"{split[:40]}"; known: {", ".join(SPLITS)}')
    context = None
    if name == "messages":
        turns = _turns(rest.pop("messages"))
        if system and turns[0]["role"] == "system":
            raise RowRefused("two system prompts")
    else:
        request, answer = _KEYS[name]
        context = _optional_text(rest, "input") if name == "alpaca" else None
        turns = (
            Message(role="user", content=_text(rest.pop(request), request)),
            Message(role="assistant", content=_text(rest.pop(answer), answer)),
        )
    row = Row(name, turns, context, system, date, split, rest)
    check_turns(row)
    return row


def write_row(row: Row) -> dict[str, Any]:
    """Return the row in its own format: `write_row(read_row(x)) == x`."""
    value: dict[str, Any] = dict(row.unused)
    if row.format == "messages":
        value["messages"] = [dict(turn) for turn in row.turns]
    else:
        request, answer = _KEYS[row.format]
        value[request], value[answer] = (turn["content"] for turn in row.turns)
    optional = {"input": row.context, "system": row.system, "date": row.date, "split": row.split}
    return value | {key: item for key, item in optional.items() if item is not None}


def check_turns(row: Row) -> None:
    """Raise RowRefused unless requests and answers alternate, from a request to an answer, and none is empty."""
    turns = row.turns[1:] if row.turns and row.turns[0]["role"] == "system" else row.turns
    roles = [turn["role"] for turn in turns]
    if not roles:
        raise RowRefused("no messages")
    if roles[-1] != "assistant":
        raise RowRefused("does not end with an answer")
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise RowRefused("roles do not alternate", ", ".join(roles[:8]))
    for turn in turns:
        if not turn["content"].strip():
            raise RowRefused("empty answer" if turn["role"] == "assistant" else "empty request")


def _turns(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise RowRefused("wrong type", f"messages is {_type(value)}, not a list")
    return tuple(_message(item) for item in cast(list[Any], value))


def _message(item: Any) -> Message:
    if not isinstance(item, dict):
        raise RowRefused("wrong type", f"a message is {_type(item)}, not an object")
    message = cast(dict[str, Any], item)
    for key in ("role", "content"):
        if key not in message:
            raise RowRefused("message without role or content", f"{key} is missing")
    role = _ROLES.get(str(message["role"]))
    if role is None:
        raise RowRefused("unknown role", f"{str(message['role'])[:40]}; known: {', '.join(_ROLES)}")
    others = sorted(set(message) - {"role", "content"})
    if others:  # tool calls, weights: what cannot be learned must not be dropped in silence
        raise RowRefused("message with more than role and content", ", ".join(others)[:80])
    return Message(role=role, content=_text(message["content"], "content"))


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise RowRefused("wrong type", f"{key} is {_type(value)}, not text")
    return value


def _optional_text(value: dict[str, Any], key: str) -> str | None:
    return None if key not in value else _text(value.pop(key), key)


def _type(value: Any) -> str:
    return "null" if value is None else type(value).__name__
