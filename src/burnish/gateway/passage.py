"""From upstream to the client: held back until it is certain, then passed on byte by byte, with the clock running."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.core.refusal import Headers, Refusal
from burnish.gateway.answers import MOST_HELD, EventReader, Usage, error_code, is_error, read_answer
from burnish.gateway.settings import Timeouts

log = logging.getLogger("burnish.gateway")
ANSWER_BYTES = 32 << 20
"""A whole answer may not be larger."""
TOO_LARGE = "answer_too_large"
"""Code of what is refused for that, once all of it was made."""
LAST_WORD_S = 1.0
DONE = b"data: [DONE]\n\n"
KEPT = frozenset({b"content-type", b"retry-after", b"x-burnish-model", b"x-burnish-intent"})
"""Headers of the upstream that the client gets."""


class Halted(Exception):
    """The upstream is not listened to any further; the passage's `refusal` says why."""


class Passage:
    """The `send` that an upstream is given.

    Nothing is sent before the first byte of an answer, so that all that goes wrong before it becomes a proper error.
    first_s: seconds until the first token of a stream, or until a whole answer; engines tell a role at once, which is
    kept until then.
    sending: the client has not taken yet what was sent last.
    refusal: why the answer cannot be passed on. It is kept here, because what an upstream makes of an error that its
    `send` raises is its own affair: an engine in this process handles refusals itself.
    """

    def __init__(
        self, send: Send, usage: Usage, headers: Callable[[], Headers], *, keep_usage: bool, all_models: bool = True
    ) -> None:
        """headers: what is told beside the upstream's own, worked out while it is waited for.

        all_models: whether the key may ask every model, and so may be told their names.
        """
        self._send, self.usage = send, usage
        self._headers: Callable[[], Headers] | None = headers
        self._own: Headers = []
        self._all_models = all_models
        self._reader = EventReader(usage, keep_usage=keep_usage)
        self._kept: Headers = []
        self._whole: list[bytes] = []
        self._early = b""
        self._size = 0
        self._events = False
        self.status = 0
        self.started = False
        self.ended = False
        self.sending = False
        self.refusal: Refusal | None = None
        self.began = time.perf_counter()
        self.first_s: float | None = None

    def prepare(self) -> None:
        """Work out what is told beside the upstream's headers, if that was not done yet."""
        if self._headers is not None:
            self._own, self._headers = self._headers(), None

    @property
    def streamed(self) -> bool:
        """Whether the answer comes as events."""
        return self._events

    @property
    def failed(self) -> bool:
        """Whether the upstream itself told an error within its stream."""
        return self._reader.failed

    @property
    def failed_code(self) -> str | None:
        """The code of that error."""
        return self._reader.code

    async def __call__(self, message: Message) -> None:
        """Take one ASGI message of the upstream. Raises Halted when it need not go on."""
        if self.refusal is not None:
            raise Halted
        if message["type"] == "http.response.start":
            self.prepare()
            self.status = message["status"]
            self._kept = [(name, value) for name, value in message["headers"] if name in KEPT]
            told = {name for name, _ in self._kept}  # another burnish says which of its versions answers, and why
            self._own = [(name, value) for name, value in self._own if name not in told]
            kind = dict(self._kept).get(b"content-type", b"")
            self._events = self.status == 200 and kind.startswith(b"text/event-stream")
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._events:
            await self._pass(body, more=more)
            return
        if body and self.first_s is None:
            self.first_s = time.perf_counter() - self.began
        self._whole.append(body)
        self._size += len(body)
        if self._size > ANSWER_BYTES:
            says = f"the answer has more than {ANSWER_BYTES} bytes; ask for less at once, or for a stream"
            self._halt(Refusal(413, says, code=TOO_LARGE))
        if not more:
            await self._finish_whole()

    async def _pass(self, body: bytes, *, more: bool) -> None:
        try:
            out = self._reader.add(body)
        except ValueError as error:
            self._halt(Refusal(503, str(error), code="upstream_broke_off"))
        if not more:
            out += self._reader.finish()
            if not self._reader.done:  # without its last word nobody could tell a whole answer from a part
                self._halt(Refusal(503, "the engine ended before its answer did", code="upstream_broke_off"))
        if self.first_s is None and self._reader.begun:
            self.first_s = time.perf_counter() - self.began
        if not self.started:
            self._early = out = self._early + out
            if more and not (out and self._reader.begun) and len(out) < MOST_HELD:
                return
            self.started = True
            headers = [*self._kept, (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"), *self._own]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        if out or not more:
            self.ended, self.sending = not more, True
            await self._send({"type": "http.response.body", "body": out, "more_body": more})
            self.sending = False

    async def _finish_whole(self) -> None:
        """Pass a whole answer on; what only concerns gateway and upstream becomes 503."""
        if self.status in (401, 403, 407) or (self.status != 200 and not 400 <= self.status < 500):
            retry = dict(self._kept).get(b"retry-after", b"1")
            wait = int(retry) if retry.isdigit() and len(retry) < 6 else 1
            if self.status == 503 and error_code(b"".join(self._whole)) == "adapter_unusable":
                says, code = "this version cannot be loaded now", "adapter_unusable"
            elif self.status == 503:
                says, code = "the engine is busy; come again", "overloaded"
            else:
                says, code = f"the engine failed (status {self.status})", "upstream_failed"
            self._halt(Refusal(503, says, code=code, retry_after_s=wait))
        body = b"".join(self._whole)
        if self.status == 200:
            await self._send_whole(body)
            return
        if self.status == 404 and not self._all_models and error_code(body) == "model_not_found":
            self._halt(unknown_model())  # an engine tells all the names it knows
        elif not is_error(body):
            self._halt(Refusal(self.status, f"the engine refused this (status {self.status})", code="upstream_refused"))
        if self.status == 429 and b"retry-after" not in dict(self._kept):
            self._kept.append((b"retry-after", b"1"))
        await self._send_whole(body)

    async def _send_whole(self, body: bytes) -> None:
        """Send an answer, and read what it used once it is on its way: also when nobody takes it."""
        length = (b"content-length", str(len(body)).encode())
        self.started = self.ended = True
        try:
            await self._send(
                {"type": "http.response.start", "status": self.status, "headers": [*self._kept, length, *self._own]}
            )
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
        finally:
            if self.status == 200:
                read_answer(body, self.usage)

    def _halt(self, refusal: Refusal) -> NoReturn:
        self.refusal = refusal
        raise Halted(str(refusal))

    async def say_last(self, refusal: Refusal) -> None:
        """End a stream that cannot go on with an event that clients raise on, unless the client reads no more."""
        if self.ended or not self.started:
            return
        event = b"data: " + json.dumps(refusal.body).encode() + b"\n\n" + DONE
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await self._send({"type": "http.response.body", "body": event, "more_body": False})
            self.ended = True
        except TimeoutError:
            return  # it does not read: the server closes the connection


def unknown_model() -> Refusal:
    """Return the answer to who asks for a model that is not there, or not for them: the same for both."""
    says = "that model does not exist, or your key may not ask for it"
    return Refusal(404, says, param="model", code="model_not_found")


class ClientGone(Exception):
    """The client hung up before its answer ended."""


class _Stop:
    """Cancels the task that passes an answer on when its client hangs up or the upstream takes too long.

    The upstream runs in the request's own task: a task of its own costs a turn of the event loop before it is even asked.
    late: what took too long. gone: whether the client hung up before the answer ended. failed: what the upstream raised.
    """

    def __init__(self, passage: Passage, receive: Receive, timeouts: Timeouts, *, stream: bool) -> None:
        task = asyncio.current_task()
        assert task is not None, "a request is answered in a task"
        self._task, self._passage, self._receive, self._over = task, passage, receive, False
        self._seconds = [(timeouts.total_s, "its answer")]
        if stream:  # the first byte of a whole answer comes with its last token
            self._seconds.append((timeouts.first_token_s, "its first token"))
        self._timers: list[asyncio.TimerHandle] = []
        self._watch: asyncio.Task[None] | None = None
        self.late: str | None = None
        self.gone = False
        self.failed: BaseException | None = None

    def begin(self) -> None:
        """Begin to watch clock and client, and to work out headers: once the upstream has been asked, which takes no time."""
        if self._over:
            return
        later = asyncio.get_running_loop().call_later
        self._timers = [later(seconds, self.expire, what) for seconds, what in self._seconds]
        self.watch()
        self._passage.prepare()

    def watch(self) -> asyncio.Task[None]:
        """Return the task that ends when the client has hung up."""
        if self._watch is None:
            self._watch = asyncio.create_task(_hung_up(self._receive))
            self._watch.add_done_callback(self.hung_up)
        return self._watch

    def expire(self, what: str) -> None:
        """End what takes too long."""
        if self._over or (what == "its first token" and self._passage.first_s is not None):
            return
        self.late, self._over = what, True
        self._task.cancel()

    def hung_up(self, watch: asyncio.Task[None]) -> None:
        """End what nobody waits for any more. After the last byte a server tells every client as gone."""
        if self._over or self._passage.ended or watch.cancelled():
            return
        self.gone = self._over = True
        self._task.cancel()

    def __enter__(self) -> None:
        """Let the watching begin as soon as the upstream waits for something."""
        asyncio.get_running_loop().call_soon(self.begin)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Keep how the upstream ended, and take back the cancelling that was done here; any other cancelling goes on."""
        self._over = True
        for timer in self._timers:
            timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        ours = self.gone or self.late is not None
        others = self._task.uncancel() if ours else self._task.cancelling()
        if ours and others and error is None:
            raise asyncio.CancelledError
        self.failed = error
        return isinstance(error, Exception) or (isinstance(error, asyncio.CancelledError) and not others)


async def pass_through(
    upstream: ASGIApp, scope: Scope, body: bytes, passage: Passage, receive: Receive, timeouts: Timeouts,
    *, stream: bool,
) -> None:  # fmt: skip
    """Let upstream answer. Raises Refusal before the first byte, ClientGone when the client hangs up.

    A stream that fails later ends with an error event, and raises Refusal after it, for the record.
    """
    stop = _Stop(passage, receive, timeouts, stream=stream)
    sent = False

    async def give() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.shield(stop.watch())
        return {"type": "http.disconnect"}

    try:
        with stop:
            await upstream(scope, give, passage)
        if stop.gone:
            raise ClientGone
        if stop.late is not None:
            raise Refusal(503, f"the engine took too long for {stop.late}", code="upstream_timeout")
        _check_end(stop.failed, passage)
    except Refusal as refusal:
        await passage.say_last(refusal)
        raise


def _check_end(failed: BaseException | None, passage: Passage) -> None:
    """Raise Refusal unless the upstream ended well and its answer is whole.

    What the passage made of an answer goes before what an engine in this process raised when it made it: that holds names and
    paths which are for the log alone.
    """
    cause = failed.__context__ if isinstance(failed, Halted) else failed
    if isinstance(cause, Refusal):
        if passage.refusal is None:
            raise cause
        if cause.status >= 500 and cause.code != "overloaded":
            log.warning("the engine cannot answer: %s", cause)
    elif cause is not None:
        log.error("the engine failed", exc_info=cause)
    if passage.refusal is not None:
        raise passage.refusal from cause
    if cause is not None:
        raise Refusal(503, "the engine failed", code="upstream_failed") from cause
    if not passage.ended:
        raise Refusal(503, "the engine ended without an answer", code="upstream_broke_off")


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def read_body(
    receive: Receive, headers: dict[bytes, bytes], most: int, seconds: float, *, here: bool = False
) -> bytes:
    """Return the whole body. Raises Refusal when it is too large, or too slow to come.

    here: all of it is known to have come, so that no clock need run.
    """
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 12 or int(length) > most:
        raise Refusal(413, f"the body may have {most} bytes at most", code="request_too_large")
    if here:
        return await _whole_body(receive, most)
    try:
        async with asyncio.timeout(seconds):
            return await _whole_body(receive, most)
    except TimeoutError as error:
        raise Refusal(
            408, "the body took too long to come", code="request_timeout", headers=[(b"connection", b"close")]
        ) from error


async def _whole_body(receive: Receive, most: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > most:
            raise Refusal(413, f"the body may have {most} bytes at most", code="request_too_large")
        if not message.get("more_body", False):
            return b"".join(pieces)
