"""The terminal chat: who answers, what is remembered, and that nothing but leaving ends it."""

from __future__ import annotations

import datetime
import io
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from burnish.serve.answer import ServedModel
from burnish.serve.chat import Chat
from burnish.serve.engine import Engine
from burnish.serve.voice import EngineVoice
from burnish.text.tokenizer import Tokenizer

DAY = datetime.date(2025, 7, 8)
ANSWER = "Où? 🛫{a}"


@pytest.fixture
def chat(scripted_engine: Engine, tokenizer: Tokenizer) -> Chat:
    """Both subjects answer ANSWER: the tuned one is the base under another name."""
    return engine_chat(scripted_engine, tokenizer, "flight-search", ServedModel(None, "Today is {weekday} {date}."))


def engine_chat(
    engine: Engine, tokenizer: Tokenizer, name: str, tuned: ServedModel, new_tokens: int | None = None
) -> Chat:
    voice = EngineVoice(engine, tokenizer, name, tuned, today=lambda: DAY, new_tokens=new_tokens)
    return Chat(voice, name, tuned.system, today=lambda: DAY)


def talk(chat: Chat, *lines: str) -> str:
    writer = io.StringIO()
    assert chat.talk(io.StringIO("".join(f"{line}\n" for line in lines)), writer) == 0
    return writer.getvalue()


def test_once_answers_one_message_with_its_numbers(chat: Chat, tokenizer: Tokenizer) -> None:
    answer = chat.once("Find me flights")
    assert answer["model"] == "flight-search"
    assert answer["answer"] == ANSWER
    assert answer["new_tokens"] == len(tokenizer.encode(ANSWER))
    assert answer["seconds"] > 0
    assert answer["prompt_tokens"] > 20


def test_an_answer_says_who_speaks_and_how_fast(chat: Chat) -> None:
    shown = talk(chat, "Find me flights")
    assert f"flight-search: {ANSWER}\n" in shown
    assert "tokens/s, first after" in shown


def test_base_tuned_and_both_switch_who_answers(chat: Chat) -> None:
    shown = talk(chat, "/base", "one", "/both", "two", "/tuned", "three")
    speakers = [line.split(": ")[0].rpartition("> ")[2] for line in shown.splitlines() if ANSWER in line]
    assert speakers == ["base", "base", "flight-search", "flight-search"]
    assert "you > base + flight-search >" in shown


def test_the_adapter_and_the_base_answer_as_the_engine_does(engine: Engine, tokenizer: Tokenizer) -> None:
    chat = engine_chat(engine, tokenizer, "a", ServedModel("a", None), new_tokens=24)
    tuned, base = (
        chat.once("Hello")["answer"],
        engine_chat(engine, tokenizer, "base", ServedModel(None, None), new_tokens=24).once("Hello")["answer"],
    )
    assert tuned != base
    shown = talk(chat, "/both", "Hello")
    assert f"base: {base}\n" in shown
    assert f"a: {tuned}\n" in shown


def test_each_subject_remembers_its_own_turns_until_reset(chat: Chat) -> None:
    talk(chat, "one", "two")
    assert [turn["role"] for turn in chat._subjects["tuned"].turns] == ["user", "assistant"] * 2
    assert chat._subjects["base"].turns == []
    assert "forgotten" in talk(chat, "/reset")
    assert chat._subjects["tuned"].turns == []


def test_the_system_prompt_is_shown_changed_and_put_back(chat: Chat) -> None:
    assert "Today is Tuesday 2025-07-08." in talk(chat, "/system")
    before = chat.once("x")["prompt_tokens"]
    assert 'from now on:\nOnly {"json"}' in talk(chat, "one", '/system Only {"json"}')
    assert chat._subjects["tuned"].turns == [], "another system prompt begins another conversation"
    assert chat.once("x")["prompt_tokens"] != before
    talk(chat, "/system default")
    assert chat.once("x")["prompt_tokens"] == before


def test_help_unknown_commands_and_quit(chat: Chat) -> None:
    shown = talk(chat, "/help", "/nonsense", "", "/quit", "never read")
    assert "There is no /nonsense." in shown
    assert shown.count("/reset                 forget the conversation") == 2
    assert ANSWER not in shown


def test_a_conversation_that_no_longer_fits_says_so_and_goes_on(chat: Chat) -> None:
    shown = talk(chat, "x y " * 400, "short")
    assert "context holds 512" in shown
    assert ANSWER in shown


def test_a_message_with_the_models_own_markers_is_refused_in_words(chat: Chat) -> None:
    assert "<|im_end|>, which marks turns" in talk(chat, "a<|im_end|>b")


PROGRAM = """
    import sys, time
    from pathlib import Path
    from burnish.model.load import load_base
    from burnish.serve.answer import ServedModel
    from burnish.serve.chat import Chat
    from burnish.serve.engine import Engine
    from burnish.serve.voice import EngineVoice
    from burnish.text.tokenizer import load_tokenizer

    folder = Path(sys.argv[1])
    voice = EngineVoice(Engine(load_base(folder)), load_tokenizer(folder), "tuned", ServedModel(None, None))
    chat = Chat(voice, "tuned", None)


    class SlowTerminal:  # a small model says its 500 tokens in less time than a signal takes on a busy machine
        def write(self, text):
            sys.stdout.write(text)
            time.sleep(0.02)

        def flush(self):
            sys.stdout.flush()

    sys.exit(chat.talk(sys.stdin, SlowTerminal()))
"""


def read_until(terminal: int, pattern: str, seconds: float = 60) -> str:
    """Read what the terminal shows until it matches."""
    seen = b""
    until = time.monotonic() + seconds
    while not re.search(pattern, shown := seen.decode("utf-8", "replace"), re.DOTALL):
        assert time.monotonic() < until, shown
        try:
            seen += os.read(terminal, 4096)
        except OSError as error:
            raise AssertionError(f"the program left the terminal; it had shown: {shown}") from error
    return shown


def test_in_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves(varied_base: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(varied_base)],
        stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        # A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(theirs)
    try:
        read_until(ours, "you > tuned >")
        os.write(ours, b"Hello\n")
        read_until(ours, "tuned: .{8}")
        process.send_signal(signal.SIGINT)
        shown = read_until(ours, "you > tuned >")
        assert ", stopped]" in shown
        process.send_signal(signal.SIGINT)
        read_until(ours, "Ctrl-D or /quit leaves")
        os.write(ours, b"\x04")
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        os.close(ours)
