"""A base model's tokenizer, read from its folder with the `tokenizers` library alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import tokenizers

from burnish.core.artifacts import TextFingerprint
from burnish.core.errors import BaseModelError, DataError
from burnish.core.ids import content_id
from burnish.text.borders import clean_borders
from burnish.text.messages import Message
from burnish.text.system import needs_day, system_format
from burnish.text.template import ChatTemplate
from burnish.text.token_bytes import token_bytes

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """Text to token ids and back, and the chat template that belongs to them.

    stop_ids: ids after which an answer is over (end of sequence, end of turn).
    special_ids: ids of all special tokens.
    control_tokens: texts of the special tokens that the chat template and the end of an answer are made of.
    bos_id: id of the token that starts a sequence, or None.
    context_length: most tokens the base model can attend to.
    borders: matches the tokens before which a text may be cut without a change of its ids, or None.
    folder, variables: what it was read from, so that another process can read it too.
    """

    chat: ChatTemplate = field(repr=False)
    stop_ids: frozenset[int]
    special_ids: frozenset[int]
    control_tokens: frozenset[str]
    bos_id: int | None
    context_length: int
    tokenizer_sha256: str
    template_sha256: str
    backend: tokenizers.Tokenizer = field(repr=False)
    borders: re.Pattern[str] | None = field(repr=False)
    folder: Path
    variables: Mapping[str, Any] | None = None

    @property
    def template(self) -> str:
        """The chat template's source."""
        return self.chat.source

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`: special tokens written in it are parsed, none are added."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_start(self, text: str) -> list[int]:
        """Return the ids of a text that starts a sequence: as `encode`, with what the tokenizer itself puts before it."""
        return self.backend.encode(text, add_special_tokens=True).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each text, faster than one by one."""
        if not texts:
            return []
        return [found.ids for found in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of `ids` without special tokens, or with them as they are written."""
        return self.backend.decode(list(ids), skip_special_tokens=not special)

    def control_token_in(self, text: str) -> str | None:
        """Return a token that would break the turns apart if `text` were put into a conversation, or None."""
        return min([token for token in self.control_tokens if token in text], default=None)

    def token(self, token_id: int) -> str:
        """Return how the vocabulary writes one id, for messages to people."""
        return self.backend.id_to_token(token_id) or f"#{token_id}"

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that one token stands for."""
        return token_bytes(self.backend, token_id)

    def fingerprint(self, system: str | None) -> TextFingerprint:
        """Return what a server must match to turn text into the ids an adapter was trained on.

        A system prompt with fields also pins how those fields are written.
        """
        template = self.template_sha256
        if needs_day(system):
            template = content_id({"template": template, "system_format": system_format()})
        return TextFingerprint(
            tokenizer_sha256=self.tokenizer_sha256,
            template_sha256=template,
            system=system,
            variables=dict(self.variables) if self.variables else None,
        )

    def with_variables(self, variables: Mapping[str, Any] | None) -> Tokenizer:
        """Return the same tokenizer with other variables of its chat template."""
        if (variables or None) == (self.variables or None):
            return self
        return load_tokenizer(self.folder, variables=variables)


class Detokenizer:
    """Text of a growing list of ids, piece by piece; a character that is not complete yet is held back.

    The pieces and `finish()` together are `tokenizer.decode` of all ids (for byte-fallback vocabularies: of all ids
    that make valid UTF-8). special: show special tokens as they are written.
    """

    _LONGEST_WAIT = 64
    # No character needs that many tokens: what is still broken then stays broken, and waiting only grows the window.

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        """Start an empty text."""
        self._decode = partial(tokenizer.decode, special=special)
        self._window: list[int] = []  # the ids of the last piece, for their context, then those not shown yet
        self._shown = 0  # ids of the window that are shown
        self._shown_text = 0  # characters of the window's text that are shown

    def add(self, token_id: int) -> str:
        """Take one id; return the text that became certain, often one word, sometimes nothing."""
        self._window.append(token_id)
        text = self._decode(self._window)
        if text.endswith("\ufffd") and len(self._window) - self._shown < self._LONGEST_WAIT:
            certain = text.rstrip("\ufffd")
            piece = certain[self._shown_text :]
            self._shown_text = max(self._shown_text, len(certain))
            return piece
        return self._show(text)

    def finish(self) -> str:
        """Return what was held back; a character that never became complete shows as U+FFFD."""
        return self._show(self._decode(self._window))

    def _show(self, text: str) -> str:
        piece = text[self._shown_text :]
        if piece:
            self._window = self._window[self._shown :]
            self._shown = len(self._window)
            self._shown_text = len(self._decode(self._window))
        return piece


def load_tokenizer(folder: Path, *, variables: Mapping[str, Any] | None = None) -> Tokenizer:
    """Read tokenizer.json, tokenizer_config.json, chat_template.jinja, config.json and generation_config.json.

    `variables` are further variables of the chat template, such as {"enable_thinking": False}; they count for the
    fingerprint, as the same messages give another text with them.
    Raises BaseModelError that names the file when one is missing, damaged or says too little.
    """
    path = folder / "tokenizer.json"
    content = _bytes(path)
    try:
        backend = tokenizers.Tokenizer.from_buffer(content)
    except ValueError as error:
        raise BaseModelError(f"{path} is not a tokenizer file: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    settings = _json(folder / "tokenizer_config.json")
    special_tokens = _special_tokens(settings, folder)
    tool_template = _tool_template(folder, settings)
    chat = ChatTemplate(_template(folder, settings), special_tokens, variables, tool_template)
    pinned: dict[str, Any] = {"template": chat.source, "special_tokens": special_tokens}
    if variables:
        pinned["variables"] = dict(variables)
    if tool_template is not None:
        pinned["tool_template"] = tool_template
    special_ids = frozenset(i for i, token in backend.get_added_tokens_decoder().items() if token.special)
    eos = _ids(backend, special_tokens, "eos_token", folder)
    turn = _turn_ids(chat, backend, special_ids)
    stop_ids = eos | _generation_eos(folder) | frozenset(turn.end)
    if not stop_ids:
        raise BaseModelError(f"{folder} names no stop token: tokenizer_config.json needs an eos_token")
    return Tokenizer(
        chat=chat,
        stop_ids=stop_ids,
        special_ids=special_ids,
        control_tokens=frozenset(backend.id_to_token(i) or "" for i in turn.all | stop_ids) - {""},
        bos_id=next(iter(_ids(backend, special_tokens, "bos_token", folder)), None),
        context_length=_context_length(folder / "config.json"),
        tokenizer_sha256=hashlib.sha256(content).hexdigest(),
        template_sha256=content_id(pinned),
        backend=backend,
        borders=clean_borders(backend),
        folder=folder,
        variables=variables,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BaseModelError(f"cannot read {path}: {error.strerror}. A base model's folder needs this file.") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(path))
    except ValueError as error:
        raise BaseModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BaseModelError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return cast(dict[str, Any], value)


def _special_tokens(settings: dict[str, Any], folder: Path) -> dict[str, str]:
    """Names and texts of the special tokens; older folders keep some in special_tokens_map.json."""
    older = folder / "special_tokens_map.json"
    merged = {**(_json(older) if older.is_file() else {}), **settings}
    tokens: dict[str, str] = {}
    for name in _SPECIAL:
        value = merged.get(name)
        text = cast(dict[str, Any], value).get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            tokens[name] = text
    return tokens


def _template(folder: Path, settings: dict[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _bytes(file).decode("utf-8", "replace")
    value = settings.get("chat_template")
    if isinstance(value, list):  # several named templates
        named = cast(list[dict[str, Any]], value)
        value = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    if not isinstance(value, str):
        raise BaseModelError(
            f"{folder} has no chat template: neither chat_template.jinja nor `chat_template` in tokenizer_config.json. "
            "Choose the instruction-tuned variant of the base model, or put a template beside its tokenizer."
        )
    return value


def _tool_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The template that transformers takes when there are tools: the one named tool_use, beside the default."""
    file = folder / "additional_chat_templates" / "tool_use.jinja"
    if file.is_file():
        return _bytes(file).decode("utf-8", "replace")
    value = settings.get("chat_template")
    if not isinstance(value, list) or (folder / "chat_template.jinja").is_file():
        return None
    named = cast(list[dict[str, Any]], value)
    found = next((entry.get("template") for entry in named if entry.get("name") == "tool_use"), None)
    return found if isinstance(found, str) else None


def _ids(backend: tokenizers.Tokenizer, tokens: dict[str, str], name: str, folder: Path) -> frozenset[int]:
    if name not in tokens:
        return frozenset()
    token_id = backend.token_to_id(tokens[name])
    if token_id is None:
        raise BaseModelError(f"{folder}: {name} is {tokens[name]!r}, which tokenizer.json does not have")
    return frozenset({token_id})


def _generation_eos(folder: Path) -> frozenset[int]:
    path = folder / "generation_config.json"
    value = _json(path).get("eos_token_id") if path.is_file() else None
    values: Iterable[Any] = cast(list[Any], value) if isinstance(value, list) else [value]
    return frozenset(item for item in values if isinstance(item, int))


@dataclass(frozen=True, slots=True)
class _TurnIds:
    """Special ids that the template writes: all of them, and the first one after an answer (none or one)."""

    all: frozenset[int]
    end: frozenset[int]


def _turn_ids(chat: ChatTemplate, backend: tokenizers.Tokenizer, special_ids: frozenset[int]) -> _TurnIds:
    """Render a small conversation and look which special tokens the template made of it."""
    system, user, answer = "burnish-system", "burnish-user", "burnish-answer"
    turns = [Message(role="user", content=user), Message(role="assistant", content=answer)]
    for messages in ([Message(role="system", content=system), *turns], turns):
        try:
            text = chat.render(messages, generation_prompt=False)
        except DataError:
            continue  # a template without a system role, or with other demands on a conversation
        before, found, after = text.rpartition(answer)
        marks, end = (
            [i for i in backend.encode(part, add_special_tokens=False).ids if i in special_ids]
            for part in (before, after)
        )
        return _TurnIds(frozenset(marks + end), frozenset(end[:1]) if found else frozenset())
    return _TurnIds(frozenset(), frozenset())


def _context_length(path: Path) -> int:
    config = _json(path)
    inner = config.get("text_config")
    for section in (config, cast(dict[str, Any], inner) if isinstance(inner, dict) else {}):
        for key in ("max_position_embeddings", "n_positions"):
            if isinstance(section.get(key), int):
                return section[key]
    raise BaseModelError(f"{path} has no max_position_embeddings: the base model's context length is unknown")
