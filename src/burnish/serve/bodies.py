"""What goes back over the wire: OpenAI's objects for answers, pieces of answers, vectors and models."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.model.sampling import Likelihood
from burnish.text.messages import ToolCall
from burnish.text.tokenizer import Tokenizer

LEAST = -9999.0
"""What is told of a probability of 0: JSON has no infinity."""


@dataclass(slots=True)
class Told:
    """A token with what its request asked to be told of it: None for the first of a text, before which nothing stands.

    offset: where the token begins in its choice's text, in characters.
    """

    token: int
    likelihood: Likelihood | None
    offset: int = 0


@dataclass(slots=True)
class Said:
    """One finished choice of an answer."""

    index: int
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    finish: str = "stop"


def usage(prompt_tokens: int, new_tokens: int) -> dict[str, int]:
    """Return OpenAI's usage object."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": new_tokens, "total_tokens": prompt_tokens + new_tokens}


def chat_completion(
    head: Mapping[str, Any], said: Sequence[Said], counted: dict[str, int], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Return a whole chat answer. `head` holds id, created and model."""
    choices: list[dict[str, Any]] = []
    for each in said:
        message: dict[str, Any] = {"role": "assistant", "content": each.text, "refusal": None}
        if each.calls:
            message |= {"content": each.text or None, "tool_calls": each.calls}
        logprobs = chat_logprobs(each.told, tokenizer)
        choices.append({"index": each.index, "message": message, "logprobs": logprobs, "finish_reason": each.finish})
    return {**head, "object": "chat.completion", "choices": choices, "usage": counted, "system_fingerprint": None}


def chat_chunk(
    head: Mapping[str, Any],
    index: int,
    delta: Mapping[str, Any] | None,
    finish: str | None = None,
    logprobs: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return one piece of a streamed chat answer; `delta` None gives the piece without choices that carries the usage."""
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    choices = [] if delta is None else [choice]
    return {**head, "object": "chat.completion.chunk", "choices": choices, "system_fingerprint": None, **more}


def text_completion(
    head: Mapping[str, Any], said: Sequence[Said], counted: dict[str, int] | None, tokenizer: Tokenizer, **more: Any
) -> dict[str, Any]:
    """Return a whole text answer, or one piece of it: both have the same shape."""
    choices = [
        {
            "index": each.index,
            "text": each.text,
            "logprobs": text_logprobs(each.told, tokenizer),
            "finish_reason": each.finish or None,
        }
        for each in said
    ]
    counts = {} if counted is None else {"usage": counted}
    return {**head, "object": "text_completion", "choices": choices, "system_fingerprint": None, **counts, **more}


def chat_logprobs(told: Sequence[Told], tokenizer: Tokenizer) -> dict[str, Any] | None:
    """Return the log-probabilities of tokens as the chat API tells them; None when nothing is to be told."""
    if not told:
        return None

    def entry(token: int, logprob: float) -> dict[str, Any]:
        found = tokenizer.token_bytes(token)
        return {"token": found.decode("utf-8", "replace"), "logprob": max(logprob, LEAST), "bytes": list(found)}

    content = [
        {
            **entry(each.token, each.likelihood.logprob),
            "top_logprobs": [entry(token, logprob) for token, logprob in each.likelihood.best],
        }
        for each in told
        if each.likelihood is not None
    ]
    return {"content": content, "refusal": None}


def text_logprobs(told: Sequence[Told], tokenizer: Tokenizer) -> dict[str, Any] | None:
    """Return the log-probabilities of tokens as the completions API tells them; None when nothing is to be told.

    The token itself stands beside the most likely ones. Of tokens with the same text (parts of characters) the most likely is told.
    """
    if not told:
        return None

    def text(token: int) -> str:
        return tokenizer.token_bytes(token).decode("utf-8", "replace")

    tokens: list[str] = []
    logprobs: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    for each in told:
        tokens.append(text(each.token))
        if each.likelihood is None:
            logprobs.append(None)
            tops.append(None)
            continue
        logprob, best = each.likelihood
        logprobs.append(max(logprob, LEAST))
        top: dict[str, float] = {}
        for token, value in (*best, (each.token, logprob)):
            top.setdefault(text(token), max(value, LEAST))
        tops.append(top)
    return {
        "tokens": tokens,
        "token_logprobs": logprobs,
        "top_logprobs": tops,
        "text_offset": [each.offset for each in told],
    }


def tool_call_deltas(calls: Sequence[ToolCall], first: int) -> list[dict[str, Any]]:
    """Return calls as pieces of a stream, each whole; `first` is the number of the first of them in its answer."""
    return [{"index": first + at, **call} for at, call in enumerate(calls)]


def embeddings(model: str, vectors_NH: NDArray[np.float32], tokens: int, *, as_base64: bool) -> dict[str, Any]:
    """Return vectors as the embeddings API does: lists of numbers, or little-endian float32 in base64."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist(),
        }
        for index, vector in enumerate(vectors_NH)
    ]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
