"""Answers on their way to a client: choices become pieces of text and calls, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from burnish.core.errors import BurnishError
from burnish.core.refusal import Refusal
from burnish.serve.bodies import Said, Told, chat_chunk, chat_completion, chat_logprobs, text_completion, usage
from burnish.serve.bodies import tool_call_deltas as call_deltas
from burnish.serve.echo import Echo
from burnish.serve.failures import EngineStopped, FormNotKept, NoMemory, QueueFull
from burnish.serve.stream import End, Stream
from burnish.serve.text_stream import TextStream
from burnish.serve.tools import ToolReader
from burnish.text.messages import ToolCall
from burnish.text.tokenizer import Tokenizer

log = logging.getLogger("burnish.serve")
MEMORY_AFTER_S = 5
"""Seconds after which a request for which there was no memory may come again."""


@dataclass(slots=True)
class Delta:
    """What a choice gained: text, calls (the first of them is its call number `first_call`), told tokens, its end."""

    index: int
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    first_call: int = 0
    told: list[Told] = field(default_factory=list)
    finish: str | None = None


class Choice:
    """One answer in the making.

    reader: tells calls from text, when there are tools. named: the request demanded one function by name, which OpenAI ends
    with "stop". echo: the prompt, when it stands before the answer. stop_told: the stop token that ended the answer is told as the
    last one, as the completions API does (lm-eval counts on it).
    """

    def __init__(
        self,
        index: int,
        stream: Stream,
        text: TextStream,
        *,
        reader: ToolReader | None = None,
        named: bool = False,
        echo: Echo | None = None,
        stop_told: bool = False,
    ) -> None:
        self.index, self.stream = index, stream
        self._text, self._reader, self._named, self._stop_told = text, reader, named, stop_told
        self._echo = echo

    async def deltas(self) -> AsyncIterator[Delta]:
        """Yield what is certain, as it comes; the last one has a finish. A stop string ends the answer and frees its row."""
        told: list[Told] = []
        count = 0
        async for token in self.stream:
            if not count:
                for delta in self._echoed():
                    yield delta
            if count < len(self.stream.likelihoods):
                told.append(Told(token, self.stream.likelihoods[count], self._characters))
            count += 1
            piece = self._text.add(token)
            if self._text.stopped:
                self.stream.cancel()
            delta = self._delta(piece, last=False)
            if delta.text or delta.calls or told:
                delta.told, told = told, []
                yield delta
        if not count:
            for delta in self._echoed():
                yield delta
        delta = self._delta(self._text.finish(), last=True)
        if self._stop_told and self.stream.stopped_by is not None:
            told.append(Told(*self.stream.stopped_by, self._characters))
        delta.told, delta.finish = told, self._finish()
        yield delta

    def _echoed(self) -> Iterator[Delta]:
        """Yield the prompt, once it is read: by then what is told of it is there."""
        if self._echo is not None and self.stream.end is not End.CANCELLED:
            for text, told in self._echo.pieces(self.stream.prompt_likelihoods):
                yield Delta(self.index, text, told=told)

    @property
    def _characters(self) -> int:
        """Length of the choice's text so far."""
        return self._text.characters + (0 if self._echo is None else len(self._echo.text))

    def _delta(self, piece: str, *, last: bool) -> Delta:
        if self._reader is None:
            return Delta(self.index, piece)
        before = len(self._reader.calls)
        text, calls = self._reader.add(piece)
        if last:
            rest, more = self._reader.finish()
            text, calls = text + rest, calls + more
        return Delta(self.index, text, calls, before)

    def _finish(self) -> str:
        """OpenAI's word for how the answer ended."""
        if self._reader is not None and self._reader.calls:
            return "stop" if self._named else "tool_calls"
        return "stop" if self._text.stopped or self.stream.end is End.STOP else "length"


class Answer:
    """All choices of one request. `head` holds id, created and model."""

    def __init__(self, head: dict[str, Any], choices: Sequence[Choice], prompts: int, tokenizer: Tokenizer) -> None:
        """prompts: how many different prompts the choices answer; each prompt's tokens are counted once."""
        self.head, self.choices, self.tokenizer = head, choices, tokenizer
        self._each = len(choices) // prompts

    async def deltas(self) -> AsyncIterator[Delta]:
        """Yield what any of the choices gained."""
        if len(self.choices) == 1:
            async for delta in self.choices[0].deltas():
                yield delta
            return
        arrived: asyncio.Queue[Delta | None] = asyncio.Queue()

        async def pump(choice: Choice) -> None:
            try:
                async for delta in choice.deltas():
                    arrived.put_nowait(delta)
            finally:
                arrived.put_nowait(None)  # the task is done before this is read

        tasks = [asyncio.create_task(pump(choice)) for choice in self.choices]
        try:
            left = len(tasks)
            while left:
                item = await arrived.get()
                if item is not None:
                    yield item
                    continue
                left -= 1
                for task in tasks:
                    if task.done():
                        task.result()  # raises what ended it
        finally:
            for task in tasks:
                task.cancel()

    async def whole(self) -> list[Said]:
        """Wait for the end; return the choices in order."""
        said = [Said(choice.index) for choice in self.choices]
        async for delta in self.deltas():
            each = said[delta.index]
            each.text += delta.text
            each.calls += delta.calls
            each.told += delta.told
            each.finish = delta.finish or each.finish
        return said

    def cancel(self) -> None:
        """Give the rows back."""
        for choice in self.choices:
            choice.stream.cancel()

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of prompts and answers."""
        prompts = sum(choice.stream.prompt_tokens for choice in self.choices[:: self._each])
        return usage(prompts, sum(choice.stream.new_tokens for choice in self.choices))


class Watched(ABC):
    """A response that gives the answer's rows back as soon as the client hangs up, whether or not a token was ready."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    @abstractmethod
    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond until done or until the client is gone."""
        work = asyncio.create_task(self.respond(scope, receive, send))
        gone = asyncio.create_task(_hung_up(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            self.answer.cancel()
            work.cancel()
            gone.cancel()
            await asyncio.wait({work, gone})


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Whole(Watched):
    """The answer in one piece. `chat`: in the shape of the chat API, else of the completions API."""

    def __init__(self, answer: Answer, *, chat: bool) -> None:
        super().__init__(answer)
        self._body = chat_completion if chat else text_completion

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the answer and send it."""
        try:
            said = await self.answer.whole()
        except BurnishError as error:
            await _refuse(error, scope, receive, send)
            return
        if any(each.told for each in said):  # thousands of tokens take tenths of a second: not in the event loop
            response = await asyncio.to_thread(self._response, said)
        else:
            response = self._response(said)
        await response(scope, receive, send)

    def _response(self, said: Sequence[Said]) -> JSONResponse:
        answer = self.answer
        return JSONResponse(self._body(answer.head, said, answer.usage, answer.tokenizer))


class Streamed(Watched):
    """The answer as server-sent events, in the shape of the chat API."""

    def __init__(self, answer: Answer, *, include_usage: bool) -> None:
        super().__init__(answer)
        self.include_usage = include_usage
        self.more: dict[str, Any] = {"usage": None} if include_usage else {}

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send each event as soon as it is there. The head waits for the first token: what fails before it has a status."""
        deltas = self.answer.deltas()
        try:
            first = await anext(deltas)
        except BurnishError as error:
            await _refuse(error, scope, receive, send)
            return
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            for event in (*self.begin(), *self.events(first)):
                await send({"type": "http.response.body", "body": _sse(event), "more_body": True})
            async for delta in deltas:
                for event in self.events(delta):
                    await send({"type": "http.response.body", "body": _sse(event), "more_body": True})
            if self.include_usage:
                await send({"type": "http.response.body", "body": _sse(self.last()), "more_body": True})
        except BurnishError as error:
            # The status line is sent already: OpenAI's clients raise on an event that holds an error.
            await send({"type": "http.response.body", "body": _sse(refusal_of(error).body), "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    def begin(self) -> list[dict[str, Any]]:
        """Return the events before the first token."""
        start = {"role": "assistant", "content": ""}
        return [chat_chunk(self.answer.head, choice.index, start, **self.more) for choice in self.answer.choices]

    def events(self, delta: Delta) -> list[dict[str, Any]]:
        """Return the events that tell a delta."""
        head, made = self.answer.head, list[dict[str, Any]]()
        logprobs = chat_logprobs(delta.told, self.answer.tokenizer)
        if delta.text or (logprobs is not None and not delta.calls):
            made.append(chat_chunk(head, delta.index, {"content": delta.text}, None, logprobs, **self.more))
        if delta.calls:
            calls = {"tool_calls": call_deltas(delta.calls, delta.first_call)}
            made.append(chat_chunk(head, delta.index, calls, **self.more))
        if delta.finish is not None:
            made.append(chat_chunk(head, delta.index, {}, delta.finish, **self.more))
        return made

    def last(self) -> dict[str, Any]:
        """Return the event that tells the usage."""
        return chat_chunk(self.answer.head, 0, None, usage=self.answer.usage)


class StreamedText(Streamed):
    """The answer as server-sent events, in the shape of the completions API."""

    def begin(self) -> list[dict[str, Any]]:
        """Return nothing: text answers have no role."""
        return []

    def events(self, delta: Delta) -> list[dict[str, Any]]:
        """Return the event that tells a delta."""
        if not (delta.text or delta.told or delta.finish):
            return []
        said = Said(delta.index, delta.text, told=delta.told, finish=delta.finish or "")
        return [text_completion(self.answer.head, [said], None, self.answer.tokenizer, **self.more)]

    def last(self) -> dict[str, Any]:
        """Return the event that tells the usage."""
        return text_completion(self.answer.head, [], self.answer.usage, self.answer.tokenizer)


def refusal_of(error: BurnishError) -> Refusal:
    """Say whose fault it is that an answer does not end: that of a form that cannot be kept is the request's.

    What may succeed later is 503, as when it is refused at once.
    """
    if isinstance(error, FormNotKept):
        return Refusal(400, str(error), code="form_not_kept")
    if isinstance(error, NoMemory):
        return Refusal(503, str(error), code="overloaded", retry_after_s=MEMORY_AFTER_S)
    if isinstance(error, (QueueFull, EngineStopped)):
        return Refusal(503, str(error), code="overloaded")
    log.error("an answer failed: %s", error)
    return Refusal(500, str(error))


async def _refuse(error: BurnishError, scope: Scope, receive: Receive, send: Send) -> None:
    await refused(refusal_of(error))(scope, receive, send)


def refused(refusal: Refusal) -> JSONResponse:
    """Return the response that tells a refusal."""
    headers = {name.decode(): value.decode() for name, value in refusal.headers}
    return JSONResponse(refusal.body, status_code=refusal.status, headers=headers)


def _sse(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
