"""What goes wrong for one request stays with it: adapters that are read, taken out, changed or lost, and an engine that ends."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from slow_reading import Reading, wait_for
from test_api import DAY, USER, Running
from transformers import PreTrainedModel

from burnish.core.errors import BaseModelError, ServeError
from burnish.core.ids import file_sha256
from burnish.model.lora import CONFIG, WEIGHTS
from burnish.model.lora_bank import LoraBank
from burnish.model.sampling import Sampling
from burnish.serve.adapters import AdapterSource
from burnish.serve.answer import ServedModel
from burnish.serve.api import Service
from burnish.serve.engine import Engine
from burnish.serve.failures import EngineStopped, NoMemory
from burnish.serve.stream import End, Stream
from burnish.text.tokenizer import Tokenizer

START = [5, *range(20, 70)]
PROMPT = [*START, 7]


def ask(engine: Engine, name: str | None, prompt: list[int] = PROMPT, new_tokens: int = 8) -> Stream:
    return engine.submit(prompt, name, Sampling(max_new_tokens=new_tokens))


@contextmanager
def held(model: PreTrainedModel) -> Iterator[threading.Event]:
    """Within the block the engine stands still in its next step until the event is set."""
    go_on = threading.Event()

    def wait(module: object, inputs: object) -> None:
        assert go_on.wait(30)

    hook = model.get_input_embeddings().register_forward_pre_hook(wait)
    try:
        yield go_on
    finally:
        go_on.set()
        hook.remove()


# ------------------------------------------------------------------------------------------------ what an adapter is


@pytest.mark.parametrize("digests", [False, True])
def test_prefixes_of_an_adapter_that_changed_on_disk_are_not_those_of_the_old_one(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], tmp_path: Path, digests: bool
) -> None:
    folder = shutil.copytree(adapter_folders["a"], tmp_path / "x")
    released = (file_sha256(folder / WEIGHTS), file_sha256(folder / CONFIG)) if digests else None
    with Engine(varied_model, adapters=adapter_folders, rows=2, slots=1) as engine:
        engine.add_adapter("x", AdapterSource(folder, released))
        old, new = list(ask(engine, "a")), list(ask(engine, "b"))
        for last in (7, 9, 11):  # the second finds what it shares with the first, the third reads it
            list(ask(engine, "x", [*START, last]))
        assert list(ask(engine, "x")) == old != new
        list(ask(engine, "a"))  # takes the slot
        kept = len(engine._decoder._prefixes.prefixes)
        assert list(ask(engine, "x")) == old, "read again, nothing has changed"
        list(ask(engine, "a"))
        if digests:
            assert len(engine._decoder._prefixes.prefixes) == kept, "what is the same by its digest keeps its prefixes"
            return
        shutil.copytree(adapter_folders["b"], folder, dirs_exist_ok=True)
        assert list(ask(engine, "x")) == new
        assert not [each for each in engine._decoder._prefixes.prefixes if each.owner == ("x", 3)], (
            "and nobody keeps them"
        )


def test_an_adapter_that_many_ask_for_at_once_is_read_once(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], reading: Reading
) -> None:
    answers: list[list[int]] = []
    with Engine(varied_model, rows=4, slots=2) as engine:
        engine.add_adapter("x", adapter_folders["a"], lazy=True)
        threads = [threading.Thread(target=lambda: answers.append(list(ask(engine, "x")))) for _ in range(6)]
        for thread in threads:
            thread.start()
        assert reading.begun.wait(10)
        assert len(list(ask(engine, None))) == 8, "nobody else waits for it"
        reading.go_on.set()
        for thread in threads:
            thread.join(30)
    assert reading.times == 1
    assert len(answers) == 6
    assert len(set(map(tuple, answers))) == 1


def test_an_adapter_taken_out_while_it_is_read_answers_that_request_and_is_gone_then(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], reading: Reading
) -> None:
    answers: list[list[int]] = []
    with Engine(varied_model, rows=4, slots=2) as engine:
        engine.add_adapter("x", adapter_folders["a"], lazy=True)
        thread = threading.Thread(target=lambda: answers.append(list(ask(engine, "x"))))
        thread.start()
        assert reading.begun.wait(10)
        assert not engine.remove_adapter("x", wait_s=0.05)
        with pytest.raises(ServeError, match='no adapter "x"'):
            ask(engine, "x")
        reading.go_on.set()
        thread.join(30)
        assert len(answers[0]) == 8
        wait_for(lambda: engine.adapter_bytes == 0)


def test_an_adapter_taken_out_while_reading_it_fails_is_gone_though_nothing_else_happens(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], tmp_path: Path, reading: Reading
) -> None:
    folder = shutil.copytree(adapter_folders["a"], tmp_path / "x")
    errors: list[Exception] = []

    def submit(engine: Engine) -> None:
        try:
            ask(engine, "x")
        except BaseModelError as error:
            errors.append(error)

    with Engine(varied_model, rows=4, slots=2) as engine:
        engine.add_adapter("x", folder, lazy=True)
        thread = threading.Thread(target=submit, args=(engine,))
        thread.start()
        assert reading.begun.wait(10)
        removed: list[bool] = []
        waiting = threading.Thread(target=lambda: removed.append(engine.remove_adapter("x", wait_s=20)))
        waiting.start()
        wait_for(lambda: not engine.adapters)
        time.sleep(0.1)  # the engine's thread has looked, and waits again
        (folder / WEIGHTS).unlink()
        began = time.monotonic()
        reading.go_on.set()
        waiting.join(30)
        thread.join(30)
        assert removed == [True]
        assert time.monotonic() - began < 10, "it was gone when reading failed, and nobody was told"
        assert len(errors) == 1


def test_an_adapter_that_cannot_be_put_into_its_slot_fails_its_request_alone(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(varied_model, adapters=adapter_folders, rows=4) as engine:
        right = list(ask(engine, "a"))
        with monkeypatch.context() as patch, held(varied_model) as go_on:
            running = ask(engine, "a", new_tokens=40)
            wait_for(lambda: engine.load.running)

            def lost(bank: LoraBank, key: object, adapter: object) -> None:
                raise RuntimeError("the device is lost")

            patch.setattr(LoraBank, "load", lost)
            beside, failing = ask(engine, None), ask(engine, "b")
            vectors = engine.embed([PROMPT], "b")
            go_on.set()
            with pytest.raises(ServeError, match="this answer failed: RuntimeError: the device is lost"):
                list(failing)
            with pytest.raises(ServeError, match="the vectors failed: RuntimeError: the device is lost"):
                vectors.result(30)
            assert len(list(beside)) == 8
            assert list(running)[:8] == right
        assert list(ask(engine, "b")) != right
        assert engine.embed([PROMPT], "b").result(30).shape[0] == 1
        for name in adapter_folders:
            assert engine.remove_adapter(name, wait_s=10)
        assert engine.adapter_bytes == 0


# -------------------------------------------------------------------------------------------------- when memory is out


def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no memory for adapters from here on."""

    def zeros(numbers: int, dtype: torch.dtype) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate too much")

    monkeypatch.setattr("burnish.model.lora_stack.huge_zeros", zeros)


def test_where_memory_runs_out_the_api_says_503_and_when_to_come_again(
    varied_model: PreTrainedModel,
    adapter_folders: dict[str, Path],
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = {"tuned": ServedModel("a", None), "other": ServedModel("b", None), "base": ServedModel(None, None)}
    engine = Engine(varied_model, adapters=adapter_folders, rows=4)
    running = Running(Service(engine, tokenizer, models, today=lambda: DAY))
    try:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            chat = {"model": "tuned", "messages": [USER], "max_tokens": 4}
            text = {"model": "tuned", "prompt": [20, 21], "max_tokens": 4}
            vector = {"model": "tuned", "input": [[20, 21]]}
            asked = [
                *(("chat/completions", {**chat, **more}) for more in ({}, {"stream": True}, {"n": 3})),
                *(("completions", {**text, **more}) for more in ({}, {"stream": True})),
                ("embeddings", vector),
            ]
            with monkeypatch.context() as patch:
                no_memory(patch)
                for path, body in asked:
                    answer = client.post(f"/{path}", json=body)
                    assert answer.status_code == 503, (path, body, answer.text)
                    assert int(answer.headers["retry-after"]) >= 1
                    error = answer.json()["error"]
                    assert (error["code"], error["type"]) == ("overloaded", "server_error")
                    assert 'no memory is left for the adapter "a" (padded rank 8' in error["message"]
                    assert client.post("/chat/completions", json={**chat, "model": "base"}).status_code == 200
            assert engine.resident_adapters == ()
            for path, body in asked:
                assert client.post(f"/{path}", json=body).status_code == 200
            assert engine.load.running == engine.load.waiting == 0
    finally:
        running.close()


def test_a_step_that_runs_out_of_memory_says_so(varied_model: PreTrainedModel) -> None:
    def fail(module: object, inputs: object) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    with Engine(varied_model, rows=4) as engine:
        hook = varied_model.get_input_embeddings().register_forward_pre_hook(fail)
        with pytest.raises(NoMemory, match=r"this answer failed because memory ran out .*can't allocate memory"):
            list(ask(engine, None))
        with pytest.raises(NoMemory, match="the vectors failed because memory ran out"):
            engine.embed([PROMPT], None).result(30)
        hook.remove()
        assert len(list(ask(engine, None))) == 8


# --------------------------------------------------------------------------------------------------- when the engine ends


def test_an_engine_that_ends_gives_the_memory_of_its_adapters_back_and_leaves_nobody_waiting(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], reading: Reading
) -> None:
    refused: list[Exception] = []

    def submit(engine: Engine) -> None:
        try:
            ask(engine, "late")
        except EngineStopped as error:
            refused.append(error)

    reading.go_on.set()
    engine = Engine(varied_model, adapters=adapter_folders, rows=4)
    list(ask(engine, "a"))
    engine.add_adapter("late", adapter_folders["b"], lazy=True)
    reading.begun.clear()
    reading.go_on.clear()
    thread = threading.Thread(target=submit, args=(engine,))
    thread.start()
    assert reading.begun.wait(10)
    engine.close()
    assert engine.adapter_bytes == 0
    began = time.monotonic()
    assert engine.remove_adapter("late", wait_s=20)
    assert engine.remove_adapter("a", wait_s=20)
    assert time.monotonic() - began < 5
    reading.go_on.set()
    thread.join(30)
    assert len(refused) == 1


def test_vectors_that_wait_when_the_engine_closes_at_once_are_refused(
    varied_model: PreTrainedModel,
) -> None:
    engine = Engine(varied_model, rows=4)
    with held(varied_model) as go_on:
        running = ask(engine, None, new_tokens=400)
        wait_for(lambda: engine.load.running)
        vectors = [engine.embed([PROMPT], None) for _ in range(3)]
        closing = threading.Thread(target=engine.close, kwargs={"drain": False})
        closing.start()
        for future in vectors:
            with pytest.raises(EngineStopped, match="closed before the vectors"):
                future.result(30)
        go_on.set()
        closing.join(30)
    assert not closing.is_alive()
    assert running.end is End.CANCELLED


# ----------------------------------------------------------------------------------------------------- when clients go


def test_a_client_that_goes_while_its_adapter_is_read_leaves_nothing_behind(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], tokenizer: Tokenizer, reading: Reading
) -> None:
    engine = Engine(varied_model, rows=4)
    engine.add_adapter("x", adapter_folders["a"], lazy=True)
    running = Running(Service(engine, tokenizer, {"x": ServedModel("x", None)}, today=lambda: DAY))
    try:
        for stream in (True, False):
            body = json.dumps({"model": "x", "messages": [USER], "max_tokens": 400, "n": 2, "stream": stream}).encode()
            reading.begun.clear()
            reading.go_on.clear()
            with socket.create_connection(("127.0.0.1", running.port)) as connection:
                head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(
                    body
                )
                connection.sendall(head + body)
                assert reading.begun.wait(10)
            reading.go_on.set()
            began = time.monotonic()
            wait_for(lambda: engine._adapters._known["x"].pending == engine._adapters._known["x"].running == 0)
            wait_for(lambda: not engine.load.running and not engine.load.waiting)
            assert time.monotonic() - began < 2, "400 tokens, twice: the answers went on for nobody"
            engine.remove_adapter("x", wait_s=10)
            engine.add_adapter("x", adapter_folders["a"], lazy=True)
    finally:
        running.close()


def test_requests_that_wait_for_a_slow_adapter_hold_up_nobody_and_count_as_waiting(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], tokenizer: Tokenizer, reading: Reading
) -> None:
    """More of them than the threads that asyncio has by itself on any machine of this size."""
    many = 40
    engine = Engine(varied_model, rows=4, queue=many + 1)
    engine.add_adapter("x", adapter_folders["a"], lazy=True)
    models = {"x": ServedModel("x", None), "base": ServedModel(None, None)}
    running = Running(Service(engine, tokenizer, models, today=lambda: DAY))
    statuses: list[int] = []

    def post(model: str) -> int:
        body = {"model": model, "messages": [USER], "max_tokens": 3}
        return httpx.post(f"{running.url}/chat/completions", json=body, timeout=20).status_code

    try:
        threads = [threading.Thread(target=lambda: statuses.append(post("x"))) for _ in range(many)]
        for thread in threads:
            thread.start()
        wait_for(lambda: engine.load.waiting == many)
        assert post("base") == 200
        last = threading.Thread(target=lambda: statuses.append(post("x")))
        last.start()
        wait_for(lambda: engine.load.waiting == many + 1)
        assert post("x") == post("base") == 503, "one more would be too many"
        reading.go_on.set()
        for thread in (*threads, last):
            thread.join(60)
        assert statuses == [200] * (many + 1)
        assert reading.times == 1
    finally:
        running.close()


@pytest.mark.parametrize("moment", ["queued", "in its prompt", "decoding"])
def test_a_stream_cancelled_at_any_moment_leaves_the_others_their_answers(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], moment: str
) -> None:
    long = [5 + place % 390 for place in range(300)]
    with Engine(varied_model, adapters=adapter_folders, rows=2, piece_tokens=16) as engine:
        right = {name: list(ask(engine, name, new_tokens=24)) for name in (None, "a")}
        others = [ask(engine, None, new_tokens=24)]
        if moment == "queued":
            others.append(ask(engine, "a", new_tokens=24))
        gone = ask(engine, "b", long, new_tokens=100)
        if moment == "in its prompt":
            wait_for(lambda: engine._decoder._reading)
        elif moment == "decoding":
            next(iter(gone))
        gone.cancel()
        if moment != "queued":
            others.append(ask(engine, "a", new_tokens=24))
        assert [list(stream) for stream in others] == [right[None], right["a"]]
        wait_for(lambda: not engine.load.running)
        assert engine.remove_adapter("b", wait_s=10)
        assert all(not prefix.users for prefix in engine._decoder._prefixes.prefixes)
