"""Parts of request bodies: turns, tools, and what an answer must look like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from burnish.text.messages import FunctionCall, Message, ToolCall

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
LENIENT = ConfigDict(extra="ignore", strict=True)


class _Function(BaseModel):
    model_config = LENIENT
    name: str
    arguments: str = ""


class _Call(BaseModel):
    model_config = LENIENT
    id: str = ""
    type: Literal["function"] = "function"
    function: _Function


class ChatMessage(BaseModel):
    """One turn. Content given in parts must be text alone."""

    model_config = LENIENT
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None

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

    @model_validator(mode="after")
    def _fits_its_role(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only a message of the assistant may have tool_calls")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role tool needs tool_call_id")
        return self

    def as_message(self) -> Message:
        """Return the turn as burnish passes it around."""
        message = Message(role="system" if self.role == "developer" else self.role, content=self.content or "")
        if self.tool_calls:
            message["tool_calls"] = [
                ToolCall(
                    id=call.id,
                    type="function",
                    function=FunctionCall(name=call.function.name, arguments=call.function.arguments or "{}"),
                )
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.name is not None and self.role == "tool":
            message["name"] = self.name
        return message


class StreamOptions(BaseModel):
    """What a stream tells besides its pieces."""

    model_config = LENIENT
    include_usage: bool = False


class _ToolFunction(BaseModel):
    model_config = LENIENT
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A function that the model may call."""

    model_config = LENIENT
    type: Literal["function"]
    function: _ToolFunction

    def as_object(self) -> dict[str, Any]:
        """Return OpenAI's tool object, as chat templates take it."""
        shown = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": "function", "function": shown}


class _NamedFunction(BaseModel):
    model_config = LENIENT
    name: str


class NamedTool(BaseModel):
    """The one function that must be called."""

    model_config = LENIENT
    type: Literal["function"]
    function: _NamedFunction


class _JsonSchema(BaseModel):
    model_config = LENIENT
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What kind of text the answer must be."""

    model_config = LENIENT
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("type json_schema needs json_schema with name and schema")
        return self


class Structure(BaseModel):
    """One of three ways to say what an answer must look like; the names are vLLM's."""

    model_config = STRICT
    json_: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Structure:
        if sum(value is not None for value in (self.json_, self.regex, self.choice)) != 1:
            raise ValueError("exactly one of json, regex and choice is allowed")
        return self
