"""What is sent to vLLM's completions route and what comes back, as token ids.

Fields beyond OpenAI's are vLLM's (https://docs.vllm.ai, serving, OpenAI-compatible server): `return_token_ids`,
`return_tokens_as_token_ids`, `stop_token_ids`, `structured_outputs` and the sampling parameters.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.core.errors import ServeError
from burnish.model.sampling import Constraint, Likelihood, Sampling
from burnish.serve.constrain import TokenConstraint
from burnish.serve.stream import End

TOKEN = "token_id:"
"""What vLLM writes before a token's number where OpenAI has its text."""
SEED_LIMIT = 2**63


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of an answer with what was told of them, and how it ended, if it did: stop is the stop token that ended it.

    prompt: what was told of further tokens of the prompt.
    """

    tokens: Sequence[int]
    likelihoods: Sequence[Likelihood]
    end: End | None
    stop: tuple[int, Likelihood] | None = None
    prompt: Sequence[Likelihood] = ()


def body_of(
    model: str, token_ids: Sequence[int], sampling: Sampling, constraint: Constraint | None
) -> dict[str, Any]:  # fmt: skip
    """Return the request for one answer. Raises ServeError for a form that cannot be told to vLLM."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(token_ids),
        "stream": True,
        "return_token_ids": True,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop_token_ids": sorted(sampling.stop_ids),
        "ignore_eos": True,  # what ends an answer is told by stop_token_ids alone
    }
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.seed is not None:
        body["seed"] = sampling.seed % SEED_LIMIT
    if sampling.prompt_logprobs is not None or not sampling.max_new_tokens:
        body["echo"] = True  # without it vLLM makes one token at least
    most = max((k for k in (sampling.logprobs, sampling.prompt_logprobs) if k is not None), default=None)
    if most is not None:
        body |= {"logprobs": most, "return_tokens_as_token_ids": True}
    if constraint is not None:
        if not isinstance(constraint, TokenConstraint):
            raise ServeError("vLLM takes forms as a schema, an expression or choices alone")
        body["structured_outputs"] = constraint.form
    return body


class Events:
    """Reads the events of one answer, in order. prompt_tokens: of the request; what is told of them comes first."""

    def __init__(self, sampling: Sampling, prompt_tokens: int) -> None:
        self._sampling = sampling
        self._untold = 0 if sampling.prompt_logprobs is None else prompt_tokens

    def read(self, line: bytes) -> Piece | None:
        """Read one line of the stream; None for what says nothing. Raises ServeError when vLLM tells an error."""
        data = line.strip().removeprefix(b"data: ")
        if not line.startswith(b"data: ") or data == b"[DONE]":
            return None
        event = json.loads(data)
        if "error" in event:
            raise ServeError(f"vLLM failed: {event['error'].get('message', 'no reason given')}")
        if not event["choices"]:
            return None
        return self._piece(event["choices"][0])

    def _piece(self, choice: dict[str, Any]) -> Piece:
        sampling, told = self._sampling, _told(choice.get("logprobs"))
        prompt, told = told[: self._untold], told[self._untold :]
        self._untold -= len(prompt)
        read = _likelihoods(prompt, sampling.prompt_logprobs)
        end = {"stop": End.STOP, "length": End.LENGTH}.get(choice.get("finish_reason") or "")
        if choice.get("finish_reason") and end is None:
            raise ServeError(f"vLLM ended the answer: {choice['finish_reason']}")
        if not sampling.max_new_tokens:  # it makes a token all the same
            return Piece([], [], end and End.LENGTH, prompt=read)
        tokens: list[int] = list(choice.get("token_ids") or ())
        likelihoods = _likelihoods(told, sampling.logprobs)
        stop: tuple[int, Likelihood] | None = None
        if end is End.STOP and tokens and tokens[-1] in sampling.stop_ids:
            if len(likelihoods) == len(tokens):
                stop = (tokens[-1], likelihoods.pop())
            tokens = tokens[:-1]
        return Piece(tokens, likelihoods, end, stop, read)


async def lines_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield whole lines, however long: what is told of a long prompt comes in one."""
    rest: list[bytes] = []
    async for piece in pieces:
        first, *more = piece.split(b"\n")
        rest.append(first)
        for line in more:
            yield b"".join(rest)
            rest = [line]
    yield b"".join(rest)


_Entry = tuple[float | None, dict[str, float] | None]


def _told(logprobs: Any) -> list[_Entry]:
    """Return the log-probability of each token of an event, and those of the most likely ones."""
    if logprobs is None:
        return []
    return list(zip(logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True))


def _likelihoods(told: Sequence[_Entry], most: int | None) -> list[Likelihood]:
    """Return what was told of tokens; the first of a prompt has nothing. most: how many alternatives were asked for."""
    if most is None:
        return []
    found: list[Likelihood] = []
    for logprob, best in told:
        if logprob is None:
            continue
        pairs = [(int(name.removeprefix(TOKEN)), float(value)) for name, value in (best or {}).items()]
        pairs.sort(key=lambda pair: -pair[1])
        found.append(Likelihood(float(logprob), tuple(pairs[:most])))
    return found
