"""What the gateway needs from texts and embeddings: how many tokens a prompt has, and which model it is for."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from burnish.core.artifacts import Manifest, Release
from burnish.core.errors import BurnishError, ResourceError
from burnish.core.events import Emit, Note
from burnish.store.home import Home
from burnish.text.messages import Message
from burnish.text.render import render_prompt
from burnish.text.system import with_system

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from burnish.serve.answer import ServedModel
    from burnish.text.tokenizer import Tokenizer

TRAINING_PROMPTS = 500
"""Training prompts of each release that a request is compared with."""
ROLES: Mapping[str, Any] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def prompt_counter(
    tokenizer: Tokenizer, models: Mapping[str, ServedModel], today: Callable[[], datetime.date] = datetime.date.today
) -> Callable[[str, Mapping[str, Any]], int | None]:
    """Return count(model, body) -> tokens of the prompt as the engine will render it.

    None for what is not rendered here (an unknown model, tools, parts that are not text, what the template refuses):
    then the request is refused by the engine, or bounded by its bytes.
    """

    def count(name: str, body: Mapping[str, Any]) -> int | None:
        model = models.get(name)
        messages = _messages(body.get("messages"))
        if model is None or body.get("tools"):
            return None
        own = model.tokenizer or tokenizer
        if messages is None:
            prompt = body.get("prompt")
            return len(own.encode(prompt)) + 1 if isinstance(prompt, str) else None
        try:
            return len(render_prompt(own, with_system(messages, model.system, today()), day=today()))
        except BurnishError:
            return None

    return count


def _messages(given: Any) -> list[Message] | None:
    """Return the turns of a request body, or None when they are not plain turns of text."""
    found: list[Message] = []
    for item in cast("list[Any]", given) if isinstance(given, list) else []:
        turn = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        role, content = turn.get("role"), _text(turn.get("content"))
        if not isinstance(role, str) or role not in ROLES or content is None or turn.get("tool_calls"):
            return None
        found.append(Message(role=ROLES[role], content=content))
    return found or None


def _text(content: Any) -> str | None:
    """Return a turn's content as one text, or None when it has parts that are not text."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    parts = [cast("dict[str, Any]", part) for part in cast("list[Any]", content) if isinstance(part, dict)]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    return "".join(texts) if len(texts) == len(cast("list[Any]", content)) else None


def intent_picker(
    home: Home, served: Sequence[Release], only: Sequence[str] | None, emit: Emit
) -> Callable[[str], list[tuple[str, float]]] | None:
    """Return pick(text) -> releases by how alike the text is to their training prompts, the most alike first.

    Alikeness is the cosine of sentence embeddings with the nearest of a release's training prompts. None when nothing
    was released, the sentence model is not installed, or no dataset is left.
    """
    chosen = [release for release in served if only is None or release.name in only]
    if not chosen:
        return None
    from burnish.data.rows import iterate_messages

    try:
        from burnish.model.embed import sentence_embedder

        embed = sentence_embedder()
    except ResourceError as error:
        if only is not None:
            emit(Note("serve", f"model: auto is off: {error}"))
        return None
    prompts: dict[str, list[str]] = {}
    for release in chosen:
        manifest = home.load(Manifest, release.manifest)
        if not home.is_whole(manifest):
            emit(Note("serve", f"model: auto leaves {release.name} out: the files of its dataset are gone"))
            continue
        rows = islice(iterate_messages(home.path(manifest.splits["train"].file)), TRAINING_PROMPTS)
        prompts[release.name] = [_asked(row.messages) for row in rows]
    return pick_by_prompts(prompts, embed) if prompts else None


def pick_by_prompts(
    prompts: Mapping[str, Sequence[str]], embed: Callable[[Sequence[str]], NDArray[np.float32]]
) -> Callable[[str], list[tuple[str, float]]]:
    """Return pick(text) -> names by the cosine of the text with the nearest prompt of each, the most alike first."""
    known = {name: embed(texts) for name, texts in prompts.items() if texts}

    def pick(text: str) -> list[tuple[str, float]]:
        vector = embed([text])[0]
        ranked = [(name, float((rows @ vector).max())) for name, rows in known.items()]
        return sorted(ranked, key=lambda item: -item[1])

    return pick


def _asked(messages: Sequence[Any]) -> str:
    """Return the last thing that a person asks in a training row."""
    return next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
