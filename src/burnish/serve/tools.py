"""Calls of tools: how a base model writes them, found by asking its chat template, and how they are read from an answer.

The template is rendered with a call whose name and arguments are known; what stands around the JSON of the call, and which keys
hold its name and arguments, is the format (Hermes and Qwen: `<tool_call>{"name", "arguments"}</tool_call>`; Llama 3.1:
`{"name", "parameters"}`; Mistral: `[TOOL_CALLS][{"name", "arguments"}]`). A template without tools gets Hermes' way, described in
the system turn.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from burnish.core.errors import DataError
from burnish.text.messages import FunctionCall, Message, ToolCall
from burnish.text.tokenizer import Tokenizer

PROBE, PROBE_ARGUMENTS = "burnish_probe", {"burnish": "value"}


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How calls are written.

    begin, end:  the text around the JSON of a call; `shown_begin` is what of `begin` a reader sees (without special tokens).
    name_key, arguments_key: keys of the JSON object.
    own:         whether the template itself has tools; if not, they are described in the system turn.
    """

    begin: str
    shown_begin: str
    end: str
    name_key: str
    arguments_key: str
    own: bool

    def call_schema(self, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the JSON schema of a call of one of the tools (OpenAI's tool objects).

        Arguments that a function does not name are left out unless its schema allows them: small models would go on inventing some.
        """
        each: list[dict[str, Any]] = []
        for tool in tools:
            function = tool["function"]
            properties = {
                self.name_key: {"const": function["name"]},
                self.arguments_key: {
                    "type": "object",
                    "properties": {},
                    "additionalProperties": False,
                    **(function.get("parameters") or {}),
                },
            }
            each.append(
                {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
            )
        return each[0] if len(each) == 1 else {"anyOf": each}


HERMES = ToolFormat("<tool_call>\n", "<tool_call>", "</tool_call>", "name", "arguments", own=False)


@lru_cache(maxsize=64)
def tool_format(tokenizer: Tokenizer) -> ToolFormat:
    """Return how the tokenizer's chat template writes a call."""
    if "tools" not in tokenizer.chat.names:
        return HERMES
    user = Message(role="user", content="x")
    call = ToolCall(
        type="function", id="a1b2c3d4e", function=FunctionCall(name=PROBE, arguments=json.dumps(PROBE_ARGUMENTS))
    )
    asked = Message(role="assistant", content="", tool_calls=[call])
    tools = [{"type": "function", "function": {"name": PROBE, "description": "x", "parameters": {"type": "object"}}}]
    try:
        before = tokenizer.chat.render([user], generation_prompt=True, tools=tools)
        after = tokenizer.chat.render([user, asked], generation_prompt=False, tools=tools)
        told = Message(role="assistant", content=PROBE)
        plain = tokenizer.chat.render([user, told], generation_prompt=False, tools=tools)
    except DataError:
        return HERMES
    if not after.startswith(before):
        return HERMES
    # What comes before a plain answer too (an empty block of thoughts) is no part of a call.
    common = next((at for at, (a, b) in enumerate(zip(after, plain, strict=False)) if a != b), len(plain))
    return _read_format(after[max(common, len(before)) :], tokenizer) or HERMES


def _read_format(written: str, tokenizer: Tokenizer) -> ToolFormat | None:
    """Find the JSON object of the probe's call in what the template wrote."""
    start = written.find("{")
    while start >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(written, start)
        except ValueError:
            start = written.find("{", start + 1)
            continue
        name = next((key for key, item in value.items() if item == PROBE), None)
        arguments = next((key for key, item in value.items() if item == PROBE_ARGUMENTS), None)
        if name is not None and arguments is not None:
            begin = written[:start]
            shown = tokenizer.decode(tokenizer.encode(begin)).strip()
            rest = tokenizer.decode(tokenizer.encode(written[end:])).strip()
            return ToolFormat(begin, shown, rest, name, arguments, own=True)
        start = written.find("{", start + 1)
    return None


def with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], form: ToolFormat) -> list[Message]:
    """Return the conversation as a template without tools can take it; as it is where the template has its own way."""
    if form.own:
        return list(messages)
    turns = [_plain(message, form) for message in messages]
    if not tools:
        return turns
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    told = (
        f"You may call one or more of these functions:\n{listed}\n"
        f'To call one, write {form.begin}{{"{form.name_key}": NAME, "{form.arguments_key}": OBJECT}}\n{form.end}'
    )
    if turns and turns[0]["role"] == "system":
        return [Message(role="system", content=f"{turns[0]['content']}\n\n{told}"), *turns[1:]]
    return [Message(role="system", content=told), *turns]


def _plain(message: Message, form: ToolFormat) -> Message:
    """Write calls and their results as text."""
    if message["role"] == "tool":
        return Message(role="user", content=f"<tool_response>\n{message['content']}\n</tool_response>")
    calls = message.get("tool_calls")
    if not calls:
        return Message(role=message["role"], content=message["content"])
    written = [
        f"{form.begin}{json.dumps({form.name_key: call['function']['name']})[:-1]}, "
        f'"{form.arguments_key}": {call["function"]["arguments"]}}}\n{form.end}'
        for call in calls
    ]
    return Message(role=message["role"], content="\n".join(filter(None, [message["content"], *written])))


class ToolReader:
    """Tells calls from text while an answer comes. What may be the beginning of a call is held back."""

    def __init__(self, form: ToolFormat, names: Sequence[str], *, forced: bool = False) -> None:
        """names: of the tools that exist. forced: the prompt ended with `begin`, so the answer is the JSON of one call."""
        self._form, self._names, self._forced = form, frozenset(names), forced
        self._held = ""
        self._text_began = False
        self._after_call = False
        self.calls: list[ToolCall] = []

    def add(self, text: str) -> tuple[str, list[ToolCall]]:
        """Take text; return what is text for certain, and the calls that became complete."""
        self._held += text
        return self._read(last=False)

    def finish(self) -> tuple[str, list[ToolCall]]:
        """Return what was held back: a call that never became complete is text."""
        return self._read(last=True)

    def _read(self, *, last: bool) -> tuple[str, list[ToolCall]]:
        shown, found = "", list[ToolCall]()
        while self._held:
            if self._after_call:  # white space between calls is no text
                self._held = self._held.lstrip()
                self._after_call = not self._held
                continue
            at = self._call_start()
            if at is None:  # nothing but text, perhaps with the beginning of a mark at its end
                keep = 0 if last else self._may_begin()
                shown += self._held[: len(self._held) - keep]
                self._held = self._held[len(self._held) - keep :]
                break
            shown, self._held = shown + self._held[:at], self._held[at:]
            call, end = self._call(last=last)
            if call is not None:
                found.append(call)
                self._held, self._after_call = self._held[end:], True
            elif end:  # it looked like a call and is none
                shown, self._held = shown + self._held[:end], self._held[end:]
            else:
                if last:
                    shown, self._held = shown + self._held, ""
                break
        self.calls += found
        self._text_began = self._text_began or bool(shown.strip())
        return ("" if found and not shown.strip() else shown), found

    def _call_start(self) -> int | None:
        begin = self._form.shown_begin
        if self._forced or not begin:
            # JSON without a mark is a call only where an answer begins with it, or after another call.
            return 0 if not self._text_began and self._held.lstrip().startswith(("{", "[")) else None
        at = self._held.find(begin)
        return at if at >= 0 else None

    def _may_begin(self) -> int:
        """Length of the end of the held text that may be the beginning of a call."""
        begin = self._form.shown_begin
        if self._forced or not begin:
            return len(self._held) if not self._text_began and not self._held.strip() else 0
        longest = min(len(begin) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if begin.startswith(self._held[-n:])), 0)

    def _call(self, *, last: bool) -> tuple[ToolCall | None, int]:
        """Read a call at the start of the held text: (call, its end), (None, end) for what is none, (None, 0) for not yet."""
        form, held = self._form, self._held
        start = next((i for i in range(len(held)) if held[i] == "{"), None)
        if start is None:
            return None, (len(held) if last else 0)
        try:
            value, end = json.JSONDecoder().raw_decode(held, start)
        except (ValueError, RecursionError):
            return None, 0
        call = self._made(cast("dict[str, Any]", value))
        if call is None:
            return None, end
        rest = held[end:].lstrip()
        if form.end and rest.startswith(form.end):
            end = len(held) - len(rest) + len(form.end)
        elif form.end and not last and form.end.startswith(rest) and not self._forced:
            return None, 0  # the closing mark is still to come
        return call, end

    def _made(self, value: dict[str, Any]) -> ToolCall | None:
        name, arguments = value.get(self._form.name_key), value.get(self._form.arguments_key, {})
        if not isinstance(name, str) or name not in self._names:
            return None
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return ToolCall(
            id=f"call_{uuid.uuid4().hex[:24]}", type="function", function=FunctionCall(name=name, arguments=text)
        )
