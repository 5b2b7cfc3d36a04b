"""Request bodies are read strictly, and each refusal names the field and what is allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.core.refusal import Refusal
from burnish.serve.schema import parse_chat_request

USER = {"role": "user", "content": "Hi"}
GOOD: dict[str, Any] = {"model": "base", "messages": [USER]}


def refused(**changes: Any) -> dict[str, Any]:
    body = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    with pytest.raises(Refusal) as caught:
        parse_chat_request(json.dumps(body).encode())
    assert caught.value.status == 400
    return caught.value.body["error"]


def test_what_clients_send_by_habit_is_accepted() -> None:
    body = {
        **GOOD, "n": 1, "user": "me", "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [],
        "logprobs": False, "response_format": {"type": "text"}, "stop": None, "stream": None, "seed": None,
        "temperature": 1, "top_p": 1, "max_tokens": 5, "metadata": {}, "store": False,
    }  # fmt: skip
    request = parse_chat_request(json.dumps(body).encode())
    assert (request.temperature, request.limit, request.stop, request.conversation) == (1.0, 5, None, [USER])


def test_what_clients_of_vllm_send_by_habit_is_accepted_and_what_would_change_the_answer_is_not() -> None:
    habits = {
        "ignore_eos": False, "skip_special_tokens": True, "min_tokens": 0, "use_beam_search": False, "length_penalty": 1.0,
        "add_generation_prompt": True, "continue_final_message": False, "chat_template_kwargs": {}, "priority": 0,
        "include_stop_str_in_output": False, "spaces_between_special_tokens": True, "documents": [],
        "prompt_cache_retention": "24h",
    }  # fmt: skip
    assert parse_chat_request(json.dumps({**GOOD, **habits}).encode()).conversation == [USER]
    assert refused(ignore_eos=True)["message"] == "ignore_eos is not supported here; leave it out or send false"
    assert refused(chat_template_kwargs={"enable_thinking": False})["param"] == "chat_template_kwargs"


def test_content_in_parts_is_joined_and_a_developer_is_a_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": parts}, USER, {"role": "assistant", "content": None}]
    request = parse_chat_request(
        json.dumps({**GOOD, "messages": messages, "stop": "x", "max_completion_tokens": 3, "max_tokens": 9}).encode()
    )
    assert request.conversation == [{"role": "system", "content": "ab"}, USER, {"role": "assistant", "content": ""}]
    assert (request.stop, request.limit) == (["x"], 3)


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"model": ...}, "model", "Missing required parameter: 'model'"),
        ({"messages": ...}, "messages", "Missing required parameter: 'messages'"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "Hi"}, "messages", "valid list"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages", "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "only parts of type text"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"functions": [{"name": "x"}]}, "functions", "functions is not supported here; leave it out or send []"),
        ({"tools": [{}]}, "tools", "tools.0.type"),
        ({"tool_choice": "required"}, None, "only allowed when tools are given"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_object"),
        ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": True}, "max_tokens", "valid integer"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "up to 4 strings"),
        ({"stop": ""}, "stop", "none of them empty"),
        ({"stream_options": {"include_usage": True}}, None, "only allowed when stream is true"),
        ({"temperatur": 1}, "temperatur", "Unrecognized request argument supplied: temperatur"),
        ({"seed": 2**63}, "seed", "less than"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(changes: dict[str, Any], param: str | None, words: str) -> None:
    error = refused(**changes)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"\xff",
        b"[" * 200_000,
        b'{"model": "\\ud800"}',
        b'{"temperature": NaN, "model": "base"}',
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse_chat_request(body)
    assert caught.value.status == 400


def test_a_refusal_does_not_repeat_what_the_person_wrote() -> None:
    secret = "my secret plan"
    assert (
        secret
        not in refused(messages=[{"role": "user", "content": [{"type": "text", "text": 1, "x": secret}]}])["message"]
    )
    assert secret not in refused(temperature=secret)["message"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["model", "messages", "stop", "n", "temperature", "stream", "stream_options", "tools", "zz"]),
        json_values,
    )
)
def test_any_json_is_accepted_or_refused_as_an_api_error(body: dict[str, Any]) -> None:
    try:
        parse_chat_request(json.dumps(body).encode())
    except Refusal as error:
        refusal = error
    else:
        return
    assert refusal.status == 400
    json.dumps(refusal.body, ensure_ascii=False).encode()
