"""The HTTP API, as OpenAI's clients speak it. Texts of requests and answers are never logged."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ParamSpec, TypeVar

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from burnish.core.errors import BaseModelError, DataError, ServeError, did_you_mean
from burnish.core.refusal import Refusal
from burnish.model.sequences import DoesNotFit
from burnish.serve.answer import DEFAULT_NEW_TOKENS, Offer, ServedModel, Wish, prompt_of, submit
from burnish.serve.answering import Answer, Choice, Streamed, StreamedText, Watched, Whole, refusal_of, refused
from burnish.serve.bodies import embeddings
from burnish.serve.constrain import Constraints, Grammar
from burnish.serve.echo import Echo, echo_of
from burnish.serve.failures import EngineStopped, NoMemory, QueueFull
from burnish.serve.guard import Guard
from burnish.serve.interface import AnsweringEngine
from burnish.serve.parts import NamedTool
from burnish.serve.schema import ChatRequest, CompletionRequest, EmbeddingRequest, TextRequest, parse_request
from burnish.serve.stream import Stream
from burnish.serve.text_stream import TextStream
from burnish.serve.tools import ToolReader
from burnish.text.tokenizer import Tokenizer

P = ParamSpec("P")
T = TypeVar("T")

BODY_BYTES = 1 << 20
"""A request body may not be larger."""
RETRY_AFTER_S = 1
SPARE_THREADS = 8
"""Threads for requests beside those that wait for an adapter that is being read."""
MOST_TOLD = 1 << 21
"""Log-probabilities of prompts that one request may ask for. On their way to the client each takes some 100 bytes of memory."""
COMPLETION_TOKENS = 16
"""Length limit of a text completion that names none, as OpenAI has it."""


@dataclass(frozen=True)
class Service:
    """What the API answers with.

    models: the names people can ask for. A mapping of one's own may find names (`flight-search:7`) that it does not list.
    today:  the day that system prompts show.
    hosts:  names under which the server may be addressed (the Host header), without port.
    """

    engine: AnsweringEngine
    tokenizer: Tokenizer
    models: Mapping[str, ServedModel]
    today: Callable[[], datetime.date] = datetime.date.today
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "::1"})

    @cached_property
    def constraints(self) -> Constraints:
        """Makes grammars; reading the vocabulary takes some tenths of a second, so it waits for the first that is asked for."""
        return Constraints(self.tokenizer, self.engine.vocabulary)

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """Where requests are handed over: more than may wait for an adapter that is read, so that those hold up nobody else."""
        return ThreadPoolExecutor(self.engine.load.queue + SPARE_THREADS, thread_name_prefix="burnish-request")


def create_app(service: Service) -> Guard:
    """Return the ASGI application."""
    routes = [
        Route("/v1/chat/completions", _chat, methods=["POST"]),
        Route("/v1/completions", _completions, methods=["POST"]),
        Route("/v1/embeddings", _embeddings, methods=["POST"]),
        Route("/v1/models", _models, methods=["GET"]),
        Route("/v1/models/{name:path}", _one_model, methods=["GET"]),
        Route("/health/live", _live, methods=["GET"]),
        Route("/health/ready", _ready, methods=["GET"]),
    ]
    handlers: Mapping[Any, Any] = {Refusal: _refused, HTTPException: _http_error, Exception: _crash}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.service = service
    return Guard(app, service.hosts, BODY_BYTES)


# ------------------------------------------------------------------------------------------------------------- routes


async def _chat(request: Request) -> Watched:
    service: Service = request.app.state.service
    asked = parse_request(ChatRequest, await request.body())
    model = _find(service, asked.model)
    # Rendering takes milliseconds for long conversations, and an adapter may have to be read: not in the event loop.
    streams, reader = await _in_thread(service, lambda given: _cancel(given[0]), _submit_chat, service, model, asked)
    named = isinstance(asked.tool_choice, NamedTool)
    choices = [
        Choice(index, stream, _text_of(service, asked), reader=reader(), named=named)
        for index, stream in enumerate(streams)
    ]
    answer = Answer(_head("chatcmpl", asked.model), choices, 1, service.tokenizer)
    return Streamed(answer, include_usage=asked.include_usage) if asked.stream else Whole(answer, chat=True)


async def _completions(request: Request) -> Watched:
    service: Service = request.app.state.service
    asked = parse_request(CompletionRequest, await request.body())
    model = _find(service, asked.model)
    prompts = [_ids(service, prompt) for prompt in asked.prompts]
    streams, echoes = await _in_thread(
        service, lambda given: _cancel(given[0]), _submit_texts, service, model, asked, prompts
    )
    choices = [
        Choice(index, stream, _text_of(service, asked), echo=echoes[index // asked.choices], stop_told=True)
        for index, stream in enumerate(streams)
    ]
    answer = Answer(_head("cmpl", asked.model), choices, len(prompts), service.tokenizer)
    return StreamedText(answer, include_usage=asked.include_usage) if asked.stream else Whole(answer, chat=False)


async def _embeddings(request: Request) -> Response:
    service: Service = request.app.state.service
    asked = parse_request(EmbeddingRequest, await request.body())
    model = _find(service, asked.model)
    prompts = [_ids(service, text) for text in asked.inputs]
    size = service.engine.hidden_size
    if asked.dimensions not in (None, size):
        raise Refusal(400, f"this model's embeddings have {size} dimensions", param="dimensions", code="invalid_value")
    with _refusing("input"):
        computed = await _in_thread(service, Future.cancel, service.engine.embed, prompts, model.adapter)
    try:
        means_NH = await asyncio.wrap_future(computed)
    except ServeError as error:
        raise refusal_of(error) from error
    vectors_NH = torch.nn.functional.normalize(means_NH, dim=-1).numpy()
    as_base64 = asked.encoding_format == "base64"
    return JSONResponse(embeddings(asked.model, vectors_NH, sum(map(len, prompts)), as_base64=as_base64))


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


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}


def _find(service: Service, name: str) -> ServedModel:
    model = service.models.get(name)
    if model is None:
        known = ", ".join(sorted(service.models)[:20])
        hint = did_you_mean(name, service.models)
        raise Refusal(
            404, f"The model `{name}` does not exist. Known: {known}.{hint}", param="model", code="model_not_found"
        )
    return model


# --------------------------------------------------------------------------------------------------------- submitting


async def _in_thread(
    service: Service, drop: Callable[[T], object], work: Callable[P, T], *arguments: P.args, **more: P.kwargs
) -> T:
    """Run work in a thread. A request that is cancelled meanwhile cannot stop it, and drops what it gives once it is there."""
    given = service.threads.submit(work, *arguments, **more)
    try:
        return await asyncio.wrap_future(given)
    except asyncio.CancelledError:
        given.add_done_callback(partial(_dropped, drop))
        raise


def _dropped(drop: Callable[[T], object], given: Future[T]) -> None:
    if not given.cancelled() and given.exception() is None:
        drop(given.result())


def _cancel(streams: Sequence[Stream]) -> None:
    for stream in streams:
        stream.cancel()


def _submit_chat(
    service: Service, model: ServedModel, asked: ChatRequest
) -> tuple[list[Stream], Callable[[], ToolReader | None]]:
    """Hand the conversation to the engine; returns its streams, and what makes a reader of calls for each of them."""
    offer = Offer(asked.offered_tools, asked.demanded_tools)
    with _refusing("messages"):
        tokenizer = model.tokenizer or service.tokenizer
        prompt, form = prompt_of(service.tokenizer, model, asked.conversation, service.today(), offer)
        if offer.demanded:
            with _refusing("tools"):
                grammar = service.constraints.json_schema(form.call_schema(offer.demanded))
        else:
            grammar = _grammar(service, asked)
        wish = _wish(service, asked, asked.alternatives, grammar)
        streams = submit(service.engine, prompt, model, wish, tokenizer.stop_ids, DEFAULT_NEW_TOKENS)
    names = [tool["function"]["name"] for tool in offer.tools]

    def reader() -> ToolReader | None:
        return ToolReader(form, names, forced=bool(offer.demanded)) if names else None

    return streams, reader


def _submit_texts(
    service: Service, model: ServedModel, asked: CompletionRequest, prompts: Sequence[Sequence[int]]
) -> tuple[list[Stream], list[Echo | None]]:
    """Hand the prompts to the engine; returns its streams, and how each prompt is echoed."""
    answers, most = len(prompts) * asked.choices, service.engine.load.queue
    if answers > most:  # they would never all be taken, however often they are asked for
        message = f"{answers} answers are asked for at once; at most {most} are given"
        raise Refusal(400, message, param="prompt", code="invalid_value")
    if asked.echo and asked.logprobs is not None:
        told = sum(map(len, prompts)) * asked.choices * (1 + asked.logprobs)
        if told > MOST_TOLD:
            message = f"{told} log-probabilities of prompts are asked for at once; at most {MOST_TOLD} are told"
            raise Refusal(400, message, param="logprobs", code="invalid_value")
    wish = _wish(service, asked, asked.logprobs, _grammar(service, asked))
    wish = dataclasses.replace(wish, prompt_logprobs=asked.logprobs if asked.echo else None)
    streams: list[Stream] = []
    complete = False
    try:
        for prompt in prompts:
            with _refusing("prompt"):
                streams += submit(service.engine, prompt, model, wish, service.tokenizer.stop_ids, COMPLETION_TOKENS)
        echoes = _echoes(service, asked, prompts)
        complete = True
    finally:
        if not complete:
            _cancel(streams)
    return streams, echoes


def _echoes(service: Service, asked: CompletionRequest, prompts: Sequence[Sequence[int]]) -> list[Echo | None]:
    if not asked.echo:
        return [None] * len(prompts)
    told = asked.logprobs is not None
    return [echo_of(service.tokenizer, *each, told=told) for each in zip(asked.prompts, prompts, strict=True)]


def _wish(service: Service, asked: TextRequest, alternatives: int | None, grammar: Grammar | None) -> Wish:
    biases = {int(key): value for key, value in (asked.logit_bias or {}).items()}
    last = service.engine.vocabulary - 1
    if any(token > last for token in biases):
        raise Refusal(400, f"token ids must lie between 0 and {last}", param="logit_bias", code="invalid_value")
    return Wish(
        new_tokens=asked.limit,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        seed=asked.seed,
        min_p=asked.min_p,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        repetition_penalty=asked.repetition_penalty,
        logit_bias=biases,
        choices=asked.choices,
        stop_ids=asked.stop_token_ids or (),
        logprobs=alternatives,
        grammar=grammar,
    )


def _grammar(service: Service, asked: TextRequest) -> Grammar | None:
    """Return what the answer must look like, if the request says so. Raises Refusal for a form that cannot be kept."""
    form = asked.response_format if isinstance(asked, ChatRequest) else None
    if form is not None and form.type != "text":
        with _refusing("response_format"):
            if form.json_schema is None:
                return service.constraints.json_object()
            return service.constraints.json_schema(form.json_schema.schema_)
    structure = asked.structured_outputs
    if structure is None:
        return None
    with _refusing("structured_outputs"):
        if structure.regex is not None:
            return service.constraints.regex(structure.regex)
        if structure.choice is not None:
            return service.constraints.choice(structure.choice)
        return service.constraints.json_schema(structure.json_ or {})


def _ids(service: Service, prompt: str | list[int]) -> list[int]:
    return service.tokenizer.encode_start(prompt) if isinstance(prompt, str) else prompt


def _text_of(service: Service, asked: TextRequest) -> TextStream:
    return TextStream(service.tokenizer, asked.stop or ())


@contextmanager
def _refusing(param: str) -> Iterator[None]:
    """Within the block what the engine refuses becomes the error that OpenAI's clients expect."""
    try:
        yield
    except (QueueFull, EngineStopped, NoMemory) as error:
        raise refusal_of(error) from error
    except BaseModelError as error:
        raise Refusal(503, str(error), param="model", code="adapter_unusable", retry_after_s=60) from error
    except DoesNotFit as error:
        raise Refusal(400, str(error), param=param, code="context_length_exceeded") from error
    except (ServeError, DataError) as error:
        raise Refusal(400, str(error), param=param, code="invalid_value") from error


# ------------------------------------------------------------------------------------------------------------- errors


async def _refused(request: Request, error: Refusal) -> Response:
    return refused(error)


async def _http_error(request: Request, error: HTTPException) -> Response:
    message = f"{error.detail}: {request.method} {request.url.path}"
    return JSONResponse(Refusal(error.status_code, message).body, status_code=error.status_code, headers=error.headers)


async def _crash(request: Request, error: Exception) -> Response:
    """Answer in the same format when something unforeseen happens. starlette raises the error on: it is not hidden."""
    return JSONResponse(Refusal(500, f"the server failed: {type(error).__name__}").body, status_code=500)
