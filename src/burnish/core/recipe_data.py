"""The recipe's keys about several sources of data: what each is, how they are mixed, in which order rows are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag

from burnish.core.errors import Problem, did_you_mean
from burnish.core.section import Name, Section

ONLY = "data"
"""What the only source of a recipe is called."""
DIFFICULTY = "difficulty"
"""The key of a row that says how difficult it is, for `train.order: difficulty`."""
SYNTHETIC = "synthetic"
"""The key of a row that a model wrote: true, or what is known of it (kind, teacher, parent). Such a row is never tested."""


class DataSource(Section):
    """One named source. A path alone is short for `{path: ...}`."""

    path: str = Field(
        min_length=1, description="A file, folder, glob, URL, query or `datasets` name, as `data` takes it."
    )
    columns: dict[str, Any] | None = Field(
        None, description="What the columns of this source mean; default: what the recipe's `columns` say."
    )
    ratio: float | None = Field(
        None,
        gt=0.0,
        le=1e6,
        allow_inf_nan=False,
        description="How many rows are drawn from this source in relation to the others. All sources say one, or none does.",
    )
    license: str | None = Field(None, min_length=1, description="Licence of the rows that do not say their own.")
    split: Literal["train", "test"] | None = Field(
        None,
        description="Split of the rows that do not say their own. Where any row or source says one, none is drawn.",
    )


def _named(value: Any) -> Any:
    """Turn the ways to write sources into one: a mapping of names to sections. A text stays one."""
    if isinstance(value, list | tuple):
        found: dict[str, Any] = {}
        for number, item in enumerate(cast("list[Any]", value), start=1):
            item = _section(item)
            if not isinstance(item, dict):
                raise ValueError(f"source {number} must be a path, or a mapping with name and path")
            own = dict(cast("dict[str, Any]", item))
            name = own.pop("name", None)
            if name is None:
                name = PurePath(str(own.get("path", ""))).name.partition(".")[0].lower()
                if not name or any(sign in name for sign in "*?[ "):
                    raise ValueError(f"source {number} needs a name: {{name: ..., path: {own.get('path')}}}")
            if not isinstance(name, str):
                raise ValueError(f"the name of source {number} must be text, found {name!r}")
            if name in found:
                raise ValueError(
                    f'two sources are called "{name}"; give each a name of its own: {{name: ..., path: ...}}'
                )
            found[name] = own
        value = found
    if isinstance(value, dict):
        if not value:
            raise ValueError("names no source; give a path, or `name: path` for each source")
        return {name: _section(item) for name, item in cast("dict[Any, Any]", value).items()}
    return value


def _section(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _form(value: Any) -> str:
    return "sources" if isinstance(value, dict) else "text"


Data = Annotated[
    Annotated[Annotated[str, Field(min_length=1)], Tag("text")] | Annotated[dict[Name, DataSource], Tag("sources")],
    Discriminator(_form),
    BeforeValidator(_named),
]
"""A path, or sources by name in the order they are written; a list of paths and mappings is read as the latter."""
FORMS = ("text", "sources")
"""What pydantic puts into the place of an error beside the key `data`."""


class Mix(Section):
    """How much of each source is drawn, where the sources say no ratio."""

    temperature: float | None = Field(
        None,
        ge=0.1,
        le=1e6,
        allow_inf_nan=False,
        description="Rows are drawn in proportion to size ** (1 / temperature): 1 keeps the sizes, 5 lifts small sources, "
        "large values make all equal.",
    )
    epoch_rows: int | None = Field(
        None, ge=1, description="Rows that are drawn in an epoch. Default: as many as there are training rows."
    )


class Order(Section):
    """The order in which rows are trained on. `order: length` is short for `order: {by: length}`."""

    by: Literal["length", "difficulty", "source"] = Field(
        description="What rises from stage to stage: tokens of the row, its `difficulty` (a number in the row), or the source."
    )
    stages: int = Field(
        4, ge=1, le=1000, description="Stages of equally many rows that length or difficulty is cut into; mixed within."
    )
    sources: tuple[tuple[Name, ...], ...] = Field(
        (),
        description="Names of sources by stage; those not named come last. Default by source: as the recipe lists them.",
    )
    epochs: int | None = Field(None, ge=1, description="How many of the first epochs are staged. Default: all.")


def order_section(value: Any) -> Any:
    """Read `order: length` as a section, and one name in a stage as a stage."""
    if isinstance(value, str):
        return {"by": value}
    if isinstance(value, dict):
        said = cast("dict[str, Any]", value)
        stages: Any = said.get("sources")
        if isinstance(stages, list):
            return {**said, "sources": [[s] if isinstance(s, str) else s for s in cast("list[Any]", stages)]}
    return cast(Any, value)


def source_problems(data: str | Mapping[str, DataSource], mix: Mix, order: Order | None) -> list[Problem]:
    """Return what does not go together in the keys about sources: each key may be right by itself."""
    sources = {ONLY: DataSource.model_validate({"path": data})} if isinstance(data, str) else data
    problems = [] if isinstance(data, str) else [*_same_paths(sources), *_ratios(sources, mix)]
    if mix.temperature is not None and len(sources) < 2:
        problems.append(
            Problem("train.mix.temperature", f"{mix.temperature:g}", "mixes several sources; `data` has one.")
        )
    if order is None:
        return problems
    if order.by == "source" and len(sources) < 2:
        problems.append(
            Problem("train.order", "source", "orders several sources; `data` has one. Use length or difficulty.")
        )
    named = [name for stage in order.sources for name in stage]
    for name in dict.fromkeys(named):
        if name not in sources:
            known = f"unknown source. Known: {', '.join(sources)}.{did_you_mean(name, sources)}"
            problems.append(Problem("train.order.sources", name, known))
        elif named.count(name) > 1:
            problems.append(Problem("train.order.sources", name, "is in two stages; name each source once."))
    if any(not stage for stage in order.sources):
        problems.append(Problem("train.order.sources", "an empty stage", "each stage names a source or more."))
    return problems


def _same_paths(sources: Mapping[str, DataSource]) -> list[Problem]:
    first: dict[str, str] = {}
    return [
        Problem(f"data.{name}.path", source.path, f"is the path of {first[source.path]} too; each source has its own.")
        for name, source in sources.items()
        if first.setdefault(source.path, name) != name
    ]


def _ratios(sources: Mapping[str, DataSource], mix: Mix) -> list[Problem]:
    lack = [name for name, source in sources.items() if source.ratio is None]
    if len(lack) == len(sources):
        return []
    problems = [
        Problem(f"data.{name}.ratio", "missing", "other sources say a ratio; give every source one, or none.")
        for name in lack
    ]
    if mix.temperature is not None:
        problems.append(
            Problem(
                "train.mix.temperature", f"{mix.temperature:g}", "cannot go with ratios: they say the shares already."
            )
        )
    return problems
