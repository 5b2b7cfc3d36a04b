"""Chat templates: Jinja2 as Hugging Face writes it, in a sandbox, with the functions that transformers offers.

Source of the dialect: https://huggingface.co/docs/transformers/chat_templating_writing
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from burnish.core.errors import BaseModelError, DataError
from burnish.text.messages import Message

_REFUSALS = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
# A template can fail in any of these ways on a conversation it was not written for.


class ChatTemplate:
    """A compiled chat template: conversation in, text out."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        variables: Mapping[str, Any] | None = None,
        tool_source: str | None = None,
    ) -> None:
        """Compile `source`. `special_tokens` (bos_token, eos_token, ...) are variables that the template may use.

        `variables` are more of them, by which some templates let themselves be steered (enable_thinking).
        `tool_source` is the template for conversations with tools, where the base model has one of its own.
        Raises BaseModelError when the source is not a template.
        """
        self.source = source
        self.tool_source = tool_source
        self.uses_clock = any("strftime_now" in text for text in (source, tool_source or ""))
        self._variables = {**(variables or {}), **special_tokens}
        try:
            self.names = _names(source) | _names(tool_source or "")
            self._compiled = _environment().from_string(source)
            self._with_tools = self._compiled if tool_source is None else _environment().from_string(tool_source)
        except jinja2.TemplateError as error:
            raise BaseModelError(f"the base model's chat template is not valid Jinja: {error}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] = (),
        day: datetime.date | None = None,
    ) -> str:
        """Return the text of a conversation. `day` is what the template's own clock shows; default: today.

        `tools` are OpenAI's tool schemas. The arguments of tool calls may be JSON as text, as OpenAI has them; the template
        gets them as an object, as transformers and vLLM hand them over.
        Raises DataError when the template refuses the conversation, or arguments are not a JSON object.
        """
        variables: dict[str, Any] = {
            **self._variables,
            "messages": [_opened(message) for message in messages],
            "tools": [dict(tool) for tool in tools] or None,
            "documents": None,
            "add_generation_prompt": generation_prompt,
            "strftime_now": _moment(day).strftime,
        }
        try:
            return (self._with_tools if tools else self._compiled).render(variables)
        except _REFUSALS as error:
            roles = ", ".join(message["role"] for message in messages) or "no message"
            raise DataError(f"the chat template refuses a conversation of roles {roles}: {error}") from error


def _names(source: str) -> frozenset[str]:
    """Return the variables that a template looks up, without functions of the environment."""
    environment = _environment()
    functions = cast(dict[str, Any], environment.globals)  # pyright: ignore[reportUnknownMemberType]
    return frozenset(find_undeclared_variables(environment.parse(source)) - functions.keys())


def _opened(message: Message) -> dict[str, Any]:
    """The message as templates expect it: no empty list of tool calls, and their arguments as objects."""
    opened = cast(dict[str, Any], dict(message))
    if "tool_calls" in opened:
        calls = cast(list[dict[str, Any]], opened.pop("tool_calls") or [])
        if calls:  # templates ask whether the key is there
            opened["tool_calls"] = [_opened_call(call) for call in calls]
    return opened


def _opened_call(call: dict[str, Any]) -> dict[str, Any]:
    inner: dict[str, Any] = call.get("function", call)
    arguments = inner.get("arguments")
    if not isinstance(arguments, str):
        return call
    name = inner.get("name")
    try:
        value = json.loads(arguments)
    except ValueError as error:
        raise DataError(
            f"the arguments of the tool call {name!r} are not JSON ({error}): {arguments[:80]!r}. They must be an object"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"the arguments of the tool call {name!r} must be a JSON object, found {arguments[:80]!r}")
    opened: dict[str, Any] = {**inner, "arguments": value}
    return {**call, "function": opened} if "function" in call else opened


def _moment(day: datetime.date | None) -> datetime.datetime:
    return datetime.datetime.now() if day is None else datetime.datetime.combine(day, datetime.time())


class _GenerationTag(Extension):
    """Renders what is inside `{% generation %}` ... `{% endgeneration %}`; burnish finds answers by itself."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which looks at every attribute at length; those of a loop are asked for most, and are known."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if type(obj) is LoopContext:
            return not attr.startswith("_")
        return super().is_safe_attribute(obj, attr, value)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    environment.filters["tojson"] = _tojson  # pyright: ignore[reportUnknownMemberType]
    environment.globals["raise_exception"] = _raise_exception  # pyright: ignore[reportUnknownMemberType]
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which would put \u003c into prompts.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
