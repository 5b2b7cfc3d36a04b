"""Rows read and written: `read_any` tells each row's format by itself, `read` is told it, `write` gives the row back.

`write(read(x)) == x`: what the canonical record has no place for is in its meta, as `unused` and `layout`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from burnish.data.formats.calls import Form, read_tools
from burnish.data.formats.choose import choose, reading_as
from burnish.data.formats.keys import Reading
from burnish.data.formats.put import put
from burnish.data.formats.refusal import RowRefused, check_depth, listed, need_text, short
from burnish.data.formats.roles import check_conversation, check_plain, merged
from burnish.data.formats.sides import Taken
from burnish.data.formats.take import Rest, take_kto, take_pair, take_preference, take_text, take_turns
from burnish.data.record import Record
from burnish.text.messages import Message

Value = dict[str, Any] | list[Any]
"""A row as its file has it; a list is a conversation without a key."""
BARE = ""
"""The key under which a conversation lies that is a list without a key."""
SPLITS = ("train", "test")
SYSTEM_KEYS = ("system", "system_prompt")
TOOL_KEYS = ("tools", "functions")
META_KEYS = ("group", "created_at", "license", "language")
_OPTIONAL = frozenset(["date", "split", *SYSTEM_KEYS, *TOOL_KEYS, *META_KEYS])
_TAKE: dict[str, Callable[[Rest, Reading, Form], tuple[str, Taken]]] = {
    "turns": take_turns,
    "preference": take_preference,
    "kto": take_kto,
    "instruction-response": take_pair,
    "alpaca": take_pair,
    "prompt-completion": take_pair,
    "question-answer": take_pair,
}


def read_any(value: Value, *, merge: bool = False) -> Record:
    """Read a row of any known format. Raises RowRefused with the reason, also where two readings are possible.

    `merge` joins turns of the same speaker that follow each other; without it such a row is refused.
    """
    if isinstance(value, list):
        return _read({BARE: value}, Reading("turns", (BARE,)), merge)
    return _read(dict(value), choose(value), merge)


def read_as(value: Value, name: str, *, merge: bool = False, given: Form | None = None) -> Record:
    """Read a row of the format that is named, whatever else its keys allow. Raises RowRefused.

    `given` is what the recipe says of turns: `names` of their two keys, and `words` for roles.
    """
    if isinstance(value, list):
        if name not in ("messages", "sharegpt"):
            raise RowRefused(f"not {name}", "the row is a list; a list of turns is messages or sharegpt")
        return _read({BARE: value}, Reading("turns", (BARE,)), merge, given)
    return _read(dict(value), reading_as(value, name), merge, given)


def write(record: Record, name: str | None = None) -> Value:
    """Return the row as it was read, or, with the name of a format, in that one's usual spelling.

    Raises RowRefused when that format has no place for what the record holds.
    """
    layout: Form = record.meta.get("layout", {}) if name is None else {}
    messages = record.messages
    value: dict[str, Any] = dict.fromkeys(layout.get("null", ()))
    system = layout.get("system")
    if system is not None:
        key, empty = system
        value[key] = "" if empty else messages[0]["content"]
        messages = messages if empty else messages[1:]
    value |= put(record, messages, name or record.meta.get("format", "messages"), layout)
    if "mapping" in layout:
        value |= record.unused
        return value
    if "date" in record.meta:
        value["date"] = record.meta["date"]
    if record.split is not None:
        value["split"] = record.split
    value |= {key: record.meta[key] for key in META_KEYS if key in record.meta}
    if "columns" in layout:
        value = {layout["columns"].get(key, key): item for key, item in value.items()}
    taken = [key for key in value if key in record.unused]
    if taken:
        raise RowRefused("cannot be written so", f"the row has other keys of the same name: {listed(taken)}")
    value |= record.unused
    return value[BARE] if layout.get("key") == BARE else value


def check(record: Record) -> None:
    """Raise RowRefused for a record that cannot be trained on: call it again when its texts were changed."""
    if record.text is not None:
        if not record.text.strip():
            raise RowRefused("empty text")
        return
    for answer in ((),) if record.chosen is None else (record.chosen, record.rejected or ()):
        check_conversation((*record.messages, *answer))


def _read(rest: Rest, reading: Reading, merge: bool, given: Form | None = None) -> Record:
    layout: Form = dict(given) if given else {}
    name, taken = _TAKE.get(reading.format, take_text)(rest, reading, layout)
    messages = taken.messages
    meta: dict[str, Any] = {"format": name}
    split: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    if rest and not _OPTIONAL.isdisjoint(rest):
        split = _take_dates(rest, meta, layout)
        if taken.text is None:
            messages = _take_system(rest, messages, layout)
            tools = _take_tools(rest, layout, strict=reading.format == "turns")
    if rest:
        _check_unused(rest)
        meta["unused"] = rest
    if merge:
        messages = _merged(messages, layout)
    if taken.chosen is not None:
        check_conversation((*messages, *taken.chosen))
        check_conversation((*messages, *(taken.rejected or ())))
    elif taken.text is None:
        _check(messages)
    if layout:
        meta["layout"] = layout
    return Record(messages, taken.chosen, taken.rejected, taken.label, taken.text, tools, meta, split)


def _check_unused(rest: Rest) -> None:
    for item in rest.values():
        if isinstance(item, (dict, list)):
            check_depth(cast(Any, item))


def _check(messages: tuple[Message, ...]) -> None:
    if len(messages) == 2 and messages[0]["role"] == "user" and messages[1]["role"] == "assistant":
        check_plain(messages)
    else:
        check_conversation(messages)


def _take_dates(rest: Rest, meta: dict[str, Any], layout: Form) -> str | None:
    """Take the keys that say when, where from and for which split; return the split."""
    null = tuple(key for key in _OPTIONAL if key in rest and rest[key] is None)
    if null:  # a table's way to say that there is none
        layout["null"] = null
        for key in null:
            del rest[key]
    if "date" in rest:
        meta["date"] = need_text(rest.pop("date"), "date")
    for key in META_KEYS:
        if isinstance(rest.get(key), str):
            meta[key] = rest.pop(key)
    if "split" not in rest:
        return None
    split = need_text(rest.pop("split"), "split")
    if split not in SPLITS:
        raise RowRefused("unknown split", f'"{short(split)}"; known: {", ".join(SPLITS)}')
    return split


def _take_system(rest: Rest, messages: tuple[Message, ...], layout: Form) -> tuple[Message, ...]:
    """Put a system prompt that stands beside the conversation in front of it."""
    found = [key for key in SYSTEM_KEYS if key in rest]
    if not found:
        return messages
    if len(found) > 1:
        raise RowRefused("two system prompts", " and ".join(found))
    system = need_text(rest.pop(found[0]), found[0])
    layout["system"] = (found[0], not system)
    if not system:
        return messages
    if messages and messages[0]["role"] == "system":
        raise RowRefused("two system prompts", f"one in {found[0]}, one as the first message")
    return ({"role": "system", "content": system}, *messages)


def _take_tools(rest: Rest, layout: Form, *, strict: bool) -> tuple[dict[str, Any], ...]:
    """Take tool schemas. Beside a plain pair `tools` may be anything, so there only a list of schemas is one."""
    for key in TOOL_KEYS:
        value: Any = rest.get(key)
        if key in rest and (strict or isinstance(value, list) or (isinstance(value, str) and value[:1] == "[")):
            tools, layout["tools"] = read_tools(value, key)
            del rest[key]
            return tools
    return ()


def _merged(messages: tuple[Message, ...], layout: Form) -> tuple[Message, ...]:
    """Join turns, and forget how each was spelled: that says nothing about the joined ones."""
    joined = merged(messages)
    if len(joined) == len(messages):
        return messages
    for note in (layout, *layout.get("sides", {}).values()):
        for key in ("forms", "glue", "at", "raw"):
            note.pop(key, None)
    if "prompt" in layout:  # how many of the messages are the prompt's
        before = 1 if messages[0]["role"] == "system" and "system" in layout else 0
        layout["prompt"] = len(merged(messages[: layout["prompt"] + before])) - before
    return joined
