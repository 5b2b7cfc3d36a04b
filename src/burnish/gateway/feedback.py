"""What people say about answers: votes between two, thumbs, corrections. Texts are kept only with consent."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, ValidationError, model_validator

from burnish.core.refusal import Refusal
from burnish.core.section import Section
from burnish.gateway.database import Database
from burnish.gateway.settings import ModelName

Text = Annotated[str, Field(max_length=100_000)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Said(Section):
    """One piece of feedback.

    kind: `vote` compares two answers to one prompt (model against other; winner: which, or neither); `thumb` is up or
    down; `correction` is a better answer. prompt_hash: SHA-256 of the conversation as JSON, always given; the
    conversation itself, the answers and the correction only with consent.
    """

    kind: Literal["vote", "thumb", "correction"]
    model: ModelName
    prompt_hash: Hash
    consent: StrictBool
    other: ModelName | None = None
    winner: Literal["model", "other", "tie"] | None = None
    up: StrictBool | None = None
    messages: Annotated[tuple[dict[str, Any], ...], Field(max_length=1000)] | None = None
    answer: Text | None = None
    other_answer: Text | None = None
    correction: Text | None = None

    @model_validator(mode="after")
    def _whole(self) -> Said:
        needed = {"vote": (self.other, self.winner), "thumb": (self.up,), "correction": (True,)}[self.kind]
        if any(each is None for each in needed):
            raise ValueError({"vote": "a vote needs other and winner", "thumb": "a thumb needs up"}[self.kind])
        texts = (self.messages, self.answer, self.other_answer, self.correction)
        if not self.consent and any(text is not None for text in texts):
            raise ValueError("without consent no text is sent")
        if self.kind == "correction" and self.consent and self.correction is None:
            raise ValueError("a correction needs its text")
        return self


def parse_feedback(value: dict[str, Any]) -> Said:
    """Read feedback. Raises Refusal (422) that names the field."""
    try:
        return Said.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or None
        message = f"{where or 'feedback'}: {problem['msg'].removeprefix('Value error, ')}"
        raise Refusal(422, message, param=where, code="invalid_value") from error


def keep_feedback(database: Database, account: str, said: Said) -> str:
    """Store feedback and return its id."""
    identifier = secrets.token_hex(12)
    with database.transaction() as cursor:
        cursor.execute(
            "INSERT INTO gateway_feedback VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (identifier, cursor.now_us(), account, said.kind, said.model, said.prompt_hash, int(said.consent),
             json.dumps(said.model_dump(mode="json", exclude_none=True), ensure_ascii=True)),
        )  # fmt: skip
    return identifier


class Page(Section):
    """Which feedback is wanted: the newest `last` of what came before the one with the id `before`."""

    last: Annotated[int, Field(ge=1, le=500)] = 500
    before: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")] | None = None


def all_feedback(database: Database, page: Page) -> Sequence[dict[str, Any]]:
    """Return a page of feedback, the oldest of it first."""
    older, given = "", [page.before, page.last]
    if page.before is None:
        given = [page.last]
    else:
        older = "WHERE (at_us, id) < (SELECT at_us, id FROM gateway_feedback WHERE id = ?) "
    with database.reading() as cursor:
        cursor.execute(
            f"SELECT id, at_us, account, record FROM gateway_feedback {older}ORDER BY at_us DESC, id DESC LIMIT ?",
            given,
        )
        rows = cursor.rows()
    return [
        {"id": identifier, "at_us": at, "account": account, **json.loads(record)}
        for identifier, at, account, record in reversed(rows)
    ]
