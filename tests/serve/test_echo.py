"""A text completion that gives its prompt back, with OpenAI's own client and behind a gateway."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from peft import PeftModel
from test_api import DAY, Running
from tokenizers import processors
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))

import gateway_running

from burnish.gateway.asks import MESSAGE_TOKENS
from burnish.gateway.settings import Price, Settings
from burnish.model.load import load_base
from burnish.model.sampling import Likelihood, Sampling
from burnish.serve.answer import ServedModel
from burnish.serve.api import Service, create_app
from burnish.serve.bodies import Told, text_logprobs
from burnish.serve.echo import echo_of
from burnish.serve.engine import Engine
from burnish.text.tokenizer import Tokenizer, load_tokenizer

TEXT = "<|im_start|>user\nWo ist Köln? 🛫<|im_end|>\n"
LONG = "Find me flights to Köln on Tuesday. " * 20


@pytest.fixture(scope="module")
def running(varied_base: Path, adapter_folders: dict[str, Path], tokenizer: Tokenizer) -> Iterator[Running]:
    engine = Engine(load_base(varied_base), adapters=adapter_folders, rows=4, queue=8)
    models = {"tuned": ServedModel("a", None), "base": ServedModel(None, None)}
    running = Running(Service(engine, tokenizer, models, today=lambda: DAY))
    yield running
    running.close()


@pytest.fixture
def client(running: Running) -> openai.OpenAI:
    return running.client


@pytest.fixture(scope="module")
def oracles(varied_base: Path, adapter_folders: dict[str, Path]) -> dict[str, Any]:
    base = AutoModelForCausalLM.from_pretrained(varied_base)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(varied_base), adapter_folders["a"])
    return {"base": base, "tuned": tuned.eval()}


def logprobs_of(model: Any, ids: Sequence[int]) -> list[float]:
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=torch.tensor([list(ids)])).logits[0].float(), dim=-1)
    return [float(row[token]) for row, token in zip(logprobs, ids[1:], strict=False)]


@pytest.mark.parametrize("model", ["base", "tuned"])
@pytest.mark.parametrize("new_tokens", [0, 1, 5])
def test_a_prompt_is_told_before_its_answer(
    client: openai.OpenAI, tokenizer: Tokenizer, oracles: dict[str, Any], model: str, new_tokens: int
) -> None:
    prompt = LONG + TEXT
    ids = tokenizer.encode(prompt)
    assert len(ids) > 256, "more than one piece"
    answer = client.completions.create(model=model, prompt=prompt, max_tokens=new_tokens, echo=True, logprobs=2)
    (choice,) = answer.choices
    told = choice.logprobs
    assert told is not None
    assert told.tokens
    assert told.token_logprobs
    assert told.top_logprobs
    assert told.text_offset
    assert choice.text.startswith(prompt)
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), new_tokens)
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset)
    assert len(told.tokens) == len(ids) + new_tokens
    assert told.token_logprobs[0] is told.top_logprobs[0] is None
    assert told.token_logprobs[1 : len(ids)] == pytest.approx(logprobs_of(oracles[model], ids), abs=1e-4)
    for token, value, top in list(zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True))[1:]:
        assert 1 <= len(top) <= 3
        assert max(top.values()) >= value
        assert top[token] >= value
    assert any(len(top) == 3 for top in told.top_logprobs[1:]), "the token itself beside the two most likely ones"
    for place, (token, offset) in enumerate(zip(told.tokens, told.text_offset, strict=True)):
        if "\ufffd" not in token:
            assert choice.text[offset:].startswith(token), place
        elif place >= len(ids):
            break  # a random model may leave a character broken


@pytest.mark.parametrize("new_tokens", [0, 4])
def test_a_stream_tells_the_same_in_pieces(client: openai.OpenAI, tokenizer: Tokenizer, new_tokens: int) -> None:
    asked: Any = {"model": "tuned", "prompt": LONG, "max_tokens": new_tokens, "echo": True, "logprobs": 1}
    whole = client.completions.create(**asked)
    text, told, events = "", {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}, 0
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            events += 1
            text += choice.text
            if choice.logprobs is not None:
                for name, values in told.items():
                    values += getattr(choice.logprobs, name)
        last = chunk
    want = whole.choices[0]
    assert text == want.text
    assert want.logprobs is not None
    assert told == {name: getattr(want.logprobs, name) for name in told}
    assert last.usage == whole.usage
    assert events == -(-len(tokenizer.encode(LONG)) // 128) + new_tokens + 1


def test_an_echo_without_log_probabilities(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    for prompt in (TEXT, tokenizer.encode(TEXT)):
        answer = client.completions.create(model="base", prompt=prompt, max_tokens=0, echo=True)
        assert answer.choices[0].text == TEXT
        assert answer.choices[0].logprobs is None
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(tokenizer.encode(TEXT)), 0)
    stream = client.completions.create(model="base", prompt=TEXT, max_tokens=3, echo=True, stream=True)
    plain = client.completions.create(model="base", prompt=TEXT, max_tokens=3)
    assert "".join(chunk.choices[0].text for chunk in stream) == TEXT + plain.choices[0].text


def test_many_prompts_and_choices_are_told_in_order(
    client: openai.OpenAI, tokenizer: Tokenizer, oracles: dict[str, Any]
) -> None:
    prompts = [tokenizer.encode(text) for text in (LONG, "Find", TEXT)]
    answer = client.completions.create(model="base", prompt=prompts, max_tokens=0, echo=True, logprobs=0, n=2)
    assert [choice.index for choice in answer.choices] == list(range(6))
    for choice in answer.choices:
        ids = prompts[choice.index // 2]
        told = choice.logprobs
        assert told is not None
        assert told.token_logprobs is not None
        assert told.token_logprobs[1:] == pytest.approx(logprobs_of(oracles["base"], ids), abs=1e-4)
        assert all(len(top) == 1 for top in (told.top_logprobs or [])[1:]), "the token itself is always told"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, prompts))


def test_the_stop_token_is_the_last_that_is_told(running: Running, client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    """lm-eval sends max_tokens 1 and leaves the last entry out: without this one it would leave out a token of the prompt."""
    ids = tokenizer.encode("Find me")
    stream = running.service.engine.submit(ids, None, Sampling(max_new_tokens=1, logprobs=0))
    (best,) = stream
    stopped = client.completions.create(
        model="base", prompt=ids, max_tokens=1, echo=True, logprobs=1, extra_body={"stop_token_ids": [best]}
    )
    (choice,) = stopped.choices
    assert (choice.finish_reason, choice.text) == ("stop", "Find me")
    assert choice.logprobs is not None
    assert len(choice.logprobs.token_logprobs or []) == len(ids) + 1
    assert (choice.logprobs.text_offset or [])[-1] == len("Find me")
    assert (choice.logprobs.token_logprobs or [])[-1] == pytest.approx(stream.likelihoods[0].logprob, abs=1e-4)
    assert stopped.usage is not None
    assert stopped.usage.completion_tokens == 0


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"max_tokens": 0}, None, "only allowed when echo is true"),
        ({"max_tokens": -1, "echo": True}, "max_tokens", ""),
        ({"max_tokens": 0, "echo": True, "logprobs": 21}, "logprobs", ""),
        ({"prompt": "x" * 600, "max_tokens": 0, "echo": True}, "prompt", "context holds 512"),
    ],
)
def test_what_cannot_be_told_is_refused(
    running: Running, body: dict[str, Any], param: str | None, message: str
) -> None:
    answer = httpx.post(f"{running.url}/completions", json={"model": "base", "prompt": "x", **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert message in answer.json()["error"]["message"]
    chat = httpx.post(
        f"{running.url}/chat/completions",
        json={"model": "base", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0},
    )
    assert chat.status_code == 400


def test_what_is_told_at_once_is_bounded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 of each token of 64 long prompts would be gigabytes in the engine's process."""
    monkeypatch.setattr("burnish.serve.api.MOST_TOLD", 20)

    def ask(**more: Any) -> httpx.Response:
        body = {"model": "base", "prompt": [[5] * 6, [6] * 5], "max_tokens": 1, **more}
        return httpx.post(f"{running.url}/completions", json=body)

    for more in ({"logprobs": 1}, {"logprobs": 0, "n": 2}):
        refused = ask(echo=True, **more)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logprobs")
        assert "22 log-probabilities" in refused.json()["error"]["message"]
        assert ask(**more).status_code == 200, "those of the answer are bounded by its length"
    assert ask(echo=True, logprobs=0).status_code == 200


def test_a_prompt_that_fills_the_context_is_told(client: openai.OpenAI, oracles: dict[str, Any]) -> None:
    ids = [3 + place % 390 for place in range(512)]
    answer = client.completions.create(model="base", prompt=ids, max_tokens=0, echo=True, logprobs=1)
    assert answer.choices[0].logprobs is not None
    found = (answer.choices[0].logprobs.token_logprobs or [])[1:]
    assert found == pytest.approx(logprobs_of(oracles["base"], ids), abs=1e-4)
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model="base", prompt=ids, max_tokens=1, echo=True)


def test_what_the_tokenizer_puts_before_a_text_takes_no_place(varied_base: Path) -> None:
    tokenizer = load_tokenizer(varied_base)
    start = "<|endoftext|>"
    tokenizer.backend.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, 0)])
    ids = tokenizer.encode_start("Köln")
    assert ids[0] == 0
    sent = echo_of(tokenizer, "Köln", ids, told=True)
    assert (sent.text, list(sent.offsets[:3])) == ("Köln", [0, 0, 1])
    given = echo_of(tokenizer, ids, ids, told=True)
    assert given.text == f"{start}Köln"
    assert list(given.offsets[:3]) == [0, len(start), len(start) + 1]
    assert echo_of(tokenizer, ids, ids, told=False).text == given.text


def test_tokens_of_one_text_and_probabilities_of_zero(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode("ö")
    likelihood = Likelihood(-5.0, ((first, -0.5), (7, float("-inf"))))
    told = text_logprobs([Told(second, likelihood), Told(7, Likelihood(float("-inf"), ()))], tokenizer)
    assert told is not None
    assert told["token_logprobs"] == [-5.0, -9999.0]
    assert told["top_logprobs"][0]["\ufffd"] == -0.5, "both are half a character; the likelier is told"
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("counts", [True, False])
def test_a_gateway_reserves_and_counts_the_prompt_alone(
    varied_base: Path, tokenizer: Tokenizer, tmp_path: Path, counts: bool
) -> None:
    settings = Settings(prices={"default": Price(prompt_usd=2.0, answer_usd=1000.0)})
    ids = tokenizer.encode(LONG)
    bound = len(ids) + (0 if counts else 2 * MESSAGE_TOKENS)
    with Engine(load_base(varied_base), rows=4) as engine:
        app = create_app(Service(engine, tokenizer, {"base": ServedModel(None, None)}))
        extra = {"count": lambda *_: [len(ids)]} if counts else {}
        running = gateway_running.Running("http://127.0.0.1:1", tmp_path, settings, extra, upstream=app)
        try:
            for more in ({}, {"stream": True}, {"n": 2}):
                body = {"model": "base", "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1, **more}
                key = running.key(tokens_per_minute=bound * more.get("n", 1))
                head = {"authorization": f"Bearer {key}"}
                more_asked = running.client.post("/v1/completions", json={**body, "max_tokens": 1}, headers=head)
                assert more_asked.status_code == 413, "one token more than the key may ever use"
                answer = running.client.post("/v1/completions", json=body, headers=head)
                assert answer.status_code == 200, answer.text
                assert answer.text.count("token_logprobs") >= more.get("n", 1)
                assert running.used(key) == len(ids)
                found = running.keys.authenticate(key)
                assert found is not None
                assert next(iter(running.ledger.used(found.account).values())) == (len(ids), 2000 * len(ids))
            chat = {"model": "base", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}
            refused = running.client.post(
                "/v1/chat/completions", json=chat, headers={"authorization": f"Bearer {running.key()}"}
            )
            assert (refused.status_code, refused.json()["error"]["param"]) == (422, "max_tokens")
        finally:
            running.close()
