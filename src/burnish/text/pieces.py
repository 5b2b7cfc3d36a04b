"""A conversation as pieces of text: the system turn, prompts and answers, found by rendering twice and comparing.

Most templates only ever append, so one text holds a whole conversation. Some rewrite earlier turns: Qwen3 drops the
thinking of earlier answers, Mistral moves the system prompt into the last request. There a conversation becomes several
texts ("chains"), each with the answers whose prompts are exactly what a server would send for them.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, NamedTuple, cast

from burnish.core.errors import DataError
from burnish.text.messages import Message
from burnish.text.template import ChatTemplate


class Conversation(NamedTuple):
    """What is rendered: messages, OpenAI tool schemas, and what the template's own clock shows (None: today)."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    day: datetime.date | None = None


class Kind(Enum):
    """What a piece of a conversation is."""

    SYSTEM = auto()
    PROMPT = auto()
    ANSWER = auto()


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one kind. `answer` is the message an answer was made of."""

    kind: Kind
    text: str
    answer: Message | None = None


Chain = list[Piece]


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts conversations for one template. Keeps what rows with the same system prompt share.

    stops: texts of the stop tokens.
    """

    chat: ChatTemplate
    stops: Sequence[str]
    _turns: dict[tuple[str, datetime.date | None, str], str] = field(default_factory=dict[Any, str])

    def answers(self, said: Conversation) -> list[Chain]:
        """Return the chains that hold every answer once, each after exactly the prompt a server would send for it.

        Raises DataError when the template refuses the conversation, leaves something of it out, or writes an answer
        differently from what its generation prompt begins.
        """
        chains: list[Chain] = []
        for index, message in enumerate(said.messages):
            if message["role"] == "assistant":
                prompt = self._prompt(said, index)
                answer = self._answer(said, index, prompt)
                chains = self._joined(said, chains, prompt)
                chains[-1].append(Piece(Kind.ANSWER, answer, message))
        return chains

    def prompt(self, said: Conversation) -> Chain:
        """Return the chain that waits for an answer: the same pieces as before that answer in `answers`."""
        chains: list[Chain] = []
        for index, message in enumerate(said.messages):
            if message["role"] == "assistant":
                prompt = self._prompt(said, index)
                whole = self._render(said, index + 1, generation_prompt=False)
                chains = self._joined(said, chains, prompt)
                # What is not an answer to this prompt is in no chain; what follows begins a new one.
                answer = whole[len(prompt) :] if whole.startswith(prompt) else None
                chains[-1].append(Piece(Kind.ANSWER, answer or "", message))
                if answer is None:
                    chains = []
        return self._joined(said, chains, self._prompt(said, len(said.messages)))[-1]

    def _render(self, said: Conversation, turns: int, *, generation_prompt: bool) -> str:
        return self.chat.render(
            said.messages[:turns], generation_prompt=generation_prompt, tools=said.tools, day=said.day
        )

    def _prompt(self, said: Conversation, turns: int) -> str:
        try:
            prompt = self._render(said, turns, generation_prompt=True)
        except DataError as error:
            if _has_system(said) and self._works_without_system(said, turns):
                raise DataError(
                    f"{error}. The template of this base model has no system role: leave the system prompt out, say it in "
                    "the user's first message, or choose another base model."
                ) from error
            raise
        check_kept(said, turns, prompt)
        return prompt

    def _works_without_system(self, said: Conversation, turns: int) -> bool:
        try:
            self._render(said._replace(messages=said.messages[1:]), turns - 1, generation_prompt=True)
        except DataError:
            return False
        return True

    def _answer(self, said: Conversation, index: int, prompt: str) -> str:
        answer = rest(self._render(said, index + 1, generation_prompt=False), prompt)
        check_answer_kept(said.messages[index], answer)
        return answer

    def _joined(self, said: Conversation, chains: list[Chain], prompt: str) -> list[Chain]:
        """The chains with the prompt at the end of the last one, or, where that does not go on so, of a new one."""
        if chains:
            chain = chains[-1]
            before, last = "".join(piece.text for piece in chain[:-1]), chain[-1]
            kept = self._kept(before, last.text, prompt)
            if kept is not None:
                chain[-1] = replace(last, text=last.text[:kept])
                chain.append(Piece(Kind.PROMPT, prompt[len(before) + kept :]))
                return chains
        system = self._system(said, prompt)
        start = [Piece(Kind.SYSTEM, system)] if system is not None else []
        return [*chains, [*start, Piece(Kind.PROMPT, prompt[len(system or "") :])]]

    def _kept(self, before: str, answer: str, prompt: str) -> int | None:
        """How many characters of the last answer the next prompt still has: all, or up to its stop token, or None.

        Phi-3 writes an end of text after the last turn, which is gone when the conversation goes on.
        """
        if prompt.startswith(before + answer):
            return len(answer)
        ends = [answer.find(stop) + len(stop) for stop in self.stops if stop in answer]
        end = min(ends, default=0)
        return end if end and prompt.startswith(before + answer[:end]) else None

    def _system(self, said: Conversation, prompt: str) -> str | None:
        """The system turn alone, or, where the template cannot render that, all before any user text; or None."""
        if not _has_system(said):
            return None
        for candidate in (self._system_alone, self._system_shared):
            text = candidate(said)
            if text and prompt.startswith(text):
                return text
        return ""

    def _system_alone(self, said: Conversation) -> str:
        def alone() -> str:
            text = self._render(said, 1, generation_prompt=False)
            # A template that puts the system prompt elsewhere renders only what comes before it.
            return text if _holds(text, said.messages[0]["content"]) else ""

        return self._remembered("alone", said, alone)

    def _system_shared(self, said: Conversation) -> str:
        def shared() -> str:
            system = said.messages[0]
            one, other = (
                self._render(
                    said._replace(messages=[system, Message(role="user", content=user)]), 2, generation_prompt=True
                )
                for user in ("0", "x")
            )
            return one[: agree(one, other)]

        return self._remembered("shared", said, shared)

    def _remembered(self, what: str, said: Conversation, make: Any) -> str:
        key = (what, said.day, json.dumps([said.messages[0], said.tools or None], default=str))
        if key not in self._turns:
            try:
                self._turns[key] = make()
            except DataError:  # a template that demands a request after the system prompt
                self._turns[key] = ""
        return self._turns[key]


def _has_system(said: Conversation) -> bool:
    return bool(said.messages) and said.messages[0]["role"] == "system"


def rest(whole: str, beginning: str) -> str:
    """What `whole` adds to `beginning`. Raises DataError with the place where they part."""
    if whole.startswith(beginning):
        return whole[len(beginning) :]
    at = agree(whole, beginning)
    start = max(0, at - 20)
    raise DataError(
        "the chat template rewrites what it rendered before, so the prompt is not the beginning of the whole "
        f"conversation. At character {at}: the prompt has {beginning[start : at + 40]!r}, "
        f"the conversation has {whole[start : at + 40]!r}. {_way_out(beginning)}"
    )


def _way_out(prompt: str) -> str:
    if "think>" in prompt[-20:]:
        return (
            "The prompt opens a block of thinking that the answer does not go on with: give the answers their thinking, or "
            "switch it off by a variable of the template (often `template: {enable_thinking: false}`)."
        )
    return "Use another chat template."


def agree(one: str, other: str) -> int:
    """How many first characters two texts share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def texts_of(message: Message) -> list[str]:
    """Every text of a message that a template may write: content, reasoning, tool calls' names and arguments."""
    keys = cast(Mapping[str, Any], message)
    found = [keys[key] for key in ("content", "reasoning_content", "name", "tool_call_id") if keys.get(key)]
    for call in cast(list[dict[str, Any]], keys.get("tool_calls") or []):
        inner = call.get("function", call)
        arguments = inner.get("arguments")
        found += [
            inner.get("name"),
            arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False),
        ]
    return [text for text in found if isinstance(text, str)]


def check_kept(said: Conversation, turns: int, prompt: str) -> None:
    """Raise DataError where the template left the system prompt, a tool, or the tools' last answers out."""
    if _has_system(said) and not _holds(prompt, said.messages[0]["content"]):
        raise DataError("the chat template leaves the system prompt out, or rewrites it: the model would never see it")
    for tool in said.tools:
        name = tool.get("function", tool).get("name")
        if isinstance(name, str) and name not in prompt:
            raise DataError(
                f"the chat template leaves the tool {name!r} out: the model would never see it. "
                "Choose a base model whose template knows tools, or describe them in the system prompt."
            )
    for message in reversed(said.messages[:turns]):
        if message["role"] == "assistant":
            break
        if cast(str, message["role"]) == "tool" and not _holds(prompt, message["content"]):
            raise DataError(
                f"the chat template leaves what a tool said out ({message['content'][:60]!r}): the model would never see it. "
                "Choose a base model whose template has a tool role, or put it into a user's message."
            )


def check_answer_kept(message: Message, answer: str) -> None:
    """Raise DataError where the template left an answer's words or its tool calls out."""
    keys = cast(Mapping[str, Any], message)
    content = keys.get("content")
    if isinstance(content, str) and not _holds(answer, content.split("</think>")[-1]):
        raise DataError(
            f"the chat template leaves an answer's words out, or rewrites them: {content[:60]!r} became {answer[:60]!r}"
        )
    for call in cast(list[dict[str, Any]], keys.get("tool_calls") or []):
        name = call.get("function", call).get("name")
        if isinstance(name, str) and name not in answer:
            raise DataError(
                f"the chat template leaves the call of the tool {name!r} out: the model would never learn it. "
                "Choose a base model whose template knows tool calls, or write the call as the answer's text."
            )


def _holds(text: str, content: Any) -> bool:
    """Whether a text holds a content, as it is or as JSON writes it."""
    if not isinstance(content, str):
        return True
    content = content.strip()
    return content in text or json.dumps(content, ensure_ascii=False)[1:-1] in text
