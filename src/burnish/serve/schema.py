"""What comes over the wire and what goes back: the part of OpenAI's chat API that burnish speaks.

Source of the shapes: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from burnish.text.messages import Message

IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
)
"""Fields that OpenAI's clients send and that change nothing about an answer here."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Fields that are accepted with the value that asks for nothing, and refused with any other."""


class ApiError(Exception):
    """A request that cannot be answered, as OpenAI's clients expect it: HTTP status and error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _ChatMessage(BaseModel):
    """One turn. Content given in parts must be text alone."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        parts: list[Any] = value
        if not all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
            for part in parts
        ):
            raise ValueError("only parts of type text are understood")
        return "".join(part["text"] for part in parts)

    def as_message(self) -> Message:
        """Return the turn as burnish passes it around."""
        return Message(role="system" if self.role == "developer" else self.role, content=self.content or "")


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions. Temperature is 0 by default: answers as they were evaluated."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: str
    messages: Annotated[list[_ChatMessage], Field(min_length=1)]
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: list[str] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        stops = [value] if isinstance(value, str) else value
        if isinstance(stops, list) and (len(stops) > 4 or "" in stops):
            raise ValueError("up to 4 strings, none of them empty, are allowed")
        return stops

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    @property
    def limit(self) -> int | None:
        """How many new tokens are wanted at most."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def conversation(self) -> list[Message]:
        """The messages as burnish passes them around."""
        return [message.as_message() for message in self.messages]


def parse_chat_request(body: bytes) -> ChatRequest:
    """Read a request body. Raises ApiError (400) that names the field and what is allowed."""
    try:
        value = json.loads(body)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(value, dict):
        raise ApiError(400, f"the body must be a JSON object, found {type(value).__name__}")
    fields: dict[str, Any] = {name: item for name, item in value.items() if name not in IGNORED}
    for name, allowed in NEUTRAL.items():
        found = fields.pop(name, None)
        if found is not None and found not in allowed:
            known = " or ".join(json.dumps(item) for item in allowed)
            raise ApiError(
                400,
                f"{name} is not supported here yet; leave it out or send {known}",
                param=name,
                code="unsupported_parameter",
            )
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise _first_problem(error) from error


def _first_problem(error: ValidationError) -> ApiError:
    """Say what is wrong with the first bad field, without repeating what the person wrote."""
    problem = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    param = str(problem["loc"][0]) if problem["loc"] else None
    if problem["type"] == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {where}", param=param, code="unknown_parameter")
    if problem["type"] == "missing":
        return ApiError(400, f"Missing required parameter: '{where}'.", param=param, code="missing_required_parameter")
    return ApiError(
        400,
        f"Invalid value for '{where or 'body'}': {problem['msg'].removeprefix('Value error, ')}.",
        param=param,
        code="invalid_value",
    )


def usage(prompt_tokens: int, new_tokens: int) -> dict[str, int]:
    """Return OpenAI's usage object."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": new_tokens, "total_tokens": prompt_tokens + new_tokens}


def completion(head: Mapping[str, Any], text: str, finish: str, counted: dict[str, int]) -> dict[str, Any]:
    """Return a whole answer. `head` holds id, created and model."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": counted, "system_fingerprint": None}


def chunk(
    head: Mapping[str, Any], delta: dict[str, str] | None, finish: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return one piece of a streamed answer; `delta` None gives the piece without choices that carries the usage."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {**head, "object": "chat.completion.chunk", "choices": choices, "system_fingerprint": None, **more}
