"""The HTTP API, as OpenAI's clients speak it. Texts of requests and answers are never logged."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from burnish.core.errors import BurnishError, DataError, ServeError, did_you_mean
from burnish.serve.answer import ServedModel, Wish, ask
from burnish.serve.engine import Engine, EngineStopped, QueueFull
from burnish.serve.guard import Guard
from burnish.serve.schema import ApiError, ChatRequest, chunk, completion, parse_chat_request, usage
from burnish.serve.stream import End, Stream
from burnish.serve.text_stream import TextStream
from burnish.text.tokenizer import Tokenizer

BODY_BYTES = 1 << 20
"""A request body may not be larger."""
RETRY_AFTER_S = 1


@dataclass(frozen=True)
class Service:
    """What the API answers with.

    models: the names people can ask for.
    today:  the day that system prompts show.
    hosts:  names under which the server may be addressed (the Host header), without port.
    """

    engine: Engine
    tokenizer: Tokenizer
    models: Mapping[str, ServedModel]
    today: Callable[[], datetime.date] = datetime.date.today
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "::1"})


def create_app(service: Service) -> Guard:
    """Return the ASGI application."""
    routes = [
        Route("/v1/chat/completions", _chat, methods=["POST"]),
        Route("/v1/models", _models, methods=["GET"]),
        Route("/v1/models/{name}", _one_model, methods=["GET"]),
        Route("/health/live", _live, methods=["GET"]),
        Route("/health/ready", _ready, methods=["GET"]),
    ]
    handlers: Mapping[Any, Any] = {ApiError: _api_error, HTTPException: _http_error, Exception: _crash}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.service = service
    return Guard(app, service.hosts, BODY_BYTES)


# ------------------------------------------------------------------------------------------------------------- routes


async def _chat(request: Request) -> _Whole | _Streamed:
    service: Service = request.app.state.service
    asked = parse_chat_request(await request.body())
    model = _find(service, asked.model)
    # Rendering takes milliseconds for long conversations: not in the event loop.
    stream = await asyncio.to_thread(_submit, service, model, asked)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
    answer = _Answer(head, stream, TextStream(service.tokenizer, asked.stop or ()))
    include_usage = asked.stream_options is not None and asked.stream_options.include_usage
    return _Streamed(answer, include_usage=include_usage) if asked.stream else _Whole(answer)


async def _models(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONResponse({"object": "list", "data": [_card(name, model) for name, model in service.models.items()]})


async def _one_model(request: Request) -> Response:
    service: Service = request.app.state.service
    name = request.path_params["name"]
    return JSONResponse(_card(name, _find(service, name)))


async def _live(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    service: Service = request.app.state.service
    load = service.engine.load
    if not load.accepting:
        return JSONResponse({"status": "stopping"}, status_code=503, headers={"Retry-After": str(RETRY_AFTER_S)})
    return JSONResponse({"status": "ok", "running": load.running, "waiting": load.waiting, "rows": load.rows})


def _card(name: str, model: ServedModel) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": model.created_s, "owned_by": "burnish"}


def _find(service: Service, name: str) -> ServedModel:
    model = service.models.get(name)
    if model is None:
        known = ", ".join(sorted(service.models))
        hint = did_you_mean(name, service.models)
        raise ApiError(
            404, f"The model `{name}` does not exist. Known: {known}.{hint}", param="model", code="model_not_found"
        )
    return model


def _submit(service: Service, model: ServedModel, asked: ChatRequest) -> Stream:
    """Hand the conversation to the engine; what it refuses becomes the error that OpenAI's clients expect."""
    wish = Wish(asked.limit, asked.temperature, asked.top_p, asked.top_k, asked.seed)
    try:
        return ask(service.engine, service.tokenizer, model, asked.conversation, wish, service.today())
    except (QueueFull, EngineStopped) as error:
        raise ApiError(503, str(error), code="overloaded", retry_after_s=RETRY_AFTER_S) from error
    except ServeError as error:
        raise ApiError(400, str(error), param="messages", code="context_length_exceeded") from error
    except DataError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_value") from error


async def _api_error(request: Request, error: ApiError) -> Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return JSONResponse(error.body, status_code=error.status, headers=headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    message = f"{error.detail}: {request.method} {request.url.path}"
    return JSONResponse(ApiError(error.status_code, message).body, status_code=error.status_code, headers=error.headers)


async def _crash(request: Request, error: Exception) -> Response:
    """Answer in the same format when something unforeseen happens. starlette raises the error on: it is not hidden."""
    return JSONResponse(ApiError(500, f"the server failed: {type(error).__name__}").body, status_code=500)


# ------------------------------------------------------------------------------------------------------------ answers


class _Answer:
    """An answer in the making: text pieces as they become certain, then how it ended."""

    def __init__(self, head: dict[str, Any], stream: Stream, text: TextStream) -> None:
        self.head = head
        self.stream = stream
        self._text = text

    async def pieces(self) -> AsyncIterator[str]:
        """Yield text that is certain. A stop string ends the answer and frees its row."""
        async for token in self.stream:
            piece = self._text.add(token)
            if self._text.stopped:
                self.stream.cancel()
            if piece:
                yield piece
        rest = self._text.finish()
        if rest:
            yield rest

    @property
    def finish_reason(self) -> str:
        """OpenAI's word for how the answer ended."""
        return "stop" if self._text.stopped or self.stream.end is End.STOP else "length"

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of prompt and answer."""
        return usage(self.stream.prompt_tokens, self.stream.new_tokens)


class _Watched(ABC):
    """A response that gives the answer's row back as soon as the client hangs up, whether or not a token was ready."""

    def __init__(self, answer: _Answer) -> None:
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
            self.answer.stream.cancel()
            work.cancel()
            gone.cancel()
            await asyncio.wait({work, gone})


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Whole(_Watched):
    """The answer in one piece."""

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            text = "".join([piece async for piece in self.answer.pieces()])
        except BurnishError as error:
            await JSONResponse(ApiError(500, str(error)).body, status_code=500)(scope, receive, send)
            return
        body = completion(self.answer.head, text, self.answer.finish_reason, self.answer.usage)
        await JSONResponse(body)(scope, receive, send)


class _Streamed(_Watched):
    """The answer as server-sent events."""

    def __init__(self, answer: _Answer, *, include_usage: bool) -> None:
        super().__init__(answer)
        self._include_usage = include_usage

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for event in self._events():
                await send({"type": "http.response.body", "body": _sse(event), "more_body": True})
        except BurnishError as error:
            # The status line is sent already: OpenAI's clients raise on an event that holds an error.
            await send({"type": "http.response.body", "body": _sse(ApiError(500, str(error)).body), "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        head = self.answer.head
        more = {"usage": None} if self._include_usage else {}
        yield chunk(head, {"role": "assistant", "content": ""}, **more)
        async for piece in self.answer.pieces():
            yield chunk(head, {"content": piece}, **more)
        yield chunk(head, {}, self.answer.finish_reason, **more)
        if self._include_usage:
            yield chunk(head, None, usage=self.answer.usage)


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
