"""A chat's answers from an engine in the same process."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Generator, Sequence

from burnish.serve.answer import ServedModel, Wish, ask
from burnish.serve.chat import Said
from burnish.serve.interface import AnsweringEngine
from burnish.serve.text_stream import TextStream
from burnish.text.messages import Message
from burnish.text.tokenizer import Tokenizer


class EngineVoice:
    """Answers with the base, or with one adapter under its name.

    Args:
        engine: runs both; closed with the voice.
        tokenizer: the base's.
        name: what the tuned model is called; every other name is the base.
        tuned: its adapter, and the tokenizer that it was trained with, which the base is asked with too.
        new_tokens: length limit of an answer (None: the default of the API).
    """

    def __init__(
        self, engine: AnsweringEngine, tokenizer: Tokenizer, name: str, tuned: ServedModel, *,
        today: Callable[[], datetime.date] = datetime.date.today, new_tokens: int | None = None,
    ) -> None:  # fmt: skip
        self._engine, self._name, self._adapter = engine, name, tuned.adapter
        self._tokenizer = tuned.tokenizer or tokenizer
        self._today, self._wish = today, Wish(new_tokens)

    def pieces(self, model: str, system: str | None, turns: Sequence[Message], said: Said) -> Generator[str]:
        """Yield an answer's text as it comes. Closing the generator frees the engine's row."""
        asked = ServedModel(self._adapter if model == self._name else None, system)
        stream = ask(self._engine, self._tokenizer, asked, turns, self._wish, self._today())
        text = TextStream(self._tokenizer)
        began = time.perf_counter()
        said.prompt_tokens = stream.prompt_tokens
        try:
            for token in stream:
                said.new_tokens += 1
                said.seconds = time.perf_counter() - began
                if said.new_tokens == 1:
                    said.first_s = said.seconds
                piece = text.add(token)
                if piece:
                    yield piece
            rest = text.finish()
            if rest:
                yield rest
        finally:
            stream.cancel()

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close(drain=False)
