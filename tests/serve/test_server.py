"""The serving process: its port, and an orderly end on a signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest

from burnish.core.errors import ResourceError
from burnish.core.listen import listen

PROGRAM = """
    import sys
    from pathlib import Path
    from burnish.model.load import load_base
    from burnish.serve.answer import ServedModel
    from burnish.serve.api import Service
    from burnish.serve.engine import Engine
    from burnish.serve.server import run_server
    from burnish.text.tokenizer import load_tokenizer

    folder = Path(sys.argv[1])
    service = Service(Engine(load_base(folder)), load_tokenizer(folder), {"base": ServedModel(None, None)})
    run_server(service, "127.0.0.1", 0, emit=lambda event: print(event.text, flush=True))
    print("closed", service.engine.load.accepting, flush=True)
"""


def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ResourceError, match=f"port {port}: .* choose another one with --port"):
            listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(ResourceError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)
    with pytest.raises(ResourceError, match="Choose another address with --host"):
        listen("no such host", 0)


def test_a_server_without_requests_gives_its_port_back() -> None:
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_answer_end_and_closes_the_engine(varied_base: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(varied_base)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[2]
        body = {"model": "base", "messages": [{"role": "user", "content": "x"}], "max_tokens": 300, "stream": True}
        with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(number)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]
        assert process.wait(timeout=20) == 0
        assert process.stdout.read().splitlines() == ["closed False"]
    finally:
        process.kill()
        process.stdout.close()
