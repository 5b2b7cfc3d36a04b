"""A process is started, watched, started again, and given up with its last words: with a server that does what it is told."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.core.errors import ServeError
from burnish.core.events import discard
from burnish.serve.vllm import process
from burnish.serve.vllm.process import VllmProcess

SERVER = """
    import http.server, json, os, sys, time
    from pathlib import Path

    port, mode = int(sys.argv[sys.argv.index("--port") + 1]), sys.argv[sys.argv.index("--model") + 1]
    if mode == "broken":
        sys.exit("no such model")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if Path("hang").exists():
                time.sleep(60)
            body = json.dumps({"arguments": sys.argv[1:], "environment": dict(os.environ)}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *values):
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., VllmProcess]:
    """Start a server that stands where vLLM's does; its folder is tmp_path."""
    place = tmp_path / "packages" / "vllm" / "entrypoints" / "openai"
    place.mkdir(parents=True)
    (place / "api_server.py").write_text(textwrap.dedent(SERVER), encoding="utf-8")
    monkeypatch.setattr(process, "CHECK_S", 0.2)
    monkeypatch.setenv("BURNISH_SECRET_OF_SOMEBODY", "x")

    def begin(mode: str, lost: list[int]) -> VllmProcess:
        return VllmProcess(
            Path(sys.executable), ["--model", mode], tmp_path, environment={"PYTHONPATH": str(tmp_path / "packages")},
            lost=lambda: lost.append(1), emit=discard, start_s=20,
        )  # fmt: skip

    return begin


def until(happened: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def health(running: VllmProcess) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
    connection.request("GET", "/health")
    return connection.getresponse().read().decode()


def test_a_process_that_is_killed_or_hangs_is_started_again(start: Callable[..., VllmProcess], tmp_path: Path) -> None:
    lost: list[int] = []
    running = start("good", lost)
    try:
        running.wait_up()
        os.killpg(running._process.pid, signal.SIGKILL)
        until(lambda: running.starts == 2)
        assert lost == [1]
        assert running.up
        first = running._process.pid
        (tmp_path / "hang").touch()
        until(lambda: len(lost) == 2)
        assert not running.up
        (tmp_path / "hang").unlink()
        until(lambda: running.starts == 3)
        assert running._process.pid != first
        health(running)
    finally:
        running.stop()
    assert running._process.poll() is not None


def test_a_process_that_is_killed_takes_its_server_with_it(start: Callable[..., VllmProcess], tmp_path: Path) -> None:
    running = start("good", [])  # writes the packages
    running.wait_up()
    running.stop()
    program = """
        import sys, time
        from pathlib import Path
        from burnish.core.events import discard
        from burnish.serve.vllm.process import VllmProcess

        folder = Path(sys.argv[1])
        running = VllmProcess(
            Path(sys.executable), ["--model", "good"], folder, environment={"PYTHONPATH": str(folder / "packages")},
            lost=lambda: None, emit=discard, start_s=20,
        )
        running.wait_up()
        print(running.port, flush=True)
        time.sleep(60)
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    running.port = int(holder.stdout.readline())
    assert running._healthy()
    holder.kill()
    holder.wait()
    until(lambda: not running._healthy(), 10)


def test_the_key_is_no_argument_and_no_other_secret_is_handed_on(start: Callable[..., VllmProcess]) -> None:
    running = start("good", [])
    try:
        running.wait_up()
        told = health(running)
        arguments = told[: told.index('"environment"')]
        assert "127.0.0.1" in arguments
        assert running.key not in arguments
        assert f'"VLLM_API_KEY": "{running.key}"' in told
        assert "BURNISH_SECRET_OF_SOMEBODY" not in told
    finally:
        running.stop()


def test_what_never_comes_up_is_given_up_with_its_last_words(
    start: Callable[..., VllmProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MOST_STARTS", 2)
    running = start("broken", [])
    with pytest.raises(ServeError, match=r"did not come up 2 times(.|\n)*no such model"):
        running.wait_up()
    running.stop()
