"""A conversation as a list of turns: role/content as OpenAI has it, from/value as ShareGPT has it, and the mixtures.

What is spelled the usual way costs nothing; how anything else was spelled is noted, a form for each turn, so that it can
be written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from burnish.data.formats.calls import (
    Form,
    is_empty,
    read_calls,
    read_spoken_calls,
    write_calls,
    write_spoken_calls,
)
from burnish.data.formats.refusal import RowRefused, listed, need_text, short, type_name
from burnish.data.formats.roles import CALLERS, role_of
from burnish.text.messages import Message, Role, ToolCall

Names = tuple[str, str]
OPENAI: Names = ("role", "content")
SHAREGPT: Names = ("from", "value")
_SPEAKER_KEYS = ("role", "from", "speaker")
_SAID_KEYS = ("content", "value", "text")
_PLAIN: dict[str, dict[str, Role]] = {
    "role": {"user": "user", "assistant": "assistant", "system": "system"},
    "from": {"human": "user", "gpt": "assistant", "system": "system", "observation": "tool"},
}
_PLAIN["speaker"] = _PLAIN["role"]
_SPELLED: dict[str, dict[Role, str]] = {
    "role": {"user": "user", "assistant": "assistant", "system": "system", "tool": "tool"},
    "from": {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"},
}
_SPELLED["speaker"] = _SPELLED["role"]
_TEXT_PARTS = ("text", "input_text", "output_text")


def names_of(turns: Sequence[Any]) -> Names:
    """Return what a list of turns calls the speaker and what is said, by its first turn."""
    first: Any = turns[0] if turns else None
    if not isinstance(first, dict):
        return OPENAI
    turn = cast(dict[str, Any], first)
    if "role" in turn and "content" in turn:
        return OPENAI
    speaker = next((key for key in _SPEAKER_KEYS if key in turn), "role")
    usual = "value" if speaker == "from" else "content"
    return speaker, usual if usual in turn else next((key for key in _SAID_KEYS if key in turn), usual)


def read_turns(
    value: Any, key: str, names: Names, forms: dict[int, Form], words: Mapping[str, Role] | None = None
) -> tuple[Message, ...]:
    """Read a list of turns; `forms` takes what is not spelled the usual way, by the place of the turn.

    `words` are roles as the recipe explains them, beside those that everybody knows.

    Raises RowRefused.
    """
    if not isinstance(value, list):
        raise RowRefused("wrong type", f"{key} is {type_name(value)}, not a list")
    speaker, said = names
    plain: Mapping[str, Role] = _PLAIN.get(speaker, _PLAIN["role"])
    if words:
        plain = {**plain, **words}
    messages: list[Message] = []
    for index, item in enumerate(cast(list[Any], value)):
        if type(item) is dict and len(cast(dict[str, Any], item)) == 2:
            turn = cast(dict[str, Any], item)
            word, content = turn.get(speaker), turn.get(said)
            if type(content) is str and type(word) is str and word in plain:
                messages.append({"role": plain[word], "content": content})
                if words and word in words:
                    forms[index] = {"role": word}
                continue
        message, form = _read_turn(item, names, words or {})
        messages.append(message)
        if form:
            forms[index] = form
    return tuple(messages)


def write_turns(messages: Sequence[Message], names: Names, forms: dict[int, Form]) -> list[dict[str, Any]]:
    """Return messages as a list of turns, each as it was spelled."""
    return [_write_turn(message, names, forms.get(index, {})) for index, message in enumerate(messages)]


def _spelled(role: Role, speaker: str) -> str:
    return _SPELLED.get(speaker, _SPELLED["role"])[role]


def _read_turn(item: Any, names: Names, words: Mapping[str, Role]) -> tuple[Message, Form]:
    if not isinstance(item, dict):
        raise RowRefused("wrong type", f"a message is {type_name(item)}, not an object")
    rest = dict(cast(dict[str, Any], item))
    speaker, said = names
    if speaker not in rest:
        raise RowRefused("message without role or content", f"{speaker} is missing")
    form: Form = {}
    word = rest.pop(speaker)
    role = words.get(word) if isinstance(word, str) else None
    message: Message = {"role": role or role_of(word), "content": ""}
    if word != _spelled(message["role"], speaker):
        form["role"] = word
    calls = _take_calls(rest, form)
    content: Any = rest.pop(said, _ABSENT)
    if isinstance(word, str) and word.strip().lower() in CALLERS:
        calls = _spoken(content, said, calls, form)
    else:
        message["content"] = _content(content, said, form, may_be_empty=bool(calls))
    if calls:
        if message["role"] != "assistant":
            raise RowRefused("tool call of another than the assistant", short(word))
        message["tool_calls"] = calls
    _take_others(rest, message, form)
    return message, form


def _take_others(rest: dict[str, Any], message: Message, form: Form) -> None:
    for key in ("name", "tool_call_id"):
        if not is_empty(rest.get(key)):
            message[key] = need_text(rest.pop(key), key)
    full = [key for key, value in rest.items() if not is_empty(value)]
    if full:  # weights, images, reasoning: what cannot be learned must not be dropped in silence
        raise RowRefused("message with more than role and content", listed(full))
    if rest:
        form["empty"] = rest


_ABSENT: Any = object()


def _take_calls(rest: dict[str, Any], form: Form) -> list[ToolCall]:
    """Take `tool_calls`, or `function_call` as OpenAI had it before."""
    if not is_empty(rest.get("tool_calls")):
        calls, forms = read_calls(rest.pop("tool_calls"))
        form["calls"] = forms
        return calls
    if not is_empty(rest.get("function_call")):
        calls, forms = read_calls([rest.pop("function_call")])
        form["before_tools"] = forms
        return calls
    return []


def _spoken(content: Any, said: str, calls: list[ToolCall], form: Form) -> list[ToolCall]:
    """The calls in the text of a `function_call` turn."""
    if calls:
        raise RowRefused("tool call given twice", f"in {said} and beside it")
    text = need_text(None if content is _ABSENT else content, said)
    spoken = read_spoken_calls(text)
    form["spoken"] = True
    if write_spoken_calls(spoken) != text:
        form["raw"] = text
    return spoken


def _content(content: Any, said: str, form: Form, *, may_be_empty: bool) -> str:
    if type(content) is str:
        return content
    if isinstance(content, list):
        return _join_parts(cast(list[Any], content), form)
    if may_be_empty and (content is None or content is _ABSENT):
        form["content"] = "absent" if content is _ABSENT else "null"
        return ""
    if content is _ABSENT:
        raise RowRefused("message without role or content", f"{said} is missing")
    return need_text(content, said)


def _join_parts(parts: list[Any], form: Form) -> str:
    """Join a content given as parts. Chat templates write text parts one after the other with nothing between."""
    texts: list[str] = []
    kinds: list[tuple[int, str, tuple[str, ...]]] = []
    for index, item in enumerate(parts, start=1):
        if not isinstance(item, dict):
            raise RowRefused("wrong type", f"part {index} of a content is {type_name(item)}, not an object")
        part = cast(dict[str, Any], item)
        kind, text = part.get("type"), part.get("text")
        if kind not in _TEXT_PARTS or not isinstance(text, str):
            raise RowRefused("content that is not text", f"part {index} is {short(kind)}; only text can be learned")
        others = tuple(key for key in part if key not in ("type", "text"))
        full = [key for key in others if part[key] is not None]
        if full:
            raise RowRefused("content that is not text", f"part {index} also has {listed(full)}")
        texts.append(text)
        kinds.append((len(text), cast(str, kind), others))
    form["parts"] = kinds
    return "".join(texts)


def _write_turn(message: Message, names: Names, form: Form) -> dict[str, Any]:
    speaker, said = names
    role = message["role"]
    content: Any = message["content"]
    calls = message.get("tool_calls")
    turn: dict[str, Any] = {speaker: form.get("role") or _spelled(role, speaker)}
    if calls and ("spoken" in form or (names == SHAREGPT and not content and not form)):
        turn[speaker] = form.get("role", "function_call")
        content = form["raw"] if "raw" in form else write_spoken_calls(calls)
    elif calls and "before_tools" in form:
        turn["function_call"] = write_calls(calls, form["before_tools"])[0]
    elif calls:
        turn["tool_calls"] = write_calls(calls, form.get("calls", []))
    if "parts" in form:
        content = _cut_parts(content, form["parts"])
    if "content" in form and not content:
        content = None
    if not (form.get("content") == "absent" and content is None):
        turn[said] = content
    if "name" in message:
        turn["name"] = message["name"]
    if "tool_call_id" in message:
        turn["tool_call_id"] = message["tool_call_id"]
    return turn | form.get("empty", {})


def _cut_parts(content: str, kinds: list[tuple[int, str, tuple[str, ...]]]) -> list[dict[str, Any]]:
    """Return a content as the parts it was joined from; as one, if its length changed meanwhile."""
    if sum(length for length, _, _ in kinds) != len(content):
        kinds = [(len(content), kinds[0][1] if kinds else "text", ())]
    parts: list[dict[str, Any]] = []
    start = 0
    for length, kind, others in kinds:
        parts.append({"type": kind, "text": content[start : start + length]} | dict.fromkeys(others))
        start += length
    return parts
