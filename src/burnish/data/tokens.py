"""Candidates become token ids; rows that are too long meet the recipe's policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from burnish.core.errors import DataError
from burnish.data.candidates import Candidate
from burnish.data.ledger import Book
from burnish.text.messages import Message
from burnish.text.render import Rendered, control_token_in, render_example
from burnish.text.tokenizer import Tokenizer

_NAMED_ROWS = 5


@dataclass(frozen=True, slots=True)
class TokenisedRow:
    """A candidate, the split it belongs to, and its token ids."""

    candidate: Candidate
    split: str
    rendered: Rendered

    @property
    def tokens(self) -> int:
        """Length of the whole conversation in tokens."""
        return len(self.rendered.ids)

    @property
    def answer_tokens(self) -> int:
        """Length of the last answer in tokens, its stop token included."""
        return sum(self.rendered.mask[self.rendered.prompt :])


def tokenise(tokenizer: Tokenizer, candidate: Candidate, split: str) -> TokenisedRow:
    """Render one row. Raises DataError when the chat template and the row do not go together."""
    for message in candidate.messages:
        token = control_token_in(tokenizer, message)
        if token is not None:
            raise DataError(
                f"the {message['role']}'s text contains {token}, which the chat template uses for its turns"
            )
    tools = candidate.row.tools
    return TokenisedRow(candidate, split, render_example(tokenizer, candidate.messages, tools=tools, day=candidate.day))


def fit(
    tokenizer: Tokenizer,
    rows: Sequence[TokenisedRow],
    limit: int,
    policy: Literal["error", "reject", "truncate"],
    book: Book,
) -> list[TokenisedRow]:
    """Return rows of at most `limit` tokens. Raises DataError under policy "error" when a row is longer."""
    overlong = [row for row in rows if row.tokens > limit]
    if overlong and policy == "error":
        raise DataError(_overlong_message(tokenizer, rows, overlong, limit))
    kept: list[TokenisedRow] = []
    for row in rows:
        fitting = row if row.tokens <= limit else truncate(tokenizer, row, limit) if policy == "truncate" else None
        if fitting is None:
            book.reject(row.candidate.place, "over max_tokens", f"{row.tokens} tokens, at most {limit}")
            continue
        if fitting is not row:
            book.changed["truncated"] += 1
        kept.append(fitting)
    return kept


def truncate(tokenizer: Tokenizer, row: TokenisedRow, limit: int) -> TokenisedRow | None:
    """Cut the beginning of what the user said, as little as needed; None where even the last character is too much.

    The template, the system prompt and the answers stay whole.
    """
    characters = sum(len(m["content"]) for m in row.candidate.messages if m["role"] == "user")
    low, high = 1, characters  # characters to cut: fewer than low do not suffice; high may be too many to have
    best: TokenisedRow | None = None
    while low <= high:
        cut = (low + high) // 2
        shorter = _without(tokenizer, row, cut)
        if shorter is not None and shorter.tokens > limit:
            low = cut + 1
        else:
            best = shorter or best
            high = cut - 1
    return best


def _without(tokenizer: Tokenizer, row: TokenisedRow, characters: int) -> TokenisedRow | None:
    """The row without the first characters of its user texts, or None where a user text would have nothing left."""
    messages: list[Message] = []
    for message in row.candidate.messages:
        content = message["content"]
        if message["role"] == "user" and characters:
            cut = min(characters, len(content.rstrip()) - 1)
            characters -= cut
            content = content[cut:].lstrip()
        shortened = message.copy()
        shortened["content"] = content
        messages.append(shortened)
    if characters:
        return None
    candidate = replace(row.candidate, messages=messages)
    return replace(
        row,
        candidate=candidate,
        rendered=render_example(tokenizer, messages, tools=candidate.row.tools, day=candidate.day),
    )


def _user_tokens(tokenizer: Tokenizer, row: TokenisedRow) -> int:
    return sum(len(tokenizer.encode(m["content"])) for m in row.candidate.messages if m["role"] == "user")


def _overlong_message(
    tokenizer: Tokenizer, rows: Sequence[TokenisedRow], overlong: Sequence[TokenisedRow], limit: int
) -> str:
    all_tokens = sum(row.tokens for row in rows)
    lost = sum(row.tokens for row in overlong)
    too_much = sum(row.tokens - _user_tokens(tokenizer, row) > limit for row in overlong)
    cut = sum(row.tokens - limit for row in overlong)
    named = [f"  {row.candidate.place}: {row.tokens} tokens" for row in overlong[:_NAMED_ROWS]]
    if len(overlong) > _NAMED_ROWS:
        named.append(f"  and {len(overlong) - _NAMED_ROWS} more")
    longest = max(row.tokens for row in overlong)
    more = (
        f"or set prepare.max_tokens to {longest}"
        if longest <= tokenizer.context_length
        else f"prepare.max_tokens can be {tokenizer.context_length} at most, the base model's context length"
    )
    also = f"; {too_much} of them would be rejected, being too long even without it" if too_much else ""
    return "\n".join(
        [
            f"{len(overlong)} of {len(rows)} rows are longer than {limit} tokens:",
            *named,
            "What each policy would cost:",
            f"  prepare.overlong: reject    {len(overlong)} rows, {lost:,} of {all_tokens:,} tokens",
            f"  prepare.overlong: truncate  about {cut:,} tokens from the beginning of {len(overlong)} requests{also}",
            f"Choose one of them, {more}.",
        ]
    )
