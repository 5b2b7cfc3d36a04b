"""Which of the readings that a row's keys allow is meant. Where two are possible, the row is refused, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish.core.errors import did_you_mean
from burnish.data.formats.keys import DOCUMENTS, LABELS, PAIRS, TEXTS, TURNS, Reading, readings
from burnish.data.formats.refusal import RowRefused, listed, short, type_name
from burnish.data.formats.transcripts import TRANSCRIPTS, transcript_of

FORMATS = (
    "messages",
    "sharegpt",
    *PAIRS,
    "question-answer",
    "preference",
    "kto",
    *TRANSCRIPTS,
    "text",
    "document",
)
"""Every format by its name."""


def choose(value: Mapping[str, Any]) -> Reading:
    """Return the one reading of a row. Raises RowRefused when there is none, or more than one."""
    found = readings(value)
    if not found:
        raise RowRefused("unknown format", f"its keys are {listed(value)}")
    if len(found) == 1:
        return _by_value(value, found[0])
    meant = _preferred(value, found)
    meant = tuple(_by_value(value, reading) for reading in meant)
    if len(meant) > 1:
        shown = " and ".join(f"{reading.format} ({', '.join(reading.keys)})" for reading in meant[:4])
        raise RowRefused("more than one format", f"{shown}; say in the recipe which columns count")
    return next(iter(meant))


def reading_as(value: Mapping[str, Any], name: str) -> Reading:
    """Return the reading of a row as the named format. Raises RowRefused when its keys do not allow it."""
    if name not in FORMATS:
        raise RowRefused("unknown format", f"{short(name)}; known: {', '.join(FORMATS)}.{did_you_mean(name, FORMATS)}")
    family = "turns" if name in ("messages", "sharegpt") else name
    if name in TRANSCRIPTS or name in ("text", "document"):
        return _text_as(value, name)
    found = [Reading(family, reading.keys) for reading in readings(value) if _allows(reading, family)]
    if family == "preference" and len(found) > 1:
        found = list(_preferred(value, tuple(found)))
    if not found:
        raise RowRefused(f"not {name}", f"its keys are {listed(value)}{_looks_like(value)}")
    if len(found) > 1:
        shown = " and ".join(", ".join(reading.keys) for reading in found[:4])
        raise RowRefused("more than one format", f"{name} as {shown}; say in the recipe which columns count")
    return found[0]


def _allows(reading: Reading, family: str) -> bool:
    if reading.format == "kto?":
        return family == "kto" or family == _pair_name(reading)
    return reading.format == family


def _pair_name(reading: Reading) -> str:
    return next((name for name, keys in PAIRS.items() if keys == reading.keys[:2]), "question-answer")


def _by_value(value: Mapping[str, Any], reading: Reading) -> Reading:
    """Look at the values where the keys alone do not tell."""
    if reading.format == "kto?":
        label = value["label"]
        if isinstance(label, bool):
            return Reading("kto", reading.keys)
        if label is None or isinstance(label, str):
            return Reading(_pair_name(reading), reading.keys)
        raise RowRefused(
            "ambiguous label", f"label is {type_name(label)}: true or false would make the row KTO; rename or remove it"
        )
    if reading.format in ("text", "document"):
        return _text(value, reading)
    return reading


def _text(value: Mapping[str, Any], reading: Reading) -> Reading:
    key = reading.keys[0]
    name = transcript_of(value[key]) if isinstance(value[key], str) else None
    if name is not None:
        return Reading(name, (key,))
    beside = [label for label in LABELS if value.get(label) is not None]
    if beside:
        raise RowRefused(
            "more than one format",
            f"a text to continue, or a request ({key}) with an answer ({', '.join(beside)}); say which",
        )
    if key == "content" and "role" in value:
        raise RowRefused("one turn a row", "the row is a turn (role, content); a row must hold the whole conversation")
    return reading


def _text_as(value: Mapping[str, Any], name: str) -> Reading:
    keys = [key for key in (*TEXTS, *DOCUMENTS, *TURNS) if isinstance(value.get(key), str)]
    if not keys:
        raise RowRefused(f"not {name}", f"its keys are {listed(value)}{_looks_like(value)}")
    if name in TRANSCRIPTS and transcript_of(value[keys[0]]) != name:
        raise RowRefused(f"not {name}", f"{keys[0]} does not begin with {' or '.join(TRANSCRIPTS[name].starts)}")
    return Reading(name, (keys[0],))


def _preferred(value: Mapping[str, Any], found: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """A conversation beside a preference that only repeats the chosen one is not another reading."""
    preferences = [reading for reading in found if reading.format == "preference"]
    apart = [reading for reading in preferences if not _repeats(value, reading)]
    repeated = {reading.keys[2] for reading in preferences if _repeats(value, reading)}
    if preferences and not apart:
        apart = [Reading("preference", preferences[0].keys[:2])]
    prompts = {key for reading in apart for key in reading.keys[2:]}
    others = [
        reading
        for reading in found
        if reading.format != "preference" and not (reading.format == "turns" and reading.keys[0] in repeated | prompts)
    ]
    return (*apart, *others)


def _repeats(value: Mapping[str, Any], reading: Reading) -> bool:
    keys = reading.keys
    return len(keys) > 2 and keys[2] in TURNS and value[keys[2]] == value[keys[0]]


def _looks_like(value: Mapping[str, Any]) -> str:
    found = readings(value)
    names = sorted(
        {"sharegpt or messages" if reading.format == "turns" else reading.format.rstrip("?") for reading in found}
    )
    return f"; it looks like {' or '.join(names)}" if names else ""
