"""A conversation as everybody in burnish passes it around."""

from __future__ import annotations

from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One turn: who speaks, and what is said."""

    role: Role
    content: str
