"""The whole surface that OpenAI's clients use, over a real local server, with OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pydantic
import pytest
import torch
from test_api import DAY, Running
from transformers import AutoModelForCausalLM

from burnish.model.load import load_base
from burnish.serve.answer import ServedModel
from burnish.serve.api import Service
from burnish.serve.engine import Engine
from burnish.text.messages import Message
from burnish.text.render import render_prompt
from burnish.text.tokenizer import Tokenizer

USER: Any = {"role": "user", "content": "Find me flights"}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"days": {"enum": [1, 2, 3]}, "city": {"enum": ["Ulm", "Bonn"]}},
            "required": ["days", "city"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture(scope="module")
def running(varied_base: Path, adapter_folders: dict[str, Path], tokenizer: Tokenizer) -> Iterator[Running]:
    engine = Engine(load_base(varied_base), adapters=adapter_folders, rows=8)
    models = {"tuned": ServedModel("a", None, created_s=12), "base": ServedModel(None, None)}
    running = Running(Service(engine, tokenizer, models, today=lambda: DAY))
    yield running
    running.close()


@pytest.fixture
def client(running: Running) -> openai.OpenAI:
    return running.client


def test_n_answers_of_one_prompt_are_told_apart_by_index_and_seed(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tuned", "messages": [USER], "n": 3, "max_tokens": 9, "temperature": 1.0, "seed": 5}
    answer = client.chat.completions.create(**asked)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 27
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
        last = chunk
    assert streamed == texts
    assert last.usage == answer.usage
    single = client.chat.completions.create(**{**asked, "n": 1})
    assert single.choices[0].message.content == texts[0]


def test_log_probabilities_are_those_of_the_model(
    client: openai.OpenAI, varied_base: Path, tokenizer: Tokenizer
) -> None:
    answer = client.chat.completions.create(
        model="base", messages=[USER], max_tokens=6, logprobs=True, top_logprobs=3, temperature=0
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content or []
    assert len(content) == 6
    prompt = render_prompt(tokenizer, [Message(role="user", content="Find me flights")])
    model = AutoModelForCausalLM.from_pretrained(varied_base)
    ids = list(prompt)
    for told in content:
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), dim=-1)
        best = torch.topk(logprobs, 3)
        assert [each.logprob for each in told.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert told.logprob == pytest.approx(best.values[0].item(), abs=1e-3)
        assert bytes(told.bytes or []) == tokenizer.token_bytes(int(best.indices[0]))
        ids.append(int(best.indices[0]))


def test_streamed_log_probabilities_are_the_same_and_complete(client: openai.OpenAI) -> None:
    asked: Any = {"model": "base", "messages": [USER], "max_tokens": 8, "logprobs": True, "top_logprobs": 1}
    whole = client.chat.completions.create(**asked).choices[0].logprobs
    streamed: list[Any] = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        if chunk.choices and chunk.choices[0].logprobs is not None:
            streamed += chunk.choices[0].logprobs.content or []
    assert whole is not None
    assert [each.token for each in streamed] == [each.token for each in whole.content or []]


class Flight(pydantic.BaseModel):
    cabin: bool
    adults: int = pydantic.Field(ge=1, le=9)


def test_a_strict_schema_is_kept_and_parsed_by_the_client(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="base", messages=[USER], response_format=Flight, max_tokens=100)
    flight = answer.choices[0].message.parsed
    assert isinstance(flight, Flight)
    assert answer.choices[0].finish_reason == "stop"


def test_json_mode_and_vllms_forms(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tuned", messages=[USER], response_format={"type": "json_object"}, max_tokens=4
    )
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")
    for form, allowed in (({"regex": "(yes|no)!"}, {"yes!", "no!"}), ({"choice": ["up", "down"]}, {"up", "down"})):
        answer = client.chat.completions.create(
            model="tuned", messages=[USER], extra_body={"structured_outputs": form}, max_tokens=20
        )
        assert answer.choices[0].message.content in allowed


@pytest.mark.parametrize("stream", [False, True])
def test_a_form_that_allows_nothing_is_the_requests_own_fault(client: openai.OpenAI, stream: bool) -> None:
    """It is found out at the first token, when a stream has sent nothing yet."""
    endless: Any = {"type": "json_schema", "json_schema": {"name": "endless", "schema": {"$ref": "#"}}}
    with pytest.raises(openai.BadRequestError, match="cannot keep to the form") as refused:
        client.chat.completions.create(model="base", messages=[USER], response_format=endless, stream=stream)
    assert refused.value.code == "form_not_kept"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_demanded_call_has_the_functions_arguments(client: openai.OpenAI, choice: Any) -> None:
    tools = [WEATHER] if choice == "required" else [CLOCK, WEATHER]
    asked: Any = {"model": "base", "messages": [USER], "tools": tools, "tool_choice": choice, "max_tokens": 100}
    answer = client.chat.completions.create(**asked).choices[0]
    (call,) = answer.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Ulm", "Bonn")
    assert answer.message.content is None
    assert answer.finish_reason == ("tool_calls" if choice == "required" else "stop")
    deltas = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    streamed = [piece for delta in deltas for piece in delta.delta.tool_calls or []]
    assert [piece.index for piece in streamed] == [0]
    assert streamed[0].function is not None
    assert json.loads(streamed[0].function.arguments or "") == arguments
    assert deltas[-1].finish_reason == answer.finish_reason


def test_calls_and_their_results_go_back_into_the_conversation(client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    conversation: Any = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    with_result = client.chat.completions.create(model="base", messages=conversation, tools=[WEATHER], max_tokens=5)
    without = client.chat.completions.create(model="base", messages=[USER], tools=[WEATHER], max_tokens=5)
    assert with_result.usage is not None
    assert without.usage is not None
    assert with_result.usage.prompt_tokens > without.usage.prompt_tokens


def test_a_text_completion_continues_text_and_token_ids(
    running: Running, client: openai.OpenAI, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode("Find me")
    both = client.completions.create(model="base", prompt=["Find me", "Find me flights"], max_tokens=7)
    one = client.completions.create(model="base", prompt=ids, max_tokens=7)
    assert both.choices[0].text == one.choices[0].text
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.usage is not None
    assert both.usage.prompt_tokens == len(ids) + len(tokenizer.encode("Find me flights"))
    assert both.choices[0].finish_reason == "length"
    echoed = client.completions.create(model="base", prompt="Find me", max_tokens=7, echo=True)
    assert echoed.choices[0].text == "Find me" + one.choices[0].text
    told = client.completions.create(model="base", prompt="Find me", max_tokens=3, logprobs=2)
    assert told.choices[0].logprobs is not None
    assert len(told.choices[0].logprobs.tokens or []) == 3
    assert len((told.choices[0].logprobs.top_logprobs or [{}])[0]) == 2
    pieces = [
        chunk.choices[0].text if chunk.choices else ""
        for chunk in client.completions.create(
            model="base", prompt="Find me", max_tokens=7, stream=True, stream_options={"include_usage": True}
        )
    ]
    assert "".join(pieces) == one.choices[0].text


def test_embeddings_are_unit_vectors_of_the_models_own_states(
    client: openai.OpenAI, varied_base: Path, tokenizer: Tokenizer
) -> None:
    texts = ["Find me flights", "x", "Find me flights to Ulm tomorrow morning"]
    answer = client.embeddings.create(model="base", input=texts)
    vectors = np.array([each.embedding for each in answer.data])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    model = AutoModelForCausalLM.from_pretrained(varied_base)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            states = model.model(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0].mean(dim=0)
        assert vector == pytest.approx(torch.nn.functional.normalize(states, dim=0).numpy(), abs=1e-4)
    tuned = client.embeddings.create(model="tuned", input="x").data[0].embedding
    assert not np.allclose(tuned, vectors[1], atol=1e-3)
    assert answer.usage.prompt_tokens == sum(len(tokenizer.encode(text)) for text in texts)
    raw = client.embeddings.with_raw_response.create(model="base", input="x", encoding_format="base64")
    packed = json.loads(raw.content)["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4") == pytest.approx(vectors[1], abs=1e-6)


def test_penalties_and_biases_reach_the_model(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    (token,) = tokenizer.encode("x")[:1]
    answer = client.chat.completions.create(
        model="base", messages=[USER], max_tokens=5, logit_bias={str(token): 100}, extra_body={"min_p": 0.1}
    )
    assert answer.choices[0].message.content == "xxxxx"
    free = client.chat.completions.create(model="base", messages=[USER], max_tokens=60)
    answer = client.chat.completions.create(
        model="base", messages=[USER], max_tokens=60, frequency_penalty=2.0, presence_penalty=2.0,
        extra_body={"repetition_penalty": 2.0},
    )  # fmt: skip
    texts = [each.choices[0].message.content or "" for each in (free, answer)]
    assert len(set(texts[0])) < len(set(texts[1])), "a penalised answer repeats itself less"


@pytest.mark.parametrize(
    ("route", "body", "status", "param", "code"),
    [
        ("chat/completions", {"logit_bias": {"400": 1}}, 400, "logit_bias", "invalid_value"),
        ("chat/completions", {"logit_bias": {"-1": 1}}, 400, "logit_bias", "invalid_value"),
        ("chat/completions", {"n": 17}, 400, "n", "invalid_value"),
        ("chat/completions", {"n": 0}, 400, "n", "invalid_value"),
        ("chat/completions", {"top_logprobs": 3}, 400, None, "invalid_value"),
        ("chat/completions", {"tool_choice": "required"}, 400, None, "invalid_value"),
        ("chat/completions", {"tools": [CLOCK, CLOCK]}, 400, None, "invalid_value"),
        ("chat/completions", {"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "tools", "invalid_value"),
        ("chat/completions", {"response_format": {"type": "json_schema"}}, 400, "response_format", "invalid_value"),
        (
            "chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}},
            400, "response_format", "invalid_value",
        ),
        ("chat/completions", {"structured_outputs": {"regex": "(a"}}, 400, "structured_outputs", "invalid_value"),
        ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages", "invalid_value"),
        ("chat/completions", {"model": "nobody"}, 404, "model", "model_not_found"),
        ("completions", {"prompt": []}, 400, None, "invalid_value"),
        ("completions", {"prompt": ["x"] * 40, "n": 2}, 400, "prompt", "invalid_value"),
        ("completions", {"prompt": [[1, 400]]}, 400, "prompt", "invalid_value"),
        ("completions", {"prompt": "x" * 600}, 400, "prompt", "context_length_exceeded"),
        ("completions", {"prompt": "x", "best_of": 3}, 400, None, "invalid_value"),
        ("completions", {"prompt": "x", "suffix": "y"}, 400, "suffix", "unsupported_parameter"),
        ("embeddings", {"input": []}, 400, None, "invalid_value"),
        ("embeddings", {"input": "x", "dimensions": 3}, 400, "dimensions", "invalid_value"),
        ("embeddings", {"input": "x" * 600}, 400, "input", "context_length_exceeded"),
        ("embeddings", {"input": [[-1]]}, 400, "input", "invalid_value"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_the_field_and_a_code(
    running: Running, route: str, body: dict[str, Any], status: int, param: str | None, code: str
) -> None:
    whole = {"model": "base", **({"messages": [USER]} if route.startswith("chat") else {}), **body}
    answer = httpx.post(f"{running.url}/{route}", json=whole)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")


def test_a_text_that_is_too_long_to_read_is_told_with_its_own_length(
    client: openai.OpenAI, tokenizer: Tokenizer
) -> None:
    text = "x" * 600
    with pytest.raises(
        openai.BadRequestError, match=f"a text has {len(tokenizer.encode(text))} tokens.*context holds 512"
    ):
        client.embeddings.create(model="base", input=text)


def test_deep_json_is_refused(running: Running) -> None:
    for deep in ("[" * 100 + "]" * 100, "[" * 100_000):
        answer = httpx.post(f"{running.url}/chat/completions", content=f'{{"model": "base", "messages": {deep}}}')
        assert answer.status_code == 400


def test_sixteen_adapters_by_their_own_names_answer_one_burst(
    varied_base: Path, adapter_folders: dict[str, Path], tokenizer: Tokenizer
) -> None:
    """More names than slots and rows, all asked at once; each answers as it does alone."""
    engine = Engine(load_base(varied_base), rows=6, slots=4, queue=64)
    for number in range(16):
        engine.add_adapter(f"n{number}", adapter_folders["a" if number % 2 else "b"], lazy=True)
    models = {f"n{number}": ServedModel(f"n{number}", None) for number in range(16)}
    running = Running(Service(engine, tokenizer, models, today=lambda: DAY))
    try:
        alone = [
            running.client.chat.completions.create(model=f"n{i}", messages=[USER], max_tokens=12).choices[0].message
            for i in range(2)
        ]
        assert alone[0].content != alone[1].content

        async def burst() -> list[str | None]:
            async with openai.AsyncOpenAI(base_url=running.url, api_key="unused", max_retries=0) as client:
                answers = await asyncio.gather(
                    *(client.chat.completions.create(model=f"n{i}", messages=[USER], max_tokens=12) for i in range(16))
                )
                return [answer.choices[0].message.content for answer in answers]

        assert asyncio.run(burst()) == [alone[i % 2].content for i in range(16)]
    finally:
        running.close()


def test_log_probabilities_are_finite_numbers_even_under_a_constraint(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="base", messages=[USER], response_format={"type": "json_object"}, max_tokens=4, logprobs=True
    )
    assert answer.choices[0].logprobs is not None
    assert all(math.isfinite(each.logprob) for each in answer.choices[0].logprobs.content or [])
