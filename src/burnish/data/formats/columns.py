"""What the recipe says about columns, where it says anything: it overrides detection and fails loudly.

Either a format and which columns are its keys, `{format: alpaca, columns: {instruction: q, output: a}}` (of a list of
turns also what their keys and roles are called, `{format: messages, turns: {role: who, content: said}, roles: {agent:
assistant}}`), or the texts of a record made of columns, `{user: "{question} {context}", assistant: answer, system: rules}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from burnish.core.errors import DataError, Problem, RecipeError, did_you_mean
from burnish.data.formats.calls import Form
from burnish.data.formats.choose import FORMATS
from burnish.data.formats.fields import Field, fill, parse_field
from burnish.data.formats.keys import PAIRS
from burnish.data.formats.refusal import RowRefused, listed, need_text, short, type_name
from burnish.data.formats.roles import check_conversation
from burnish.data.formats.rows import META_KEYS, SPLITS, Value, read_as
from burnish.data.formats.transcripts import TRANSCRIPTS
from burnish.data.record import Record
from burnish.text.messages import Message

MAPPED = "mapped"
"""The format of a record whose texts are made of columns."""
_KEYS: dict[str, tuple[str, ...]] = {
    **{name: (*keys, "context") for name, keys in PAIRS.items()},
    "alpaca": ("instruction", "output", "input"),
    "prompt-completion": ("prompt", "completion"),
    "question-answer": ("question", "answer", "context"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "preference": ("chosen", "rejected", "prompt"),
    "kto": ("prompt", "completion", "label"),
    **dict.fromkeys((*TRANSCRIPTS, "text"), ("text",)),
    "document": ("content",),
}
_ASIDE = ("date", "split", "system", "tools", *META_KEYS)
_ROLES = ("user", "assistant", "system", "chosen", "rejected", "label", "text", "date", "split")
_SHAPES = (
    {"user", "assistant"},
    {"user", "assistant", "label"},
    {"user", "chosen", "rejected"},
    {"text"},
)
_LABELS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """A checked mapping. Either `format` and `columns` (the format's key -> the row's column), or `fields`."""

    format: str
    columns: Mapping[str, str]
    fields: Mapping[str, Field]
    merge: bool = False
    turns: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that the mapping names."""
        named = [*self.columns.values(), *(column for field in self.fields.values() for column in field.columns)]
        return tuple(dict.fromkeys(named))

    def fits(self, value: Value) -> bool:
        """Return whether a row has every column that the mapping names."""
        return isinstance(value, dict) and all(column in value for column in self.needed)

    def check(self, found: Iterable[str], where: str) -> None:
        """Raise DataError when a column is not among those that were `found` in a table or a sample of rows."""
        there = list(dict.fromkeys(found))
        missing = [column for column in self.needed if column not in there]
        if missing:
            lines = [f'  "{column}" is not there.{did_you_mean(column, there)}' for column in missing]
            said = "\n".join(lines)
            raise DataError(
                f"{where} lacks columns that the recipe's mapping names:\n{said}\n  There are: {listed(there)}"
            )

    def read(self, value: Value) -> Record:
        """Read one row. Raises RowRefused with the reason."""
        if not isinstance(value, dict):
            raise RowRefused("wrong type", "the row is a list; a mapping needs columns")
        missing = [column for column in self.needed if column not in value]
        if missing:
            near = did_you_mean(missing[0], value)
            raise RowRefused("missing column", f"{listed(missing)}; its columns are {listed(value)}.{near}")
        return _read_fields(self, value) if self.fields else _read_columns(self, value)


def compile_mapping(spec: Mapping[str, Any], *, key: str = "columns", source: str = "the recipe") -> ColumnMapping:
    """Check what a recipe says about columns. Raises RecipeError with every problem; `key` is where the recipe says it."""
    problems: list[Problem] = []
    given = dict(spec)
    merge: Any = given.pop("merge", False)
    if not isinstance(merge, bool):
        problems.append(Problem(f"{key}.merge", short(merge), "must be true or false"))
    if "format" in given or "columns" in given:
        mapping = _compile_columns(given, key, problems, merge=merge is True)
    else:
        mapping = _compile_fields(given, key, problems, merge=merge is True)
    if problems:
        raise RecipeError(source, problems)
    return mapping


def _compile_columns(given: dict[str, Any], key: str, problems: list[Problem], *, merge: bool) -> ColumnMapping:
    name: Any = given.pop("format", None)
    columns: Any = given.pop("columns", {})
    if name not in FORMATS:
        near = did_you_mean(str(name), FORMATS)
        problems.append(Problem(f"{key}.format", short(name), f"unknown format. Known: {', '.join(FORMATS)}.{near}"))
        return ColumnMapping("", {}, {})
    turns = _compile_turns(name, given, key, problems)
    for other in given:
        problems.append(
            Problem(f"{key}.{short(other)}", short(given[other]), "allowed here: format, columns, turns, roles, merge")
        )
    allowed = (*_KEYS[name], *_ASIDE)
    if not isinstance(columns, dict):
        problems.append(Problem(f"{key}.columns", short(columns), "must be pairs of a key and a column"))
        return ColumnMapping("", {}, {})
    pairs = cast(dict[Any, Any], columns)
    for own, column in pairs.items():
        if own not in allowed:
            near = did_you_mean(str(own), allowed)
            problems.append(Problem(f"{key}.columns", short(own), f"{name} has: {', '.join(allowed)}.{near}"))
        elif not isinstance(column, str):
            problems.append(Problem(f"{key}.columns.{own}", short(column), "must be the name of a column"))
    twice = {short(column) for column in pairs.values() if list(pairs.values()).count(column) > 1}
    if twice:
        problems.append(Problem(f"{key}.columns", listed(twice), "a column can be only one key"))
    return ColumnMapping(name, {str(own): str(column) for own, column in pairs.items()}, {}, merge, turns)


def _compile_turns(name: str, given: dict[str, Any], key: str, problems: list[Problem]) -> dict[str, Any]:
    """What the recipe says of turns: the names of their two keys, and what each word for a role means."""
    said: dict[str, Any] = {}
    for part, allowed in (("turns", ("role", "content")), ("roles", ("system", "user", "assistant", "tool"))):
        if part not in given:
            continue
        found: Any = given.pop(part)
        pairs: dict[Any, Any] = cast(dict[Any, Any], found) if isinstance(found, dict) else {"": None}
        if name not in ("messages", "sharegpt"):
            problems.append(Problem(f"{key}.{part}", short(found), "only messages and sharegpt have turns"))
        elif not all(isinstance(item, str) for pair in pairs.items() for item in pair):
            problems.append(Problem(f"{key}.{part}", short(found), "must be pairs of words"))
        elif wrong := [item for pair in pairs.items() for item in pair[part == "roles" :][:1] if item not in allowed]:
            problems.append(Problem(f"{key}.{part}", listed(wrong), f"known: {', '.join(allowed)}"))
        elif part == "roles":
            said["words"] = pairs
        else:
            said["names"] = (pairs.get("role", "role"), pairs.get("content", "content"))
    return said


def _compile_fields(given: dict[str, Any], key: str, problems: list[Problem], *, merge: bool) -> ColumnMapping:
    fields: dict[str, Field] = {}
    for role, item in given.items():
        if role not in _ROLES:
            near = did_you_mean(str(role), _ROLES)
            problems.append(Problem(f"{key}.{short(role)}", short(item), f"known: {', '.join(_ROLES)}.{near}"))
            continue
        try:
            if not isinstance(item, str) or not item:
                raise ValueError('must be a column, or a template like "{question} {context}"')
            fields[role] = parse_field(item)
            if role in ("label", "date", "split") and fields[role].columns != (item,):
                raise ValueError("must be one column")
        except ValueError as error:
            problems.append(Problem(f"{key}.{role}", short(item), str(error)))
    shape = set(fields) - {"system", "date", "split"}
    if not problems and shape not in _SHAPES:
        allowed = "; or ".join(", ".join(sorted(one, reverse=True)) for one in _SHAPES)
        problems.append(
            Problem(key, ", ".join(fields) or "nothing", f"must have {allowed}; and may have system, date, split")
        )
    if shape == {"text"} and "system" in fields:
        problems.append(Problem(f"{key}.system", fields["system"].spec, "a plain text has no system prompt"))
    return ColumnMapping(MAPPED, {}, fields, merge)


def _read_columns(mapping: ColumnMapping, value: dict[str, Any]) -> Record:
    own = {key: key for key in (*_KEYS[mapping.format], *_ASIDE) if key in value} | dict(mapping.columns)
    named = set(mapping.columns.values())
    own = {key: column for key, column in own.items() if mapping.columns.get(key) == column or column not in named}
    used = set(own.values())
    record = read_as(
        {key: value[column] for key, column in own.items()}, mapping.format, merge=mapping.merge, given=mapping.turns
    )
    meta = cast(dict[str, Any], record.meta)
    others: dict[str, Any] = {column: item for column, item in value.items() if column not in used}
    others |= {own[key]: item for key, item in record.unused.items()}
    if others:
        meta["unused"] = others
    renamed = {key: column for key, column in own.items() if key != column}
    if renamed:
        meta.setdefault("layout", {})["columns"] = renamed
    return record


def _read_fields(mapping: ColumnMapping, value: dict[str, Any]) -> Record:
    fields = mapping.fields
    layout: Form = {"mapping": {role: field.spec for role, field in fields.items()}}
    null = [
        column
        for role in ("system", "date", "split")
        if role in fields
        for column in (fields[role].spec,)
        if column in value and value[column] is None
    ]
    if null:
        layout["null"] = tuple(null)
    said = {
        role: fill(field, value, layout)
        for role, field in fields.items()
        if role != "label" and not set(field.columns) & set(null)
    }
    messages: list[Message] = []
    if said.get("system"):
        messages.append(Message(role="system", content=said["system"]))
    messages += [Message(role=role, content=said[role]) for role in ("user", "assistant") if role in said]
    meta: dict[str, Any] = {"format": MAPPED, "layout": layout}
    if "date" in said:
        meta["date"] = said["date"]
    unused = {column: item for column, item in value.items() if column not in mapping.needed}
    if unused:
        meta["unused"] = unused
    label = _label(value[fields["label"].spec], fields["label"].spec, layout) if "label" in fields else None
    chosen, rejected = _answer(said.get("chosen")), _answer(said.get("rejected"))
    record = Record(tuple(messages), chosen, rejected, label, said.get("text"), (), meta, _split(said.get("split")))
    _check(record)
    return record


def _answer(text: str | None) -> tuple[Message, ...] | None:
    return None if text is None else (Message(role="assistant", content=text),)


def _label(value: Any, column: str, layout: Form) -> bool:
    """Whether an answer is a good one: true or false, in a table also 1 or 0, or these as text."""
    if isinstance(value, bool):
        return value
    word = value if isinstance(value, str) else str(value) if isinstance(value, int) else ""
    label = _LABELS.get(word.strip().lower())
    if label is None:
        raise RowRefused("wrong type", f"{column} is {short(value) or type_name(value)}, not true or false")
    layout["label"] = value
    return label


def _split(split: str | None) -> str | None:
    if split is not None and need_text(split, "split") not in SPLITS:
        raise RowRefused("unknown split", f'"{short(split)}"; known: {", ".join(SPLITS)}')
    return split


def _check(record: Record) -> None:
    if record.text is not None:
        if not record.text.strip():
            raise RowRefused("empty text")
    elif record.chosen is None:
        check_conversation(record.messages)
    else:
        if record.chosen == record.rejected:
            raise RowRefused("chosen and rejected are the same")
        check_conversation((*record.messages, *record.chosen))
        check_conversation((*record.messages, *(record.rejected or ())))
