"""The gateway over real sockets: keys, limits, caps, streams, cancellation, failures of the upstream, the end."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_running import WORDS, BadUpstream, Running, events
from gateway_storage import REDIS

from burnish.gateway.redis_ledger import RedisLedger
from burnish.gateway.redis_server import RedisServer
from burnish.gateway.route import Router
from burnish.gateway.server import _Joined
from burnish.gateway.settings import Settings, Timeouts

ANSWER = "".join(WORDS)


@pytest.fixture(scope="module")
def upstream() -> Iterator[BadUpstream]:
    upstream = BadUpstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def running(upstream: BadUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = Settings.model_validate({
        "caps": {"body_bytes": 20_000, "prompt_tokens": 5000, "new_tokens": 500, "default_new_tokens": 50, "answers": 3},
        "timeouts": {"head_s": 1, "body_s": 1, "first_token_s": 1, "total_s": 3, "drain_s": 5},
        "origins": ["https://app.example"], "hosts": ["gateway.example"],
        "prices": {"ok": {"prompt_usd": 1, "answer_usd": 2}},
    })  # fmt: skip
    running = Running(upstream.url, tmp_path_factory.mktemp("gateway"), settings)
    yield running
    running.close()


def error(response: httpx.Response) -> dict[str, str]:
    body = response.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    if response.status_code in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    assert response.headers["x-request-id"]
    return body


# --------------------------------------------------------------------------------------------------------------- keys


def test_an_answer_passes_with_its_usage_counted(running: Running) -> None:
    key = running.key()
    response = running.ask(key)
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == ANSWER
    assert response.headers["x-burnish-model"] == "ok"
    assert running.used(key) == 16
    found = running.keys.authenticate(key)
    assert found is not None
    assert next(iter(running.ledger.used(found.account).values())) == (
        16,
        11 * 1000 + 5 * 2000,
    )


@pytest.mark.parametrize("sent", [None, "", "Bearer", "Basic abc", "Bearer wrong", "bk_aaaaaaaaaaaa_" + "a" * 43])
def test_every_wrong_key_gets_the_same_401(running: Running, sent: str | None) -> None:
    headers = {} if sent is None else {"authorization": sent}
    response = running.client.post("/v1/chat/completions", json={"model": "ok"}, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    said = error(response)
    assert (said["type"], said["code"]) == ("authentication_error", "invalid_api_key")
    assert said == error(
        running.client.get("/v1/models", headers={"authorization": f"Bearer bk_{'b' * 12}_{'c' * 43}"})
    )


def test_a_revoked_key_is_refused_from_the_next_request_on(running: Running) -> None:
    key = running.key()
    assert running.ask(key).status_code == 200
    found = running.keys.authenticate(key)
    assert found is not None
    running.keys.revoke(found.id)
    assert running.ask(key).status_code == 401


def test_a_key_asks_the_models_it_is_allowed_and_sees_no_others(running: Running) -> None:
    key = running.key(models=["ok", "champ*"])
    assert running.ask(key, "ok").status_code == 200
    refused = running.ask(key, "base")
    assert (refused.status_code, error(refused)["code"]) == (403, "model_not_allowed")
    own = {"authorization": f"Bearer {key}"}
    assert [card["id"] for card in running.client.get("/v1/models", headers=own).json()["data"]] == ["ok", "champion"]
    assert running.client.get("/v1/models/ok", headers=own).json()["id"] == "ok"
    other = running.client.get("/v1/models/base", headers=own)
    assert other.status_code == 404
    assert "no such model" in running.ask(running.key(), "unknown").json()["error"]["message"]
    lost = running.ask(running.key(models=["unk*"]), "unknown")
    assert (lost.status_code, lost.json()) == (404, other.json()), "an engine's own answer names all that it has"


def test_scopes(running: Running) -> None:
    paths = ["/v1/models", "/metrics", "/admin/keys"]
    found = {
        scope: [
            running.client.get(path, headers={"authorization": f"Bearer {running.key(scope)}"}).status_code
            for path in paths
        ]
        for scope in ("admin", "user", "chat", "metrics")
    }
    assert found == {
        "admin": [200, 200, 200],
        "user": [200, 403, 403],
        "chat": [200, 403, 403],
        "metrics": [403, 200, 403],
    }
    chat = running.key("chat")
    assert running.ask(chat).status_code == 200
    for path in ("/v1/embeddings", "/v1/completions"):
        body = {"model": "ok", "input": "x", "prompt": "x"}
        assert running.client.post(path, json=body, headers={"authorization": f"Bearer {chat}"}).status_code == 403


@pytest.mark.parametrize("path", ["/v1/models?api_key=x", "/v1/models?key=bk_aaaaaaaaaaaa_x", "/v1/models?a=1&access_token=y",
                                  "/bk_aaaaaaaaaaaa_" + "a" * 43, "/v1/models?x=%62k_aaaaaaaaaaaa_x", "/v1/models?k%65y=x",
                                  "/v1/models/%62k_aaaaaaaaaaaa_x"])  # fmt: skip
def test_a_key_in_a_url_is_refused_even_beside_a_valid_one(running: Running, path: str) -> None:
    response = running.client.get(path, headers={"authorization": f"Bearer {running.admin}"})
    assert (response.status_code, error(response)["code"]) == (400, "key_in_url")


# ------------------------------------------------------------------------------------------------------------- limits


def test_the_limit_on_requests_tells_when_to_come_again(running: Running) -> None:
    key = running.key(requests_per_minute=2)
    first = running.ask(key)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert running.ask(key).status_code == 200
    refused = running.ask(key)
    assert (refused.status_code, error(refused)["code"]) == (429, "rate_limit_exceeded")
    assert 50 <= int(refused.headers["retry-after"]) <= 61
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"


def test_tokens_are_reserved_with_the_longest_answer_and_settled_with_the_real_one(running: Running) -> None:
    key = running.key(tokens_per_minute=200)
    assert running.ask(key, max_tokens=100).status_code == 200
    assert running.used(key) == 16
    assert running.ask(key, max_tokens=130).status_code == 200, "what was not used is free again"
    assert running.ask(key, max_tokens=145).status_code == 429


def test_a_request_larger_than_its_limit_is_no_429(running: Running) -> None:
    key = running.key(tokens_per_minute=200)
    refused = running.ask(key, max_tokens=300)
    assert (refused.status_code, error(refused)["code"]) == (413, "request_larger_than_limit")
    assert "retry-after" not in refused.headers
    assert running.ask(key, max_completion_tokens=1, max_tokens=300).status_code == 413, "the larger of two"
    short = running.key(tokens_per_minute=60)
    assert running.ask(short).status_code == 200, "without max_tokens the answer is made to fit"


def test_a_budget_of_money_is_reserved_and_settled(running: Running) -> None:
    key = running.key(nano_usd_per_day=150_000)
    assert running.ask(key, max_tokens=40).status_code == 200
    assert running.used(key) == 16
    refused = running.ask(key, max_tokens=50)
    assert (refused.status_code, error(refused)["code"]) == (429, "insufficient_quota")
    assert "$0.00015" in error(refused)["message"]


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_two_gateways_on_one_storage_let_no_more_through_than_one(
    upstream: BadUpstream, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    settings = Settings(database=request.getfixturevalue("postgres") if kind == "postgres" else None)
    extra = {}
    if kind == "redis":
        extra = {
            "ledger": RedisLedger(RedisServer(REDIS), prefix=f"{request.getfixturevalue('redis_prefix')}-two"),
            "workers": 8,
        }
    first = Running(upstream.url, tmp_path, settings, extra=dict(extra))
    second = Running(upstream.url, tmp_path, settings, extra=dict(extra))
    try:
        key = first.key(requests_per_minute=10)
        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit((first if n % 2 else second).ask, key) for n in range(40)]
        statuses = Counter(each.result().status_code for each in asked)
    finally:
        first.close()
        second.close()
    assert statuses == {200: 10, 429: 30}


def test_concurrency(running: Running) -> None:
    key = running.key(concurrency=1)
    body = {"model": "endless", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with running.client.stream(
        "POST", "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
    ) as first:
        lines = first.iter_lines()
        next(lines)
        refused = running.ask(key)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert running.used(key) > 0
    assert running.ask(key).status_code == 200


def test_the_answers_of_n_are_all_reserved(running: Running) -> None:
    key = running.key(tokens_per_minute=500)
    assert running.ask(key, n=3, max_tokens=100).status_code == 200
    assert running.used(key) == 16
    assert running.ask(running.key(tokens_per_minute=440), n=3, max_tokens=100).status_code == 413
    assert running.ask(key, n=4).status_code == 422


# ----------------------------------------------------------------------------------------------------- caps and bodies


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422), (b"{", 400), (b"[]", 400), (b'"x"', 400), (b"nul", 400), (b'{"model": NaN}', 400),
        (b"[" * 10_000, 400), (b'{"a":' * 3000 + b"1" + b"}" * 3000, 400),
        (b'{"model": "ok", "model": "base", "messages": []}', 400), (b'{"model": "\\ud800", "messages": []}', 400),
        (b'{"model": "ok\\u0000", "messages": []}', 422), (b'{"model": 7, "messages": []}', 422), (b'{"model": "ok"}', 422),
        (b'{"model": "ok", "messages": [], "max_tokens": 501}', 422), (b'{"model": "ok", "messages": [], "max_tokens": 0}', 422),
        (b'{"model": "ok", "messages": [], "max_tokens": 1.5}', 422), (b'{"model": "ok", "messages": [], "max_tokens": true}', 422),
        (b'{"model": "ok", "messages": [], "stream": "yes"}', 422), (b'{"model": "ok", "messages": [], "n": -1}', 422),
        (b'{"model": "ok", "messages": [], "temperature": 1e999}', 400),
        (b'{"model": "ok", "messages": [{"role": "user", "content": "' + b"a" * 6000 + b'"}]}', 413),
        (b'{"x": "' + b"a" * 30_000 + b'"}', 413), (b"\xff\xfe", 400),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be_asked(running: Running, upstream: BadUpstream, body: bytes, status: int) -> None:
    before = len(upstream.seen)
    response = running.client.post(
        "/v1/chat/completions", content=body, headers={"authorization": f"Bearer {running.admin}"}
    )
    assert (response.status_code, bool(error(response)["message"])) == (status, True)
    assert len(upstream.seen) == before


def test_a_chunked_body_is_counted_as_it_comes(running: Running) -> None:
    response = running.client.post(
        "/v1/chat/completions", content=iter([b"x" * 4000] * 20), headers={"authorization": f"Bearer {running.admin}"}
    )
    assert response.status_code == 413


def test_a_body_that_announces_too_much_is_refused_before_it_comes(running: Running) -> None:
    text = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {running.admin}\r\n"
            "Content-Length: 1000000000\r\n\r\n{")  # fmt: skip
    assert raw_request(running.port, text.encode()).split()[1] == b"413"


def test_a_missing_length_of_the_answer_is_set_and_upstream_gets_no_key(
    running: Running, upstream: BadUpstream
) -> None:
    assert running.ask(running.key(), headers={"x-request-id": "abc.1"}).headers["x-request-id"] == "abc.1"
    assert upstream.seen[-1]["max_tokens"] == 50
    assert "authorization" not in upstream.headers[-1]
    assert upstream.headers[-1]["x-request-id"] == "abc.1"
    assert running.ask(running.key(), headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_who_balances_load_may_ask_for_the_heads_of_health_alone(running: Running) -> None:
    for path in ("/health/live", "/health/ready"):
        answer = running.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_version_is_found_by_its_name_and_not_listed(upstream: BadUpstream, tmp_path: Path) -> None:
    running = Running(upstream.url, tmp_path, extra={"router": Router({}, {"ok:7": "ok:7"}.get)})
    try:
        own, other = ({"authorization": f"Bearer {running.key(models=(name,))}"} for name in ("ok*", "base"))
        assert running.client.get("/v1/models/ok:7", headers=own).json()["id"] == "ok:7"
        assert running.client.get("/v1/models/ok:8", headers=own).status_code == 404
        assert running.client.get("/v1/models/ok:7", headers=other).status_code == 404
        listed = running.client.get("/v1/models", headers=own).json()["data"]
        assert [card["id"] for card in listed] == ["ok"]
    finally:
        running.close()


def test_auto_is_listed_where_there_is_a_choice(tmp_path: Path) -> None:
    alone, several = BadUpstream(), BadUpstream()
    alone.models = ["base"]
    try:
        for upstream, listed in ((alone, False), (several, True)):
            running = Running(upstream.url, tmp_path / str(listed), extra={"pick": lambda text: []})
            try:
                own = {"authorization": f"Bearer {running.key()}"}
                data = running.client.get("/v1/models", headers=own).json()["data"]
                assert ("auto" in {card["id"] for card in data}) == listed
                if listed:
                    own = {"authorization": f"Bearer {(alone_key := running.key(models=['auto']))}"}
                    assert running.client.get("/v1/models", headers=own).json()["data"] == [], "it could pick nothing"
                    refused = running.ask(alone_key, "auto")
                    assert refused.status_code == 403
                    assert "base" not in refused.text
            finally:
                running.close()
    finally:
        alone.close()
        several.close()


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405),
                         ("GET", "/nothing", 404), ("POST", "/v1/load_lora_adapter", 404), ("GET", "/v1/../admin/keys", 404),
                         ("DELETE", "/metrics", 403), ("TRACE", "/", 404)])  # fmt: skip
def test_paths_and_methods_that_are_not_there(running: Running, method: str, path: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as raw:
        raw.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {running.key()}\r\n\r\n".encode()
        )
        assert raw.recv(100).split()[1] == str(status).encode()


def test_who_leaves_out_v1_or_asks_for_another_api_is_told_what_is_there(running: Running) -> None:
    own = {"authorization": f"Bearer {running.key()}"}
    told = {
        path: running.client.post(path, json={}, headers=own).json()["error"]["message"]
        for path in ("/chat/completions", "/v1/chat/completions/", "/v1/responses")
    }
    assert told["/chat/completions"].endswith("it is /v1/chat/completions")
    assert told["/v1/chat/completions/"].endswith("it is /v1/chat/completions")
    assert told["/v1/responses"].endswith("Known: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models")


# ------------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("model", ["ok", "crlf", "crumbs"])
@pytest.mark.parametrize("wants", [True, False])
def test_a_stream_passes_as_it_is_and_the_usage_is_for_who_asked(running: Running, model: str, wants: bool) -> None:
    key = running.key()
    options = {"include_usage": True} if wants else None
    response = running.ask(key, model, stream=True, stream_options=options)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "set-cookie" not in response.headers
    assert "secret" not in response.headers.get("server", "")
    found = events(response)
    assert found[-1] == "[DONE]"
    assert "".join(c["delta"].get("content", "") for e in found[:-1] for c in e["choices"]) == ANSWER
    assert bool([e for e in found[:-1] if e.get("usage")]) == wants
    assert running.used(key) == 16


def test_a_stream_without_usage_is_charged_from_above(running: Running) -> None:
    key = running.key()
    running.ask(key, "no-usage", stream=True, max_tokens=30)
    assert running.used(key) == 17 + 2 * 16 + len(ANSWER.encode()), "the prompt's bound, and a token a byte"


def test_hanging_up_cancels_upstream_and_charges_what_came(running: Running, upstream: BadUpstream) -> None:
    key = running.key()
    before = upstream.hung_up["endless"]
    body = {"model": "endless", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with running.client.stream(
        "POST", "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
    ) as response:
        lines = response.iter_lines()
        for _ in range(4):
            next(lines)
    until = time.monotonic() + 5
    while upstream.hung_up["endless"] == before and time.monotonic() < until:
        time.sleep(0.01)
    assert upstream.hung_up["endless"] == before + 1
    assert 49 <= running.used(key) < 49 + 50


def test_a_slow_reader_is_cut_off_when_its_time_is_over(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    key, noted = running.key(), list[object]()
    monkeypatch.setattr(running.gateway.parts.router, "note", lambda *given, **named: noted.append(given))
    body = json.dumps({"model": "flood", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
    with socket.create_connection(("127.0.0.1", running.port)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n{body}".encode())  # fmt: skip
        raw.recv(1000)
        began = time.monotonic()
        assert running.used(key) > 0
        assert time.monotonic() - began < 9
    assert noted == [], "the version is not to blame"


# ------------------------------------------------------------------------------------------- failures of the upstream


@pytest.mark.parametrize(
    ("model", "code"), [("fails", "upstream_failed"), ("denied", "upstream_failed"), ("busy", "overloaded"),
                        ("slow-first", "upstream_timeout")],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_what_goes_wrong_before_the_first_byte_is_a_503_that_costs_nothing(
    running: Running, model: str, code: str, stream: bool
) -> None:
    key = running.key()
    response = running.ask(key, model, stream=stream)
    assert response.status_code == 503
    said = error(response)
    assert said["code"] == code
    assert "secret" not in said["message"]
    assert running.used(key) == 0
    if model == "busy":
        assert response.headers["retry-after"] == "7"


def test_what_the_upstream_refuses_passes_and_costs_nothing(running: Running) -> None:
    key = running.key()
    response = running.ask(key, "unknown")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert running.used(key) == 0


def test_a_refusal_of_the_upstream_keeps_openais_format_and_says_when_to_come_again(running: Running) -> None:
    key = running.key()
    for model, code in (("plain-429", "upstream_refused"), ("own-429", "rate_limit_exceeded")):
        response = running.ask(key, model)
        assert (response.status_code, response.json()["error"]["code"]) == (429, code)
        assert response.headers["retry-after"] == "1"
        assert "secret-host" not in response.text
    assert running.used(key) == 0


def test_the_time_to_the_first_token_is_for_streams_alone(running: Running) -> None:
    """The first byte of a whole answer comes when all of it is made (first_token_s is 1 here, total_s 3)."""
    key = running.key()
    assert running.ask(key, "slow-whole").status_code == 200
    refused = running.ask(key, "slow-whole", stream=True)
    assert (refused.status_code, error(refused)["code"]) == (503, "upstream_timeout")


def test_the_role_that_engines_tell_at_once_is_no_first_token(upstream: BadUpstream, tmp_path: Path) -> None:
    settings = Settings(metrics_public=True, timeouts=Timeouts(first_token_s=1, total_s=20))
    running = Running(upstream.url, tmp_path, settings)
    try:
        key = running.key()
        refused = running.ask(key, "role-then-silence", stream=True)
        found = events(running.ask(key, "role-then-word", stream=True))
        assert running.ask(key, "ok").status_code == running.ask(key, "unknown").status_code - 204 == 200
        text = running.client.get("/metrics").text
    finally:
        running.close()
    assert (refused.status_code, error(refused)["code"]) == (503, "upstream_timeout")
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert found[-1] == "[DONE]"
    assert 'burnish_first_token_seconds_bucket{le="0.1",model="role-then-word"} 0.0' in text
    assert 'burnish_first_token_seconds_count{model="role-then-word"} 1.0' in text
    assert 'burnish_first_token_seconds_count{model="ok"}' not in text
    assert 'burnish_first_token_seconds_count{model="other"}' not in text


def test_a_stream_that_breaks_ends_with_an_error_that_clients_raise_on(running: Running) -> None:
    key = running.key()
    found = events(running.ask(key, "breaks", stream=True))
    assert found[-2]["error"]["code"] == "upstream_broke_off"
    assert found[-1] == "[DONE]"
    assert running.used(key) >= 49


def test_an_answer_that_takes_too_long_in_all_ends_with_an_error(running: Running) -> None:
    began = time.monotonic()
    found = events(running.ask(running.key(), "endless", stream=True))
    assert found[-2]["error"]["code"] == "upstream_timeout"
    assert time.monotonic() - began < 8


def test_an_upstream_that_is_not_there_is_tried_again_and_then_told(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Running(f"http://127.0.0.1:{port}", tmp_path)
    try:
        assert error(running.ask(running.key()))["code"] == "upstream_unreachable"
        assert running.client.get("/health/ready").status_code == 503
        assert running.client.get("/health/live").status_code == 200
    finally:
        running.close()


def test_a_connection_that_the_upstream_closed_meanwhile_is_opened_again(tmp_path: Path) -> None:
    """A pooled connection may be gone when it is used again: before the first byte that is no failure."""
    first = BadUpstream()
    running = Running(first.url, tmp_path)
    key = running.key()
    assert running.ask(key).status_code == 200
    port = first.port
    first.close()
    second = BadUpstream.__new__(BadUpstream)
    from burnish.core import listen as module

    original = module.listen
    try:
        import gateway_running

        gateway_running.listen = lambda host, _: original(host, port)
        second.__init__()
        assert running.ask(key).status_code == 200
    finally:
        gateway_running.listen = original
        running.close()
        second.close()


# ------------------------------------------------------------------------------------------------------------ security


def raw_request(port: int, text: bytes, seconds: float = 5) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as raw:
        raw.sendall(text)
        data = b""
        while piece := raw.recv(65536):
            data += piece
            if b"\r\n\r\n" in data and b"Connection: close" not in data:
                return data
        return data


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:1", 200), ("gateway.example", 200), ("[::1]", 200), ("evil.example", 403), ("", 403),
     ("127.0.0.1@evil.example", 403), ("evil.example:80@127.0.0.1", 403), ("127.0.0.1/evil.example", 403),
     ("127.0.0.1#evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1 evil", 403), ("LOCALHOST", 200)],
)  # fmt: skip
def test_the_host_header_must_be_ours(running: Running, host: str, status: int) -> None:
    answer = raw_request(running.port, f"GET /health/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.split()[1] == str(status).encode()


@pytest.mark.parametrize(
    "twice", ["Host: 127.0.0.1", "Authorization: Bearer x", "Content-Length: 0", "Origin: http://a"]
)
def test_headers_that_decide_something_stand_once(running: Running, twice: str) -> None:
    text = f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n{twice}\r\n{twice}\r\n\r\n"
    assert raw_request(running.port, text.encode()).split()[1] == b"400"


def test_pages_of_other_origins_are_refused_and_listed_ones_are_let_in(running: Running) -> None:
    own = {"origin": running.url}
    assert running.client.get("/health/live", headers=own).status_code == 200
    evil = running.client.get("/health/live", headers={"origin": "https://evil.example"})
    assert (evil.status_code, error(evil)["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in evil.headers
    assert running.client.get("/health/live", headers={"origin": "null"}).status_code == 403
    listed = {"origin": "https://app.example", "access-control-request-method": "POST"}
    preflight = running.client.options("/v1/chat/completions", headers=listed)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    for wanted, told in (
        ("authorization,content-type,x-stainless-lang", "authorization,content-type,x-stainless-lang"),
        ("a, b", "a, b"),
        ("a;b", "authorization, content-type"),
        (",".join(["x"] * 65), "authorization, content-type"),
    ):
        asked = {**listed, "access-control-request-headers": wanted}
        preflight = running.client.options("/v1/chat/completions", headers=asked)
        assert preflight.headers["access-control-allow-headers"] == told
    assert running.ask(running.key(), headers={"origin": "https://app.example"}).headers["access-control-allow-origin"]


def test_who_has_an_answer_may_ask_again_while_it_is_settled(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last byte goes before the settling, which another gateway or a busy file may hold up."""
    settle = running.gateway.settle

    async def late(*given: Any) -> None:
        await asyncio.sleep(0.02)
        await settle(*given)

    monkeypatch.setattr(running.gateway, "settle", late)
    key = running.key(concurrency=1)
    assert [running.ask(key, stream=stream).status_code for stream in (True, False) * 3] == [200] * 6


def test_an_answer_that_is_too_large_says_so_and_is_counted(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was the engine's failure, to be tried again at once and for nothing."""
    monkeypatch.setattr("burnish.gateway.passage.ANSWER_BYTES", 100)
    key = running.key()
    answer = running.ask(key, max_tokens=50)
    assert (answer.status_code, error(answer)["code"]) == (413, "answer_too_large")
    assert "retry-after" not in answer.headers
    assert running.used(key) > 50
    assert running.ask(key, stream=True).status_code == 200


def test_floods_of_headers_are_refused(running: Running) -> None:
    many = "".join(f"X-{n}: a\r\n" for n in range(150))
    large = f"X: {'a' * 40_000}\r\n"
    for flood, status in ((many, b"431"), (large, b"431")):
        text = f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n{flood}\r\n".encode()
        assert raw_request(running.port, text).split()[1] == status
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as raw:
        raw.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        sent = 0
        try:
            while sent < 10_000_000:  # a head without an end
                raw.sendall(b"X: " + b"a" * 1000 + b"\r\n")
                sent += 1005
        except OSError:
            pass
        assert sent < 10_000_000, "it would have read on for ever"


@pytest.mark.parametrize("before", ["0\r\n", "2;x="])
def test_what_stands_behind_or_between_chunks_is_bounded(running: Running, before: str) -> None:
    """Trailers were kept as headers for as long as they came, from anybody."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as raw:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw.sendall(f"{head}2\r\n{{}}\r\n{before}".encode())
        piece = (b"x-a: " + b"b" * 9_000 + b"\r\n") if before.startswith("0") else b"y" * 9_000
        sent = 0
        try:
            while sent < 2_000:
                raw.sendall(piece)
                sent += 1
        except OSError:
            pass
        assert sent < 2_000, "it would have read on for ever"


def test_a_trailer_is_no_header(running: Running) -> None:
    found = raw_request(
        running.port,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"2\r\n{}\r\n0\r\nAuthorization: Bearer " + running.key().encode() + b"\r\n\r\n",
    )
    assert found.split()[1] == b"401"


def test_slowloris_heads_and_bodies_are_cut_off(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=6) as raw:
        raw.sendall(b"GET /health/live HTTP/1.1\r\nHost: ")
        assert raw.recv(1000) == b"", "a head that does not end is cut off without an answer"
    key = running.key()
    with socket.create_connection(("127.0.0.1", running.port), timeout=6) as raw:
        raw.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
                    "Content-Length: 100\r\n\r\n{".encode())  # fmt: skip
        assert raw.recv(1000).split()[1] == b"408"
    with socket.create_connection(("127.0.0.1", running.port), timeout=6) as raw:
        assert raw.recv(1000) == b"", "a connection that says nothing is closed"


def test_an_answer_is_one_write_and_a_head_that_nothing_follows_does_not_wait() -> None:
    class Written(asyncio.Transport):
        def __init__(self) -> None:
            super().__init__()
            self.writes: list[bytes] = []

        def write(self, data: Any) -> None:
            self.writes.append(data)

        def close(self) -> None:
            self.writes.append(b"closed")

    async def run() -> list[bytes]:
        written = Written()
        joined = _Joined(written, asyncio.get_running_loop())
        for data in (b"HTTP/1.1 200 OK\r\n\r\n", b"a", b"b"):
            joined.write(data)
        joined.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0)
        for data in (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 is what I spoke of", b"c"):
            joined.write(data)
        joined.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        joined.close()
        await asyncio.sleep(0)
        return written.writes

    assert asyncio.run(run()) == [
        b"HTTP/1.1 200 OK\r\n\r\na", b"b", b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 is what I spoke of", b"c", b"HTTP/1.1 204 No Content\r\n\r\n", b"closed",
    ]  # fmt: skip


def test_a_client_that_asks_before_it_sends_its_body_is_told_to_go_on(running: Running) -> None:
    body = b'{"model": "ok", "messages": [{"role": "user", "content": "hi"}]}'
    with socket.create_connection(("127.0.0.1", running.port), timeout=6) as raw:
        raw.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {running.admin}\r\n"
                    f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())  # fmt: skip
        assert raw.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(body)
        assert raw.recv(65536).split()[1] == b"200"


@pytest.mark.parametrize(
    "name", ["x-burnish-version", "x-burnish-session", "x-request-id", "authorization", "traceparent"]
)
@pytest.mark.parametrize(
    "value", ["a\rset-cookie: x=1", "a\r\n set-cookie: x=1", "a\0b", "a b", "\x7f", "é\u0085set-cookie: x=1"]
)
def test_header_values_are_never_echoed_as_headers_of_their_own(running: Running, name: str, value: str) -> None:
    key = "" if name == "authorization" else f"Authorization: Bearer {running.admin}\r\n"
    body = b'{"model": "ok", "messages": [{"role": "user", "content": "hi"}]}'
    text = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}{name}: {value}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")  # fmt: skip
    head = raw_request(running.port, text.encode("latin-1") + body).split(b"\r\n\r\n")[0].lower()
    assert re.fullmatch(rb"http/1.1 [245]\d\d .*", head.splitlines()[0])
    assert b"set-cookie" not in head
    asked = [line for line in re.split(rb"\r\n|\r|\n", head) if line.startswith(b"x-request-id:")]
    assert all(re.fullmatch(rb"x-request-id: [a-z0-9._-]{1,64}", line) for line in asked)


def test_a_model_name_with_line_breaks_makes_no_header(running: Running, upstream: BadUpstream) -> None:
    response = running.ask(running.admin, "ok\r\nset-cookie: x=1")
    assert response.status_code == 422
    assert "set-cookie" not in response.headers
    assert running.ask(running.admin, "ok\u0456").headers["x-burnish-model"] == "ok\\u0456"


def test_prompts_answers_and_keys_are_in_no_log_and_no_file(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    key = running.key()
    with caplog.at_level("DEBUG"):
        running.ask(key, messages=[{"role": "user", "content": "the-secret-prompt"}])
        running.ask(key, "breaks", stream=True, messages=[{"role": "user", "content": "the-secret-prompt"}])
    running.used(key)
    assert "the-secret-prompt" not in caplog.text
    assert key not in caplog.text
    for file in running.folder.rglob("*"):
        if file.is_file():
            assert b"the-secret-prompt" not in file.read_bytes()
            assert key.encode() not in file.read_bytes()
    assert not (running.folder / "content").exists()


# ---------------------------------------------------------------------------------------------------- admin and metrics


def test_keys_over_http_as_on_the_command_line(running: Running) -> None:
    own = {"authorization": f"Bearer {running.admin}"}
    wanted = {"name": "made", "models": ["ok"], "limits": {"requests_per_minute": 3, "usd_per_day": 0.5}, "lives_s": 60}
    made = running.client.post("/admin/keys", json=wanted, headers=own)
    assert made.status_code == 201
    key = made.json()
    assert key["limits"] == {"requests_per_minute": 3, "usd_per_day": 0.5}
    assert running.ask(key["key"]).status_code == 200
    running.used(key["key"])
    shown = running.client.get(f"/admin/keys/{key['id']}", headers=own).json()
    assert {used["tokens"] for used in shown["used"].values()} == {16}
    assert "key" not in shown
    change = {"limits": {"requests_per_minute": 4, "usd_per_day": None, "tokens_per_day": 900}}
    changed = running.client.post(f"/admin/keys/{key['id']}", json=change, headers=own).json()
    assert changed["limits"] == {"requests_per_minute": 4, "tokens_per_day": 900}
    assert changed["models"] == ["ok"], "what is not named stays"
    assert running.client.post(f"/admin/keys/{key['id']}", json={"models": None}, headers=own).json()["models"] is None
    rotated = running.client.post(f"/admin/keys/{key['id']}/rotate", json={"grace_s": 0}, headers=own).json()
    assert running.ask(key["key"]).status_code == 401
    assert running.ask(rotated["key"]).status_code == 200
    assert running.client.delete(f"/admin/keys/{rotated['id']}", headers=own).status_code == 200
    assert running.ask(rotated["key"]).status_code == 401
    actions = [row["action"] for row in running.client.get("/admin/audit", headers=own).json()["audit"]]
    assert {"key created", "key rotated", "key revoked"} <= set(actions)
    for bad in ({"name": ""}, {"name": "x", "scope": "root"}, {"name": "x", "limits": {"rpm": 3}}, {"nam": "x"}, {}):
        assert running.client.post("/admin/keys", json=bad, headers=own).status_code == 422
    assert running.client.get("/admin/keys/aaaaaaaaaaaa", headers=own).status_code == 404
    assert running.client.get("/admin/nothing", headers=own).status_code == 404


def test_admin_paths_need_an_admin_key(running: Running) -> None:
    for method, path in (("GET", "/admin/keys"), ("POST", "/admin/keys"), ("DELETE", "/admin/keys/x"), ("GET", "/admin/audit"),
                         ("POST", "/admin/routes/x"), ("GET", "/admin/feedback")):  # fmt: skip
        for scope in ("user", "chat", "metrics"):
            own = {"authorization": f"Bearer {running.key(scope)}"}
            assert running.client.request(method, path, json={}, headers=own).status_code == 403
        assert running.client.request(method, path, json={}).status_code == 401


def test_metrics_count_and_their_labels_are_bounded(upstream: BadUpstream, tmp_path: Path) -> None:
    running = Running(upstream.url, tmp_path, Settings(metrics_models=3, metrics_public=True))
    try:
        key = running.key()
        for number in range(6):
            running.ask(key, f"model-{number}")
        running.ask(key, "ok", stream=True)
        running.ask(None)
        text = running.client.get("/metrics").text
    finally:
        running.close()
    assert 'burnish_requests_total{endpoint="/v1/chat/completions",model="model-0",status="200"} 1.0' in text
    assert 'model="other",status="200"} 4.0' in text
    assert 'model="model-3"' not in text
    assert 'burnish_tokens_total{kind="answer",model="model-0"} 5.0' in text
    assert 'burnish_refused_total{reason="invalid_api_key"} 1.0' in text
    assert "burnish_first_token_seconds_bucket" in text
    assert key.split("_")[1] not in text


def test_a_call_is_a_span_without_texts_beneath_the_clients_own(upstream: BadUpstream, tmp_path: Path) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from burnish.gateway.tracing import Tracing

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    running = Running(upstream.url, tmp_path, extra={"tracing": Tracing(provider)})
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    try:
        key = running.key()
        running.ask(key, headers={"traceparent": parent}, messages=[{"role": "user", "content": "the-secret-prompt"}])
        running.ask(key, "fails")
        running.used(key)
        (good, bad) = spans.get_finished_spans()
    finally:
        running.close()
    assert upstream.headers[-2]["traceparent"] == parent
    assert good.context is not None
    assert good.attributes is not None
    assert bad.attributes is not None
    assert (good.name, format(good.context.trace_id, "032x")) == ("chat ok", "a" * 32)
    assert good.attributes["gen_ai.usage.output_tokens"] == 5
    assert bad.attributes["http.response.status_code"] == 503
    assert "the-secret-prompt" not in good.to_json()
    assert key not in good.to_json()


def test_content_is_kept_only_when_asked_for_redacted_and_for_its_days(upstream: BadUpstream, tmp_path: Path) -> None:
    redact = lambda text: text.replace("secret", "***").replace("Hello", "***")  # noqa: E731
    old = tmp_path / "content" / "2020-01-01.jsonl"
    old.parent.mkdir()
    old.write_text("{}")
    running = Running(upstream.url, tmp_path, extra={"content_days": 7, "redact": redact})
    try:
        key = running.key()
        running.ask(key, stream=True, messages=[{"role": "user", "content": "my secret"}])
        running.used(key)
    finally:
        running.close()
    (file,) = (tmp_path / "content").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    record = json.loads(file.read_text())
    assert record["answer"] == ANSWER.replace("Hello", "***")
    assert record["asked"]["messages"] == [{"role": "user", "content": "my ***"}]
    assert not old.exists()


def test_feedback_is_stored_and_texts_need_consent(running: Running) -> None:
    own = {"authorization": f"Bearer {running.key('chat')}"}
    base = {"model": "ok", "prompt_hash": "a" * 64}
    good = [
        {**base, "kind": "thumb", "up": True, "consent": False},
        {**base, "kind": "vote", "other": "base", "winner": "tie", "consent": True, "answer": "a", "other_answer": "b",
         "messages": [{"role": "user", "content": "hi"}]},
        {**base, "kind": "correction", "consent": True, "correction": "better"},
    ]  # fmt: skip
    bad = [
        {**base, "kind": "thumb", "consent": False}, {**base, "kind": "vote", "consent": True},
        {**base, "kind": "thumb", "up": True, "consent": False, "answer": "text"}, {**base, "kind": "correction", "consent": True},
        {"model": "ok", "kind": "thumb", "up": True, "consent": True, "prompt_hash": "xyz"}, {},
        {**base, "kind": "thumb", "up": True, "consent": "yes"}, {**base, "kind": "thumb", "up": 1, "consent": False},
    ]  # fmt: skip
    assert [running.client.post("/feedback", json=item, headers=own).status_code for item in good] == [201] * 3
    assert [running.client.post("/feedback", json=item, headers=own).status_code for item in bad] == [422] * 8
    stored = running.client.get("/admin/feedback", headers={"authorization": f"Bearer {running.admin}"}).json()[
        "feedback"
    ]
    assert [item["kind"] for item in stored[-3:]] == ["thumb", "vote", "correction"]
    assert "answer" not in stored[-3]


def test_all_feedback_can_be_had_page_by_page(running: Running) -> None:
    key, admin = ({"authorization": f"Bearer {text}"} for text in (running.key("chat"), running.admin))
    base = {"model": "ok", "prompt_hash": "b" * 64, "kind": "thumb", "up": True, "consent": False}
    made = [running.client.post("/feedback", json=base, headers=key).json()["id"] for _ in range(5)]
    found: list[str] = []
    while len(found) < 5:
        before = {"before": found[0]} if found else {}
        page = running.client.get("/admin/feedback", params={"last": 2, **before}, headers=admin).json()["feedback"]
        found = [item["id"] for item in page] + found
    assert found[-5:] == made
    for query in ({"last": 0}, {"last": 501}, {"before": "' OR 1=1"}, {"before": ""}, {"after": "x"}):
        assert running.client.get("/admin/feedback", params=query, headers=admin).status_code == 422
    unknown = running.client.get("/admin/feedback", params={"before": "0" * 24}, headers=admin)
    assert unknown.json() == {"feedback": []}


# ----------------------------------------------------------------------------------------------------------------- end


def test_stopping_lets_answers_end_and_refuses_new_ones(upstream: BadUpstream, tmp_path: Path) -> None:
    running = Running(upstream.url, tmp_path, Settings.model_validate({"timeouts": {"total_s": 2, "drain_s": 10}}))
    key = running.key()
    body = {"model": "endless", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with running.client.stream(
        "POST", "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        running.stop.set()
        time.sleep(0.1)
        assert error(running.client.get("/health/ready"))["code"] == "draining"
        assert error(running.ask(key))["code"] == "draining"
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert running.used(key) > 0
    running.close()
