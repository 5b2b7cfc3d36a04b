"""Connections to an engine elsewhere: what is used again, what ends them, and what an engine may not make of an answer."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.errors import UsageError
from burnish.core.listen import listen
from burnish.core.refusal import Refusal
from burnish.doors.gateway import _elsewhere
from burnish.gateway import connections
from burnish.gateway.inner import inner_scope
from burnish.gateway.serve_model import MOST_SHADOWS
from burnish.gateway.settings import Settings
from burnish.gateway.upstream import HttpUpstream

SIZED = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nset-cookie: a=b\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"
PLAIN = b"accept-encoding: identity\r\n"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\n\r\nhello"


@dataclass
class Scripted:
    """A server that reads a request and says what its script says: bytes, None for the end, a number for seconds to wait."""

    script: list[list[bytes | float | None]]
    connections: int = 0
    requests: list[bytes] = field(default_factory=list[bytes])
    ended: int = 0
    tls: Any = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                self.requests.append(head + await reader.readexactly(length))
                for step in self.script.pop(0) if len(self.script) > 1 else self.script[0]:
                    if step is None:
                        return
                    if isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                    else:
                        await asyncio.sleep(step)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended += 1
            writer.close()

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)


@dataclass
class Heard:
    """What an upstream sent. slow: seconds that each message takes."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    body: bytes = b""
    ended: bool = False
    slow: float = 0

    async def __call__(self, message: Any) -> None:
        await asyncio.sleep(self.slow)
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        else:
            self.body += message["body"]
            self.ended = not message["more_body"]


async def ask(upstream: HttpUpstream, body: bytes = b"{}", headers: Any = (), heard: Heard | None = None) -> Heard:
    heard = heard or Heard()

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    await upstream(inner_scope("POST", "/v1/chat/completions", headers), receive, heard)
    return heard


def against(
    server: Scripted, work: Callable[[HttpUpstream], Awaitable[Any]], *, scheme: str = "http", **given: Any
) -> None:
    """Let `work` ask the server through an upstream."""

    async def run() -> None:
        async with await server.listen() as listening:
            port = listening.sockets[0].getsockname()[1]
            upstream = HttpUpstream(f"{scheme}://localhost:{port}/v1", **given)
            await asyncio.wait_for(work(upstream), 20)
            await upstream.close()

    asyncio.run(run())


def whole(heard: Heard, body: bytes = b"hello") -> None:
    assert (heard.status, heard.body, heard.ended) == (200, body, True)


# ------------------------------------------------------------------------------------------------- answers and their ends


@pytest.mark.parametrize(
    ("answer", "used_again"),
    [(SIZED, True), (CHUNKED, True), (b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED, True),
     (b"HTTP/1.1 103 Early Hints\r\ncontent-length: 9\r\n\r\n" + CHUNKED, True),
     (SIZED.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"), False), (SIZED.replace(b"1.1", b"1.0"), False)],
)  # fmt: skip
def test_a_connection_is_used_again_when_its_answer_says_so(answer: bytes, used_again: bool) -> None:
    server = Scripted([[answer]])

    async def work(upstream: HttpUpstream) -> None:
        for _ in range(3):
            whole(await ask(upstream))

    against(server, work)
    assert server.connections == (1 if used_again else 3)
    assert len(server.requests) == 3


@pytest.mark.parametrize("stream", [SIZED, CHUNKED], ids=["sized", "chunked"])
def test_an_answer_that_came_for_a_client_who_went_is_never_the_beginning_of_the_next(stream: bytes) -> None:
    """All of it has come and none of it is read: the connection is good, and what lies in it is somebody else's."""
    server = Scripted([[stream], [SIZED.replace(b"hello", b"other")]])

    async def work(upstream: HttpUpstream) -> None:
        gone = asyncio.create_task(ask(upstream, heard=Heard(slow=30)))
        while not server.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        for _ in range(2):
            whole(await ask(upstream), b"other")

    against(server, work)
    assert server.connections == 1


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def work(upstream: HttpUpstream) -> None:
        whole(await ask(upstream))

    against(Scripted([[UNTIL_CLOSED, None]]), work)


@given(data=st.data(), answer=st.sampled_from([SIZED, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED]))
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_size_give_the_same_answer(data: st.DataObject, answer: bytes) -> None:
    class Silent(asyncio.Transport):
        def write(self, data: Any) -> None: ...
        def abort(self) -> None: ...
        def get_write_buffer_size(self) -> int:
            return 0

    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1), max_size=12)))

    async def run() -> None:
        connection = connections.Connection(connections.deque())
        connection.connection_made(Silent())
        asking = asyncio.ensure_future(connection.ask(b"GET"))
        await asyncio.sleep(0)
        for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True):
            connection.data_received(answer[start:end])
            if data.draw(st.booleans()):
                await asyncio.sleep(0)
        status, _ = await asking
        body, more = b"", True
        while more:
            piece, more = await connection.read()
            body += piece
        assert (status, body, connection.leave()) == (200, b"hello", True)

    asyncio.run(run())


def test_a_reader_that_is_slow_holds_the_engine_up_and_not_the_memory() -> None:
    """40 MB are there to be had; of what is not read yet only so much is held."""
    piece = b"x" * (1 << 20)
    server = Scripted([[b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (40 << 20), *[piece] * 40]])

    async def work(upstream: HttpUpstream) -> None:
        most = 0

        class Slow(Heard):
            async def __call__(self, message: Any) -> None:
                nonlocal most
                most = max(most, len(message.get("body", b"")))
                await asyncio.sleep(0.01)
                await super().__call__(message)

        heard = Slow()
        await ask(upstream, heard=heard)
        assert len(heard.body) == 40 << 20
        assert most <= connections.HELD_BYTES + (1 << 20)

    against(server, work)


# ---------------------------------------------------------------------------------------------- what is not an answer


def test_what_follows_a_whole_answer_is_nobodys() -> None:
    """Bytes that nobody asked for would be the answer to the next request, which may be somebody else's."""
    late = [0.05, b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"]
    server = Scripted([[SIZED + SIZED.replace(b"hello", b"forge")], [SIZED, *late], [SIZED]])

    async def work(upstream: HttpUpstream) -> None:
        whole(await ask(upstream))
        whole(await ask(upstream))
        await asyncio.sleep(0.2)
        whole(await ask(upstream))

    against(server, work)
    assert server.connections == 3


@pytest.mark.parametrize(
    ("script", "code", "asked"),
    [([b"HTTP/1.1 2", None], "upstream_broke_off", 1), ([b"SSH-2.0-x\r\n"], "upstream_broke_off", 1),
     ([b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000], "upstream_broke_off", 1),
     ([b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"], "upstream_broke_off", 1),
     ([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello"], "upstream_broke_off", 1),
     ([SIZED[:-1], None], "upstream_broke_off", 1), ([CHUNKED[:-5], None], "upstream_broke_off", 1),
     ([b"HTTP/1.1 099 x\r\ncontent-length: 5\r\n\r\nhello"], "upstream_broke_off", 1),
     ([b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello"], "upstream_failed", 1),
     ([None], "upstream_broke_off", 1)],
)  # fmt: skip
def test_what_is_no_answer_is_asked_for_once(script: list[bytes | float | None], code: str, asked: int) -> None:
    server = Scripted([script])

    async def work(upstream: HttpUpstream) -> None:
        for _ in range(2):
            with pytest.raises(Refusal) as refused:
                await ask(upstream)
            assert (refused.value.status, refused.value.code) == (503, code)

    against(server, work, pool=1)  # each gives its place back
    assert len(server.requests) == 2 * asked


@pytest.mark.parametrize("wait", [0, 0.3])
def test_only_what_an_engine_had_closed_before_it_was_asked_is_asked_for_again(
    wait: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was used before and ends at once is one; after a while the engine may have ended of the request."""
    monkeypatch.setattr(connections, "STALE_S", 0.15)
    server = Scripted([[SIZED], [wait, None], [SIZED]])

    async def work(upstream: HttpUpstream) -> None:
        whole(await ask(upstream))
        if wait:
            with pytest.raises(Refusal, match="broke off"):
                await ask(upstream)
        else:
            whole(await ask(upstream))

    against(server, work)
    assert len(server.requests) == (2 if wait else 3)


@pytest.mark.parametrize(
    "script",
    [[b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 20_000 + b"content-length: 5\r\n\r\n", 0.1, b"hello"],
     [b"HTTP/1.1 100 Continue\r\n\r\n" * 8_000],
     [CHUNKED[:-2], *[b"x-a: " + b"b" * 9_000 + b"\r\n"] * 80],
     [CHUNKED[:-5] + b"1;x=", *[b"y" * 50_000] * 16, b"\r\n!\r\n0\r\n\r\n"]],
)  # fmt: skip
def test_what_stands_around_a_body_is_bounded_and_nobody_waits_for_its_end(script: list[Any]) -> None:
    """More of it than is held stopped the listening, and the reader waited for a body until its time was out."""

    async def work(upstream: HttpUpstream) -> None:
        with pytest.raises(Refusal) as refused:
            await asyncio.wait_for(ask(upstream), 3)
        assert refused.value.code == "upstream_broke_off"

    against(Scripted([script]), work)


def test_a_trailer_is_no_header() -> None:
    answer = CHUNKED[:-2] + b"content-type: text/html\r\nx-burnish-model: forged\r\n\r\n"

    async def work(upstream: HttpUpstream) -> None:
        for _ in range(2):
            heard = await ask(upstream)
            whole(heard)
            assert heard.headers == []

    server = Scripted([[answer]])
    against(server, work)
    assert server.connections == 1


def test_an_answer_to_half_a_request_leaves_no_connection_for_the_next() -> None:
    """What is not read of a request could be taken for the next one, and its answer for somebody else's."""
    asked = 0

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED)
        await asyncio.sleep(5)

    async def run() -> None:
        async with await asyncio.start_server(early, "127.0.0.1", 0, limit=1024) as listening:
            upstream = HttpUpstream(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
            for _ in range(2):
                whole(await asyncio.wait_for(ask(upstream, b"x" * (16 << 20)), 5))
            await upstream.close()

    asyncio.run(run())
    assert asked == 2


def test_a_connection_that_was_closed_meanwhile_costs_nobody_an_answer() -> None:
    server = Scripted([[SIZED, None]])

    async def work(upstream: HttpUpstream) -> None:
        for pause in (0, 0.05, 0):
            whole(await ask(upstream))
            await asyncio.sleep(pause)

    against(server, work)


# ----------------------------------------------------------------------------------------------------------- the pool


def test_who_gives_up_closes_the_connection_and_leaves_the_place_to_others() -> None:
    server = Scripted([[30.0], [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe", 30.0], [SIZED]])

    async def work(upstream: HttpUpstream) -> None:
        for number in (1, 2):  # before the head, and within the body
            first = asyncio.ensure_future(ask(upstream))
            while len(server.requests) < number:
                await asyncio.sleep(0.01)
            waiting = asyncio.ensure_future(ask(upstream))
            await asyncio.sleep(0.05)
            assert len(server.requests) == number, "one place, so the second waits"
            for each in (waiting, first):
                each.cancel()
            await asyncio.wait({first, waiting})
        whole(await ask(upstream))

    against(server, work, pool=1)
    assert server.connections == 3


def test_connections_that_cannot_be_opened_take_no_places() -> None:
    with listen("127.0.0.1", 0) as taken:  # a port where nobody listens once this is over
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

    async def run() -> None:
        upstream = HttpUpstream(url, pool=1, retries=0)
        for _ in range(3):
            with pytest.raises(Refusal) as refused:
                await asyncio.wait_for(ask(upstream), 5)
            assert refused.value.code == "upstream_unreachable"

    asyncio.run(run())


def test_an_address_that_never_answers_has_only_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Scripted([[SIZED]])

    async def run() -> None:
        async with await server.listen() as listening:
            port = listening.sockets[0].getsockname()[1]
            with socket.socket() as silent, socket.socket() as first, socket.socket() as second:
                silent.bind(("127.0.0.2", port))
                silent.listen(0)
                for filling in (first, second):  # a queue that is full says nothing to who else wants to connect
                    filling.setblocking(False)
                    filling.connect_ex(("127.0.0.2", port))

                async def two(*_: Any, **__: Any) -> Any:
                    return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

                monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
                whole(await ask(HttpUpstream(f"http://engine:{port}", connect_s=1, retries=0)))

    asyncio.run(asyncio.wait_for(run(), 5))


def test_as_many_connections_as_requests_at_work_and_some_to_spare() -> None:
    upstream = _elsewhere(Settings.model_validate({"caps": {"at_once": 2000}}), "http://h")
    assert upstream._pool >= 2000 + MOST_SHADOWS + 1


def test_connections_that_nobody_uses_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_S", 0.2)
    server = Scripted([[0.05, SIZED]])

    async def work(upstream: HttpUpstream) -> None:
        for heard in await asyncio.gather(*(ask(upstream) for _ in range(5))):
            whole(heard)
        assert (server.connections, server.ended) == (5, 0)
        for _ in range(8):  # one of them is in use all the time
            whole(await ask(upstream))
        assert (server.connections, server.ended) == (5, 4)
        await asyncio.sleep(0.5)
        assert server.ended == 5

    against(server, work)


# --------------------------------------------------------------------------------------------------- what is sent, where


def test_the_request_in_bytes() -> None:
    server = Scripted([[SIZED]])
    trace = [(b"x-request-id", b"a.1"), (b"authorization", b"Bearer bk_x"), (b"traceparent", b"00-a-b-01")]

    async def work(upstream: HttpUpstream) -> None:
        heard = await ask(upstream, b'{"a": 1}', trace)
        assert heard.headers == [(b"content-type", b"text/plain")]
        with pytest.raises(Refusal, match="line break"):
            await ask(upstream, headers=[(b"tracestate", b"a\r\nx: y")])

    against(server, work, key="sk-1")
    (sent,) = server.requests
    port = sent.split(b"localhost:")[1].split(b"\r\n")[0]
    assert sent == (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost:" + port + b"\r\naccept-encoding: identity\r\n"
        b"authorization: Bearer sk-1\r\n"
        b"content-type: application/json\r\nx-request-id: a.1\r\ntraceparent: 00-a-b-01\r\ncontent-length: 8\r\n\r\n"
        b'{"a": 1}'
    )


def test_addresses() -> None:
    for url, path, own in (
        ("http://h", "/v1/x", b"host: h\r\n"),
        ("http://h:80/v1/", "/v1/x", b"host: h\r\n"),
        ("https://h:80/a b%20c", "/a%20b%20c/v1/x", b"host: h:80\r\n"),
        ("http://bücher.example", "/v1/x", b"host: xn--bcher-kva.example\r\n"),
        ("http://[::1]:9/v1", "/v1/x", b"host: [::1]:9\r\n"),
        ("http://u:p%40@h", "/v1/x", b"host: h\r\n" + PLAIN + b"authorization: Basic dTpwQA==\r\n"),
    ):
        head = HttpUpstream(url)._head({**inner_scope("GET", "/v1/x", []), "headers": []}, 0)
        own += b"" if PLAIN in own else PLAIN
        assert head == f"GET {path} HTTP/1.1\r\n".encode() + own + b"\r\n", url
    forged = HttpUpstream("http://h")._head(inner_scope("GET", "/v1/models/a b\r\nx: y?q#f", []), 0)
    assert forged.split(b"\r\n")[0] == b"GET /v1/models/a%20b%0D%0Ax:%20y%3Fq%23f HTTP/1.1"
    for url in ("ftp://h", "h:80", "http://", "http://h:port", "http://h:99999", "http://a..b"):
        with pytest.raises(UsageError, match="no address of an engine"):
            HttpUpstream(url)
    for key in ("a\r\nx: y", "ключ"):
        with pytest.raises(UsageError, match="no header can hold") as refused:
            HttpUpstream("http://h", key=key)
        assert key not in str(refused.value)


def test_tls_is_checked_against_the_name_and_who_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl

    def pair(name: str) -> Any:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
        return context

    async def good(upstream: HttpUpstream) -> None:
        whole(await ask(upstream))
        whole(await ask(upstream))

    async def bad(upstream: HttpUpstream) -> None:
        with pytest.raises(Refusal) as refused:
            await ask(upstream)
        assert refused.value.code == "upstream_unreachable"

    ours, other = pair("localhost"), pair("other")
    server = Scripted([[SIZED]], tls=ours)
    against(server, bad, scheme="https", retries=0)  # nobody vouches for it
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
    against(server, good, scheme="https")
    assert len(server.requests) == 2
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    against(Scripted([[SIZED]], tls=other), bad, scheme="https", retries=0)  # vouched for, under another name
