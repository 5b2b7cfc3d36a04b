"""The engine answers each request as transformers and PEFT would, and no stream is ever left without an end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from burnish.core.errors import BaseModelError, ServeError
from burnish.model.sampling import Sampling
from burnish.serve.adapters import Adapters
from burnish.serve.engine import Engine
from burnish.serve.failures import EngineStopped, QueueFull
from burnish.serve.stream import End, Stream

PROMPTS = [[5 + i, *range(20, 60), *range(100 + 7 * i, 104 + 8 * i)] for i in range(6)] + [
    [*range(20, 70), i] for i in range(6)
]


def greedy(new_tokens: int) -> Sampling:
    return Sampling(max_new_tokens=new_tokens)


def answers_of(model: PreTrainedModel, new_tokens: int) -> list[list[int]]:
    answers = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        whole = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        answers.append(whole[0, len(prompt) :].tolist())
    return answers


@pytest.fixture(scope="module")
def oracle(varied_base: Path, adapter_folders: dict[str, Path]) -> dict[str | None, list[list[int]]]:
    """Greedy answers by transformers and PEFT, one prompt at a time, for the base and each adapter."""
    found: dict[str | None, list[list[int]]] = {None: answers_of(AutoModelForCausalLM.from_pretrained(varied_base), 16)}
    for name, folder in adapter_folders.items():
        base = AutoModelForCausalLM.from_pretrained(varied_base)
        found[name] = answers_of(PeftModel.from_pretrained(base, folder), 16)
    assert found["a"] != found[None] != found["b"] != found["a"]
    return found


def wait_until_idle(engine: Engine, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while (engine.load.running or engine.load.waiting) and time.monotonic() < until:
        time.sleep(0.002)
    assert (engine.load.running, engine.load.waiting) == (0, 0)


def test_base_and_adapters_answer_side_by_side_as_transformers_and_peft_do(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], oracle: dict[str | None, list[list[int]]]
) -> None:
    with Engine(varied_model, adapters=adapter_folders, rows=6) as engine:
        streams = [
            (name, i, engine.submit(prompt, name, greedy(16)))
            for i, prompt in enumerate(PROMPTS)
            for name in (None, "a", "b")
        ]
        for name, i, stream in streams:
            assert list(stream) == oracle[name][i], (name, i)
            assert stream.end is End.LENGTH


def test_the_model_is_the_base_again_after_close(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path]
) -> None:
    before = {name: type(module) for name, module in varied_model.named_modules()}
    with Engine(varied_model, adapters=adapter_folders) as engine:
        list(engine.submit(PROMPTS[0], "a", greedy(2)))
    assert {name: type(module) for name, module in varied_model.named_modules()} == before


def submit_patiently(engine: Engine, prompt: int, adapter: str | None, new_tokens: int) -> Stream:
    """Submit again and again while the queue is full."""
    while True:
        try:
            return engine.submit(PROMPTS[prompt], adapter, greedy(new_tokens))
        except QueueFull:
            time.sleep(0.005)


def test_many_threads_and_asyncio_tasks_get_their_own_answers(
    engine: Engine, oracle: dict[str | None, list[list[int]]]
) -> None:
    wrong: list[object] = []

    def reader(name: str | None, i: int) -> None:
        got = list(submit_patiently(engine, i, name, 16))
        if got != oracle[name][i]:
            wrong.append((name, i, got))

    async def task(i: int) -> list[int]:
        stream = await asyncio.to_thread(submit_patiently, engine, i, None, 16)
        return [token async for token in stream]

    async def tasks() -> list[list[int]]:
        return await asyncio.gather(*(task(i) for i in range(6)))

    threads = [threading.Thread(target=reader, args=(name, i)) for i in range(6) for name in (None, "a", "b")]
    for thread in threads:
        thread.start()
    assert asyncio.run(tasks()) == oracle[None][:6]
    for thread in threads:
        thread.join(timeout=60)
    assert wrong == []


def test_requests_over_the_queues_limit_are_refused_and_the_others_answered(engine: Engine) -> None:
    streams = [engine.submit(PROMPTS[0], None, greedy(400)) for _ in range(4)]
    until = time.monotonic() + 10
    while engine.load.running < 4 and time.monotonic() < until:
        time.sleep(0.002)
    waiting = [engine.submit(PROMPTS[1], "a", greedy(2)) for _ in range(8)]
    with pytest.raises(QueueFull, match="8 requests wait already"):
        engine.submit(PROMPTS[1], "a", greedy(2))
    for stream in streams:
        stream.cancel()
    assert [len(list(stream)) for stream in waiting] == [2] * 8


def test_a_cancelled_stream_frees_its_row_at_once_wherever_it_is(engine: Engine) -> None:
    streams = [engine.submit(PROMPTS[i], None, greedy(400)) for i in range(8)]
    next(iter(streams[0]))
    for stream in streams:
        stream.cancel()
    wait_until_idle(engine, 2)
    assert all(stream.end is End.CANCELLED for stream in streams)
    assert sum(stream.new_tokens for stream in streams) < 8 * 400


@pytest.mark.parametrize(
    ("prompt", "adapter", "new_tokens", "message"),
    [
        ([1, 2], "nobody", 1, 'no adapter "nobody" here. Known: a, b'),
        ([1] * 500, None, 13, "context holds 512"),
        ([], None, 1, "must be 1 or more"),
        ([1, 400], None, 1, "between 0 and 399"),
        ([-1], None, 1, "between 0 and 399"),
    ],
)
def test_what_cannot_be_answered_is_refused_when_it_is_submitted(
    engine: Engine, prompt: list[int], adapter: str | None, new_tokens: int, message: str
) -> None:
    with pytest.raises(ServeError, match=message):
        engine.submit(prompt, adapter, greedy(new_tokens))


def test_an_error_in_a_step_fails_its_streams_and_the_engine_goes_on(
    varied_model: PreTrainedModel, oracle: dict[str | None, list[list[int]]]
) -> None:
    broken = threading.Event()

    def fail(module: torch.nn.Module, inputs: object) -> None:
        if broken.is_set():
            raise RuntimeError("the device is on fire")

    varied_model.get_input_embeddings().register_forward_pre_hook(fail)
    with Engine(varied_model, rows=4) as engine:
        streams = [engine.submit(PROMPTS[i], None, greedy(400)) for i in range(4)]
        for stream in streams:
            next(iter(stream))
        broken.set()
        for stream in streams:
            with pytest.raises(ServeError, match="RuntimeError: the device is on fire"):
                list(stream)
        broken.clear()
        assert list(engine.submit(PROMPTS[0], None, greedy(16))) == oracle[None][0]


def test_vectors_that_nobody_waits_for_any_more_harm_nothing(
    varied_model: PreTrainedModel, oracle: dict[str | None, list[list[int]]]
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hold(module: torch.nn.Module, inputs: object) -> None:
        inside.set()
        assert go_on.wait(30)

    held = varied_model.get_input_embeddings().register_forward_pre_hook(hold)
    with Engine(varied_model, rows=4) as engine:
        running = engine.submit(PROMPTS[0], None, greedy(16))
        assert inside.wait(30)
        assert engine.embed([PROMPTS[1]], None).cancel()
        wanted = engine.embed([PROMPTS[1]], None)
        go_on.set()
        assert list(running) == oracle[None][0]
        assert wanted.result(30).shape[0] == 1
        assert list(engine.submit(PROMPTS[0], None, greedy(16))) == oracle[None][0]
    held.remove()


def test_answers_go_on_between_batches_of_vectors(
    varied_model: PreTrainedModel, oracle: dict[str | None, list[list[int]]]
) -> None:
    many = [PROMPTS[number % len(PROMPTS)] for number in range(40)]
    longest = max(map(len, many))
    with Engine(varied_model, rows=4, piece_tokens=2 * longest) as engine:
        alone = torch.cat([engine.embed([prompt], None).result(30) for prompt in many])
        running = engine.submit(PROMPTS[0], None, greedy(200))
        first = next(iter(running))
        given: list[int] = []
        large, before_large = engine.embed(many, None), running.new_tokens
        large.add_done_callback(lambda _: given.append(running.new_tokens))
        small, before_small = engine.embed(many[:1], None), running.new_tokens
        small.add_done_callback(lambda _: given.append(running.new_tokens))
        assert engine.embed(many, None).cancel()
        assert torch.allclose(large.result(30), alone, atol=1e-5)
        assert torch.allclose(small.result(30), alone[:1], atol=1e-5)
        of_small, of_large = given
        assert of_small - before_small <= 6, "a small request takes its turn beside a large one"
        assert of_large - before_large >= 10, "a batch of two prompts or so and a step of answers take turns"
        assert [first, *running][:16] == oracle[None][0]
        assert engine.load.running == 0
    held = Engine(varied_model, rows=4, piece_tokens=longest)
    vectors = held.embed(many, None)
    held.close()
    assert torch.allclose(vectors.result(30), alone, atol=1e-5), "what was taken is computed before the end"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_broken_engine_fails_every_stream_and_takes_no_more(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(adapters: Adapters) -> list[tuple[str, int]]:
        raise RuntimeError("out of slots and luck")

    engine = Engine(varied_model, adapters=adapter_folders, rows=4)
    running = engine.submit(PROMPTS[0], None, greedy(400))
    next(iter(running))
    monkeypatch.setattr(Adapters, "settle", broken)
    with contextlib.suppress(EngineStopped):  # it may be too late already
        engine.submit(PROMPTS[0], "a", greedy(400))
    with pytest.raises(ServeError, match="engine failed: RuntimeError"):
        list(running)
    assert not engine.load.accepting
    with pytest.raises(EngineStopped, match="Start the server again"):
        engine.submit(PROMPTS[0], None, greedy(1))
    engine.close()


def test_close_answers_what_was_taken_and_refuses_what_comes_later(varied_model: PreTrainedModel) -> None:
    engine = Engine(varied_model, rows=2)
    streams = [engine.submit(PROMPTS[i], None, greedy(8)) for i in range(5)]
    engine.close()
    assert [len(list(stream)) for stream in streams] == [8] * 5
    with pytest.raises(EngineStopped, match="closing"):
        engine.submit(PROMPTS[0], None, greedy(1))


def test_close_without_draining_ends_every_stream(varied_model: PreTrainedModel) -> None:
    engine = Engine(varied_model, rows=2)
    streams = [engine.submit(PROMPTS[i], None, greedy(400)) for i in range(5)]
    engine.close(drain=False)
    assert all(stream.ended for stream in streams)


def test_sampling_follows_the_seed_whoever_runs_beside(engine: Engine) -> None:
    drawn = Sampling(max_new_tokens=20, temperature=1.0, seed=7)
    alone = list(engine.submit(PROMPTS[0], None, drawn))
    others = [engine.submit(PROMPTS[i], None, greedy(20)) for i in range(1, 4)]
    assert list(engine.submit(PROMPTS[0], None, drawn)) == alone
    assert list(engine.submit(PROMPTS[0], None, Sampling(max_new_tokens=20, temperature=1.0, seed=8))) != alone
    for stream in others:
        list(stream)


def test_an_idle_engine_uses_no_processor_time(engine: Engine) -> None:
    list(engine.submit(PROMPTS[0], None, greedy(2)))
    wait_until_idle(engine)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_a_damaged_adapter_is_refused_and_the_base_stays_whole(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(BaseModelError, match="cannot read"):
        Engine(varied_model, adapters={**adapter_folders, "broken": tmp_path})
    with Engine(varied_model, adapters=adapter_folders) as engine:
        assert engine.adapters == ("a", "b")
        assert len(list(engine.submit(PROMPTS[0], "a", greedy(3)))) == 3


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(
        st.tuples(
            st.integers(0, 11), st.sampled_from([None, "a", "b"]), st.integers(1, 16), st.none() | st.integers(0, 5)
        ),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_every_stream_ends_exactly_once_with_its_own_tokens(
    engine: Engine, oracle: dict[str | None, list[list[int]]], requests: list[tuple[int, str | None, int, int | None]]
) -> None:
    results: list[list[int]] = [[] for _ in requests]

    def read(place: int, stream: Stream, cancel_after: int | None) -> None:
        if cancel_after == 0:
            stream.cancel()
        for token in stream:
            results[place].append(token)
            if len(results[place]) == cancel_after:
                stream.cancel()

    streams: list[Stream] = []
    threads: list[threading.Thread] = []
    for place, (prompt, adapter, new_tokens, cancel_after) in enumerate(requests):
        streams.append(submit_patiently(engine, prompt, adapter, new_tokens))
        threads.append(threading.Thread(target=read, args=(place, streams[-1], cancel_after)))
        threads[-1].start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive(), "a stream never ended"
    for (prompt, adapter, new_tokens, cancel_after), stream, got in zip(requests, streams, results, strict=True):
        want = oracle[adapter][prompt][:new_tokens]
        assert stream.ended
        assert not stream.finish(End.STOP)
        if cancel_after is None:
            assert (got, stream.end) == (want, End.LENGTH)
        else:
            assert got == want[: len(got)]
            assert len(got) <= max(cancel_after, 0) or stream.end is End.LENGTH
    wait_until_idle(engine)
