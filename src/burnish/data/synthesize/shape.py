"""What a reply must look like: JSON of a known shape, or a plain text. Whatever else comes is told back to the model."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

LONGEST = 20_000
"""Characters of one text of a row."""
_THINKING = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"```[a-zA-Z]*\s*\n(.*?)\n?\s*```", re.DOTALL)
_QUOTED = re.compile(r'^"([^"]+)"$|^“([^“”]+)”$', re.DOTALL)
_DECODER = json.JSONDecoder()

Text = Annotated[str, Field(min_length=1, max_length=LONGEST, pattern=r"\S")]


class Misshapen(Exception):
    """A reply without the asked form. The message is what the model is told."""


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, str_strip_whitespace=True)


class Example(_Shape):
    """A request and its answer."""

    request: Text
    answer: Text


class Examples(_Shape):
    """Several of them."""

    examples: Annotated[list[Example], Field(min_length=1, max_length=20)]


class Question(_Shape):
    """A question, its answer, and the words of the document that say so."""

    question: Text
    answer: Text
    quote: Text


class Asked(_Shape):
    """Several of them."""

    questions: Annotated[list[Question], Field(min_length=1, max_length=20)]


class Grade(_Shape):
    """What a judge says of a row."""

    grade: Annotated[int, Field(ge=1, le=5)]
    why: Annotated[str, Field(max_length=2000)] = ""


class Choice(_Shape):
    """Which of two answers a judge prefers."""

    better: Annotated[str, Field(pattern="^[ABab]$")]
    why: Annotated[str, Field(max_length=2000)] = ""


S = TypeVar("S", bound=BaseModel)


def read_json(reply: str, shape: type[S]) -> S:
    """Return the JSON object in a reply, in a code block or between other words. Raises Misshapen that says what is wrong."""
    value = _object_in(_without_thinking(reply))
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        said = [
            f"{'.'.join(map(str, problem['loc'])) or 'the object'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)[:3]
        ]
        raise Misshapen("; ".join(said)) from error


def read_text(reply: str) -> str:
    """Return the text of a reply without quotes around it. Raises Misshapen when it is empty or too long."""
    text = _without_thinking(reply).strip()
    if found := _QUOTED.fullmatch(text):
        text = (found[1] or found[2]).strip()
    if not text:
        raise Misshapen("the answer is empty")
    if len(text) > LONGEST:
        raise Misshapen(f"the answer has {len(text)} characters; at most {LONGEST} are wanted")
    return text


def _without_thinking(reply: str) -> str:
    """Cut off what a model that reasons says to itself first."""
    return _THINKING.sub("", reply, count=1)


def _object_in(text: str) -> dict[str, Any]:
    """Return the first JSON object: whole, in a code block, or from a brace on."""
    for part in (text, *_FENCED.findall(text)):
        if part.strip().startswith("{"):
            try:
                return _checked(json.loads(part))
            except (ValueError, RecursionError):
                continue
    at = text.find("{")
    if at < 0:
        raise Misshapen("there is no JSON object in the answer")
    try:
        value, _ = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise Misshapen(f"the answer is not valid JSON: {str(error)[:100]}") from error
    return _checked(value)


def _checked(value: Any) -> dict[str, Any]:
    json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    return value
