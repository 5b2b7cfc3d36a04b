"""A conversation in the terminal with a tuned model, with its base, or with both side by side."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from burnish.core.errors import BurnishError
from burnish.text.messages import Message
from burnish.text.system import render_system

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


class Voice(Protocol):
    """Whoever answers in a chat: an engine in the same process, or a gateway elsewhere."""

    def pieces(self, model: str, system: str | None, turns: Sequence[Message], said: Said) -> Generator[str]:
        """Yield an answer's text as it comes and keep its numbers in `said`. Closing the generator stops the answer.

        system: a template, or None for what the model has by itself. Raises BurnishError when there is no answer.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


@dataclass(slots=True)
class _Subject:
    """Someone who can answer, and the turns it has taken part in."""

    name: str
    turns: list[Message] = field(default_factory=list)


class Chat:
    """A conversation with a model and its base.

    Args:
        voice: answers; closed with the chat.
        name: what the tuned model is called.
        system: its system template. The base gets the same one, so that both can be compared.
        today: the day that the system prompt shows.
    """

    def __init__(
        self, voice: Voice, name: str, system: str | None, *, today: Callable[[], datetime.date] = datetime.date.today
    ) -> None:
        self._voice = voice
        self._name = name
        self._trained_system = self._system = system
        self._today = today
        self._subjects = {"tuned": _Subject(name), "base": _Subject("base")}
        self._answering = ("tuned",)

    def once(self, text: str) -> dict[str, Any]:
        """Answer one message and return the answer with its numbers."""
        said = Said()
        turns = [Message(role="user", content=text)]
        for piece in self._voice.pieces(self._name, self._system, turns, said):
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
        """Let whoever answers go."""
        self._voice.close()

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
        pieces = self._voice.pieces(subject.name, self._system, turns, said)
        try:
            for piece in pieces:
                said.text += piece
                writer.write(piece)
                writer.flush()
        except KeyboardInterrupt:
            said.stopped = True
        finally:
            pieces.close()
        speed = f", {said.tokens_per_second:.1f} tokens/s" if said.tokens_per_second else ""
        stopped = ", stopped" if said.stopped else ""
        writer.write(f"\n  [{said.new_tokens} tokens{speed}, first after {said.first_s:.2f} s{stopped}]\n")
        writer.flush()
        if said.text:
            subject.turns = [*turns, Message(role="assistant", content=said.text)]
