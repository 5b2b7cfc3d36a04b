"""A stream gives its tokens in order, to a thread or to asyncio, and ends exactly once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import ServeError
from burnish.serve.answering import Answer, Delta
from burnish.serve.stream import End, Stream


def feed(stream: Stream, tokens: list[int], outcome: End | ServeError) -> threading.Thread:
    def work() -> None:
        for token in tokens:
            time.sleep(0.001)
            stream.put(token)
        stream.finish(outcome)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def nothing(stream: Stream) -> None:
    """No engine listens."""


async def collect(stream: Stream) -> list[int]:
    return [token async for token in stream]


def test_a_thread_reads_tokens_as_they_come() -> None:
    stream = Stream(3, nothing)
    feed(stream, [5, 6, 7], End.STOP)
    assert list(stream) == [5, 6, 7]
    assert (stream.end, stream.prompt_tokens, stream.new_tokens) == (End.STOP, 3, 3)


def test_asyncio_reads_tokens_as_they_come_and_other_tasks_run() -> None:
    async def both() -> tuple[list[int], int]:
        stream = Stream(1, nothing)
        feed(stream, list(range(20)), End.LENGTH)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while not stream.ended:
                ticks += 1
                await asyncio.sleep(0.001)

        tokens, _ = await asyncio.gather(collect(stream), tick())
        return tokens, ticks

    tokens, ticks = asyncio.run(both())
    assert tokens == list(range(20))
    assert ticks > 3


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_reaches_the_reader_after_the_tokens_before_it(asynchronous: bool) -> None:
    stream = Stream(1, nothing)
    feed(stream, [1, 2], ServeError("broken"))
    with pytest.raises(ServeError, match="broken"):
        asyncio.run(collect(stream)) if asynchronous else list(stream)
    assert stream.new_tokens == 2


def test_cancel_wakes_a_waiting_reader_and_drops_what_was_not_read() -> None:
    told: list[Stream] = []
    stream = Stream(1, told.append)
    read: list[int] = []
    reader = threading.Thread(target=lambda: read.extend(stream))
    reader.start()
    stream.cancel()
    stream.cancel()
    stream.put(9)
    reader.join(timeout=5)
    assert not reader.is_alive()
    assert (read, stream.end, told) == ([], End.CANCELLED, [stream])


def test_a_reader_whose_event_loop_is_gone_does_not_disturb_the_engine() -> None:
    stream = Stream(1, nothing)
    stream.put(1)

    async def read_one() -> int:
        async for token in stream:
            return token
        raise AssertionError

    assert asyncio.run(read_one()) == 1
    stream.put(2)
    stream.finish(End.STOP)
    assert list(stream) == [2]


@given(st.lists(st.sampled_from(["put", "stop", "error", "cancel"]), max_size=12))
def test_the_first_end_counts_and_later_ones_change_nothing(actions: list[str]) -> None:
    told: list[Stream] = []
    stream = Stream(1, told.append)
    ends = 0
    first = next((action for action in actions if action != "put"), None)
    for action in actions:
        if action == "put":
            stream.put(1)
        elif action == "cancel":
            before = stream.ended
            stream.cancel()
            ends += not before
        else:
            ends += stream.finish(End.STOP if action == "stop" else ServeError("x"))
    assert ends == (first is not None)
    assert stream.end == {"stop": End.STOP, "cancel": End.CANCELLED}.get(first or "")
    assert (stream.error is not None) == (first == "error")
    assert len(told) == (first == "cancel")


def test_whatever_ends_one_choice_reaches_who_waits_for_all() -> None:
    class Broken:
        index = 0

        async def deltas(self) -> AsyncIterator[Delta]:
            yield Delta(0, "so far")
            raise ValueError("no text")

    answer = Answer({}, cast("Any", [Broken(), Broken()]), 1, cast("Any", None))
    with pytest.raises(ValueError, match="no text"):
        asyncio.run(asyncio.wait_for(answer.whole(), 10))
