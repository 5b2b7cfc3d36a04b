"""What is sent to vLLM's completions route and what comes back, as token ids.

Fields beyond OpenAI's are vLLM's (https://docs.vllm.ai, serving, OpenAI-compatible server): `return_token_ids`,
`return_tokens_as_token_ids`, `stop_token_ids`, `structured_outputs` and the sampling parameters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    """Tokens of an answer with what was told of them, and how it ended, if it did."""

    tokens: Sequence[int]
    likelihoods: Sequence[Likelihood]
    end: End | None


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
    if sampling.logprobs is not None:
        body |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    if constraint is not None:
        if not isinstance(constraint, TokenConstraint):
            raise ServeError("vLLM takes forms as a schema, an expression or choices alone")
        body["structured_outputs"] = constraint.form
    return body


def read_event(line: bytes, sampling: Sampling) -> Piece | None:
    """Read one line of the stream; None for what says nothing. Raises ServeError when vLLM tells an error."""
    data = line.strip().removeprefix(b"data: ")
    if not line.startswith(b"data: ") or data == b"[DONE]":
        return None
    event = json.loads(data)
    if "error" in event:
        raise ServeError(f"vLLM failed: {event['error'].get('message', 'no reason given')}")
    if not event["choices"]:
        return None
    choice = event["choices"][0]
    tokens: list[int] = list(choice.get("token_ids") or ())
    likelihoods = _likelihoods(choice.get("logprobs"), sampling)
    end = {"stop": End.STOP, "length": End.LENGTH}.get(choice.get("finish_reason") or "")
    if choice.get("finish_reason") and end is None:
        raise ServeError(f"vLLM ended the answer: {choice['finish_reason']}")
    if end is End.STOP and tokens and tokens[-1] in sampling.stop_ids:
        tokens, likelihoods = tokens[:-1], likelihoods[: len(tokens) - 1]
    return Piece(tokens, likelihoods, end)


def _likelihoods(told: Any, sampling: Sampling) -> list[Likelihood]:
    if told is None or sampling.logprobs is None:
        return []
    found: list[Likelihood] = []
    for logprob, best in zip(told["token_logprobs"], told["top_logprobs"], strict=True):
        pairs = [(int(name.removeprefix(TOKEN)), float(value)) for name, value in (best or {}).items()]
        pairs.sort(key=lambda pair: -pair[1])
        found.append(Likelihood(float(logprob), tuple(pairs[: sampling.logprobs])))
    return found
