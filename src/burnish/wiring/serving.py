"""What the gateway needs from texts and embeddings: how many tokens a prompt has, and which model it is for."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any

from burnish.core.artifacts import Manifest, Release
from burnish.core.errors import BurnishError
from burnish.core.events import Emit, Note
from burnish.core.refusal import Refusal
from burnish.store.home import Home

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from burnish.serve.answer import ServedModel
    from burnish.text.tokenizer import Tokenizer

TRAINING_PROMPTS = 500
"""Training prompts of each release that a request is compared with."""


def prompt_counter(
    tokenizer: Tokenizer, models: Mapping[str, ServedModel], today: Callable[[], datetime.date] = datetime.date.today
) -> Callable[[str, Mapping[str, Any]], list[int] | None]:
    """Return count(model, body) -> tokens of each prompt, as the engine will read it, tools included.

    None for what the engine will refuse; until then it is bounded by its bytes.
    """
    from burnish.serve.answer import Offer, prompt_of
    from burnish.serve.schema import ChatRequest, CompletionRequest, EmbeddingRequest, read_request

    def count(name: str, body: Mapping[str, Any]) -> list[int] | None:
        model = models.get(name)
        if model is None:
            return None
        try:
            if "messages" in body:
                chat = read_request(ChatRequest, body)
                offer = Offer(chat.offered_tools, chat.demanded_tools)
                return [len(prompt_of(tokenizer, model, chat.conversation, today(), offer)[0])]
            if "prompt" in body:
                prompts = read_request(CompletionRequest, body).prompts
            else:
                prompts = read_request(EmbeddingRequest, body).inputs
        except (Refusal, BurnishError):
            return None
        return [len(tokenizer.encode_start(each) if isinstance(each, str) else each) for each in prompts]

    return count


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
