"""The engine's API within a gateway: what the gateway cancels or times out leaves nothing in the engine."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))

from gateway_running import Running
from slow_reading import Reading, wait_for

from burnish.gateway.settings import Settings, Timeouts
from burnish.serve.answer import ServedModel
from burnish.serve.api import Service, create_app
from burnish.serve.engine import Engine
from burnish.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("how", ["hangs up", "is too late"])
@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("chat/completions", {"messages": [USER], "max_tokens": 400, "n": 2}),
        ("completions", {"prompt": [[20, 21], [22, 23]], "max_tokens": 400}),
    ],
)
def test_a_call_that_ends_while_its_adapter_is_read_never_runs(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], tokenizer: Tokenizer, reading: Reading,
    tmp_path: Path, path: str, more: dict[str, Any], how: str,
) -> None:  # fmt: skip
    engine = Engine(varied_model, rows=4)
    engine.add_adapter("x", adapter_folders["a"], lazy=True)
    app = create_app(Service(engine, tokenizer, {"x": ServedModel("x", None)}))
    timeouts = Timeouts(total_s=1) if how == "is too late" else Timeouts()
    running = Running("http://127.0.0.1:1", tmp_path, Settings(timeouts=timeouts), upstream=app)
    steps: list[int] = []
    hook = varied_model.get_input_embeddings().register_forward_pre_hook(lambda *_: steps.append(1))
    try:
        key = running.key()
        body = json.dumps({"model": "x", **more}).encode()
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            head = f"POST /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
            connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert reading.begun.wait(10)
            if how == "is too late":
                assert connection.recv(1000).startswith(b"HTTP/1.1 503")
        wait_for(lambda: not running.gateway.at_work)
        reading.go_on.set()
        wait_for(lambda: not engine.load.waiting)
        wait_for(lambda: engine._adapters._known["x"].pending == engine._adapters._known["x"].running == 0)
        assert len(steps) <= 8, "it was computed for nobody"
    finally:
        hook.remove()
        running.close()
        engine.close()


ASKED: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [USER], "max_tokens": 2},
    "completions": {"prompt": [20, 21], "max_tokens": 2},
    "embeddings": {"input": [[20, 21]]},
}


def test_what_an_engine_in_the_process_refuses_tells_no_names_and_no_paths(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    broken = tmp_path / "secret-folder"
    shutil.copytree(adapter_folders["a"], broken)
    (broken / "adapter_config.json").write_text("{")
    models = {"x": ServedModel("x", None), "secret-model": ServedModel(None, None)}
    with Engine(varied_model, rows=4) as engine:
        engine.add_adapter("x", broken, lazy=True)
        running = Running("http://127.0.0.1:1", tmp_path, upstream=create_app(Service(engine, tokenizer, models)))
        try:
            own = {"authorization": f"Bearer {running.key(models=['x*'])}"}
            streamed = [(path, {**body, "stream": True}) for path, body in ASKED.items() if path != "embeddings"]
            for path, body in (*ASKED.items(), *streamed):
                gone = running.client.post(f"/v1/{path}", json={"model": "x-typo", **body}, headers=own)
                assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
                damaged = running.client.post(f"/v1/{path}", json={"model": "x", **body}, headers=own)
                assert (damaged.status_code, damaged.json()["error"]["code"]) == (503, "adapter_unusable")
                assert damaged.headers["retry-after"] == "60"
                assert "secret" not in gone.text + damaged.text
            assert "secret-folder" in caplog.text, "the log says what to mend"
        finally:
            running.close()
