"""Chat templates render as transformers renders them, inside a sandbox."""

from __future__ import annotations

import datetime

import pytest

from burnish.core.errors import BaseModelError, DataError
from burnish.text.messages import Message
from burnish.text.template import ChatTemplate

USER = Message(role="user", content="hi")


def render(source: str, day: datetime.date | None = None) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render([USER], generation_prompt=True, day=day)


def test_special_tokens_and_the_generation_prompt_are_variables() -> None:
    assert render("{{ bos_token }}{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}") == "<s>hi>"


def test_tojson_does_not_escape_html() -> None:
    assert render("{{ {'b': '<é>', 'a': 1} | tojson(sort_keys=true) }}") == '{"a": 1, "b": "<é>"}'


def test_loops_can_be_left_early() -> None:
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"


def test_the_clock_of_the_template_shows_the_day_that_is_asked_for() -> None:
    assert render("{{ strftime_now('%d %b %Y') }}", datetime.date(2025, 7, 8)) == "08 Jul 2025"


def test_the_clock_of_the_template_shows_today_otherwise() -> None:
    before = datetime.date.today()
    shown = datetime.date.fromisoformat(render("{{ strftime_now('%Y-%m-%d') }}"))
    assert before <= shown <= datetime.date.today()


def test_an_exception_that_the_template_raises_names_its_words_and_the_roles() -> None:
    with pytest.raises(DataError, match="roles user: System role not supported"):
        render("{{ raise_exception('System role not supported') }}")


@pytest.mark.parametrize(
    "source", ["{{ messages[5].content }}", "{{ 1 / 0 }}", "{{ messages + 1 }}", "{{ nothing.at.all }}"]
)
def test_a_template_that_fails_on_a_conversation_is_an_error_about_the_data(source: str) -> None:
    with pytest.raises(DataError, match="the chat template refuses"):
        render(source)


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__ }}"]
)
def test_a_template_cannot_reach_out_of_its_sandbox(source: str) -> None:
    with pytest.raises(DataError, match="refuses"):
        render(source + "{{ raise_exception('got through') if false }}" + source)


def test_source_that_is_no_template_is_an_error_about_the_base() -> None:
    with pytest.raises(BaseModelError, match="not valid Jinja"):
        ChatTemplate("{% for %}", {})


def test_the_messages_of_the_caller_are_never_changed() -> None:
    messages = [Message(role="user", content="hi")]
    with pytest.raises(DataError, match="refuses"):
        ChatTemplate("{{ messages[0].update({'content': 'no'}) }}", {}).render(messages, generation_prompt=False)
    assert messages == [USER]
