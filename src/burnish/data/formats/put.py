"""Each format's keys, made of a canonical record and the note of how the row was spelled."""

from __future__ import annotations

from typing import Any

from burnish.data.formats.calls import Form, to_json, write_tools
from burnish.data.formats.fields import empty, parse_field
from burnish.data.formats.keys import PAIRS
from burnish.data.formats.refusal import RowRefused
from burnish.data.formats.sides import write_side
from burnish.data.formats.transcripts import TRANSCRIPTS, write_transcript
from burnish.data.formats.turns import OPENAI, SHAREGPT, write_turns
from burnish.data.record import Record
from burnish.text.messages import Message

Messages = tuple[Message, ...]
_PAIR_KEYS = PAIRS | {"question-answer": ("question", "answer"), "kto": PAIRS["prompt-completion"]}


def put(record: Record, messages: Messages, name: str, layout: Form) -> dict[str, Any]:
    """Return the keys that are the format's own. `messages` come without a system prompt that stands beside.

    Raises RowRefused when the format has no place for what the record holds.
    """
    if "mapping" in layout:
        return _columns(record, layout)
    value: dict[str, Any] = {}
    if record.tools or "tools" in layout:
        form = layout.get("tools", {})
        value[form.get("key", "tools")] = write_tools(record.tools, form)
    if name in ("text", "document"):
        _need(record.text is not None, name, "a conversation is no plain text")
        return value | {layout.get("key", "text" if name == "text" else "content"): record.text}
    _need(record.text is None, name, "a plain text is no conversation")
    if name == "preference":
        _need(record.chosen is not None, name, "it has no chosen and rejected answer")
        return value | _preference(record, messages, layout)
    _need(record.chosen is None, name, "it has two answers")
    if name == "kto":
        _need(record.label is not None, name, "it has no label")
        value["label"] = record.label
    else:
        _need(record.label is None, name, "it has a label")
    if name in _PAIR_KEYS:
        return value | _pair(messages, name, layout)
    if name in TRANSCRIPTS:
        return value | {layout.get("key", "text"): write_transcript(messages, name, layout.get("glue"))}
    _need(name in ("messages", "sharegpt"), name, "no format is called so")
    sharegpt = name == "sharegpt"
    names = layout.get("names", SHAREGPT if sharegpt else OPENAI)
    key = layout.get("key", "conversations" if sharegpt else "messages")
    if "raw" in layout:
        return value | {key: layout["raw"]}
    turns = write_turns(messages, names, layout.get("forms", {}))
    return value | {key: to_json(turns) if layout.get("text") else turns}


def _need(holds: bool, name: str, why: str) -> None:
    if not holds:
        raise RowRefused("cannot be written so", f"{name}: {why}")


def _pair(messages: Messages, name: str, layout: Form) -> dict[str, Any]:
    asked, answered = layout.get("keys", _PAIR_KEYS[name])
    if "sides" in layout:
        sides, cut = layout["sides"], layout["prompt"]
        return {
            asked: write_side(messages[:cut], sides.get("prompt", {})),
            answered: write_side(messages[cut:], sides.get("answer", {})),
        }
    value: dict[str, Any] = {}
    if not layout and messages and messages[0]["role"] == "system":
        value["system"], messages = messages[0]["content"], messages[1:]
    plain = len(messages) == 2 and all(len(message) == 2 for message in messages)
    _need(plain, name, "it has more than one request and one answer")
    request: str = messages[0]["content"]
    if "context_key" in layout:
        characters: int = layout["context"]
        value[layout["context_key"]] = request[len(request) - characters :]
        request = request[: -characters - 2] if characters else request
    return value | {asked: request, answered: messages[1]["content"]}


def _preference(record: Record, messages: Messages, layout: Form) -> dict[str, Any]:
    keys: tuple[str, ...] = layout.get("keys", ("chosen", "rejected", "prompt"))
    sides: dict[str, Form] = layout.get("sides", {})
    whole = messages if layout.get("whole") else ()
    chosen, rejected = record.chosen or (), record.rejected or ()
    value = {
        keys[0]: write_side((*whole, *chosen), sides.get("chosen", {})),
        keys[1]: write_side((*whole, *rejected), sides.get("rejected", {})),
    }
    if len(keys) > 2:
        note = sides.get("prompt", {})
        at: int = note.get("at", -1)
        value[keys[2]] = write_side(messages if at < 0 else messages[at : at + 1], note)
    return value


def _columns(record: Record, layout: Form) -> dict[str, Any]:
    """The columns of a row whose texts the recipe made of them."""
    said: dict[str, str | None] = {message["role"]: message["content"] for message in record.messages}
    said |= {"text": record.text, "date": record.meta.get("date"), "split": record.split}
    said |= {"chosen": record.chosen[0]["content"] if record.chosen else None}
    said |= {"rejected": record.rejected[0]["content"] if record.rejected else None}
    value: dict[str, Any] = {}
    for role, spec in layout["mapping"].items():
        field = parse_field(spec)
        text = said.get(role)
        if role == "label":
            value[spec] = layout.get("label", record.label)
        elif text is not None:
            value |= empty(field, text, layout)
        elif role == "system":  # it was empty, so no message was made of it
            value |= dict.fromkeys(field.columns, "")
    return value | dict.fromkeys(layout.get("null", ()))
