"""What comes over the wire: the part of OpenAI's API that burnish reads, checked field by field.

Sources of the shapes: https://platform.openai.com/docs/api-reference (chat, completions, embeddings), and for `min_p`,
`repetition_penalty`, `stop_token_ids` and `structured_outputs` https://docs.vllm.ai (serving, OpenAI-compatible server).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from burnish.core.refusal import Refusal
from burnish.serve.parts import STRICT, ChatMessage, NamedTool, ResponseFormat, StreamOptions, Structure, Tool
from burnish.serve.problem import first_problem
from burnish.text.messages import Message

IGNORED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "verbosity",
    }
)
"""Fields that OpenAI's clients send and that change nothing about an answer here."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "suffix": ("",),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    # what clients of vLLM's server send with its defaults
    "add_generation_prompt": (True,),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "priority": (0,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "use_beam_search": (False,),
}
"""Fields that are accepted with the value that asks for nothing, and refused with any other."""
MOST_CHOICES = 16
MOST_ALTERNATIVES = 20
MOST_STOPS = 4
DEEPEST_JSON = 64


class TextRequest(BaseModel):
    """What requests for text have in common. Temperature is 0 by default: answers as they were evaluated."""

    model_config = STRICT
    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: list[str] | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] | None = None
    structured_outputs: Structure | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        stops = [value] if isinstance(value, str) else value
        if isinstance(stops, list) and (len(stops) > MOST_STOPS or "" in stops):
            raise ValueError(f"up to {MOST_STOPS} strings, none of them empty, are allowed")
        return stops

    @field_validator("logit_bias")
    @classmethod
    def _keys_are_ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and (len(value) > 1024 or not all(key.isdecimal() and len(key) < 10 for key in value)):
            raise ValueError("up to 1024 token ids as keys are allowed")
        return value

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> TextRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    @property
    def limit(self) -> int | None:
        """How many new tokens are wanted at most."""
        return self.max_tokens

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a piece that tells the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(TextRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _fields_fit_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only allowed when logprobs is true")
        names = [tool.function.name for tool in self.tools or ()]
        if self.tool_choice not in (None, "none", "auto") and not names:
            raise ValueError("tool_choice is only allowed when tools are given")
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names a function that is not among tools ({', '.join(names)})")
        formatted = self.response_format is not None and self.response_format.type != "text"
        if formatted and self.structured_outputs is not None:
            raise ValueError("response_format and structured_outputs exclude each other")
        return self

    @property
    def limit(self) -> int | None:
        """How many new tokens are wanted at most."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def conversation(self) -> list[Message]:
        """The messages as burnish passes them around."""
        return [message.as_message() for message in self.messages]

    @property
    def alternatives(self) -> int | None:
        """How many most likely tokens are told beside each token; None tells no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the model may call, as OpenAI's objects; none of them with tool_choice none."""
        return [] if self.tool_choice == "none" else [tool.as_object() for tool in self.tools or ()]

    @property
    def demanded_tools(self) -> list[dict[str, Any]]:
        """The tools of which one must be called; none when the model is free."""
        if isinstance(self.tool_choice, NamedTool):
            named = self.tool_choice.function.name
            return [tool for tool in self.offered_tools if tool["function"]["name"] == named]
        return self.offered_tools if self.tool_choice == "required" else []


class CompletionRequest(TextRequest):
    """The body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    echo: bool | None = False
    best_of: int | None = None

    @model_validator(mode="after")
    def _is_one_we_answer(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.choices:
            raise ValueError("best_of other than n is not supported")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens 0 is only allowed when echo is true: there would be nothing to answer")
        if not 1 <= len(self.prompts) <= 64 or not all(self.prompts):
            raise ValueError("prompt must hold 1 to 64 prompts, none of them empty")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each a text or token ids."""
        return _as_list(self.prompt)


class EmbeddingRequest(BaseModel):
    """The body of POST /v1/embeddings."""

    model_config = STRICT
    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _has_inputs(self) -> EmbeddingRequest:
        if not 1 <= len(self.inputs) <= 2048 or not all(self.inputs):
            raise ValueError("input must hold 1 to 2048 inputs, none of them empty")
        return self

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """The inputs, each a text or token ids."""
        return _as_list(self.input)


def _as_list(value: str | list[str] | list[int] | list[list[int]]) -> list[str] | list[list[int]]:
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [value]  # type: ignore[list-item]
    return value  # type: ignore[return-value]


Body = TypeVar("Body", ChatRequest, CompletionRequest, EmbeddingRequest)


def parse_chat_request(body: bytes) -> ChatRequest:
    """Read a request for a chat completion. Raises Refusal (400) that names the field and what is allowed."""
    return parse_request(ChatRequest, body)


def parse_request(kind: type[Body], body: bytes) -> Body:
    """Read a request body. Raises Refusal (400) that names the field and what is allowed."""
    try:
        value = json.loads(body)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"the body must be a JSON object, found {type(value).__name__}")
    return read_request(kind, cast("dict[str, Any]", value))


def read_request(kind: type[Body], value: Mapping[str, Any]) -> Body:
    """Read a request from the object in its body. Raises as `parse_request` does."""
    if _depth(value) > DEEPEST_JSON:
        raise Refusal(400, f"the body's JSON is nested more than {DEEPEST_JSON} deep")
    fields: dict[str, Any] = {name: item for name, item in value.items() if name not in IGNORED}
    for name, allowed in NEUTRAL.items():
        found = fields.pop(name, None)
        if found is not None and found not in allowed:
            known = " or ".join(json.dumps(item) for item in allowed)
            raise Refusal(
                400,
                f"{name} is not supported here; leave it out{f' or send {known}' if known else ''}",
                param=name,
                code="unsupported_parameter",
            )
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise first_problem(error) from error


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, without recursion."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        inner = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
        level = [item for item in inner if isinstance(item, (dict, list))]
    return deepest
