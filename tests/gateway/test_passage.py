"""Answers that end in other ways than they should, and what they cost."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from gateway_running import BadUpstream, Running, events
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from burnish.gateway.answers import EventReader, Usage
from burnish.gateway.passage import Halted, Passage
from burnish.gateway.route import Choice
from burnish.gateway.serve_model import price_of
from burnish.gateway.settings import Price, Settings

PIECE = b'data: {"choices": [{"index": 0, "delta": {"content": "Hel"}}]}\n\n'


async def crashing(request: Request) -> StreamingResponse:
    """An engine within the process that fails before or in the middle of its answer."""
    how = (await request.json())["model"]
    if how == "at-once":
        raise ZeroDivisionError("the engine's own fault, with a secret in it")

    async def pieces() -> AsyncIterator[bytes]:
        yield PIECE
        if how == "midway":
            raise ZeroDivisionError("the engine's own fault, with a secret in it")
        if how == "tells":
            yield b'data: {"error": {"message": "this answer failed", "type": "server_error"}}\n\ndata: [DONE]\n\n'
        if how == "starves":
            error = {"message": "memory ran out", "type": "server_error", "code": "overloaded"}
            yield b"data: " + json.dumps({"error": error}).encode() + b"\n\ndata: [DONE]\n\n"
        if how == "no-last-line":
            yield b"data: [DONE]"

    return StreamingResponse(pieces(), media_type="text/event-stream")


@pytest.fixture
def inner(tmp_path: Path) -> Iterator[Running]:
    """A gateway in front of an application in its own process."""
    app = Starlette(routes=[Route("/v1/chat/completions", crashing, methods=["POST"])])
    routes = {"new": {"champion": "good", "targets": [{"model": "tells"}]}}
    routes["hungry"] = {"champion": "good", "targets": [{"model": "starves"}]}
    settings = Settings.model_validate({"routes": routes})
    running = Running("http://127.0.0.1:1", tmp_path, settings, upstream=app)
    yield running
    running.close()


def test_an_engine_that_crashes_before_its_answer_is_a_503(inner: Running, caplog: pytest.LogCaptureFixture) -> None:
    key = inner.key()
    response = inner.ask(key, "at-once", stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "upstream_failed")
    assert response.headers["retry-after"] == "1"
    assert "ZeroDivisionError" in caplog.text, "the log tells what the client is not told"
    assert "secret" not in response.text
    assert inner.used(key) == 0


@pytest.mark.parametrize("how", ["midway", "cut-short"])
def test_a_stream_that_does_not_reach_its_last_word_ends_with_an_error(inner: Running, how: str) -> None:
    told = events(inner.ask(inner.key(), how, stream=True))
    assert told[0]["choices"][0]["delta"]["content"] == "Hel"
    assert told[-2]["error"]["type"] == "server_error"
    assert told[-1] == "[DONE]"


@pytest.mark.parametrize("status", [201, 204, 206, 304, 407, 999])
def test_a_status_that_no_answer_has_is_the_engines_failure(status: int) -> None:
    """A 204 with an error's body would have been two answers to the client."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> Passage:
        passage = Passage(send, Usage(), list, keep_usage=False)
        await passage({"type": "http.response.start", "status": status, "headers": []})
        with pytest.raises(Halted):
            await passage({"type": "http.response.body", "body": b""})
        return passage

    refusal = asyncio.run(run()).refusal
    assert refusal is not None
    assert (refusal.status, refusal.code, sent) == (503, "upstream_failed", [])


def test_a_last_word_without_a_blank_line_counts(inner: Running) -> None:
    assert events(inner.ask(inner.key(), "no-last-line", stream=True))[-1] == "[DONE]"


def test_an_error_within_a_stream_takes_a_version_out_of_traffic(inner: Running) -> None:
    key = inner.key()
    for _ in range(20):
        assert "error" in events(inner.ask(key, "new", stream=True))[-2]
    until = time.monotonic() + 5
    while "tells" not in (out := inner.gateway.parts.router.out_of_traffic("new")):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert "failed" in out["tells"]


def test_no_version_is_to_blame_for_memory_that_ran_out_in_the_middle_of_its_answer(inner: Running) -> None:
    key = inner.key()
    for _ in range(21):
        found = events(inner.ask(key, "hungry", stream=True))
        assert found[-2]["error"]["code"] == "overloaded"
    assert inner.gateway.parts.router.out_of_traffic("hungry") == {}


def test_events_in_pieces_tell_errors_and_the_end() -> None:
    reader = EventReader(Usage(), keep_usage=True)
    whole = PIECE + b'data: {"error": {"message": "secret"}}\n\ndata: [DONE]'
    passed = b"".join(reader.add(whole[at : at + 1]) for at in range(len(whole)))
    assert (reader.failed, reader.done) == (True, False)
    assert passed.startswith(PIECE + b'data: {"error": {"message": "the engine failed')
    assert b"secret" not in passed
    assert reader.finish() == b"data: [DONE]"
    assert reader.done


def test_what_is_kept_of_choices_and_calls_that_come_in_turns_is_whole() -> None:
    """Else what is personal would not be found in it."""
    usage = Usage()
    usage.pieces = {}
    reader = EventReader(usage, keep_usage=True)
    for n in range(3):
        call = {"index": 0, "function": {"arguments": ["ann", "@x", ".org"][n]}}
        choices = [
            {"index": 0, "delta": {"content": ["bob", "@y", ".org"][n]}},
            {"index": 1, "delta": {"tool_calls": [call]}},
        ]
        reader.add(b"data: " + json.dumps({"choices": choices}).encode() + b"\n\n")
    assert usage.said == "bob@y.org\nann@x.org"
    assert usage.text_bytes > len(usage.said), "the form of a call counts"


def test_an_error_that_is_the_requests_is_not_held_against_a_version() -> None:
    reader = EventReader(Usage(), keep_usage=True)
    event = b'data: {"error": {"message": "x", "type": "invalid_request_error"}}\n\n'
    assert reader.add(event) == event
    assert (reader.failed, reader.begun) == (False, True)


@pytest.mark.parametrize(
    ("model", "alias", "price"),
    [
        ("search:7", "search", 7), ("search:8", "search", 1), ("search:8", "search:8", 1), ("search:9", "search@beta", 1),
        ("other", "other", 3), ("other:1", "route", 2),
    ],
)  # fmt: skip
def test_no_other_name_of_a_release_is_cheaper(model: str, alias: str, price: float) -> None:
    prices = {
        name: Price(answer_usd=usd) for name, usd in (("search:7", 7), ("search", 1), ("route", 2), ("default", 3))
    }
    assert price_of(prices, Choice(alias, model)).answer_usd == price


def test_hanging_up_on_a_whole_answer_costs_what_may_have_been_made(tmp_path: Path) -> None:
    upstream = BadUpstream()
    running = Running(upstream.url, tmp_path)
    try:
        key = running.key()
        with pytest.raises(httpx.ReadTimeout):
            running.client.post(
                "/v1/chat/completions", timeout=0.3, headers={"authorization": f"Bearer {key}"},
                json={"model": "slow-first", "max_tokens": 30, "messages": [{"role": "user", "content": "hi"}]},
            )  # fmt: skip
        until = time.monotonic() + 5
        while not upstream.hung_up["slow-first"] and time.monotonic() < until:
            time.sleep(0.01)
        assert running.used(key) == 17 + 2 * 16 + 30
    finally:
        running.close()
        upstream.close()


def test_feedback_counts_as_a_request(tmp_path: Path) -> None:
    upstream = BadUpstream()
    running = Running(upstream.url, tmp_path)
    try:
        own = {"authorization": f"Bearer {running.key('chat', requests_per_minute=2)}"}
        thumb = {"kind": "thumb", "up": True, "consent": False, "model": "ok", "prompt_hash": "a" * 64}
        said = [running.client.post("/feedback", json=thumb, headers=own) for _ in range(3)]
        assert [each.status_code for each in said] == [201, 201, 429]
        assert 1 <= int(said[2].headers["retry-after"]) <= 60
    finally:
        running.close()
        upstream.close()


def test_who_does_not_read_what_is_left_loses_the_connection(tmp_path: Path) -> None:
    upstream = BadUpstream()
    running = Running(upstream.url, tmp_path, Settings.model_validate({"timeouts": {"total_s": 1}}))
    body = json.dumps({"model": "flood", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
    stalled: list[socket.socket] = []
    try:
        key = running.key()
        running.client.close()  # its connection is one that stays open
        for _ in range(5):
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", running.port))
            raw.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n{body}".encode())  # fmt: skip
            stalled.append(raw)

        def held() -> int:
            return sum(each.laddr.port == running.port and each.status == "ESTABLISHED" for each in connections())

        until = time.monotonic() + 5
        while held() < 5 and time.monotonic() < until:
            time.sleep(0.05)
        assert held() >= 5
        until = time.monotonic() + 45
        while held() and time.monotonic() < until:
            time.sleep(0.2)
        assert held() == 0, "the server keeps connections of clients that never read"
    finally:
        for raw in stalled:
            raw.close()
        running.close()
        upstream.close()


def connections() -> list[Any]:
    """The open connections of this process that a server accepted or a client made."""
    return psutil.Process().net_connections("tcp")
