"""The recipe's keys about synthetic data: who writes it, from what, how much of which kind, for how much money."""

from __future__ import annotations

import re
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from burnish.core.section import Section

UNSHOWN = ("endpoint", "key_variable")
"""Keys whose value is not repeated in a message: somebody may have put a secret there."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Price(Section):
    """Dollars for a million tokens."""

    prompt: float = Field(0.0, ge=0.0, le=1e6, allow_inf_nan=False, description="Dollars for a million prompt tokens.")
    answer: float = Field(0.0, ge=0.0, le=1e6, allow_inf_nan=False, description="Dollars for a million answer tokens.")


class Model(Section):
    """A model behind an endpoint that speaks OpenAI's chat API."""

    endpoint: str = Field(
        description="Address of the API, such as http://127.0.0.1:8731/v1; `/chat/completions` is added."
    )
    model: str = Field(min_length=1, max_length=200, description="Name of the model, as the endpoint calls it.")
    key_variable: str | None = Field(
        None,
        description="Name of the environment variable that holds the key. The key itself is in no file, log or address.",
    )
    price: Price = Field(default_factory=lambda: Price.model_validate({}), description="What the endpoint charges.")
    license: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Licence or terms of what this model writes, kept with each row.",
    )
    at_once: int = Field(4, ge=1, le=256, description="Most requests at the same time.")
    timeout_s: float = Field(120.0, gt=0.0, le=3600.0, description="Seconds for one whole answer.")
    tries: int = Field(5, ge=1, le=20, description="How often a request is sent before it is given up.")
    limit_key: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What the endpoint calls the limit of an answer's tokens."
    )
    request: dict[str, Any] = Field(
        default_factory=dict,
        description="More keys of each request, such as `{top_p: 0.9}`; null leaves one out, such as `{seed: null}`.",
    )

    @field_validator("endpoint")
    @classmethod
    def _address_without_secrets(cls, value: str) -> str:
        if problem := endpoint_problem(value):
            raise ValueError(problem)
        return value.rstrip("/")

    @field_validator("key_variable")
    @classmethod
    def _a_name_and_no_key(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", value):
            raise ValueError(
                "must be the name of an environment variable in capitals, such as OPENAI_API_KEY, never the key itself"
            )
        return value

    @field_validator("request")
    @classmethod
    def _keys_that_are_free(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(value.keys() & {"model", "messages", "stream", "n", "max_tokens", "max_completion_tokens"})
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot be set: burnish says it itself")
        return value


def endpoint_problem(url: str) -> str | None:
    """Return what is wrong with the address of an endpoint, without repeating it; None when nothing is."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no address"
    if parts.scheme not in ("http", "https") or not host:
        return "must begin with http:// or https:// and a host"
    if parts.username is not None or parts.password is not None:
        return "must hold no user or password; name the variable of the key in key_variable"
    if parts.query or parts.fragment:
        return "must hold no `?` or `#`; name the variable of the key in key_variable"
    return None


class Judge(Section):
    """Who grades what was made. `judge: 4` is short for `judge: {minimum: 4}`: the teacher grades itself."""

    minimum: int = Field(4, ge=2, le=5, description="Smallest grade, from 1 to 5, of a row that is kept.")
    by: Model | None = Field(None, description="The model that grades. Default: the teacher.")


class Budget(Section):
    """The most that all runs of this recipe together may spend. One of both, or both."""

    tokens: int | None = Field(None, ge=1, le=10**12, description="Tokens of prompts and answers.")
    dollars: float | None = Field(None, gt=0.0, le=1e7, allow_inf_nan=False, description="Dollars; needs `price`.")


class Rows(Section):
    """How many rows of a kind are wanted. A number alone is short for `{rows: number}`."""

    rows: int = Field(ge=1, le=1_000_000, description="Rows that are wanted, after all checks.")


class Persona(Rows):
    """Requests as different people would make them (Chan et al. 2024, arXiv 2406.20094)."""

    personas: tuple[str, ...] = Field((), description="Who asks, in a few words each. Default: a list of 32.")


class Template(Rows):
    """Requests from a template; the values of each field are drawn by the seed."""

    request: str = Field(min_length=1, description="The request, with {field} for each value.")
    fields: dict[str, tuple[str, ...]] = Field(min_length=1, description="Values of each field.")
    answer: str | None = Field(
        None, min_length=1, description="The answer, a template too. Default: the teacher answers."
    )

    @model_validator(mode="after")
    def _fields_are_there(self) -> Template:
        import string

        for text in filter(None, (self.request, self.answer)):
            try:
                named = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
            except ValueError as error:
                raise ValueError(f"{error}. Write {{{{ and }}}} for braces that are text") from error
            if unknown := [name for name in named if name not in self.fields]:
                raise ValueError(f"{{{unknown[0]}}} is no field. Known: {', '.join(self.fields)}")
        if empty := [name for name, values in self.fields.items() if not values]:
            raise ValueError(f"the field {empty[0]} has no values")
        return self


class Questions(Rows):
    """Questions that a document answers, with the words that answer them."""

    passage: bool = Field(False, description="Put the passage into the request, before the question.")
    words: int = Field(250, ge=30, le=5000, description="Words of the pieces that documents are cut into.")


class Style(Rows):
    """Requests in another manner of speaking, with the same answer."""

    styles: tuple[str, ...] = Field(
        ("short and informal", "polite and formal", "by somebody in a hurry, with typing mistakes"),
        min_length=1,
        description="How the request is to sound.",
    )


class Translation(Rows):
    """Requests in other languages; answers too, unless they are JSON."""

    languages: tuple[str, ...] = Field(min_length=1, description="Languages, such as German.")
    answers: bool = Field(True, description="Translate answers too. An answer that is JSON always stays as it is.")


class Make(Section):
    """How many rows of each kind."""

    self_instruct: Rows | None = Field(
        None, description="New requests and answers in the manner of examples (Wang et al. 2022, arXiv 2212.10560)."
    )
    persona: Persona | None = Field(None, description="Requests as different people would make them, with answers.")
    adversarial: Rows | None = Field(
        None, description="Hard cases: vague, contradictory, off topic, instructions in data."
    )
    template: Template | None = Field(None, description="Requests from a template.")
    questions: Questions | None = Field(
        None, description="Questions from `documents`, with the words that answer them."
    )
    preference: Rows | None = Field(
        None, description="Pairs of answers, graded in both orders. They lie in pairs.jsonl."
    )
    paraphrase: Rows | None = Field(None, description="Requests in other words, with the same answer.")
    style: Style | None = Field(None, description="Requests in another manner of speaking, with the same answer.")
    translation: Translation | None = Field(None, description="Requests in other languages.")

    @field_validator("*", mode="before")
    @classmethod
    def _number_alone(cls, value: Any) -> Any:
        return {"rows": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _something_is_wanted(self) -> Make:
        if not self.wanted():
            raise ValueError(f"names no kind. Known: {', '.join(type(self).model_fields)}")
        return self

    def wanted(self) -> dict[str, int]:
        """Return the rows of each kind that is asked for."""
        kinds = ((name, cast("Rows | None", self.__dict__[name])) for name in type(self).model_fields)
        return {name: kind.rows for name, kind in kinds if kind is not None}


class Synthesize(Section):
    """Rows that a model writes: `burnish data synthesize RECIPE`."""

    into: str = Field(
        min_length=1,
        description="Folder of what is made. Name its rows.jsonl under `data` to train on it; seeds are never taken from it.",
    )
    teacher: Model = Field(description="The model that writes.")
    budget: Budget = Field(description="The most that may be spent, over all runs.")
    make: Make = Field(description="How many rows of each kind.")
    task: str | None = Field(
        None,
        min_length=1,
        max_length=4000,
        description="What the specialist does, in a sentence or two, for the teacher.",
    )
    documents: tuple[str, ...] = Field((), description="Files, folders or globs that `questions` are made from.")
    judge: Judge | None = Field(None, description="Grade each row, and keep those that are good. Default: no judge.")
    novelty: float = Field(
        0.7,
        gt=0.0,
        le=1.0,
        description="A request whose ROUGE-L with a seed, a tested row or an earlier row reaches this is not new; 1 lets all "
        "but equal ones pass.",
    )
    max_tokens: int = Field(512, ge=8, le=100_000, description="Tokens of an answer of the teacher.")
    temperature: float = Field(0.8, ge=0.0, le=2.0, description="Temperature of the teacher.")
    repairs: int = Field(
        2, ge=0, le=10, description="How often the teacher may correct an answer that has not the asked form."
    )
    tries: int = Field(3, ge=1, le=100, description="Requests at most: so many times those that the rows need.")
    review: Literal["none", "one", "two"] = Field(
        "none",
        description="Reviewers who must accept a row before it is used (`burnish data review`). A rejected row is never used.",
    )

    @field_validator("documents", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("judge", mode="before")
    @classmethod
    def _minimum_alone(cls, value: Any) -> Any:
        return {"minimum": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _goes_together(self) -> Synthesize:
        problems: list[str] = []
        if self.budget.tokens is None and self.budget.dollars is None:
            problems.append("budget needs tokens or dollars")
        models = [("teacher", self.teacher)]
        if self.judge is not None and self.judge.by is not None:
            models.append(("judge.by", self.judge.by))
        free = [name for name, model in models if not (model.price.prompt and model.price.answer)]
        if self.budget.dollars is not None and free:
            problems.append(f"budget.dollars needs {free[0]}.price with prompt and answer, dollars a million tokens")
        if self.make.questions is not None and not self.documents:
            problems.append("make.questions needs documents")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def grader(self) -> Model:
        """The model that grades."""
        return self.judge.by if self.judge is not None and self.judge.by is not None else self.teacher
