"""The recipe: what a person writes. About five required lines; everything else is derived, and can be said.

One declaration per setting, frozen, unknown keys refused, all problems shown at once. `docs/recipe.md` is generated from
the descriptions here.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from burnish.core.errors import Problem, RecipeError, did_you_mean
from burnish.core.yaml_text import KeyTwiceError, load_yaml, yaml_problem

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
METRICS = ("exact_match", "field_f1", "json_valid")
"""Metrics a gate may ask a minimum of, all between 0 and 1."""


RESERVED_TASKS = ("train", "test", "general")
"""Splits and tasks that burnish makes itself."""


class Section(BaseModel):
    """A part of the recipe. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Method(Section):
    """How the base model is adapted. `method: qlora` is short for `method: {kind: qlora}`."""

    kind: Literal["lora", "qlora"] = Field(
        description="`lora` trains low-rank matrices beside frozen weights; `qlora` stores those weights as 4-bit NF4."
    )
    rank: int = Field(16, ge=1, le=1024, description="Rank of the LoRA matrices. Typical: 8 to 64.")
    alpha: float = Field(32.0, gt=0, description="Scale: the adapter's output is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Share of the adapter's inputs dropped in training.")
    targets: tuple[str, ...] = Field(
        ("all-linear",),
        min_length=1,
        description="Names of the linear layers that get an adapter, or `all-linear` (each but the output head).",
    )
    double_quantisation: bool = Field(True, description="With qlora: store the block constants as 8 bits too.")

    @field_validator("targets", mode="before")
    @classmethod
    def _one_target_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Prepare(Section):
    """How raw rows become a dataset."""

    personal_data: Literal["placeholder", "keep"] = Field(
        "placeholder",
        description="E-mails, phones, cards, bank and identity numbers, addresses of machines, wallets and secrets become "
        "typed placeholders, or are kept. Names of people are not found.",
    )
    near_duplicate: float = Field(
        0.7,
        gt=0.0,
        le=1.0,
        description="Jaccard similarity of the requests' word 3-grams from which rows with equal answers are near duplicates.",
    )
    test_share: float = Field(
        0.15,
        ge=0.0,
        lt=1.0,
        description="Share of rows held out, by hash of the row, when no row says its own `split`.",
    )
    max_tokens: int | None = Field(
        None, ge=8, description="Longest row in tokens. Default: the base model's context length."
    )
    overlong: Literal["error", "reject", "truncate"] = Field(
        "error",
        description="What to do with a row over max_tokens: stop, reject the row, or cut the prompt's beginning.",
    )


class Train(Section):
    """The training loop. What is not said is derived by the plan."""

    epochs: float = Field(1.0, gt=0.0, le=100.0, description="Times each row is seen.")
    learning_rate: float = Field(1e-3, gt=0.0, le=1.0, description="Peak learning rate of AdamW.")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="Shape after the warm-up.")
    warmup_share: float = Field(0.05, ge=0.0, le=1.0, description="Share of the steps in which the rate rises from 0.")
    tokens_per_step: int | None = Field(
        None, ge=1, description="Tokens of one optimizer step. Default: by dataset size."
    )
    row_tokens: int | None = Field(None, ge=8, description="Tokens of one packed row. Default: by memory and length.")
    weight_decay: float = Field(0.0, ge=0.0, description="Decoupled weight decay of the adapter weights.")
    max_gradient_norm: float = Field(1.0, gt=0.0, description="Gradients are clipped to this global norm.")
    checkpoint_every: int | None = Field(None, ge=1, description="Steps between checkpoints. Default: ten in a run.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to train.")


class Evaluate(Section):
    """What is measured after training, besides the test split."""

    tasks: dict[Name, str] = Field(
        default_factory=dict, description="More files of rows to grade, by task name. They are never trained on."
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=8192, description="Longest answer. Default: 1.25 times the longest trained answer, plus 8."
    )

    @field_validator("tasks")
    @classmethod
    def _task_names_are_free(cls, value: dict[str, str]) -> dict[str, str]:
        taken = [name for name in value if name in RESERVED_TASKS]
        if taken:
            called = " or ".join(f'"{name}"' for name in taken)
            raise ValueError(
                f"a task cannot be called {called}: {', '.join(RESERVED_TASKS)} are taken. Choose another name"
            )
        return value

    forgetting: bool = Field(True, description="Measure the loss on 200 fixed general texts before and after.")


class Recipe(Section):
    """One specialist: its name, base model, data and method, and what must hold before it is released."""

    name: Name = Field(description="Name of the specialist, by which its release is called: a-z, 0-9, '.', '_', '-'.")
    base: str = Field(min_length=1, description="Bundled name, Hub id, or folder of the base model.")
    data: str = Field(
        min_length=1,
        description="Raw rows: a file, folder or glob (jsonl, json, csv, parquet, xlsx, txt, md, html, pdf, docx; also "
        "compressed), a URL that fsspec opens, `sql:URL QUERY`, or `datasets:NAME`. Relative to the working folder.",
    )
    method: Method = Field(description="`qlora`, `lora`, or a mapping with more settings.")
    gate: dict[str, float] = Field(
        default_factory=dict,
        description="Smallest value on the test split, by metric: exact_match, field_f1, json_valid.",
    )
    system: str | None = Field(
        None,
        description="System prompt, rendered the same in training, evaluation, chat and API. "
        "May use {date}, {weekday} and {calendar}; the day is the row's `date`, or today when serving.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random.")
    prepare: Prepare = Field(
        default_factory=lambda: Prepare.model_validate({}), description="How raw rows become a dataset."
    )
    train: Train = Field(default_factory=lambda: Train.model_validate({}), description="The training loop.")
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate.model_validate({}), description="What is measured.")

    @field_validator("name")
    @classmethod
    def _base_is_the_base(cls, value: str) -> str:
        if value == "base":
            raise ValueError(
                'a specialist cannot be called "base": that is how people ask for the model without an adapter'
            )
        return value

    @field_validator("method", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("gate")
    @classmethod
    def _gate_asks_known_metrics(cls, value: dict[str, float]) -> dict[str, float]:
        problems: list[str] = []
        for metric, minimum in value.items():
            if metric not in METRICS:
                problems.append(
                    f'unknown metric "{metric}". Known: {", ".join(METRICS)}.{did_you_mean(metric, METRICS)}'
                )
            elif not 0.0 <= minimum <= 1.0:
                problems.append(f"{metric} must be between 0 and 1, found {minimum:g}")
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @field_validator("system")
    @classmethod
    def _system_uses_known_fields(cls, value: str | None) -> str | None:
        if value is not None:
            check_system_template(value)
        return value


SYSTEM_FIELDS = ("date", "weekday", "calendar")


def check_system_template(template: str) -> None:
    """Raise ValueError unless every `{field}` of a system prompt is known."""
    import string

    try:
        fields = [
            (name, spec, conversion)
            for _, name, spec, conversion in string.Formatter().parse(template)
            if name is not None
        ]
    except ValueError as error:
        raise ValueError(f"{error}. Write {{{{ and }}}} for braces that are text.") from error
    for name, spec, conversion in fields:
        if name not in SYSTEM_FIELDS or spec or conversion:
            allowed = ", ".join(f"{{{field}}}" for field in SYSTEM_FIELDS)
            raise ValueError(
                f"unknown field {{{name}}}. Known: {allowed}. Write {{{{ and }}}} for braces that are text."
            )


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `key=value` overrides (dotted keys, YAML values).

    Raises RecipeError with every problem at once: a missing file, bad YAML, unknown keys, values out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            str(path), [Problem("file", "unreadable", f"{_why(error)}. Make one with: burnish new NAME")]
        ) from error
    try:
        raw = load_yaml(text)
    except KeyTwiceError as error:
        raise RecipeError(
            str(path), [Problem(error.key, "given twice", f"once; line {error.line} repeats it")]
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(str(path), [Problem("file", "not YAML", yaml_problem(error))]) from error
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else "a list" if isinstance(raw, list) else f"only {_show(raw)}"
        raise RecipeError(str(path), [Problem("file", found, "a mapping of keys, such as 'name: support'")])
    values = cast("dict[str, Any]", raw)
    problems = _apply_overrides(values, overrides)
    if problems:
        raise RecipeError(str(path), problems)
    return parse_recipe(values, source=str(path))


def _why(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else f"not UTF-8 at byte {error.start}"


def parse_recipe(raw: Mapping[str, Any], *, source: str) -> Recipe:
    """Validate a mapping as a recipe. Raises RecipeError naming `source` and every problem."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(source, [_problem(item) for item in error.errors(include_url=False)]) from error


def _apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> list[Problem]:
    problems: list[Problem] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(Problem("--set", override, "must read key=value, such as train.epochs=2"))
            continue
        *sections, last = key.split(".")
        at: dict[str, Any] = raw
        for section in sections:
            below: Any = at.get(section)
            if isinstance(below, str) and section == "method":
                below = {"kind": below}
            if below is None:
                below = {}
            if not isinstance(below, dict):
                problems.append(Problem(f"--set {key}", text, f'"{section}" is a value, not a section'))
                break
            at[section] = below
            at = cast("dict[str, Any]", below)
        else:
            try:
                at[last] = yaml.safe_load(text)
            except yaml.YAMLError as error:
                problems.append(Problem(f"--set {key}", text, f"not a YAML value: {yaml_problem(error)}"))
    return problems


def _problem(item: Any) -> Problem:
    location: tuple[str | int, ...] = item["loc"]
    key = ".".join(str(part) for part in location) or "recipe"
    found = _show(item["input"])
    if item["type"] == "missing":
        return Problem(key, "missing", f"required. {_description(location)}")
    if item["type"] == "extra_forbidden":
        known = list(_section_at(location[:-1]).model_fields)
        return Problem(key, found, f"unknown key. Known: {', '.join(known)}.{did_you_mean(str(location[-1]), known)}")
    message = _MESSAGES.get(item["type"]) or str(item["msg"]).removeprefix("Value error, ")
    message = message.replace("Input should be", "must be")
    if item["type"] == "literal_error":
        message = f"must be {item['ctx']['expected']}.{did_you_mean(str(item['input']), _literals(location))}"
    message = f"{message[:1].lower()}{message[1:]}"
    if not message.endswith((".", "?")):
        message += "."
    return Problem(key, found, f"{message} {_description(location)}".strip())


_MESSAGES = {
    "string_type": "must be text",
    "string_pattern_mismatch": "must begin with a-z or 0-9 and go on with a-z, 0-9, '.', '_' or '-', 63 characters at most",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be a mapping of keys",
    "model_type": "must be a mapping of keys",
    "tuple_type": "must be a list",
}
"""What people read instead of pydantic's words for the errors that recipes have."""


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _section_at(location: tuple[str | int, ...]) -> type[Section]:
    section: type[Section] = Recipe
    for part in location:
        field = section.model_fields.get(str(part))
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            section = field.annotation
    return section


def _field_at(location: tuple[str | int, ...]) -> Any:
    for end in range(len(location), 0, -1):
        field = _section_at(location[: end - 1]).model_fields.get(str(location[end - 1]))
        if field is not None:
            return field
    return None


def _description(location: tuple[str | int, ...]) -> str:
    field = _field_at(location)
    return "" if field is None else (field.description or "")


def _literals(location: tuple[str | int, ...]) -> list[str]:
    field = _field_at(location)
    return [] if field is None else [str(value) for value in typing.get_args(field.annotation)]


def recipe_fields() -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, type, default, description) of every recipe key, sections after their own heading."""
    yield from _fields(Recipe, "")


def _fields(section: type[Section], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        nested = field.annotation
        is_section = isinstance(nested, type) and issubclass(nested, Section)
        default = (
            "required"
            if field.is_required()
            else ""
            if is_section
            else _default(field.get_default(call_default_factory=True))
        )
        yield prefix + name, "section" if is_section else _type_name(nested), default, field.description or ""
        if is_section and isinstance(nested, type):
            yield from _fields(nested, f"{prefix}{name}.")


def _default(value: Any) -> str:
    if value is None:
        return "derived"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in cast("tuple[Any, ...]", value))
    return "none" if value == {} else str(value)


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(argument) for argument in arguments if argument is not type(None))
    if origin is tuple:
        return "list of " + _type_name(arguments[0])
    if origin is dict:
        return "mapping"
    names: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, str(annotation))
