"""The slow rendering that the fast one must equal: the whole text is encoded again at every border."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from burnish.core.errors import DataError
from burnish.text.messages import Message
from burnish.text.render import Rendered
from burnish.text.tokenizer import Tokenizer


class _Kind(Enum):
    SYSTEM = auto()
    PROMPT = auto()
    ANSWER = auto()


@dataclass(frozen=True, slots=True)
class _Piece:
    kind: _Kind
    text: str
    answer: str = ""


def render_example(tokenizer: Tokenizer, messages: Sequence[Message], *, day: datetime.date | None = None) -> Rendered:
    """Render a conversation that ends with an answer. `day` is what the template's own clock shows, if it has one.

    Raises DataError when the template refuses the conversation, leaves the system prompt out, rewrites what it rendered
    before, ends an answer without a stop token, or begins the sequence twice; and when an answer contains a stop token.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError("a conversation to learn from must end with an answer of the assistant")
    ids: list[int] = []
    mask: list[int] = []
    prefix = prompt = 0
    text = ""
    for piece in _pieces(tokenizer, messages, day):
        before, text = len(ids), text + piece.text
        ids = _extend(tokenizer, ids, text, piece.text)
        trained = 0
        if piece.kind is _Kind.ANSWER:
            prompt = before
            trained = _answer_tokens(tokenizer, ids[before:], piece)
        elif piece.kind is _Kind.SYSTEM:
            prefix = len(ids)
        mask += [1] * trained + [0] * (len(ids) - before - trained)
    _check_start(tokenizer, ids)
    return Rendered(ids, mask, prefix, prompt)


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message], *, day: datetime.date | None = None) -> list[int]:
    """Return the ids of a conversation that waits for an answer, the generation prompt included.

    For the same messages these are `render_example(...).ids[:prompt]`. Raises DataError as `render_example` does.
    """
    if not messages:
        raise DataError("a conversation needs at least one message")
    ids: list[int] = []
    text = ""
    pieces = _pieces(tokenizer, messages, day)
    rendered = "".join(piece.text for piece in pieces)
    whole = tokenizer.chat.render(messages, generation_prompt=True, day=day)
    for piece in [*pieces, _Piece(_Kind.PROMPT, _rest(whole, rendered))]:
        text += piece.text
        ids = _extend(tokenizer, ids, text, piece.text)
    _check_start(tokenizer, ids)
    return ids


def _pieces(tokenizer: Tokenizer, messages: Sequence[Message], day: datetime.date | None) -> list[_Piece]:
    """Cut the text of a conversation at the end of the system turn, and before and after each answer."""
    pieces: list[_Piece] = []
    text = ""
    first = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    if messages[0]["role"] == "system":
        whole = tokenizer.chat.render(messages[:first], generation_prompt=True, day=day)
        if messages[0]["content"].strip() not in whole:
            raise DataError(
                "the chat template leaves the system prompt out, or rewrites it: the model would never see it"
            )
        text = _system_text(tokenizer, messages[0], whole, day)
        pieces.append(_Piece(_Kind.SYSTEM, text))
    for index in range(first, len(messages)):
        if messages[index]["role"] != "assistant":
            continue
        prompt = tokenizer.chat.render(messages[:index], generation_prompt=True, day=day)
        pieces.append(_Piece(_Kind.PROMPT, _rest(prompt, text)))
        text = tokenizer.chat.render(messages[: index + 1], generation_prompt=False, day=day)
        pieces.append(_Piece(_Kind.ANSWER, _rest(text, prompt), messages[index]["content"]))
    return pieces


def _system_text(tokenizer: Tokenizer, system: Message, whole: str, day: datetime.date | None) -> str:
    """The text of the system turn alone, or, where the template cannot render that, of all before any user text."""
    try:
        alone = tokenizer.chat.render([system], generation_prompt=False, day=day)
        if alone and whole.startswith(alone):
            return alone
        probes = [
            tokenizer.chat.render([system, Message(role="user", content=user)], generation_prompt=True, day=day)
            for user in ("0", "x")
        ]
    except DataError:
        return ""
    shared = probes[0][: _agree(*probes)]
    return shared if whole.startswith(shared) else ""


def _rest(whole: str, beginning: str) -> str:
    """What `whole` adds to `beginning`. Raises DataError with the place where they part."""
    if whole.startswith(beginning):
        return whole[len(beginning) :]
    at = _agree(whole, beginning)
    start = max(0, at - 20)
    raise DataError(
        "the chat template rewrites what it rendered before, so the prompt is not the beginning of the whole "
        f"conversation. At character {at}: the prompt has {beginning[start : at + 40]!r}, "
        f"the conversation has {whole[start : at + 40]!r}. Use another chat template, or single-turn rows."
    )


def _agree(one: str, other: str) -> int:
    """How many first characters two texts share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _extend(tokenizer: Tokenizer, ids: list[int], text: str, piece: str) -> list[int]:
    """Return the ids of `text`, which ends with `piece`, keeping the ids of what is before the piece.

    Where the tokenizer does not merge across the border, these are the ids of the text encoded as one.
    """
    whole = tokenizer.encode(text)
    if whole[: len(ids)] == ids:
        return whole
    # A special token in front: vocabularies with a word-start mark would add one at the beginning of a text.
    guard = min(tokenizer.special_ids, default=None)
    if guard is None:
        return ids + tokenizer.encode(piece)
    return ids + tokenizer.encode(tokenizer.token(guard) + piece)[1:]


def _answer_tokens(tokenizer: Tokenizer, ids: list[int], piece: _Piece) -> int:
    """How many of an answer's ids have loss: up to and with the first stop token."""
    if any(tokenizer.token(stop) in piece.answer for stop in tokenizer.stop_ids):
        raise DataError("an answer contains a stop token of the base model")
    for position, token_id in enumerate(ids):
        if token_id in tokenizer.stop_ids:
            return position + 1
    stops = ", ".join(sorted(tokenizer.token(token_id) for token_id in tokenizer.stop_ids))
    raise DataError(
        f"the chat template ends an answer without a stop token ({stops}), so a model trained on it would never stop. "
        f"It ends with {piece.text[-40:]!r}."
    )


def _check_start(tokenizer: Tokenizer, ids: list[int]) -> None:
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_id:
        raise DataError(f"the text begins with {tokenizer.token(ids[0])} twice; the chat template writes it already")
