"""A teacher on a real socket that speaks OpenAI's protocol: its answers follow from the prompt, its faults from a script."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Say = Callable[[dict[str, Any]], str]
"""From the body of a request to the text of the answer."""
NOUNS = ["lamp", "kettle", "bicycle", "violin", "garden", "parcel", "invoice", "window", "ladder", "mirror", "bridge"]
VERBS = ["repair", "order", "return", "paint", "clean", "carry", "borrow", "replace", "measure", "polish", "deliver"]


def draw(text: str, of: list[str]) -> str:
    """A word that follows from a text."""
    return of[int(hashlib.sha256(text.encode()).hexdigest(), 16) % len(of)]


def sensible(body: dict[str, Any]) -> str:
    """Answer each kind of prompt as a good teacher does."""
    prompt, seed = body["messages"][-1]["content"], body.get("seed", 0)
    key = f"{prompt}{seed}"
    if "Write 3 new examples" in prompt:
        pairs = []
        for n in range(3):
            verb, noun, other = draw(f"{key}v{n}", VERBS), draw(f"{key}n{n}", NOUNS), draw(f"{key}o{n}", NOUNS)
            number = int(hashlib.sha256(f"{key}{n}".encode()).hexdigest(), 16) % 10_000
            pairs.append(
                {"request": f"{verb} {noun} {number} near {other}?", "answer": f"We {verb} the {noun} number {number}."}
            )
        return "Here they are:\n```json\n" + json.dumps({"examples": pairs}) + "\n```"
    if "<passage>" in prompt and "Write 3 different questions" in prompt:
        passage = prompt.partition("<passage>\n")[2].partition("\n</passage>")[0]
        sentences = [s for s in re.split(r"(?<=\.)\s+", passage) if len(s) > 20][:3]
        asked = [
            {"question": f"What is said of {' '.join(s.split()[:4])} ({draw(s, NOUNS)})?", "answer": s, "quote": s}
            for s in sentences
        ]
        return json.dumps({"questions": asked})
    if prompt.startswith("Rewrite the request below"):
        request = prompt.partition("Request: ")[2]
        how = prompt.partition("below ")[2].partition(".")[0]
        return f'"Kindly ({draw(how, NOUNS)}): {" ".join(reversed(request.split()))}"'
    if prompt.startswith("Translate the text below"):
        return "Bitte " + prompt.partition("Text: ")[2]
    if prompt.startswith("Translate the request and the answer"):
        pair = json.loads(prompt.split("\n\n")[1])
        return json.dumps({"request": f"DE {pair['request']}", "answer": f"DE {pair['answer']}"})
    if "You grade examples" in prompt:
        return json.dumps({"why": "looks right", "grade": 5 if "poor" not in prompt else 2})
    if "You compare two answers" in prompt:
        a = prompt.partition("<a>\n")[2].partition("\n</a>")[0]
        b = prompt.partition("<b>\n")[2].partition("\n</b>")[0]
        return json.dumps({"why": "the longer one", "better": "A" if (len(a), a) > (len(b), b) else "B"})
    return f"An answer of {draw(key, NOUNS)} and {draw(key + 'x', VERBS)} {'very ' * (seed % 3)}good."


@dataclass
class Teacher:
    """The server: what it says, the faults it makes first, and what it was asked."""

    say: Say = sensible
    faults: list[str] = field(default_factory=list)
    always: str | None = None
    retry_after: str | None = None
    slow_s: float = 0.0
    usage: Callable[[dict[str, Any], str], dict[str, int] | None] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    billed: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self) -> str | None:
        """The fault of the next request."""
        with self.lock:
            return self.faults.pop(0) if self.faults else self.always


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    teacher: Teacher

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        teacher = self.teacher
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with teacher.lock:
            teacher.at_once += 1
            teacher.most_at_once = max(teacher.most_at_once, teacher.at_once)
            teacher.bodies.append(body)
            teacher.headers.append(dict(self.headers))
            teacher.paths.append(self.path)
            teacher.times.append(time.monotonic())
        try:
            time.sleep(teacher.slow_s)
            self.respond(body, teacher.fault())
        finally:
            with teacher.lock:
                teacher.at_once -= 1

    def respond(self, body: dict[str, Any], fault: str | None) -> None:
        if fault is not None and fault.isdigit():
            retry = self.teacher.retry_after
            said = {"error": {"message": f"fault {fault} for {self.headers.get('Authorization')}"}}
            self.send(int(fault), json.dumps(said), {} if retry is None else {"Retry-After": retry})
        elif fault == "broken json":
            self.send(200, '{"choices": [{"message": {"content": "cut')
        elif fault == "no choices":
            self.send(200, json.dumps({"choices": []}))
        elif fault == "bad gzip":
            self.send(200, "this is no gzip", {"Content-Encoding": "gzip"})
        elif fault == "drip":
            self.drip()
        else:
            self.send(200, json.dumps(self.answer(body, fault)), cut=fault == "cut stream")

    def answer(self, body: dict[str, Any], fault: str | None) -> dict[str, Any]:
        teacher = self.teacher
        most = body.get("max_tokens", body.get("max_completion_tokens", 100))
        text, finish = teacher.say(body), "stop"
        if fault == "endless loop":
            text, finish = "and so on and on " * most, "length"
        if fault == "loop":
            text = "and so on and on " * 40
        if fault == "over-long":
            text = "x" * (40 * most + (1 << 17))
        if fault == "not the form":
            text = "I would rather talk about the weather."
        usage = {
            "prompt_tokens": sum(len(m["content"].split()) for m in body["messages"]),
            "completion_tokens": len(text.split()),
        }
        if finish == "length":
            usage["completion_tokens"] = most
        if teacher.usage is not None:
            usage = teacher.usage(body, text)
        with teacher.lock:
            teacher.billed += sum((usage or {}).values())
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        return {"id": "x", "object": "chat.completion", "choices": [choice], **({"usage": usage} if usage else {})}

    def send(self, status: int, content: str, more: dict[str, str] | None = None, *, cut: bool = False) -> None:
        data = content.encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(more or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True

    def drip(self) -> None:
        """Send a byte at a time, for ever."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        try:
            for _ in range(600):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            self.close_connection = True


class Quiet(ThreadingHTTPServer):
    """A client that hangs up is no news."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@contextmanager
def teaching(**settings: Any) -> Iterator[Teacher]:
    """Run a teacher on a free port."""
    teacher = Teacher(**settings)
    server = Quiet(("127.0.0.1", 0), type("Own", (Handler,), {"teacher": teacher}))
    teacher.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield teacher
    finally:
        server.shutdown()
        server.server_close()
