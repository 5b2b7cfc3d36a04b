"""Log-probabilities of prompts are transformers' and PEFT's own, whoever runs beside, and a step has few logits of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from test_engine import wait_until_idle
from transformers import AutoModelForCausalLM

from burnish.model.load import load_base
from burnish.model.prompt_room import divide_told
from burnish.model.sampling import Likelihood, Sampling
from burnish.model.told_prompts import TOLD_TOKENS
from burnish.serve.engine import Engine
from burnish.serve.stream import End

ROWS = 4
CLOSE = 1e-4


def told(most: int = 3, new_tokens: int = 0, **more: Any) -> Sampling:
    return Sampling(max_new_tokens=new_tokens, prompt_logprobs=most, **more)


def prompt_of(tokens: int, seed: int, start: list[int] | None = None) -> list[int]:
    draw = torch.Generator().manual_seed(seed)
    begin = start or []
    return [*begin, *torch.randint(3, 400, (tokens - len(begin),), generator=draw).tolist()]


@pytest.fixture(scope="module")
def oracles(varied_base: Path, adapter_folders: dict[str, Path]) -> dict[str | None, Any]:
    found: dict[str | None, Any] = {None: AutoModelForCausalLM.from_pretrained(varied_base)}
    for name, folder in adapter_folders.items():
        found[name] = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(varied_base), folder).eval()
    return found


def assert_told(model: Any, prompt: list[int], found: list[Likelihood], most: int) -> None:
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=torch.tensor([prompt])).logits[0].float(), dim=-1)
    assert len(found) == len(prompt) - 1
    own = [float(row[token]) for row, token in zip(logprobs, prompt[1:], strict=False)]
    assert [each.logprob for each in found] == pytest.approx(own, abs=CLOSE)
    best = torch.topk(logprobs, most)
    for row, each in enumerate(found):
        assert [value for _, value in each.best] == pytest.approx(best.values[row].tolist(), abs=CLOSE)
        for token, value in each.best:
            assert value == pytest.approx(float(logprobs[row, token]), abs=CLOSE)


@pytest.fixture
def engine(varied_base: Path, adapter_folders: dict[str, Path]) -> Iterator[Engine]:
    """Pieces of 40 tokens: a prompt of 300 takes eight steps."""
    with Engine(load_base(varied_base), adapters=adapter_folders, rows=ROWS, queue=40, piece_tokens=40) as engine:
        yield engine
        engine.close(drain=False)


class Work:
    """What each step of an engine computes: its tokens, and the rows of logits that exist."""

    def __init__(self, engine: Engine) -> None:
        self.tokens: list[int] = []
        self.logits: list[int] = []
        model = engine._model
        self._hooks = [
            model.get_input_embeddings().register_forward_pre_hook(lambda _, x: self.tokens.append(x[0].numel())),
            model.get_output_embeddings().register_forward_pre_hook(lambda _, x: self.logits.append(x[0].shape[-2])),
        ]


@pytest.mark.parametrize("stored", [False, True])
def test_they_are_the_models_own_in_a_mixed_batch(engine: Engine, oracles: dict[str | None, Any], stored: bool) -> None:
    start = prompt_of(200, 1)
    names = (None, "a", "b")
    if stored:  # the second prompt of an adapter stores what both begin with
        for name in names:
            for seed in (2, 3):
                list(engine.submit(prompt_of(230, seed, start), name, Sampling(max_new_tokens=1)))
        assert len(engine._decoder._prefixes.prefixes) == len(names)
    beside = [engine.submit(prompt_of(50, 7), name, Sampling(max_new_tokens=150)) for name in (None, "a")]
    asked = [
        (name, prompt_of(tokens, 10 + tokens, start if tokens > 200 else None), most)
        for name in names
        for tokens, most in ((300, 3), (1, 3), (2, 0), (41, 5), (210, 1))
    ]
    streams = [engine.submit(prompt, name, told(most)) for name, prompt, most in asked]
    for (name, prompt, most), stream in zip(asked, streams, strict=True):
        assert list(stream) == []
        assert (stream.end, stream.new_tokens) == (End.LENGTH, 0)
        assert_told(oracles[name], prompt, stream.prompt_likelihoods, most)
    for name, stream in zip((None, "a"), beside, strict=True):
        alone = engine.submit(prompt_of(50, 7), name, Sampling(max_new_tokens=150))
        assert list(stream) == list(alone)
        assert stream.prompt_likelihoods == []


def test_the_answer_goes_on_as_without_them(engine: Engine, oracles: dict[str | None, Any]) -> None:
    prompt = prompt_of(260, 4)
    plain = engine.submit(prompt, "a", Sampling(max_new_tokens=8, logprobs=2))
    answer = list(plain)
    stream = engine.submit(prompt, "a", told(2, 8, logprobs=2))
    assert list(stream) == answer
    assert [each.logprob for each in stream.likelihoods] == pytest.approx(
        [each.logprob for each in plain.likelihoods], abs=CLOSE
    )
    assert_told(oracles["a"], prompt, stream.prompt_likelihoods, 2)


def test_a_stop_token_is_told_too(engine: Engine) -> None:
    prompt = prompt_of(20, 5)
    (first,) = engine.submit(prompt, "a", Sampling(max_new_tokens=1))
    stream = engine.submit(prompt, "a", told(1, 1, logprobs=1, stop_ids=frozenset({first})))
    assert list(stream) == []
    assert stream.end is End.STOP
    assert stream.stopped_by is not None
    token, likelihood = stream.stopped_by
    assert (token, likelihood.best[0][0]) == (first, first)
    untold = engine.submit(prompt, "a", Sampling(max_new_tokens=1, stop_ids=frozenset({first})))
    assert list(untold) == []
    assert untold.stopped_by is None


def test_every_token_is_computed_and_the_start_is_stored_for_later(
    engine: Engine, oracles: dict[str | None, Any]
) -> None:
    start = prompt_of(120, 6)
    work = Work(engine)
    for seed, share in ((1, 0), (2, 120), (3, 120)):
        prompt = prompt_of(150, seed, start)
        stream = engine.submit(prompt, "a", told())
        assert list(stream) == []
        assert_told(oracles["a"], prompt, stream.prompt_likelihoods, 3)
        assert [len(prefix) for prefix in engine._decoder._prefixes.prefixes] == ([share] if share else [])
    assert sum(work.tokens) == 3 * 150
    work.tokens.clear()
    prompt = prompt_of(150, 4, start)
    answer = list(engine.submit(prompt, "a", Sampling(max_new_tokens=6)))
    assert sum(work.tokens) == 30 + 5
    ids = torch.tensor([prompt])
    want = oracles["a"].generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    assert answer == want[0, 150:].tolist()
    longer = prompt_of(140, 5, start)  # a longer start takes the place of the one that it begins with
    for seed in (6, 7):
        list(engine.submit(prompt_of(160, seed, longer), "a", told()))
    assert [len(prefix) for prefix in engine._decoder._prefixes.prefixes] == [140]


def test_logits_are_never_more_than_a_steps_share_and_nobody_waits(varied_base: Path) -> None:
    with Engine(load_base(varied_base), rows=ROWS, piece_tokens=256) as engine:
        work = Work(engine)
        running = engine.submit(prompt_of(5, 1), None, Sampling(max_new_tokens=60))
        next(iter(running))
        first = len(work.tokens)
        streams = [engine.submit(prompt_of(400, seed), None, told()) for seed in (1, 2, 3)]
        for stream in streams:
            list(stream)
        list(running)
        assert max(work.logits) <= TOLD_TOKENS + ROWS
        assert sum(work.logits) >= 3 * 399, "the hook sees every row of logits"
        assert max(work.tokens) <= 256 + ROWS
        assert len(work.tokens) - first <= 61, "every step gave the running answer a token"


def test_a_short_prompt_is_told_before_a_long_one_that_came_first(varied_base: Path) -> None:
    with Engine(load_base(varied_base), rows=ROWS) as engine:
        long = [engine.submit(prompt_of(500, seed), None, told()) for seed in (1, 2)]
        short = engine.submit(prompt_of(30, 3), None, told())
        list(short)
        assert not any(stream.ended for stream in long)
        assert [len(list(stream)) for stream in long] == [0, 0]


def test_a_cancelled_prompt_gives_its_row_back_and_is_computed_no_further(engine: Engine) -> None:
    work = Work(engine)
    streams = [engine.submit(prompt_of(500, seed), "a", told()) for seed in range(ROWS)]
    until = time.monotonic() + 10
    while not any(stream.prompt_likelihoods for stream in streams):
        assert time.monotonic() < until
        time.sleep(0.001)
    for stream in streams:
        stream.cancel()
    wait_until_idle(engine)
    assert sum(work.tokens) < ROWS * 500
    assert len(list(engine.submit(prompt_of(20, 9), "b", told(1, 3)))) == 3


def test_room_for_prompts_that_are_told_is_divided_as_all_room_is() -> None:
    assert divide_told([100, 40, 60], [True, False, True], 200) == [100, 40, 60]
    assert divide_told([200, 40, 10], [True, False, True], 64) == [54, 40, 10]
    assert divide_told([200, 40, 30], [True, True, False], 0) == [0, 0, 30]
    assert divide_told([], [], 5) == []
