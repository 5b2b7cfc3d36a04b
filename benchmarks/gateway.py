"""What the gateway costs: latency added and requests a core, beside a bare pass-through and LiteLLM's proxy, in one run.

    python benchmarks/gateway.py --litellm litellm-venv/bin/litellm

The upstream answers after a fixed 20 ms. Arms take turns in random order, round after round; every arm is one process.
Latency: 100 requests/s, open loop (the next request does not wait for the last one's answer); on a machine that others
use too the quietest round of each arm is what counts, and the medians stand beside it. Requests a core: answers by a
second of the arm's processor time, 64 connections, closed loop. LiteLLM runs with one worker, one key, no database, and
is asked for latency 20 times a second, because it cannot answer 100.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from burnish.core.listen import listen
from burnish.gateway.database import open_database
from burnish.gateway.inner import inner_scope
from burnish.gateway.key_store import KeyStore
from burnish.gateway.keys import Key, new_key, server_secret
from burnish.gateway.limits import Limits
from burnish.gateway.upstream import HttpUpstream

RESULT = Path(__file__).parent / "results" / "gateway.json"
UPSTREAM_S = 0.02
BODY = {
    "model": "ok",
    "messages": [{"role": "user", "content": "Find me flights from New York to London"}],
    "max_tokens": 16,
}
LIMITS = Limits(requests_per_minute=10**8, tokens_per_minute=10**12, concurrency=10**6, tokens_per_day=10**14)
ANSWER = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "ok",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Here you are."}}],
    "usage": {"prompt_tokens": 17, "completion_tokens": 5, "total_tokens": 22},
}).encode()  # fmt: skip
MODELS = json.dumps({"object": "list", "data": [{"id": "ok", "object": "model"}]}).encode()


# ------------------------------------------------------------------------------------------- programs of this benchmark


async def fixed_upstream(scope: Any, receive: Any, send: Any) -> None:
    """Answer after 20 ms."""
    while (await receive()).get("more_body"):
        continue
    if scope["method"] == "POST":
        await asyncio.sleep(UPSTREAM_S)
    body = ANSWER if scope["method"] == "POST" else MODELS
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class PassThrough:
    """A bare ASGI pass-through with aiohttp, which the gateway itself used once: no keys, no limits, nothing read."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.session = self.session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=512))
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        url, json_kind = self.url + scope["path"], {"content-type": "application/json"}
        async with self.session.request(scope["method"], url, data=body or None, headers=json_kind) as got:
            answer = await got.read()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": got.status, "headers": headers})
            await send({"type": "http.response.body", "body": answer})


def program(name: str, url: str) -> None:
    """Run one of the two above and print its URL."""
    import uvicorn

    listener = listen("127.0.0.1", 0)
    app: Any = fixed_upstream if name == "upstream" else PassThrough(url)
    config = uvicorn.Config(
        app, interface="asgi3", http="httptools", lifespan="off", log_config=None, access_log=False, proxy_headers=False
    )
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listener])


# ------------------------------------------------------------------------------------------------------------- arms


class Arm:
    """A process under test: its URL and the keys it knows."""

    def __init__(
        self, name: str, command: Sequence[str], keys: Sequence[str], env: dict[str, str] | None = None
    ) -> None:
        self.name, self.keys = name, keys
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **(env or {})}
        )
        self.url = ""
        self.failed = 0
        self.watched = psutil.Process(self.process.pid)

    def first_line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, f"{self.name} said nothing"
        return line

    def cpu_s(self) -> float:
        """Processor seconds of the process and its children."""
        family = [self.watched, *self.watched.children(recursive=True)]
        return sum(sum(each.cpu_times()[:2]) for each in family)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def burnish_arm(name: str, count: int, upstream: str, folder: Path) -> Arm:
    """A gateway with so many keys, every one with limits."""
    home = folder / name
    secret = server_secret(home / "gateway")
    database = open_database(None, home / "gateway")
    store = KeyStore(database, secret)
    texts: list[str] = []
    with database.transaction() as cursor:
        for number in range(count):
            identifier, text = new_key()
            store._insert(
                cursor, Key(identifier, identifier, f"key {number}", "user", None, LIMITS, cursor.now_us()), text
            )
            texts.append(text)
    database.close()
    command = [
        sys.executable,
        "-m",
        "burnish",
        "serve",
        "--upstream",
        upstream,
        "--port",
        "0",
        "--json",
        "--home",
        str(home),
    ]
    arm = Arm(name, command, texts)
    assert arm.first_line() == "{"
    arm.url = json.loads("{" + arm.first_line().rstrip(",") + "}")["url"]
    return arm


def plain_arm(name: str, kind: str, url: str) -> Arm:
    arm = Arm(name, [sys.executable, __file__, "--program", kind, "--url", url], ["none"])
    arm.url = arm.first_line()
    return arm


def litellm_arm(binary: str, upstream: str, folder: Path) -> Arm:
    """LiteLLM's proxy with one worker and one key."""
    key = f"sk-{secrets.token_hex(16)}"
    model = {"model": "openai/ok", "api_base": f"{upstream}/v1", "api_key": "x"}
    settings = {
        "model_list": [{"model_name": "ok", "litellm_params": model}],
        "general_settings": {"master_key": key},
        "litellm_settings": {"telemetry": False, "num_retries": 0},
    }
    path = folder / "litellm.json"
    path.write_text(json.dumps(settings))  # JSON is YAML
    with listen("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    flags = f"--host 127.0.0.1 --port {port} --num_workers 1 --telemetry False"
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PYTHONPATH": ""}
    arm = Arm("litellm", [binary, "--config", str(path), *flags.split()], [key], quiet)
    arm.url = f"http://127.0.0.1:{port}"
    return arm


# ---------------------------------------------------------------------------------------------------------- measuring


async def one(session: aiohttp.ClientSession, arm: Arm) -> float:
    """Ask once with one of the keys; returns the seconds it took."""
    began = time.perf_counter()
    own = {"authorization": f"Bearer {random.choice(arm.keys)}"}
    async with session.post(f"{arm.url}/v1/chat/completions", json=BODY, headers=own) as response:
        body = await response.read()
        assert response.status == 200, (arm.name, response.status, body[:300])
    return time.perf_counter() - began


async def latency(arm: Arm, rate: float, seconds: float) -> list[float]:
    """Open loop: requests begin at fixed times, whatever became of those before."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for _ in range(10):
            await one(session, arm)
        start = time.perf_counter() + 0.1
        tasks: list[asyncio.Task[float]] = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(start + number / rate - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(one(session, arm)))
        took = await asyncio.gather(*tasks, return_exceptions=True)
        arm.failed += sum(isinstance(each, BaseException) for each in took)
        return [each for each in took if isinstance(each, float)]


async def throughput(arm: Arm, connections: int, seconds: float) -> dict[str, float]:
    """Closed loop: answers by wall second and by processor second of the arm."""
    done = 0
    ends = time.perf_counter() + seconds

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while time.perf_counter() < ends:
            try:
                await one(session, arm)
            except AssertionError:
                arm.failed += 1
            else:
                done += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await one(session, arm)
        before, began = arm.cpu_s(), time.perf_counter()
        await asyncio.gather(*(worker(session) for _ in range(connections)))
        wall, cpu = time.perf_counter() - began, arm.cpu_s() - before
    return {"per_second": done / wall, "per_cpu_second": done / cpu}


async def until_ready(arm: Arm, seconds: float = 120) -> None:
    """Wait until an arm answers."""
    async with aiohttp.ClientSession() as session:
        until = time.monotonic() + seconds
        while True:
            try:
                await one(session, arm)
                return
            except (aiohttp.ClientError, AssertionError):
                assert time.monotonic() < until, f"{arm.name} never answered"
                assert arm.process.poll() is None, f"{arm.name} ended"
                await asyncio.sleep(0.3)


async def client_cost(url: str, requests: int = 3000, rounds: int = 3) -> dict[str, float]:
    """Processor milliseconds a request of pooled clients, in turns: what chose the gateway's client. Median of rounds."""
    import httpx

    async def spend(ask: Any) -> float:
        async def worker() -> None:
            for _ in range(requests // 64):
                await ask()

        began = time.process_time()
        await asyncio.gather(*(worker() for _ in range(64)))
        return (time.process_time() - began) / (requests // 64 * 64) * 1000

    body, headers = json.dumps(BODY).encode(), {"content-type": "application/json"}
    found: dict[str, list[float]] = {"httpx": [], "aiohttp": [], "own": []}
    scope, own = inner_scope("POST", "/v1/chat/completions", []), HttpUpstream(url)
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=512)
    async with (
        httpx.AsyncClient(limits=limits, timeout=30) as plain,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=512)) as session,
    ):

        async def with_httpx() -> None:
            (await plain.post(f"{url}/v1/chat/completions", content=body, headers=headers)).raise_for_status()

        async def with_aiohttp() -> None:
            async with session.post(f"{url}/v1/chat/completions", data=body, headers=headers) as response:
                await response.read()

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def heard(message: Any) -> None:
            assert message.get("status", 200) == 200

        for _ in range(rounds):
            found["own"].append(await spend(lambda: own(scope, receive, heard)))
            found["httpx"].append(await spend(with_httpx))
            found["aiohttp"].append(await spend(with_aiohttp))
    await own.close()
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


async def measure(arms: Sequence[Arm], rounds: int, seconds: float) -> dict[str, Any]:
    """Rounds in which every arm is measured once; medians over the rounds."""
    found: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    for number in range(rounds):
        for arm in random.sample(list(arms), len(arms)):
            took = await latency(arm, 20 if arm.name == "litellm" else 100, seconds)
            load = {} if arm.name == "direct" else await throughput(arm, 64, min(seconds, 2))
            row = {"p50_ms": quantile(took, 0.5) * 1000, "p99_ms": quantile(took, 0.99) * 1000, **load}
            found[arm.name].append(row)
            sys.stderr.write(
                f"round {number + 1} {arm.name}: " + ", ".join(f"{k} {v:.2f}" for k, v in row.items()) + "\n"
            )
    return {
        name: {
            **{key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]},
            "quietest_p50_ms": round(min(row["p50_ms"] for row in rows), 3),
            "quietest_p99_ms": round(min(row["p99_ms"] for row in rows), 3),
        }
        for name, rows in found.items()
    }


def versions(litellm: str | None) -> dict[str, str]:
    found = {"python": platform.python_version(), "aiohttp": aiohttp.__version__}
    if litellm is not None:
        ask = [
            str(Path(litellm).with_name("python")),
            "-c",
            "import importlib.metadata as m; print(m.version('litellm'))",
        ]
        found["litellm"] = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program")
    parser.add_argument("--url", default="")
    parser.add_argument("--litellm", help="LiteLLM's program, in a virtual environment of its own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--keys", type=int, nargs="*", default=[100, 100_000])
    options = parser.parse_args()
    if options.program:
        program(options.program, options.url)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream = plain_arm("direct", "upstream", "")
        arms = [upstream, plain_arm("pass-through", "pass", upstream.url)]
        arms += [burnish_arm(f"burnish, {count} keys", count, upstream.url, folder) for count in options.keys]
        if options.litellm:
            arms.append(litellm_arm(options.litellm, upstream.url, folder))
        try:
            for arm in arms:
                asyncio.run(until_ready(arm))
            clients = asyncio.run(client_cost(upstream.url))
            medians = asyncio.run(measure(arms, options.rounds, options.seconds))
            for arm in arms:
                medians[arm.name]["failed"] = arm.failed
        finally:
            for arm in arms:
                arm.close()
    record = {
        "date": datetime.now(UTC).date().isoformat(), "cores": os.cpu_count(), "rounds": options.rounds,
        "load_average": os.getloadavg()[0], "versions": versions(options.litellm), "medians": medians, "bars": bars(medians),
        "client_cpu_ms_a_request": clients,
    }  # fmt: skip
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(record, indent=2) + "\n")
    return 0


def bars(medians: dict[str, Any]) -> dict[str, Any]:
    """The numbers that were asked for."""
    found: dict[str, Any] = {}
    for name, row in medians.items():
        if not name.startswith("burnish"):
            continue
        found[name] = {
            "p50_added_ms": round(row["quietest_p50_ms"] - medians["direct"]["quietest_p50_ms"], 3),
            "p99_over_pass_through": round(row["quietest_p99_ms"] / medians["pass-through"]["quietest_p99_ms"], 3),
            "per_cpu_second": row["per_cpu_second"],
        }
        if "litellm" in medians:
            found[name]["times_litellm"] = round(row["per_cpu_second"] / medians["litellm"]["per_cpu_second"], 2)
    return found


if __name__ == "__main__":
    sys.exit(main())
