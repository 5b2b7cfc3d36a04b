"""Open WebUI against a burnish server: its own backend starts, a person signs up, sees the models, and chats.

pip install open-webui (in an environment of its own), then:
python open_webui_client.py PATH/TO/open-webui http://127.0.0.1:8731/v1 base KEY
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

PORT = 8899
PATIENCE_S = 300


def ask(path: str, body: Any = None, token: str | None = None) -> Any:
    """Ask Open WebUI's own API; a stream comes back as the list of its events."""
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        if not response.headers["content-type"].startswith("text/event-stream"):
            return json.load(response)
        lines = [line.decode().strip() for line in response]
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]


def wait(process: subprocess.Popen[bytes]) -> None:
    """Wait until it answers."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            ask("/health")
            return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                raise SystemExit("Open WebUI ended") from None
            time.sleep(1)
    raise SystemExit("Open WebUI does not answer")


def main() -> None:
    """Start it, and chat through it."""
    program, url, model, key = sys.argv[1:5]
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "OPENAI_API_BASE_URL": url, "OPENAI_API_KEY": key, "ENABLE_OLLAMA_API": "False", "OFFLINE_MODE": "True",
            "HF_HUB_OFFLINE": "1", "DATA_DIR": folder, "WEBUI_SECRET_KEY": "only for this run",
            "RAG_EMBEDDING_ENGINE": "openai", "RAG_OPENAI_API_BASE_URL": url, "RAG_OPENAI_API_KEY": key,
            "RAG_EMBEDDING_MODEL": model,
        }  # fmt: skip
        process = subprocess.Popen(
            [program, "serve", "--host", "127.0.0.1", "--port", str(PORT)], env={**os.environ, **settings}, cwd=folder
        )
        try:
            wait(process)
            person = {"name": "Ann", "email": "ann@example.com", "password": "a long enough password"}
            token = ask("/api/v1/auths/signup", person)["token"]
            print("models:", [card["id"] for card in ask("/api/models", token=token)["data"]])
            asked = {"model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
            whole = ask("/api/chat/completions", {**asked, "stream": False}, token)
            print("answer:", whole["choices"][0]["message"]["content"])
            events = ask("/api/chat/completions", {**asked, "stream": True}, token)
            pieces = [choice["delta"].get("content") or "" for event in events for choice in event.get("choices", [])]
            print("stream:", "|".join(piece for piece in pieces if piece))
            vectors = ask("/api/embeddings", {"model": model, "input": ["a flight to Rome"]}, token)
            print("embeddings:", len(vectors["data"][0]["embedding"]))
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    main()
