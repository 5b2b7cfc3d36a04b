"""What a request asks for: read from its body once, held against the caps, counted in tokens and money."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jiter

from burnish.core.refusal import Refusal
from burnish.gateway.keys import Key
from burnish.gateway.settings import Caps, Price

MESSAGE_TOKENS = 16
"""Upper bound of what a template writes around one message."""
BESIDE = ("tools", "functions", "documents", "response_format", "chat_template", "chat_template_kwargs")
"""What engines write into a prompt beside its messages."""
BESIDE_TOKENS = 512
"""Upper bound of what a template writes around each of them: how tools are called, for one."""
CountTokens = Callable[[str, Mapping[str, Any]], "Sequence[int] | None"]
"""count(model, body) -> tokens of each of its prompts, exactly; None when it cannot tell."""
COMPLETION_TOKENS = 16
"""Length limit of a text completion that names none, as OpenAI and engines have it."""
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request body, and what it may use at most. `sent` is what goes upstream but for the model's name."""

    path: str
    sent: dict[str, Any]
    stream: bool
    wants_usage: bool
    prompt_tokens: int
    new_tokens: int

    @property
    def tokens(self) -> int:
        """The most the request may use."""
        return self.prompt_tokens + self.new_tokens

    def body(self, model: str) -> bytes:
        """Return the body that goes upstream, for this version of the model."""
        try:
            return _ENCODER.encode({**self.sent, "model": model}).encode()
        except ValueError as error:
            raise Refusal(400, "a number in the body is too large", code="invalid_value") from error


def parse_body(body: bytes) -> dict[str, Any]:
    """Read a JSON object. Refuses what two readers may read differently: a key given twice, NaN, half a character."""
    try:
        value = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="none")
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON that can be read: {str(error)[:200]}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"the body must be a JSON object, found {type(value).__name__}", code="invalid_json")
    return cast("dict[str, Any]", value)


def model_name(value: dict[str, Any]) -> str:
    """Return the model that a body names. Raises Refusal (422)."""
    model = value.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 200 or not model.isprintable():
        raise Refusal(
            422, "model must name a model; GET /v1/models lists those you may ask", param="model", code="invalid_value"
        )
    return model


def read_ask(
    path: str, model: str, value: dict[str, Any], key: Key, caps: Caps, count: CountTokens | None,
    context_tokens: int | None = None,
) -> Asked:  # fmt: skip
    """Return what is asked for of a model. Raises Refusal: 422 for a wrong value, 413 for a prompt that is too long.

    context_tokens: what the engine holds of prompt and answer together, where that can be told.
    """
    stream = _bool(value, "stream")
    answers = max(_whole(value, "n", 1), _whole(value, "best_of", 1))
    if answers > caps.answers:
        raise Refusal(422, f"n may be {caps.answers} at most here", param="n", code="invalid_value")
    answered = answers * _prompts(path, value)
    sent = dict(value)
    counted = None if count is None else count(model, value)
    prompt = _prompt_bound(path, value) if counted is None else sum(counted)
    if prompt > caps.prompt_tokens:
        raise Refusal(
            413, f"the prompt has up to {prompt} tokens; here it may have {caps.prompt_tokens}", code="prompt_too_long"
        )
    new_tokens = 0
    if path != "/v1/embeddings":
        new_tokens = _given_tokens(value, path, caps)
        if new_tokens is None:
            room = context_tokens - max(counted) if counted and context_tokens is not None else None
            new_tokens = sent["max_tokens"] = _default_tokens(path, prompt * answers, key, caps, answered, room)
    options = value.get("stream_options")
    wants_usage = isinstance(options, dict) and cast("dict[str, Any]", options).get("include_usage") is True
    if stream and (options is None or isinstance(options, dict)):
        sent["stream_options"] = {**cast("dict[str, Any]", options or {}), "include_usage": True}
    return Asked(path, sent, stream, wants_usage, prompt * answers, new_tokens * answered)


def _prompts(path: str, value: dict[str, Any]) -> int:
    """Return how many prompts a text completion has: each gets answers of its own."""
    prompt = value.get("prompt") if path == "/v1/completions" else None
    if not isinstance(prompt, list):
        return 1
    parts = cast("list[Any]", prompt)
    return 1 if all(isinstance(part, int) for part in parts) else len(parts)


def _given_tokens(value: dict[str, Any], path: str, caps: Caps) -> int | None:
    """Return how many tokens the request says that one answer may have, or None."""
    chat = path == "/v1/chat/completions"
    names = ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",)
    least = 1 if chat else 0  # a text that is echoed need not go on
    given = {name: _whole(value, name, least, least) for name in names if value.get(name) is not None}
    for name, tokens in given.items():
        if tokens > caps.new_tokens:
            raise Refusal(422, f"{name} may be {caps.new_tokens} at most here", param=name, code="invalid_value")
    return max(given.values(), default=None)  # engines differ in which of two they follow


def _default_tokens(path: str, prompt: int, key: Key, caps: Caps, answers: int, room: int | None) -> int:
    """Return how many tokens one answer may have whose request does not say it: no more than there is room for.

    room: what the context leaves beside the longest prompt, where that is known.
    """
    fitting = min(caps.default_new_tokens, caps.new_tokens)
    if path == "/v1/completions":
        fitting = min(fitting, COMPLETION_TOKENS)
    if key.limits.tokens_per_minute is not None:
        fitting = min(fitting, max((key.limits.tokens_per_minute - prompt) // answers, 1))
    return fitting if room is None else min(fitting, max(room, 1))


def _whole(value: dict[str, Any], name: str, default: int, least: int = 1) -> int:
    found = value.get(name)
    if found is None:
        return default
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found < 2**31:
        raise Refusal(422, f"{name} must be a whole number of {least} or more", param=name, code="invalid_value")
    return found


def _bool(value: dict[str, Any], name: str) -> bool:
    found = value.get(name)
    if found is not None and not isinstance(found, bool):
        raise Refusal(422, f"{name} must be true or false", param=name, code="invalid_value")
    return bool(found)


def _prompt_bound(path: str, value: dict[str, Any]) -> int:
    """Bound the tokens of a prompt from above without a tokenizer: no token is shorter than a byte."""
    field = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}[path]
    found = value.get(field)
    if found is None:
        raise Refusal(422, f"{field} is missing", param=field, code="missing_required_parameter")
    parts: list[Any] = cast("list[Any]", found) if isinstance(found, list) else [found]
    if all(isinstance(part, int) for part in parts):
        parts = [found]  # token ids of one prompt
    beside = sum(_bytes_in(value[name]) + BESIDE_TOKENS for name in BESIDE if value.get(name))
    return _bytes_in(found) + beside + MESSAGE_TOKENS * (len(parts) + 1)


def _bytes_in(value: Any) -> int:
    """UTF-8 bytes of every text in a value; a token id counts one."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        return sum(_bytes_in(name) + _bytes_in(item) for name, item in cast("dict[Any, Any]", value).items())
    if isinstance(value, list):
        return sum(_bytes_in(item) for item in cast("list[Any]", value))
    return 0 if value is None else 1


def price_nano(price: Price, prompt_tokens: int, new_tokens: int) -> int:
    """Return what tokens cost in billionths of a dollar, rounded up: a dollar for a million tokens is 1,000 for each."""
    exact = (prompt_tokens * price.prompt_usd + new_tokens * price.answer_usd) * 1000
    return -int(-exact // 1)
