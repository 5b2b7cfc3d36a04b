"""From a conversation to the engine's stream: what the API and the terminal chat share."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from burnish.core.errors import DataError
from burnish.model.sampling import Sampling
from burnish.serve.engine import Engine
from burnish.serve.stream import Stream
from burnish.text.messages import Message
from burnish.text.render import render_prompt
from burnish.text.system import with_system
from burnish.text.tokenizer import Tokenizer

DEFAULT_NEW_TOKENS = 1024
"""Length limit of an answer when the request names none (less when the context holds less)."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A name people can ask for: an adapter of the engine (None: the base), and the system template it knows.

    tokenizer: with the variables of the chat template that the adapter was trained with; None for the base's own.
    """

    adapter: str | None
    system: str | None
    created_s: int = 0
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """How an answer should be made; None leaves it to the default (greedy, as evaluated)."""

    new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None


def ask(
    engine: Engine,
    tokenizer: Tokenizer,
    model: ServedModel,
    messages: Sequence[Message],
    wish: Wish,
    day: datetime.date,
) -> Stream:
    """Render the conversation as the model was trained on it and submit it.

    Raises DataError when the template refuses the conversation or a message contains one of its control tokens,
    ServeError as `Engine.submit` does.
    """
    tokenizer = model.tokenizer or tokenizer
    for message in messages:
        token = tokenizer.control_token_in(message["content"])
        if token is not None:
            raise DataError(f"a message contains {token}, which marks turns for this model; write it differently")
    prompt = render_prompt(tokenizer, with_system(messages, model.system, day), day=day)
    room = max(engine.context_tokens - len(prompt), 1)
    sampling = Sampling(
        max_new_tokens=wish.new_tokens if wish.new_tokens is not None else min(DEFAULT_NEW_TOKENS, room),
        stop_ids=tokenizer.stop_ids,
        temperature=wish.temperature if wish.temperature is not None else 0.0,
        top_p=wish.top_p if wish.top_p is not None else 1.0,
        top_k=wish.top_k if wish.top_k is not None else 0,
        seed=wish.seed,
    )
    return engine.submit(prompt, model.adapter, sampling)
