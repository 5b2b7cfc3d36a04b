"""What an answer must look like is kept whatever the model would say, and a bad form is refused in words."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from burnish.core.errors import ServeError
from burnish.model.sampling import Sampling
from burnish.serve.constrain import Constraints, Grammar
from burnish.serve.engine import Engine
from burnish.serve.stream import End
from burnish.text.tokenizer import Tokenizer

PROMPT = [*range(20, 50), 7]


@pytest.fixture(scope="module")
def constraints(tokenizer: Tokenizer) -> Constraints:
    return Constraints(tokenizer, 400)


def answer(engine: Engine, tokenizer: Tokenizer, grammar: Grammar, **asked: Any) -> tuple[str, End | None]:
    sampling = Sampling(max_new_tokens=asked.pop("new_tokens", 120), stop_ids=tokenizer.stop_ids, **asked)
    stream = engine.submit(PROMPT, None, sampling, grammar.begin())
    return tokenizer.decode(list(stream)), stream.end


SCHEMA = {
    "type": "object",
    "properties": {
        "cabin": {"enum": ["economy", "first"]},
        "adults": {"type": "integer", "minimum": 1, "maximum": 9},
        "direct": {"type": "boolean"},
    },
    "required": ["cabin", "adults", "direct"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("asked", [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 1.0, "top_p": 0.5, "seed": 4}])
def test_a_random_model_writes_json_of_the_schema(
    engine: Engine, tokenizer: Tokenizer, constraints: Constraints, asked: dict[str, Any]
) -> None:
    text, end = answer(engine, tokenizer, constraints.json_schema(SCHEMA), **asked)
    value = json.loads(text)
    assert end is End.STOP
    assert value["cabin"] in ("economy", "first")
    assert 1 <= value["adults"] <= 9
    assert isinstance(value["direct"], bool)
    assert len(value) == 3


def test_a_random_model_writes_what_an_expression_or_a_choice_allows(
    engine: Engine, tokenizer: Tokenizer, constraints: Constraints
) -> None:
    text, end = answer(engine, tokenizer, constraints.regex(r"[A-Z]{3}-[0-9]{2,4}"))
    assert re.fullmatch(r"[A-Z]{3}-[0-9]{2,4}", text)
    assert end is End.STOP
    text, _ = answer(engine, tokenizer, constraints.choice(['say "no"', "yes", "où?"]), temperature=2.0, seed=1)
    assert text in ('say "no"', "yes", "où?")


def test_json_mode_gives_the_beginning_of_an_object_even_when_it_is_cut(
    engine: Engine, tokenizer: Tokenizer, constraints: Constraints
) -> None:
    text, end = answer(engine, tokenizer, constraints.json_object(), new_tokens=5)
    assert text.lstrip().startswith("{")
    assert end in (End.LENGTH, End.STOP)


def test_constrained_and_free_answers_run_side_by_side(
    engine: Engine, tokenizer: Tokenizer, constraints: Constraints
) -> None:
    free = list(engine.submit(PROMPT, None, Sampling(max_new_tokens=20)))
    grammar = constraints.json_schema(SCHEMA)
    streams = [
        engine.submit(PROMPT, name, Sampling(max_new_tokens=120, stop_ids=tokenizer.stop_ids), grammar.begin())
        for name in ("a", "b")
    ]
    assert list(engine.submit(PROMPT, None, Sampling(max_new_tokens=20))) == free
    for stream in streams:
        assert set(json.loads(tokenizer.decode(list(stream)))) == set(SCHEMA["properties"])


@pytest.mark.parametrize("asked", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5, "logprobs": 2}])
def test_a_form_that_cannot_go_on_fails_its_own_answer_alone(
    engine: Engine, tokenizer: Tokenizer, constraints: Constraints, asked: dict[str, Any]
) -> None:
    broken = constraints.regex("abc").begin()
    broken.accept(399)  # not what it allows: its matcher is broken from here on
    free = engine.submit(PROMPT, None, Sampling(max_new_tokens=30))
    stream = engine.submit(PROMPT, None, Sampling(max_new_tokens=30, **asked), broken)
    with pytest.raises(ServeError, match="cannot keep to the form"):
        list(stream)
    assert len(list(free)) == 30


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: c.regex("(a"), "expression cannot be used"),
        (lambda c: c.json_schema({"type": "nothing"}), "schema cannot be used"),
        (lambda c: c.json_schema({"$ref": "#/nowhere"}), "schema cannot be used"),
        (lambda c: c.json_schema({"type": "string", "format": "weird"}), "schema cannot be used"),
        (lambda c: c.regex("a" * 70_000), "at most 65536"),
        (lambda c: c.choice(["x" * 70_000]), "at most 65536"),
    ],
)
def test_what_is_no_form_is_refused_in_words(constraints: Constraints, make: Any, message: str) -> None:
    with pytest.raises(ServeError, match=message):
        make(constraints)
