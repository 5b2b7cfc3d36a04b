"""One side of a row: what its key holds may be a text, a transcript, a turn, or a list of turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from burnish.data.formats.calls import Form
from burnish.data.formats.refusal import RowRefused, need_text
from burnish.data.formats.transcripts import read_transcript, transcript_of, write_transcript
from burnish.data.formats.turns import OPENAI, names_of, read_turns, write_turns
from burnish.text.messages import Message, Role


class Taken(NamedTuple):
    """What a format found in a row."""

    messages: tuple[Message, ...] = ()
    chosen: tuple[Message, ...] | None = None
    rejected: tuple[Message, ...] | None = None
    label: bool | None = None
    text: str | None = None


def read_side(value: Any, key: str, role: Role, note: Form) -> tuple[Message, ...]:
    """Read one side. A plain text is a turn of `role`; `note` takes how the side was spelled. Raises RowRefused."""
    if isinstance(value, list):
        turns = cast(list[Any], value)
        names = names_of(turns)
        forms: dict[int, Form] = {}
        messages = read_turns(turns, key, names, forms)
        note |= {"as": "turns", "names": names, "forms": forms}
        return messages
    if isinstance(value, dict):
        messages = read_side([value], key, role, note)
        note["as"] = "turn"
        return messages
    text = need_text(value, key)
    name = transcript_of(text)
    if name is None:
        return (Message(role=role, content=text),)
    messages, glue = read_transcript(text, name, open_end=True)
    if not messages:
        raise RowRefused("no messages", f"{key} has the markers of {name}, but nobody says anything")
    note |= {"as": name, "glue": glue}
    return messages


def write_side(messages: Sequence[Message], note: Form) -> Any:
    """Return one side as it was spelled."""
    kind = note.get("as", "text")
    if kind in ("turns", "turn"):
        turns = write_turns(messages, note.get("names", OPENAI), note.get("forms", {}))
        return turns if kind == "turns" or len(turns) != 1 else turns[0]
    if kind != "text":
        return write_transcript(messages, kind, note.get("glue"))
    if len(messages) == 1 and len(messages[0]) == 2:
        return messages[0]["content"]
    return write_turns(messages, OPENAI, {})
