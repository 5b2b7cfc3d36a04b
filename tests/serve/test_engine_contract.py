"""What every engine promises, by transformers and PEFT as oracles: the own engine, and vLLM in an environment of its own.

vLLM takes part when $BURNISH_VLLM names the interpreter of an environment that has it (`make test-vllm`).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from test_api import DAY
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from burnish.core.errors import BaseModelError, ServeError
from burnish.core.events import discard
from burnish.core.ids import file_sha256
from burnish.model.load import load_base
from burnish.model.lora import CONFIG, WEIGHTS
from burnish.model.sampling import Sampling
from burnish.serve.adapters import AdapterSource
from burnish.serve.answer import ServedModel
from burnish.serve.api import Service, create_app
from burnish.serve.constrain import Constraints
from burnish.serve.engine import Engine
from burnish.serve.interface import AnsweringEngine
from burnish.serve.stream import End
from burnish.serve.vllm.engine import VllmEngine
from burnish.text.tokenizer import Tokenizer, load_tokenizer

VLLM = os.environ.get("BURNISH_VLLM")
ENGINES = [
    "own",
    pytest.param("vllm", marks=pytest.mark.skipif(VLLM is None, reason="make test-vllm sets $BURNISH_VLLM")),
]
CPU_VLLM = ("--enforce-eager", "--dtype", "float32")
PROMPTS = [[5 + i, *range(20, 60), *range(100 + 7 * i, 104 + 8 * i)] for i in range(4)] + [
    [*range(20, 70), i] for i in range(3, 7)
]
NEW = 12
TIE = 1e-4
LONG = 3000
"""Tokens of an answer that is not to end before it is cancelled or its engine is killed, also beside other work."""


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose heads have 64 numbers (vLLM has no kernel for less) and whose answers never stop."""
    folder = tmp_path_factory.mktemp("contract") / "base"
    shutil.copytree(tiny_base, folder)
    torch.manual_seed(4)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400, hidden_size=256, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=2,
            tie_word_embeddings=True,
        )
    ).float()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
        model.model.embed_tokens.weight[:3] = 0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sources(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdapterSource]:
    """Adapters as PEFT writes them."""
    root = tmp_path_factory.mktemp("contract-adapters")
    found: dict[str, AdapterSource] = {}
    for name, seed, rank in (("a", 1, 4), ("b", 2, 8), ("c", 3, 8)):
        asked = LoraConfig(r=rank, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), asked)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for label, parameter in model.named_parameters():
                if "lora_" in label:
                    parameter.normal_(0, 0.1, generator=draw)
        folder = root / name
        model.save_pretrained(str(folder))
        found[name] = AdapterSource(folder, (file_sha256(folder / WEIGHTS), file_sha256(folder / CONFIG)))
    return found


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, base: Path, sources: dict[str, AdapterSource]) -> Iterator[AnsweringEngine]:
    if request.param == "own":
        started: AnsweringEngine = Engine(load_base(base), rows=8)
    else:
        assert VLLM is not None
        started = VllmEngine(
            base, Path(VLLM), emit=discard, rows=8, slots=4, rank_limit=16, arguments=CPU_VLLM,
            environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
        )  # fmt: skip
    for name in ("a", "b"):
        started.add_adapter(name, sources[name])
    yield started
    started.close(drain=False)


@pytest.fixture(scope="module")
def models(base: Path, sources: dict[str, AdapterSource]) -> dict[str | None, Any]:
    """transformers' and PEFT's models."""
    found: dict[str | None, Any] = {None: AutoModelForCausalLM.from_pretrained(base)}
    for name, source in sources.items():
        found[name] = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), source.folder).eval()
    return found


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Tokenizer:
    return load_tokenizer(base)


def greedy(new_tokens: int = NEW, **more: Any) -> Sampling:
    return Sampling(max_new_tokens=new_tokens, **more)


def expected(model: Any, prompt: list[int], new_tokens: int = NEW) -> list[int]:
    ids = torch.tensor([prompt])
    whole = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return whole[0, len(prompt) :].tolist()


def assert_same(model: Any, prompt: list[int], got: list[int], want: list[int]) -> None:
    """Equal tokens, but where the two best logits lie within TIE."""
    if got == want:
        return
    assert len(got) == len(want)
    at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *want[:at]]])).logits[0, -1]
    assert abs(float(logits[got[at]] - logits[want[at]])) < TIE, f"token {at}: {got[at]}, expected {want[at]}"


def test_greedy_tokens_are_those_of_transformers_and_peft_alone_and_in_a_mixed_batch(
    engine: AnsweringEngine, models: dict[str | None, Any]
) -> None:
    asked = [(name, prompt) for prompt in PROMPTS for name in (None, "a", "b")]
    streams = [engine.submit(prompt, name, greedy()) for name, prompt in asked]
    mixed = [list(stream) for stream in streams]
    assert all(stream.end is End.LENGTH for stream in streams)
    assert len({tuple(answer) for answer in mixed}) > 15
    for (name, prompt), answer in zip(asked, mixed, strict=True):
        want = expected(models[name], prompt)
        assert_same(models[name], prompt, answer, want)
        if prompt is PROMPTS[0]:
            assert_same(models[name], prompt, list(engine.submit(prompt, name, greedy())), want)


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(
    engine: AnsweringEngine, models: dict[str | None, Any]
) -> None:
    free = expected(models["a"], PROMPTS[1])
    stop = next(token for token in free if free.index(token) >= 3)
    stream = engine.submit(PROMPTS[1], "a", greedy(stop_ids=frozenset({stop, 399})))
    assert list(stream) == free[: free.index(stop)]
    assert stream.end is End.STOP


def test_a_cancelled_answer_gives_its_row_back(engine: AnsweringEngine) -> None:
    streams = [engine.submit(prompt, "a", greedy(LONG)) for prompt in PROMPTS]
    next(iter(streams[0]))
    for stream in streams:
        stream.cancel()
    until = time.monotonic() + 5
    while (engine.load.running or engine.load.waiting) and time.monotonic() < until:
        time.sleep(0.002)
    assert (engine.load.running, engine.load.waiting) == (0, 0)
    assert all(stream.end is End.CANCELLED for stream in streams)
    assert len(list(engine.submit(PROMPTS[0], "b", greedy(3)))) == 3


@pytest.mark.parametrize(
    ("prompt", "adapter", "message"),
    [
        ([1, 2], "nobody", 'no adapter "nobody" here. Known: a, b'),
        ([1, 2], "../a", "no adapter"),
        ([1] * 4090, None, "context holds 4096"),
        ([], None, "must be 1 or more"),
        ([1, 400], None, "between 0 and 399"),
        ([-1], None, "between 0 and 399"),
    ],
)
def test_what_cannot_be_answered_is_refused_when_it_is_asked(
    engine: AnsweringEngine, prompt: list[int], adapter: str | None, message: str
) -> None:
    with pytest.raises(ServeError, match=re.escape(message)):
        engine.submit(prompt, adapter, greedy(13))


@pytest.mark.parametrize("new_tokens", [0, 3])
def test_log_probabilities_of_a_prompt_are_the_models_own(
    engine: AnsweringEngine, models: dict[str | None, Any], new_tokens: int
) -> None:
    prompts = [PROMPTS[0], [5 + place * 7 % 380 for place in range(700)], PROMPTS[0][:1]]
    beside = engine.submit(PROMPTS[1], "b", greedy(60))
    asked = [(name, prompt) for name in (None, "a") for prompt in prompts]
    streams = [engine.submit(prompt, name, greedy(new_tokens, prompt_logprobs=3)) for name, prompt in asked]
    for (name, prompt), stream in zip(asked, streams, strict=True):
        assert len(list(stream)) == new_tokens
        assert stream.end is End.LENGTH
        with torch.no_grad():
            logprobs = torch.log_softmax(models[name](input_ids=torch.tensor([prompt])).logits[0], dim=-1)
        assert len(stream.prompt_likelihoods) == len(prompt) - 1
        for row, token, told in zip(logprobs, prompt[1:], stream.prompt_likelihoods, strict=False):
            assert told.logprob == pytest.approx(float(row[token]), abs=1e-3)
            assert [value for _, value in told.best] == pytest.approx(torch.topk(row, 3).values.tolist(), abs=1e-3)
    assert_same(models["b"], PROMPTS[1], list(beside), expected(models["b"], PROMPTS[1], 60))


def test_adapters_come_and_go_and_a_name_may_be_given_again(
    engine: AnsweringEngine, sources: dict[str, AdapterSource], models: dict[str | None, Any]
) -> None:
    for name in ("c", "b", "c"):
        engine.add_adapter("x", sources[name], lazy=True)
        with pytest.raises(ServeError, match='known as "x" already'):
            engine.add_adapter("x", sources[name])
        assert "x" in engine.adapters
        got = list(engine.submit(PROMPTS[0], "x", greedy()))
        assert_same(models[name], PROMPTS[0], got, expected(models[name], PROMPTS[0]))
        assert engine.remove_adapter("x", wait_s=20)
        with pytest.raises(ServeError, match='no adapter "x"'):
            engine.submit(PROMPTS[0], "x", greedy())


def test_the_bases_answers_beside_more_adapters_than_fit_are_those_of_the_base(
    engine: AnsweringEngine, sources: dict[str, AdapterSource], models: dict[str | None, Any]
) -> None:
    """vLLM's kernels for CPUs take "no adapter" for the last slot (docs/log.md), so what is in that slot counts here."""
    base, prompt = models[None], [5 + place * 11 % 380 for place in range(150)]
    with torch.no_grad():
        logprobs = torch.log_softmax(base(input_ids=torch.tensor([prompt])).logits[0], dim=-1)
    own = [float(row[token]) for row, token in zip(logprobs, prompt[1:], strict=False)]
    long = expected(base, PROMPTS[0], 200)
    before = engine.submit(PROMPTS[0], None, greedy(200))
    names = {f"many-{number}": "abc"[number % 3] for number in range(7)}
    for name, source in names.items():
        engine.add_adapter(name, sources[source])
    for name, source in names.items():
        beside = engine.submit(PROMPTS[1], name, greedy(40))
        answer = iter(beside)
        first = next(answer)
        streams = [engine.submit(PROMPTS[place], None, greedy()) for place in range(2, 6)]
        told = engine.submit(prompt, None, greedy(0, prompt_logprobs=0))
        for place, stream in zip(range(2, 6), streams, strict=True):
            assert_same(base, PROMPTS[place], list(stream), expected(base, PROMPTS[place]))
        assert list(told) == []
        assert [each.logprob for each in told.prompt_likelihoods] == pytest.approx(own, abs=1e-3)
        model = models[source]
        assert_same(model, PROMPTS[1], [first, *answer], expected(model, PROMPTS[1], 40))
    assert_same(base, PROMPTS[0], list(before), long)
    for name in names:
        assert engine.remove_adapter(name, wait_s=20)


def test_files_that_are_not_those_of_the_digests_are_refused(
    engine: AnsweringEngine, sources: dict[str, AdapterSource], tmp_path: Path
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(sources["a"].folder, folder)
    changed = AdapterSource(folder, sources["a"].digests)
    weights = bytearray((folder / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (folder / WEIGHTS).write_bytes(weights)
    with pytest.raises(BaseModelError, match="not the file that was released"):
        engine.add_adapter("changed", changed)
    engine.add_adapter("changed", changed, lazy=True)
    with pytest.raises(BaseModelError, match="not the file that was released"):
        engine.submit(PROMPTS[0], "changed", greedy())
    engine.remove_adapter("changed", wait_s=5)
    assert "changed" not in engine.adapters


def test_draws_follow_the_seed(engine: AnsweringEngine) -> None:
    drawn = [list(engine.submit(PROMPTS[0], "a", greedy(20, temperature=1.0, seed=seed))) for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]
    cut = list(engine.submit(PROMPTS[0], "a", greedy(6, temperature=1.9, top_k=1, seed=3)))
    assert cut == list(engine.submit(PROMPTS[0], "a", greedy(6)))


def test_log_probabilities_are_the_models_own(engine: AnsweringEngine, models: dict[str | None, Any]) -> None:
    stream = engine.submit(PROMPTS[2], "b", greedy(5, logprobs=3, logit_bias={17: 100.0}))
    tokens = list(stream)
    assert tokens == [17] * 5
    assert len(stream.likelihoods) == 5
    for place, likelihood in enumerate(stream.likelihoods):
        with torch.no_grad():
            logits = models["b"](input_ids=torch.tensor([[*PROMPTS[2], *tokens[:place]]])).logits[0, -1]
        want = torch.log_softmax(logits, dim=-1)
        assert likelihood.logprob == pytest.approx(float(want[17]), abs=1e-3)
        best = torch.topk(want, 3)
        assert [value for _, value in likelihood.best] == pytest.approx(best.values.tolist(), abs=1e-3)


def test_forms_are_kept(engine: AnsweringEngine, tokenizer: Tokenizer) -> None:
    constraints = Constraints(tokenizer, engine.vocabulary)
    stops = tokenizer.stop_ids
    schema = {"type": "object", "properties": {"days": {"enum": [1, 2]}, "city": {"enum": ["Ulm", "Bonn"]}},
              "required": ["days", "city"], "additionalProperties": False}  # fmt: skip
    for grammar, fits in (
        (constraints.regex("[a-c]{4}x"), lambda text: re.fullmatch("[a-c]{4}x", text)),
        (constraints.choice(["billing", "travel"]), lambda text: text in ("billing", "travel")),
        (constraints.json_schema(schema), lambda text: json.loads(text)["city"] in ("Ulm", "Bonn")),
    ):
        stream = engine.submit(PROMPTS[0], "a", greedy(200, stop_ids=stops), grammar.begin())
        text = tokenizer.decode(list(stream))
        assert fits(text), text
        assert stream.end is End.STOP


def test_openais_client_gets_whole_and_streamed_answers_and_calls_of_tools(
    engine: AnsweringEngine, tokenizer: Tokenizer
) -> None:
    names = {"tuned": ServedModel("a", None), "base": ServedModel(None, None)}
    app: Any = create_app(Service(engine, tokenizer, names, today=lambda: DAY))
    message: Any = {"role": "user", "content": "Find me flights"}
    weather: Any = {"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"days": {"enum": [1, 2]}}, "required": ["days"], "additionalProperties": False,
    }}}  # fmt: skip

    async def ask() -> None:
        http: Any = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        client = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="unused", http_client=http)
        chat = client.chat.completions
        whole = await chat.create(model="tuned", messages=[message], max_tokens=8)
        stream = await chat.create(model="tuned", messages=[message], max_tokens=8, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert "".join(pieces) == whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 8
        assert whole.choices[0].finish_reason == "length"
        called = await chat.create(
            model="tuned", messages=[message], tools=[weather], tool_choice="required", max_tokens=200
        )
        (call,) = called.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert json.loads(call.function.arguments)["days"] in (1, 2)
        texts = await client.completions.create(model="base", prompt=[[20, 21], [23, 24]], max_tokens=3, logprobs=1)
        assert len(texts.choices) == 2
        echoed = await client.completions.create(
            model="tuned", prompt=[[20, 21, 22], [23, 24]], max_tokens=1, logprobs=1, echo=True
        )
        told = [choice.logprobs.token_logprobs for choice in echoed.choices if choice.logprobs is not None]
        assert [len(each or []) for each in told] == [4, 3]
        alone = await client.completions.create(model="tuned", prompt=[20, 21, 22], max_tokens=0, logprobs=1, echo=True)
        assert alone.choices[0].logprobs is not None
        assert alone.choices[0].logprobs.token_logprobs == pytest.approx((told[0] or [])[:3], abs=1e-3)
        assert alone.usage is not None
        assert alone.usage.completion_tokens == 0

    asyncio.run(ask())


def test_a_process_that_is_killed_fails_its_answers_and_comes_back(
    engine: AnsweringEngine, models: dict[str | None, Any]
) -> None:
    if not isinstance(engine, VllmEngine):
        pytest.skip("the own engine is no process")
    want = expected(models["a"], PROMPTS[0])
    assert_same(models["a"], PROMPTS[0], list(engine.submit(PROMPTS[0], "a", greedy())), want)
    stream = engine.submit(PROMPTS[0], "a", greedy(LONG))
    next(iter(stream))
    os.killpg(engine._process._process.pid, signal.SIGKILL)
    with pytest.raises(ServeError, match="vLLM"):
        list(stream)
    until = time.monotonic() + 200
    while engine.load.accepting and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(ServeError, match="started again"):
        engine.submit(PROMPTS[0], "a", greedy())
    while not engine.load.accepting and time.monotonic() < until:
        time.sleep(0.2)
    assert_same(models["a"], PROMPTS[0], list(engine.submit(PROMPTS[0], "a", greedy())), want)
    assert engine._process.starts == 2
