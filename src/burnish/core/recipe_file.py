"""Reading recipes: YAML and overrides in; a recipe, or every problem at once, out."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import ValidationError

from burnish.core.errors import Problem, RecipeError, did_you_mean
from burnish.core.recipe import Prepare, Recipe
from burnish.core.recipe_augment import UNSHOWN
from burnish.core.recipe_data import FORMS, source_problems
from burnish.core.recipe_objective import objective_problems
from burnish.core.recipe_train import method_problems
from burnish.core.section import Section
from burnish.core.yaml_text import KeyTwiceError, load_yaml, yaml_problem


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
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(source, [_problem(item) for item in error.errors(include_url=False)]) from error
    problems = source_problems(recipe.data, recipe.train.mix, recipe.train.order)
    problems += objective_problems(recipe.objective, recipe.gate)
    problems += _split_problems(recipe.prepare)
    problems += method_problems(recipe.method, recipe.train)
    if problems:
        raise RecipeError(source, problems)
    return recipe


def _split_problems(prepare: Prepare) -> list[Problem]:
    """Return what the recipe says of the split that its kind of split takes no notice of."""
    by_date = prepare.split_by == "date"
    problems = [
        Problem(f"prepare.{key}", str(value), f"goes with split_by: date; split_by is {prepare.split_by}.")
        for key, value in (("embargo_days", prepare.embargo_days), ("test_from", prepare.test_from))
        if value and not by_date
    ]
    if prepare.stratify and by_date:
        problems.append(
            Problem("prepare.stratify", "true", "cannot go with split_by: date, where the latest rows are tested.")
        )
    return problems


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
            if isinstance(below, str) and section in ("method", "objective"):
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
    location = _place(item["loc"], unknown_key=item["type"] == "extra_forbidden")
    key = ".".join(str(part) for part in location) or "recipe"
    found = "(not shown)" if location and location[-1] in UNSHOWN else _show(item["input"])
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


def _place(location: tuple[str | int, ...], *, unknown_key: bool) -> tuple[str | int, ...]:
    """Return where in the recipe it is: without what pydantic adds of its own. The last part of an unknown key is a person's."""
    if location[:1] == ("data",) and location[1:2] and location[1] in FORMS:
        location = ("data", *location[2:])
    ours = location[:-1] if unknown_key else location
    return tuple(part for part in ours if part != "[key]") + location[len(ours) :]


_MESSAGES = {
    "union_tag_invalid": "must be a path, or sources by name",
    "finite_number": "must be a finite number",
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
        if field is not None and (nested := _section_in(field.annotation)) is not None:
            section = nested
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    """Return the section that a field holds: itself, or none, or sections by name."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, Section) else None
    found = (_section_in(argument) for argument in typing.get_args(annotation))
    return next((section for section in found if section is not None), None)


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
        nested = _section_in(field.annotation)
        by_name = name == "data"
        default = (
            "required"
            if field.is_required()
            else ""
            if nested is not None
            else _default(field.get_default(call_default_factory=True))
        )
        kind = (
            "text or sections by name" if by_name else "section" if nested is not None else _type_name(field.annotation)
        )
        yield prefix + name, kind, default, field.description or ""
        if nested is not None:
            yield from _fields(nested, f"{prefix}{name}.NAME." if by_name else f"{prefix}{name}.")


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
