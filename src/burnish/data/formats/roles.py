"""Who speaks: the words people use for the four roles, and the order in which they may take turns."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.data.formats.refusal import RowRefused, short
from burnish.text.messages import Message, Role

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
"""OpenAI, ShareGPT, LLaMA-Factory, Open Assistant, Gemini and Llama 3 in one table."""

CALLERS = ("function_call", "tool_call")
"""Roles whose text is not an answer but a call, as JSON."""


def role_of(word: object) -> Role:
    """Return the role that a word stands for. Raises RowRefused for a word nobody knows."""
    role = ROLES.get(word) or ROLES.get(word.strip().lower()) if isinstance(word, str) else None
    if role is None:
        raise RowRefused("unknown role", f"{short(word)}; known: {', '.join(ROLES)}")
    return role


def check_conversation(messages: Sequence[Message]) -> None:
    """Raise RowRefused unless requests and answers alternate, from a request to an answer, and none is empty.

    A system prompt may come first. After an answer that calls tools come their results, then the next answer.
    """
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not turns:
        raise RowRefused("no messages")
    if turns[-1]["role"] != "assistant":
        raise RowRefused("does not end with an answer", _roles(turns))
    before: Message | None = None
    called: list[str] = []  # the ids of the last calls, where they have some
    for message in turns:
        role = message["role"]
        calls = before is not None and "tool_calls" in before
        if role == "tool":
            if before is None or not (calls or before["role"] == "tool"):
                raise RowRefused("tool result without a call", _roles(turns))
            _check_call_id(message, called)
        elif calls or role != ("user" if before is None or before["role"] == "assistant" else "assistant"):
            raise _out_of_turn(message, before, turns)
        if "tool_calls" in message:
            called = [call["id"] for call in message["tool_calls"] if "id" in call]
        before = message
    for message in turns:
        if not message["content"] or message["content"].isspace():
            _check_empty(message)


def check_plain(messages: Sequence[Message]) -> None:
    """Check a request and its answer, after one system prompt or none: what most rows are."""
    for message in messages:
        content = message["content"]
        if (not content or content.isspace()) and message["role"] != "system":
            _check_empty(message)


def merged(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Join turns of the same speaker that follow each other, with an empty line between them: only when asked for."""
    joined: list[Message] = []
    for message in messages:
        before = joined[-1] if joined else None
        if (
            before is not None
            and before["role"] == message["role"] in ("user", "assistant")
            and len(before) == len(message) == 2
        ):
            joined[-1] = Message(role=message["role"], content=f"{before['content']}\n\n{message['content']}")
        else:
            joined.append(message)
    return tuple(joined)


def _out_of_turn(message: Message, before: Message | None, turns: Sequence[Message]) -> RowRefused:
    roles = _roles(turns)
    if before is not None and "tool_calls" in before:
        return RowRefused("tool call without a result", roles)
    if message["role"] == "system":
        advice = "a system prompt can only come first, and once"
    elif before is None:
        advice = "the first turn after the system prompt must be the user's"
    elif before["role"] == message["role"]:
        advice = f"two turns of the {message['role']} follow each other; `merge` joins them"
    else:
        advice = "after a tool's result comes the assistant"
    return RowRefused("roles do not alternate", f"{roles}: {advice}")


def _check_call_id(result: Message, called: Sequence[str]) -> None:
    call_id = result.get("tool_call_id")
    if call_id is not None and called and call_id not in called:
        raise RowRefused(
            "tool result without a call", f"its id is {short(call_id)}; called: {short(', '.join(called))}"
        )


def _check_empty(message: Message) -> None:
    """Raise RowRefused for an empty turn. A call needs no words, and a tool may have nothing to say."""
    if message["role"] == "user":
        raise RowRefused("empty request")
    if message["role"] == "assistant" and "tool_calls" not in message:
        raise RowRefused("empty answer", "nothing in it could be learned")


def _roles(turns: Sequence[Message]) -> str:
    more = ", ..." if len(turns) > 8 else ""
    return ", ".join(turn["role"] for turn in turns[:8]) + more
