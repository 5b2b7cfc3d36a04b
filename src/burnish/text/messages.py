"""A conversation as everybody in burnish passes it around: the keys that OpenAI's chat API has."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class FunctionCall(TypedDict):
    """Which function is called, and with what: `arguments` is a JSON object as text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """One call that an assistant asks for. `id` is what the tool's answer refers to, where the data has one."""

    type: Literal["function"]
    function: FunctionCall
    id: NotRequired[str]


class Message(TypedDict):
    """One turn: who speaks, and what is said.

    tool_calls:   what an assistant asks for; `content` may then be empty.
    tool_call_id: which call a tool's turn answers.
    name:         who speaks, where a role has several: the name of a tool, or of a person.
    """

    role: Role
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
