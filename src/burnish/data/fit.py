"""Rows that are too long for the base model, or for the recipe, meet the recipe's policy."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.data.chunk import Overlong
from burnish.text.messages import Message
from burnish.text.pieces import Conversation
from burnish.text.render import Rendered, render_answers
from burnish.text.tokenizer import Tokenizer


def answers_of(tokenizer: Tokenizer, said: Conversation) -> list[Rendered]:
    """Render a conversation: one rendering, unless the template rewrites earlier turns."""
    return render_answers(tokenizer, said.messages, tools=said.tools, day=said.day)


def longest(answers: Sequence[Rendered]) -> int:
    """Return the tokens of the longest rendering, which is what must fit."""
    return max(len(answer.ids) for answer in answers)


def truncated(tokenizer: Tokenizer, said: Sequence[Conversation], limit: int) -> tuple[Conversation, ...] | None:
    """Cut the beginning of what the user said, as little as needed; None where even the last character is too much.

    said: one conversation, or those of a pair, whose prompt is cut alike. The template, the system prompt and the answers
    stay whole.
    """
    low, high = 1, min(sum(len(m["content"]) for m in each.messages if m["role"] == "user") for each in said)
    best: tuple[Conversation, ...] | None = None
    while low <= high:  # fewer characters cut than low do not suffice; high may be too many to have
        cut = (low + high) // 2
        shorter = tuple(found for each in said if (found := _without(each, cut)) is not None)
        whole = len(shorter) == len(said)
        if whole and any(longest(answers_of(tokenizer, each)) > limit for each in shorter):
            low = cut + 1
        else:
            best = shorter if whole else best
            high = cut - 1
    return best


def _without(said: Conversation, characters: int) -> Conversation | None:
    """The conversation without the first characters of its user texts, or None where one would have nothing left."""
    messages: list[Message] = []
    for message in said.messages:
        content = message["content"]
        if message["role"] == "user" and characters:
            cut = min(characters, len(content.rstrip()) - 1)
            characters -= cut
            content = content[cut:].lstrip()
        shortened = message.copy()
        shortened["content"] = content
        messages.append(shortened)
    return None if characters else said._replace(messages=messages)


def overlong_message(found: Overlong, rows: int, tokens: int, limit: int, context: int) -> str:
    """Return what to tell when rows are too long: which ones, and what each policy would cost.

    rows, tokens: of all rows. context: what the base model can read.
    """
    named = [f"  {place}: {length} tokens" for place, length in found.named]
    if found.rows > len(named):
        named.append(f"  and {found.rows - len(named)} more")
    more = (
        f"or set prepare.max_tokens to {found.longest}"
        if found.longest <= context
        else f"prepare.max_tokens can be {context} at most, the base model's context length"
    )
    also = f"; {found.hopeless} of them would be rejected, being too long even without it" if found.hopeless else ""
    return "\n".join(
        [
            f"{found.rows} of {rows} rows are longer than {limit} tokens:",
            *named,
            "What each policy would cost:",
            f"  prepare.overlong: reject    {found.rows} rows, {found.tokens:,} of {tokens:,} tokens",
            f"  prepare.overlong: truncate  about {found.over:,} tokens from the beginning of {found.rows} requests{also}",
            f"Choose one of them, {more}.",
        ]
    )
