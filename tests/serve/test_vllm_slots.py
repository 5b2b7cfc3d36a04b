"""The base's answers beside more adapters than vLLM on a CPU has slots: what is asked of it and when, by a server that keeps a log.

The contract's tests ask a real vLLM for the same (`make test-vllm`).
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from burnish.core.errors import ServeError
from burnish.core.events import Event, Note
from burnish.core.ids import file_sha256
from burnish.model.load import load_base
from burnish.model.lora import CONFIG, WEIGHTS, adaptable_layers, read_adapter
from burnish.model.sampling import Sampling
from burnish.serve.adapters import AdapterSource
from burnish.serve.stream import End, Stream
from burnish.serve.vllm import process
from burnish.serve.vllm.engine import VllmEngine
from burnish.serve.vllm.process import device_of
from burnish.serve.vllm.slots import write_zeros

SLOTS = 2
SERVER = """
    import http.server, json, os, sys, threading, time
    from pathlib import Path

    play, one = Path(os.environ["VLLM_PLAY"]), threading.Lock()
    known = {"base"}

    def say(*words):
        with one, (play / "log").open("a") as log:
            log.write(" ".join(words) + "\\n")

    def wait_while(name):
        while (play / name).exists():
            time.sleep(0.005)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(200)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/v1/completions":
                return self.complete(body)
            name = body["lora_name"]
            label = name.rpartition("-")[2]
            if self.path == "/v1/unload_lora_adapter":
                say("unload", label)
                known.discard(name)
                return self.answer(200)
            say("load", label)
            wait_while("hold-load")
            if name in known or (play / ("refuse-" + label)).exists():
                return self.answer(400)
            known.add(name)
            say("loaded", label)
            self.answer(200)

        def complete(self, body):
            tag = str(body["prompt"][0])
            say("ask", body["model"].rpartition("-")[2], tag)
            if body["model"] not in known:
                return self.answer(404)
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.event(token_ids=[7])
            try:
                while (play / ("hold-" + tag)).exists():
                    time.sleep(0.005)
                    self.chunk(b": waits\\n\\n")
                say("end", tag)
                self.event(token_ids=[8], finish_reason="length")
                self.chunk(b"")
            except OSError:
                say("lost", tag)

        def event(self, **choice):
            self.chunk(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\\n\\n")

        def chunk(self, data):
            self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(data), data))

        def answer(self, status):
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *values):
            pass

    say("slots", sys.argv[sys.argv.index("--max-loras") + 1])
    port = int(sys.argv[sys.argv.index("--port") + 1])
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Played:
    """An engine whose vLLM is the server above, with six adapters, "1" to "6"."""

    def __init__(self, engine: VllmEngine, folder: Path, told: list[Event]) -> None:
        self.engine, self.folder, self.told = engine, folder, told

    def log(self) -> list[str]:
        return (self.folder / "log").read_text(encoding="utf-8").splitlines()

    def since(self, before: list[str]) -> list[str]:
        return self.log()[len(before) :]

    def ask(self, adapter: str | None, tag: int) -> Stream:
        return self.engine.submit([tag], adapter, Sampling(max_new_tokens=2))

    def answer(self, adapter: str | None, tag: int) -> None:
        stream = self.ask(adapter, tag)
        assert list(stream) == [7, 8]
        assert stream.end is End.LENGTH

    def hold(self, what: str) -> Path:
        held = self.folder / what
        held.touch()
        return held


def until(happened: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def packages(folder: Path, device: str) -> dict[str, str]:
    """Write what stands where vLLM does; returns the environment in which it is found."""
    place = folder / "packages" / "vllm" / "entrypoints" / "openai"
    place.mkdir(parents=True)
    (place / "api_server.py").write_text(textwrap.dedent(SERVER), encoding="utf-8")
    platforms = f"print('INFO: vLLM says something')\nclass current_platform:\n    device_type = {device!r}\n"
    (folder / "packages" / "vllm" / "platforms.py").write_text(platforms, encoding="utf-8")
    (folder / "play").mkdir()
    return {"PYTHONPATH": str(folder / "packages"), "VLLM_PLAY": str(folder / "play")}


def begin(device: str, base: Path, adapter: Path, folder: Path) -> Iterator[Played]:
    environment = packages(folder, device)
    told: list[Event] = []
    source = AdapterSource(adapter, (file_sha256(adapter / WEIGHTS), file_sha256(adapter / CONFIG)))
    with VllmEngine(
        base, Path(sys.executable), emit=told.append, rows=16, slots=SLOTS, environment=environment, start_s=20
    ) as engine:
        for name in "123456":
            engine.add_adapter(name, source)
        yield Played(engine, folder / "play", told)
        for held in (folder / "play").glob("hold-*"):
            held.unlink()
        engine.close(drain=False)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CHECK_S", 0.5)


@pytest.fixture
def played(varied_base: Path, adapter_folders: dict[str, Path], tmp_path: Path) -> Iterator[Played]:
    yield from begin("cpu", varied_base, adapter_folders["a"], tmp_path)


@pytest.fixture
def on_a_card(varied_base: Path, adapter_folders: dict[str, Path], tmp_path: Path) -> Iterator[Played]:
    yield from begin("cuda", varied_base, adapter_folders["a"], tmp_path)


def test_the_last_slot_gets_zeros_and_the_base_goes_through_them_from_then_on(played: Played) -> None:
    for adapter, tag in ((None, 50), ("1", 51), ("2", 52), (None, 53), ("1", 54)):
        played.answer(adapter, tag)
    plain = ["slots 3", "ask base 50", "end 50", "load 1", "loaded 1", "ask 1 51", "end 51", "load 2", "loaded 2"]
    plain += ["ask 2 52", "end 52", "ask base 53", "end 53", "ask 1 54", "end 54"]
    assert played.log() == plain
    assert played.told == []
    for adapter, tag in (("3", 55), (None, 56), ("1", 57), ("4", 58), (None, 59)):
        played.answer(adapter, tag)
    assert [line for line in played.since(plain) if not line.startswith("end")] == [
        "load zeros", "loaded zeros", "load 3", "loaded 3", "ask 3 55", "ask zeros 56", "ask 1 57",
        "load 4", "loaded 4", "ask 4 58", "ask zeros 59",
    ]  # fmt: skip
    (note,) = played.told
    assert isinstance(note, Note)
    assert "more than 2 adapters" in note.text


@pytest.mark.parametrize("ends", ["answered", "cancelled"])
def test_an_adapter_that_could_reach_the_last_slot_waits_for_answers_under_the_bases_own_name(
    played: Played, ends: str
) -> None:
    held = played.hold("hold-60")
    first = played.ask(None, 60)
    played.answer("1", 61)
    played.answer("2", 62)
    waiting = [played.ask("3", 63), played.ask("4", 64)]
    until(lambda: "loaded zeros" in played.log())
    played.answer(None, 65)
    played.answer("2", 66)
    time.sleep(0.2)
    assert {"load 3", "load 4"}.isdisjoint(played.log())
    assert "ask zeros 65" in played.log()
    if ends == "answered":
        held.unlink()
        assert list(first) == [7, 8]
    else:
        first.cancel()
    assert [list(stream) for stream in waiting] == [[7, 8]] * 2
    log = played.log()
    last = "end 60" if ends == "answered" else "end 65"
    assert log.index(last) < log.index("load 3") < log.index("loaded 3") < log.index("load 4")


def test_of_many_at_once_each_adapter_is_loaded_once_and_no_answer_of_the_base_meets_a_full_row(played: Played) -> None:
    held = played.hold("hold-100")
    asked = [(None if tag % 3 == 0 else str(1 + tag % 6), 100 + tag) for tag in range(60)]
    streams = [played.ask(adapter, tag) for adapter, tag in asked]
    until(lambda: "loaded zeros" in played.log())
    held.unlink()
    assert [list(stream) for stream in streams] == [[7, 8]] * 60
    log = [line.split() for line in played.log()]
    loads = [words[1] for words in log if words[0] == "load"]
    assert sorted(loads) == ["2", "3", "5", "6", "zeros"]
    assert loads.index("zeros") == SLOTS
    plain: set[str] = set()
    taken, most = 0, 0
    for words in log:
        if words[:2] == ["ask", "base"]:
            assert taken <= SLOTS + 1
            plain.add(words[2])
        elif words[0] == "end":
            plain.discard(words[1])
        elif words[0] == "load":
            taken += 1
            assert not plain or taken <= SLOTS + 1
            most = max(most, len(plain))
    assert most, "no answer of the base was under way at any load: this run shows nothing"


def test_zeros_that_vllm_does_not_load_fail_the_adapter_that_needed_them_and_nothing_else(played: Played) -> None:
    played.answer("1", 70)
    played.answer("2", 71)
    refused = played.hold("refuse-zeros")
    with pytest.raises(ServeError, match=r"does not load the adapter \(400\)"):
        list(played.ask("3", 72))
    played.answer(None, 73)
    played.answer("2", 74)
    log = played.log()
    assert "ask base 73" in log
    assert "load 3" not in log
    refused.unlink()
    played.answer("3", 75)
    played.answer(None, 76)
    assert [line for line in played.since(log) if line.startswith(("load ", "ask"))] == [
        "load zeros",
        "load 3",
        "ask 3 75",
        "ask zeros 76",
    ]


def test_a_load_that_failed_counts_as_it_may_have_taken_a_slot(played: Played) -> None:
    played.hold("refuse-1")
    with pytest.raises(ServeError, match="does not load"):
        list(played.ask("1", 80))
    played.answer("2", 81)
    played.answer("3", 82)
    assert [line for line in played.log() if line.startswith("load ")] == ["load 1", "load 2", "load zeros", "load 3"]


def test_an_adapter_that_was_taken_out_still_has_its_slot(played: Played) -> None:
    for name in "12":
        played.answer(name, 83)
        assert played.engine.remove_adapter(name, wait_s=10)
    played.answer("3", 84)
    assert [line for line in played.log() if "load " in line] == [
        "load 1", "unload 1", "load 2", "unload 2", "load zeros", "load 3",
    ]  # fmt: skip


def test_a_load_goes_on_when_who_asked_is_gone(played: Played) -> None:
    held = played.hold("hold-load")
    gone = played.ask("1", 90)
    until(lambda: "load 1" in played.log())
    gone.cancel()
    until(lambda: gone.end is End.CANCELLED and not played.engine.load.running)
    again, other = played.ask("1", 91), played.ask("2", 92)
    time.sleep(0.1)
    assert "load 2" not in played.log(), "one at a time, or zeros would not get the last slot"
    held.unlink()
    assert list(again) == list(other) == [7, 8]
    assert [line for line in played.log() if line.startswith("load ")] == ["load 1", "load 2"]


def test_closing_does_not_wait_for_a_load_that_nobody_wants(played: Played) -> None:
    played.hold("hold-load")
    gone = played.ask("1", 93)
    until(lambda: "load 1" in played.log())
    gone.cancel()
    began = time.monotonic()
    played.engine.close(drain=False)
    assert time.monotonic() - began < 8


def test_a_process_that_is_started_again_has_empty_slots(played: Played) -> None:
    for name in "123":
        played.answer(name, 95)
    held = played.hold("hold-96")
    stream = played.ask(None, 96)
    until(lambda: "ask zeros 96" in played.log())
    before = played.log()
    os.killpg(played.engine._process._process.pid, signal.SIGKILL)
    with pytest.raises(ServeError, match="vLLM"):
        list(stream)
    held.unlink()
    until(lambda: played.engine._process.starts == 2 and played.engine.load.accepting)
    for adapter, tag in ((None, 97), ("3", 98), ("2", 99), ("1", 100), (None, 101)):
        played.answer(adapter, tag)
    assert [line for line in played.since(before) if line.startswith(("slots", "load ", "ask"))] == [
        "slots 3", "ask base 97", "load 3", "ask 3 98", "load 2", "ask 2 99", "load zeros", "load 1", "ask 1 100",
        "ask zeros 101",
    ]  # fmt: skip


def test_what_waits_when_the_process_ends_is_told_so(played: Played) -> None:
    played.hold("hold-102")
    first = played.ask(None, 102)
    played.answer("1", 103)
    played.answer("2", 104)
    waiting = played.ask("3", 105)
    until(lambda: "loaded zeros" in played.log())
    os.killpg(played.engine._process._process.pid, signal.SIGKILL)
    for stream in (first, waiting):
        with pytest.raises(ServeError, match="vLLM"):
            list(stream)


def test_on_a_card_nothing_changes(on_a_card: Played) -> None:
    for name in "1234":
        on_a_card.answer(name, 110)
        on_a_card.answer(None, 111)
    log = on_a_card.log()
    assert log[0] == f"slots {SLOTS}"
    assert log.count("ask base 111") == 4
    assert "load zeros" not in log


def test_the_adapter_of_zeros_is_one_of_the_base_and_changes_nothing(varied_base: Path, tmp_path: Path) -> None:
    layers = adaptable_layers(load_base(varied_base))
    folder = write_zeros(tmp_path / "zeros", layers)
    method, _ = read_adapter(folder, {name: size for name, size in layers.items() if name == next(iter(layers))})
    assert method.rank == 1
    assert not any(bool(tensor.any()) for tensor in load_file(folder / WEIGHTS).values())


def test_what_vllm_computes_on_is_what_it_says(tmp_path: Path) -> None:
    assert device_of(Path(sys.executable), packages(tmp_path, "xpu")) == "xpu"
    (tmp_path / "packages" / "vllm" / "platforms.py").write_text("raise RuntimeError('too old a driver')")
    with pytest.raises(ServeError, match=r"cannot be imported by(.|\n)*too old a driver"):
        device_of(Path(sys.executable), {"PYTHONPATH": str(tmp_path / "packages")})
    (tmp_path / "packages" / "vllm" / "platforms.py").write_text("import time; time.sleep(60)")
    with pytest.raises(ServeError, match=r"did not import vLLM within 0.5 s"):
        device_of(Path(sys.executable), {"PYTHONPATH": str(tmp_path / "packages")}, limit_s=0.5)
    with pytest.raises(ServeError, match="cannot be started"):
        device_of(tmp_path / "python", {})
