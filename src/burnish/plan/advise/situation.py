"""What the advisor asks: one declaration a question, used by the function, the flags and the dialogue alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from burnish.core.errors import Problem, UsageError, did_you_mean

Need = Literal[
    "facts",
    "fresh-facts",
    "format",
    "style",
    "skill",
    "labels",
    "preferences",
    "safety",
    "domain",
    "language",
    "cheaper",
]
NEEDS: Mapping[str, str] = {
    "facts": "know things that stand in your documents",
    "fresh-facts": "know things that change from week to week",
    "format": "answer in a fixed form, such as JSON or SQL",
    "style": "speak in a certain tone",
    "skill": "do a task that a prompt describes badly",
    "labels": "sort texts into classes",
    "preferences": "give answers that people like better, where none is simply right",
    "safety": "refuse or avoid certain answers reliably",
    "domain": "work in a domain far from ordinary text",
    "language": "work in a language it hardly knows",
    "cheaper": "cost less a request than it does now",
}
"""What the model should do better, in words."""


PARSING: Mapping[str, str] = {
    "bool_parsing": "must be yes or no",
    "bool_type": "must be yes or no",
    "int_parsing": "must be a whole number in digits, such as 3000",
    "int_from_float": "must be a whole number in digits, such as 3000",
    "float_parsing": "must be a number, such as 1.5",
    "finite_number": "must be a number, such as 1.5",
}
"""What a value must be, by the kind of error that pydantic finds."""


class Situation(BaseModel):
    """A situation. Frozen; unknown names are refused. Prices in US dollars; None means that nobody said."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    needs: tuple[Need, ...] = Field(min_length=1, description="What the model should do better.")
    prompt: Literal["untried", "works", "falls-short"] = Field(
        "untried", description="How far a good prompt with a few examples gets, measured."
    )
    rows: int = Field(0, ge=0, le=10**9, description="Examples of a request with its right answer that you have.")
    pairs: int = Field(0, ge=0, le=10**9, description="Pairs of a better and a worse answer to the same request.")
    document_tokens: int = Field(0, ge=0, le=10**12, description="Tokens of documents that answers should rest on.")
    adapters: Literal["untried", "fall-short"] = Field(
        "untried", description="Whether LoRA, measured, stayed below what you need."
    )
    dpo: Literal["untried", "falls-short"] = Field("untried", description="Whether DPO, measured, stayed below it.")
    reward: bool = Field(False, description="Whether success shows only after many steps, and a program can score it.")
    stakes: Literal["ordinary", "high"] = Field(
        "ordinary", description="Whether the last fraction of accuracy is worth a lot."
    )
    tasks: int = Field(1, ge=1, le=10_000, description="Tasks or customers that need a model of their own.")
    data_may_leave: bool = Field(True, description="Whether requests may be sent to another company.")
    team: Literal["none", "some", "experts"] = Field("some", description="Who can train and run models.")
    base: str = Field("llama-3.1-8b-instruct", min_length=1, description="Open model that would be tuned.")
    gpu: str = Field("A100", min_length=1, description="GPU to train and serve on, such as T4, L40S, A100, H100.")
    gpus: int = Field(1, ge=1, le=4096, description="How many of them.")
    gpu_usd_low: float | None = Field(None, ge=0, le=1e12, description="Price of an hour of the GPU, lower end.")
    gpu_usd_high: float | None = Field(None, ge=0, le=1e12, description="Price of an hour of the GPU, upper end.")
    budget_usd: float | None = Field(None, ge=0, le=1e12, description="What the building may cost in all.")
    tokens_per_row: int = Field(300, ge=1, le=10**6, description="Tokens of an example.")
    epochs: float = Field(3.0, gt=0, le=100, description="Times each example is seen.")
    requests_per_day: float = Field(0.0, ge=0, le=1e12, description="Requests a day when it runs.")
    prompt_tokens: int = Field(500, ge=0, le=10**7, description="Tokens of a request, instructions included.")
    answer_tokens: int = Field(150, ge=0, le=10**6, description="Tokens of an answer.")
    prompt_tokens_saved: int = Field(
        0,
        ge=0,
        le=10**7,
        description="Of the request's tokens, instructions and examples that a tuned model needs no more.",
    )
    api_input_usd: float | None = Field(
        None, ge=0, le=1e12, description="Hosted API: dollars for a million tokens read."
    )
    api_output_usd: float | None = Field(
        None, ge=0, le=1e12, description="Hosted API: dollars for a million tokens written."
    )
    hours_saved_per_month: float = Field(
        0.0, ge=0, le=10**7, description="Hours of work a month that it takes over, beyond what you use today."
    )
    usd_per_work_hour: float = Field(60.0, ge=0, le=10**5, description="What an hour of work costs.")
    horizon_months: float = Field(12.0, gt=0, le=600, description="Months over which it must pay.")

    @field_validator("needs", mode="before")
    @classmethod
    def _one_need_is_a_list(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class SituationError(UsageError):
    """The situation cannot be so. Shows all problems at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"  {problem.key} = {problem.found}   {problem.allowed}" for problem in self.problems]
        super().__init__("\n".join(["the situation cannot be so:", *lines, "  Read: docs/advise.md"]))


def read_situation(values: Mapping[str, Any]) -> Situation:
    """Return the situation that names and values say. Raises SituationError with every problem, nearest words named."""
    try:
        found = Situation.model_validate(dict(values))
    except ValidationError as error:
        found_wrong = error.errors(include_url=False)
        words = [item for item in found_wrong if item["type"] == "literal_error"]
        asked = {item["loc"][0] for item in words}  # of a list with a wrong word pydantic says too that it is too short
        rest = [item for item in found_wrong if item["loc"][0] not in asked]
        raise SituationError([_problem(item) for item in [*words, *rest]]) from error
    problems = list(_contradictions(found))
    if problems:
        raise SituationError(problems)
    return found


def _problem(item: Any) -> Problem:
    name = str(item["loc"][0])
    value = "nothing" if item["type"] == "missing" else repr(item["input"])[:60]
    if item["type"] == "extra_forbidden":
        known = list(Situation.model_fields)
        return Problem(name, value, f"is no question. Known: {', '.join(known)}.{did_you_mean(name, known)}")
    if item["type"] == "literal_error":
        known = list(NEEDS) if name == "needs" else choices(name)
        return Problem(name, value, f"must be one of {', '.join(known)}.{did_you_mean(str(item['input']), known)}")
    about = Situation.model_fields[name].description
    message = "say at least one of " + ", ".join(NEEDS) if name == "needs" else str(item["msg"])
    message = PARSING.get(item["type"], message).replace("Input should be", "must be")
    return Problem(name, value, f"{message[:1].lower()}{message[1:]}. {about}")


def _contradictions(found: Situation) -> list[Problem]:
    problems: list[Problem] = []
    low, high = found.gpu_usd_low, found.gpu_usd_high
    if low is not None and high is not None and low > high:
        problems.append(Problem("gpu_usd_low", f"{low:g}", f"must not be above gpu_usd_high, which is {high:g}"))
    if found.prompt_tokens_saved > found.prompt_tokens:
        problems.append(
            Problem(
                "prompt_tokens_saved",
                str(found.prompt_tokens_saved),
                f"must not be above prompt_tokens, which is {found.prompt_tokens}",
            )
        )
    return problems


def choices(name: str) -> list[str]:
    """Return the words that a question allows; none for numbers and texts."""
    return [str(word) for word in get_args(Situation.model_fields[name].annotation) if isinstance(word, str)]
