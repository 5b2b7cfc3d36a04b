"""From a conversation or a prompt to the engine's streams: what the API and the terminal chat share."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.core.errors import DataError
from burnish.model.sampling import Sampling
from burnish.serve.constrain import Grammar
from burnish.serve.interface import AnsweringEngine
from burnish.serve.stream import Stream
from burnish.serve.tools import ToolFormat, tool_format, with_tools
from burnish.text.messages import Message
from burnish.text.render import control_token_in, render_prompt
from burnish.text.system import with_system
from burnish.text.tokenizer import Tokenizer

DEFAULT_NEW_TOKENS = 1024
"""Length limit of an answer when the request names none (less when the context holds less)."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A name people can ask for: an adapter of the engine (None: the base), and the system template it knows.

    tokenizer: with the variables of the chat template that the adapter was trained with; None for the base's own.
    digest: content hash of what answers: the adapter, or the base.
    """

    adapter: str | None
    system: str | None
    created_s: int = 0
    tokenizer: Tokenizer | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """How an answer should be made; None leaves it to the default (greedy, as evaluated).

    choices: how many answers. stop_ids: further tokens that end one. logprobs: most likely tokens to tell, None for none;
    prompt_logprobs: the same for the prompt's own tokens. grammar: what each answer must look like.
    """

    new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    choices: int = 1
    stop_ids: Sequence[int] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """Tools that an answer may call (OpenAI's objects). `demanded`: those of which one must be called, if any must."""

    tools: Sequence[Mapping[str, Any]] = ()
    demanded: Sequence[Mapping[str, Any]] = ()


NO_TOOLS = Offer()


def prompt_of(
    tokenizer: Tokenizer, model: ServedModel, messages: Sequence[Message], day: datetime.date, offer: Offer = NO_TOOLS
) -> tuple[list[int], ToolFormat]:
    """Render the conversation as the model was trained on it; returns the ids and how the model writes calls of tools.

    Where a call is demanded the prompt goes on to where its JSON begins. Raises DataError when the template refuses the
    conversation or a message contains one of its control tokens.
    """
    tokenizer = model.tokenizer or tokenizer
    for message in messages:
        token = control_token_in(tokenizer, message)
        if token is not None:
            raise DataError(f"a message contains {token}, which marks turns for this model; write it differently")
    form = tool_format(tokenizer)
    turns = with_tools(with_system(messages, model.system, day), offer.tools, form)
    prompt = render_prompt(tokenizer, turns, tools=offer.tools if form.own else (), day=day)
    return (prompt + tokenizer.encode(form.begin) if offer.demanded else prompt), form


def submit(
    engine: AnsweringEngine,
    prompt: Sequence[int],
    model: ServedModel,
    wish: Wish,
    stop_ids: frozenset[int],
    default_tokens: int,
) -> list[Stream]:
    """Ask for the wished number of continuations. Raises ServeError as `Engine.submit` does; then none of them runs."""
    room = max(engine.context_tokens - len(prompt), 1)
    new_tokens = wish.new_tokens if wish.new_tokens is not None else min(default_tokens, room)
    streams: list[Stream] = []
    complete = False
    try:
        for choice in range(wish.choices):
            sampling = Sampling(
                max_new_tokens=new_tokens,
                stop_ids=stop_ids | frozenset(wish.stop_ids),
                temperature=_or(wish.temperature, 0.0),
                top_p=_or(wish.top_p, 1.0),
                top_k=max(0, wish.top_k or 0),
                min_p=_or(wish.min_p, 0.0),
                repetition_penalty=_or(wish.repetition_penalty, 1.0),
                presence_penalty=_or(wish.presence_penalty, 0.0),
                frequency_penalty=_or(wish.frequency_penalty, 0.0),
                logit_bias=wish.logit_bias,
                seed=None if wish.seed is None else (wish.seed + choice) % 2**63,
                logprobs=wish.logprobs,
                prompt_logprobs=wish.prompt_logprobs,
            )
            constraint = None if wish.grammar is None else wish.grammar.begin()
            streams.append(engine.submit(prompt, model.adapter, sampling, constraint))
        complete = True
    finally:
        if not complete:
            for stream in streams:
                stream.cancel()
    return streams


def ask(
    engine: AnsweringEngine,
    tokenizer: Tokenizer,
    model: ServedModel,
    messages: Sequence[Message],
    wish: Wish,
    day: datetime.date,
) -> Stream:
    """Ask for one answer to a conversation. Raises as `prompt_of` and `submit` do."""
    prompt, _ = prompt_of(tokenizer, model, messages, day)
    stop_ids = (model.tokenizer or tokenizer).stop_ids
    return submit(engine, prompt, model, wish, stop_ids, DEFAULT_NEW_TOKENS)[0]


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
