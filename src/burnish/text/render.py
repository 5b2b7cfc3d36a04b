"""The one rendering: a conversation becomes token ids and a loss mask, the same for training, evaluation and serving.

Answers are found by rendering twice and taking the difference, so any chat template works without tags in it. The text
is encoded border by border: the ids of a prompt never depend on what follows it, so a server, which encodes the prompt
alone, feeds the model exactly the ids it was trained on, even where the tokenizer would merge across the border.

Where a template rewrites earlier turns, a conversation has several renderings: each answer is trained once, after exactly
the prompt that a server would send for it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from burnish.core.errors import DataError
from burnish.text.borders import encode_pieces
from burnish.text.messages import Message
from burnish.text.pieces import Chain, Conversation, Cutter, Kind, Piece, texts_of
from burnish.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as token ids.

    mask:   1 where the token has loss: every answer and its stop token. As long as ids.
    prefix: leading tokens of the system turn, the same for every conversation with the same system prompt.
    prompt: tokens before the last answer, the generation prompt included.
    """

    ids: list[int]
    mask: list[int]
    prefix: int
    prompt: int


def render_example(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    day: datetime.date | None = None,
) -> Rendered:
    """Render a conversation that ends with an answer. `day` is what the template's own clock shows, if it has one.

    Raises DataError as `render_answers` does, and where the template rewrites earlier turns, so that one sequence cannot
    hold all answers.
    """
    found = render_answers(tokenizer, messages, tools=tools, day=day)
    if len(found) > 1:
        raise DataError(_rewritten(tokenizer, Conversation(messages, tools, day)))
    return found[0]


def render_answers(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    day: datetime.date | None = None,
) -> list[Rendered]:
    """Render a conversation that ends with an answer, so that each answer has loss in exactly one rendering.

    One rendering, unless the template rewrites earlier turns. Raises DataError when the template refuses the conversation,
    leaves something of it out, ends an answer without a stop token, or begins the sequence twice; when an answer contains
    a stop token; and when nothing or everything has loss.
    """
    (found,) = render_many(tokenizer, [Conversation(messages, tools, day)])
    if isinstance(found, DataError):
        raise found
    return found


def render_many(
    tokenizer: Tokenizer, rows: Iterable[Conversation], *, batch_rows: int = 256
) -> Iterator[list[Rendered] | DataError]:
    """Yield for each row what `render_answers` returns or raises, faster than one by one.

    Shared turns are rendered and encoded once in a batch; one batch is held in memory.
    """
    waiting = iter(rows)
    while batch := list(islice(waiting, batch_rows)):
        yield from _render_batch(tokenizer, batch)


def render_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    day: datetime.date | None = None,
) -> list[int]:
    """Return the ids of a conversation that waits for an answer, the generation prompt included.

    For the same messages these are `render_answers(...)[-1].ids[:prompt]`. Raises DataError as `render_answers` does.
    """
    if not messages:
        raise DataError("a conversation needs at least one message")
    chain = _cutter(tokenizer).prompt(Conversation(messages, tools, day))
    ((ids, _),) = encode_pieces(tokenizer, [[piece.text for piece in chain]], {})
    _check_start(tokenizer, ids)
    return ids


def control_token_in(tokenizer: Tokenizer, message: Message) -> str | None:
    """Return a token in any text of the message that would break the turns apart, or None."""
    return next((token for text in texts_of(message) if (token := tokenizer.control_token_in(text))), None)


def _cutter(tokenizer: Tokenizer) -> Cutter:
    return Cutter(tokenizer.chat, [tokenizer.token(stop) for stop in sorted(tokenizer.stop_ids)])


def _render_batch(tokenizer: Tokenizer, rows: Sequence[Conversation]) -> Iterator[list[Rendered] | DataError]:
    cutter = _cutter(tokenizer)
    cut: list[list[Chain] | DataError] = []
    for row in rows:
        try:
            cut.append(_chains(cutter, row))
        except DataError as error:
            cut.append(error)
    texts = [[piece.text for piece in chain] for chains in cut if not isinstance(chains, DataError) for chain in chains]
    encoded = iter(encode_pieces(tokenizer, texts, {}))
    for chains in cut:
        if isinstance(chains, DataError):
            yield chains
            continue
        pairs = [(chain, *next(encoded)) for chain in chains]
        try:
            yield [_rendered(tokenizer, chain, ids, ends) for chain, ids, ends in pairs]
        except DataError as error:
            yield error


def _chains(cutter: Cutter, row: Conversation) -> list[Chain]:
    if not row.messages or row.messages[-1]["role"] != "assistant":
        raise DataError("a conversation to learn from must end with an answer of the assistant")
    return cutter.answers(row)


def _rendered(tokenizer: Tokenizer, chain: Chain, ids: list[int], ends: Sequence[int]) -> Rendered:
    mask: list[int] = []
    prefix = prompt = 0
    for piece, end in zip(chain, ends, strict=True):
        trained = 0
        if piece.kind is Kind.ANSWER:
            prompt = len(mask)
            trained = _answer_tokens(tokenizer, ids[prompt:end], piece)
        elif piece.kind is Kind.SYSTEM:
            prefix = end
        mask += [1] * trained + [0] * (end - len(mask) - trained)
    _check_start(tokenizer, ids)
    if all(mask):
        raise DataError(
            "every token of the row has loss: the chat template gives the request no token of its own, so nothing would be "
            "asked. Use another chat template."
        )
    return Rendered(ids, mask, prefix, prompt)


def _answer_tokens(tokenizer: Tokenizer, ids: list[int], piece: Piece) -> int:
    """How many of an answer's ids have loss: up to and with the first stop token."""
    said = texts_of(piece.answer) if piece.answer is not None else []
    if any(tokenizer.token(stop) in text for stop in tokenizer.stop_ids for text in said):
        raise DataError("an answer contains a stop token of the base model")
    first = min((ids.index(stop) for stop in tokenizer.stop_ids if stop in ids), default=None)
    if first is not None:
        return first + 1
    stops = ", ".join(sorted(tokenizer.token(token_id) for token_id in tokenizer.stop_ids))
    raise DataError(
        f"the chat template ends an answer without a stop token ({stops}), so a model trained on it would never stop. "
        f"It ends with {piece.text[-40:]!r}."
    )


def _check_start(tokenizer: Tokenizer, ids: list[int]) -> None:
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_id:
        raise DataError(f"the text begins with {tokenizer.token(ids[0])} twice; the chat template writes it already")


def _rewritten(tokenizer: Tokenizer, row: Conversation) -> str:
    """The sentence about a template that rewrites earlier turns, with the place."""
    one, other, *_ = ("".join(piece.text for piece in chain) for chain in _cutter(tokenizer).answers(row))
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    start = max(0, at - 20)
    return (
        "the chat template rewrites what it rendered before, so one sequence cannot hold all answers of the conversation. "
        f"At character {at}: an earlier answer was trained on {one[start : at + 40]!r}, a later prompt has "
        f"{other[start : at + 40]!r}. Render each answer by itself, or use single-turn rows."
    )
