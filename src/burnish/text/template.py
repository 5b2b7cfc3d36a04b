"""Chat templates: Jinja2 as Hugging Face writes it, in a sandbox, with the functions that transformers offers.

Source of the dialect: https://huggingface.co/docs/transformers/chat_templating_writing
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from burnish.core.errors import BaseModelError, DataError
from burnish.text.messages import Message

_REFUSALS = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
# A template can fail in any of these ways on a conversation it was not written for.


class ChatTemplate:
    """A compiled chat template: conversation in, text out."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile `source`. `special_tokens` (bos_token, eos_token, ...) are variables that the template may use.

        Raises BaseModelError when the source is not a template.
        """
        self.source = source
        self.uses_clock = "strftime_now" in source
        self._special_tokens = dict(special_tokens)
        try:
            self._compiled = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise BaseModelError(f"the base model's chat template is not valid Jinja: {error}") from error

    def render(self, messages: Sequence[Message], *, generation_prompt: bool, day: datetime.date | None = None) -> str:
        """Return the text of a conversation. `day` is what the template's own clock shows; default: today.

        Raises DataError when the template refuses the conversation.
        """
        variables: dict[str, Any] = {
            **self._special_tokens,
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": generation_prompt,
            "strftime_now": _moment(day).strftime,
        }
        try:
            return self._compiled.render(variables)
        except _REFUSALS as error:
            roles = ", ".join(message["role"] for message in messages) or "no message"
            raise DataError(f"the chat template refuses a conversation of roles {roles}: {error}") from error


def _moment(day: datetime.date | None) -> datetime.datetime:
    return datetime.datetime.now() if day is None else datetime.datetime.combine(day, datetime.time())


class _GenerationTag(Extension):
    """Renders what is inside `{% generation %}` ... `{% endgeneration %}`; burnish finds answers by itself."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
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
