"""A conversation in the terminal with a tuned model, with its base, or with both side by side."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from burnish.core.errors import BurnishError
from burnish.serve.answer import ServedModel, Wish, ask
from burnish.serve.engine import Engine
from burnish.serve.stream import Stream
from burnish.serve.text_stream import TextStream
from burnish.text.messages import Message
from burnish.text.system import render_system
from burnish.text.tokenizer import Tokenizer

HELP = """\
/tuned  /base  /both   who answers; with /both one after the other. Each remembers its own turns
/system                show the system prompt; /system TEXT sets another one, /system default takes the trained one
/reset                 forget the conversation
/help                  this text
/quit                  leave (also Ctrl-D); Ctrl-C stops the answer
"""


@dataclass(slots=True)
class Said:
    """An answer and what it took. `first_s` is the time to the first token, `seconds` to the last."""

    text: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0
    first_s: float = 0.0
    seconds: float = 0.0
    stopped: bool = False

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second after the first one came."""
        decoding = self.seconds - self.first_s
        return (self.new_tokens - 1) / decoding if self.new_tokens > 1 and decoding > 0 else 0.0


@dataclass(slots=True)
class _Subject:
    """Someone who can answer, and the turns it has taken part in."""

    name: str
    adapter: str | None
    turns: list[Message] = field(default_factory=list)


class Chat:
    """Talks through an engine in the same process.

    Args:
        engine: runs the base and the tuned model's adapter; closed with the chat.
        tokenizer: the base's.
        name: what the tuned model is called.
        tuned: its adapter and system template. The base gets the same system prompt, so that both can be compared.
        today: the day that the system prompt shows.
        new_tokens: length limit of an answer (None: the default of the API).
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        name: str,
        tuned: ServedModel,
        *,
        today: Callable[[], datetime.date] = datetime.date.today,
        new_tokens: int | None = None,
    ) -> None:
        self._engine = engine
        self._tokenizer = tuned.tokenizer or tokenizer  # the base is asked as the tuned model was trained
        self._name = name
        self._trained_system = tuned.system
        self._system = tuned.system
        self._today = today
        self._wish = Wish(new_tokens)
        self._subjects = {"tuned": _Subject(name, tuned.adapter), "base": _Subject("base", None)}
        self._answering = ("tuned",)

    def once(self, text: str) -> dict[str, Any]:
        """Answer one message and return the answer with its numbers."""
        said = Said()
        turns = [Message(role="user", content=text)]
        for piece in self._pieces(self._submit(self._subjects["tuned"], turns), said):
            said.text += piece
        return {
            "model": self._name,
            "answer": said.text,
            "prompt_tokens": said.prompt_tokens,
            "new_tokens": said.new_tokens,
            "seconds": round(said.seconds, 3),
            "tokens_per_second": round(said.tokens_per_second, 1),
        }

    def talk(self, reader: TextIO, writer: TextIO) -> int:
        """Read messages and commands from `reader`, one a line, until it ends or /quit; returns the exit code 0."""
        writer.write(f"{self._name} and its base. /help lists the commands.\n")
        while True:
            try:
                if not self._turn(reader, writer):
                    return 0
            except KeyboardInterrupt:
                writer.write("\n(Ctrl-D or /quit leaves)\n")

    def _turn(self, reader: TextIO, writer: TextIO) -> bool:
        """Read one line and do what it says; returns False when the person leaves."""
        asked = " + ".join(self._subjects[key].name for key in self._answering)
        writer.write(f"\nyou > {asked} > ")
        writer.flush()
        line = reader.readline()
        text = line.strip()
        if not line or text == "/quit":
            writer.write("\n")
            return False
        if text.startswith("/"):
            self._command(text, writer)
        elif text:
            self._converse(text, writer)
        return True

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close(drain=False)

    def _command(self, text: str, writer: TextIO) -> None:
        name, _, rest = text[1:].partition(" ")
        rest = rest.strip()
        if name in self._subjects:
            self._answering = (name,)
        elif name == "both":
            self._answering = ("base", "tuned")
        elif name == "system":
            self._change_system(rest, writer)
        elif name == "reset":
            self._forget()
            writer.write("The conversation is forgotten.\n")
        elif name == "help":
            writer.write(HELP)
        else:
            writer.write(f"There is no /{name}.\n{HELP}")

    def _change_system(self, text: str, writer: TextIO) -> None:
        if text == "default":
            self._system = self._trained_system
        elif text:
            # Braces in a prompt typed here are text, not fields of a template.
            self._system = text.replace("{", "{{").replace("}", "}}")
        if text:
            self._forget()
        shown = render_system(self._system, self._today()) if self._system is not None else "(none)"
        writer.write(f"System prompt{', from now on' if text else ''}:\n{shown}\n")

    def _forget(self) -> None:
        for subject in self._subjects.values():
            subject.turns.clear()

    def _converse(self, text: str, writer: TextIO) -> None:
        """Let each subject that is asked answer. An error ends the answer, not the conversation."""
        try:
            for key in self._answering:
                self._answer(self._subjects[key], text, writer)
        except BurnishError as error:
            writer.write(f"\n{error}\n")

    def _answer(self, subject: _Subject, text: str, writer: TextIO) -> None:
        turns = [*subject.turns, Message(role="user", content=text)]
        said = Said()
        writer.write(f"{subject.name}: ")
        stream = self._submit(subject, turns)
        try:
            for piece in self._pieces(stream, said):
                said.text += piece
                writer.write(piece)
                writer.flush()
        except KeyboardInterrupt:
            said.stopped = True
        finally:
            stream.cancel()
        speed = f", {said.tokens_per_second:.1f} tokens/s" if said.tokens_per_second else ""
        stopped = ", stopped" if said.stopped else ""
        writer.write(f"\n  [{said.new_tokens} tokens{speed}, first after {said.first_s:.2f} s{stopped}]\n")
        writer.flush()
        if said.text:
            subject.turns = [*turns, Message(role="assistant", content=said.text)]

    def _submit(self, subject: _Subject, turns: list[Message]) -> Stream:
        model = ServedModel(subject.adapter, self._system)
        return ask(self._engine, self._tokenizer, model, turns, self._wish, self._today())

    def _pieces(self, stream: Stream, said: Said) -> Iterator[str]:
        """Yield the answer's text as it comes and keep its numbers in `said`."""
        text = TextStream(self._tokenizer)
        began = time.perf_counter()
        said.prompt_tokens = stream.prompt_tokens
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
