"""The gateway under everything at once, for as long as you like: is an answer ever wrong, lost without a word, or never given back?

    python benchmarks/soak.py --minutes 30                  a tiny base: many requests, much churn
    python benchmarks/soak.py --minutes 30 --base smollm2-135m-instruct --adapters 6

Two gateways run: one with the engine in its own process (`burnish serve`), and one in front of another process's engine
(`--upstream`), which is killed again and again (SIGKILL, `--kills` times) and started anew. 32 clients ask both for greedy
answers of many adapters, more than there are slots, whole and streamed; hang up at random moments; read slowly; ask for
what does not exist. Releases are made while they serve. Every complete answer is held against transformers + PEFT, token
count and text. A failure is proper when it is an error object with 429 or 503 and Retry-After, or a stream whose last event
is an error; anything else, and any request that takes longer than every time-out together, is counted as a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from burnish.core.artifacts import Adapter, FileRef, GateVerdict, MethodPlan, Plan, Release
from burnish.core.events import discard
from burnish.core.ids import Id
from burnish.core.listen import listen
from burnish.core.recipe_file import load_recipe
from burnish.gateway.database import open_database
from burnish.gateway.key_store import KeyStore
from burnish.gateway.keys import server_secret
from burnish.gateway.limits import Limits
from burnish.model.load import load_base
from burnish.model.lora import CONFIG, WEIGHTS, attach_lora, lora_parameters, save_adapter
from burnish.pipeline import run
from burnish.store.files import file_ref
from burnish.store.home import Home
from burnish.text.messages import Message
from burnish.text.render import render_prompt
from burnish.text.system import with_system
from burnish.wiring import Base, open_base

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "soak.json"
REAL = "smollm2-135m-instruct"
QUESTIONS = (
    "Find me flights from New York to London", "My parcel has not arrived. Where is it?", "Hello", "Say it again, please",
    "What is the capital of France?", "Write a line about the sea and nothing else",
)  # fmt: skip
SYSTEM = "You answer in one line."
TIE = 1e-3
"""An answer whose two best logits ever come this close is not asked for: the order of sums may decide it."""
TIMEOUTS = {"connect_s": 2, "first_token_s": 30, "total_s": 60}
HANGS_S = 75.0
MOST_GROWTH = 0.05
"""Of resident memory from the second to the last sixth of half an hour or more; before that caches fill."""
LIMITS = Limits(requests_per_minute=10**7, tokens_per_minute=10**10, concurrency=10**5, tokens_per_day=10**12)


# ------------------------------------------------------------------------------------------------- models and answers


def write_tiny_base(folder: Path) -> Path:
    """A Llama of four million random parameters, whose answers differ from prompt to prompt, with SmolLM2's tokenizer."""
    torch.manual_seed(0)
    real = open_base(REAL, discard).files.folder
    tokenizer = transformers.AutoTokenizer.from_pretrained(real)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
        model.lm_head.weight[:17] = 0  # no control token is ever the best
        model.lm_head.weight[4000:] = 0  # ... and no rare one
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Expected:
    """A conversation and the answer that transformers + PEFT give to it."""

    model: str
    messages: list[dict[str, str]]
    text: str
    tokens: int
    max_tokens: int


@dataclass
class World:
    """The home that is served: one base and many releases of random adapters, and what each of them must answer."""

    home: Home
    base: Base
    plan: Plan
    manifest: Id
    tokens: int
    made: int = 0
    expected: list[Expected] = field(default_factory=list)

    def add(self, count: int) -> None:
        """Make releases and work out their answers."""
        names = [f"specialist-{self.made + number}" for number in range(count)]
        folders = [self._adapter(self.made + number) for number in range(count)]
        self.made += count
        for name, folder in zip(names, folders, strict=True):
            self._release(name, folder)
        self.expected += self._answers(dict(zip(names, folders, strict=True)))

    def _adapter(self, seed: int) -> Path:
        model = load_base(self.base.files.folder)
        rank = (4, 8, 16)[seed % 3]
        method = _method(rank)
        attach_lora(model, method, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in lora_parameters(model).items():
                parameter.normal_(0, 0.05 if name.endswith("lora_B") else 0.1, generator=draw)
        folder = self.home.root / "runs" / f"soak-{seed}"
        save_adapter(model, folder, method, self.base.files.ref.name)
        return folder

    def _release(self, name: str, folder: Path) -> None:
        files: dict[str, FileRef] = {key: file_ref(folder / key, self.home.root) for key in (WEIGHTS, CONFIG)}
        config = json.loads((folder / CONFIG).read_text())
        adapter = Adapter(
            parents=(self.plan.id, self.manifest), name=name, base=self.base.files.ref, plan=self.plan.id,
            manifest=self.manifest, method=_method(config["r"]), fingerprint=self.base.tokenizer.fingerprint(SYSTEM),
            weights_file=files[WEIGHTS], config_file=files[CONFIG],
        )  # fmt: skip
        self.home.save(adapter)
        gate = GateVerdict(passed=True, thresholds={}, reasons=())
        self.home.save(Release(
            parents=(adapter.id, "3" * 64), name=name, alias="champion", adapter=adapter.id, report="3" * 64,
            plan=self.plan.id, manifest=self.manifest, base=self.base.files.ref, gate=gate, version=1,
        ))  # fmt: skip

    def _answers(self, adapters: dict[str, Path]) -> list[Expected]:
        """Greedy answers by transformers + PEFT, of the base and of each adapter, but those that a tie may decide."""
        plain = AutoModelForCausalLM.from_pretrained(self.base.files.folder, dtype=torch.float32).eval()
        found: list[Expected] = []
        if self.made == len(adapters):
            found += self._greedy(plain, "base", None)
        tuned: PeftModel | None = None
        for name, folder in adapters.items():
            if tuned is None:
                tuned = PeftModel.from_pretrained(plain, folder, adapter_name=name).eval()
            else:
                tuned.load_adapter(folder, name)
            tuned.set_adapter(name)
            found += self._greedy(tuned, name, SYSTEM)
        return found

    def _greedy(self, model: Any, name: str, system: str | None) -> list[Expected]:
        tokenizer, found = self.base.tokenizer, list[Expected]()
        for question in QUESTIONS:
            turns = with_system([Message(role="user", content=question)], system, datetime.now(UTC).date())
            ids = render_prompt(tokenizer, turns)
            with torch.inference_mode():
                done = model.generate(
                    input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                    max_new_tokens=self.tokens, eos_token_id=sorted(tokenizer.stop_ids), pad_token_id=0,
                    return_dict_in_generate=True, output_logits=True,
                )  # fmt: skip
            best = torch.stack([logits[0].topk(2).values for logits in done.logits])
            answer: list[int] = done.sequences[0, len(ids) :].tolist()
            if (best[:, 0] - best[:, 1]).min() > TIE:
                told = answer[:-1] if answer[-1] in tokenizer.stop_ids else answer
                messages = [{"role": "user", "content": question}]
                found.append(Expected(name, messages, tokenizer.decode(told), len(answer), self.tokens))
        return found


def _method(rank: int) -> MethodPlan:
    return MethodPlan(
        kind="lora", rank=rank, alpha=2.0 * rank, dropout=0.0, targets=("all-linear",), quantisation="none",
        double_quantisation=False,
    )  # fmt: skip


def make_world(folder: Path, base_name: str, adapters: int, tokens: int) -> World:
    """Plan a recipe on the base, as a run does, and release random adapters under that plan."""
    home = Home(folder / "home")
    recipe = (ROOT / "recipes" / "flight-search.yaml").read_text()
    recipe = recipe.replace(REAL, base_name).replace("method: qlora", "method: lora")
    path = folder / "recipe.yaml"
    path.write_text(recipe)
    planned = run(load_recipe(path, []), home, discard, until="plan")
    assert planned.plan is not None
    assert planned.manifest is not None
    exact = planned.plan.train.model_copy(update={"compute_dtype": "float32"})  # a CPU with bfloat16 would serve in it
    plan = planned.plan.model_copy(update={"train": exact})
    home.save(plan)
    world = World(home, open_base(base_name, discard), plan, planned.manifest.id, tokens)
    world.add(adapters)
    return world


# ----------------------------------------------------------------------------------------------------------- servers


@dataclass
class Served:
    """A process of `burnish serve` on a port of its own."""

    name: str
    home: Path
    flags: Sequence[str]
    port: int
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "burnish",
            "serve",
            "--port",
            str(self.port),
            "--json",
            "--home",
            str(self.home),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.flags], stdout=subprocess.DEVNULL, stderr=log, env={**os.environ, **self.env}
            )

    async def ready(self, session: aiohttp.ClientSession, seconds: float = 120) -> float:
        """Wait until it is; returns the seconds it took."""
        began = time.monotonic()
        while True:
            assert self.process is not None
            assert self.process.poll() is None, f"{self.name} ended: {self.log.read_text()[-2000:]}"
            try:
                async with session.get(f"{self.url}/health/ready") as response:
                    if response.status == 200:
                        return time.monotonic() - began
            except aiohttp.ClientError:
                pass
            assert time.monotonic() - began < seconds, f"{self.name} is not ready"
            await asyncio.sleep(0.2)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> int:
        """End it in order; returns its exit status."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return -9

    def weigh(self) -> dict[str, int]:
        """Memory in bytes, open files and threads."""
        assert self.process is not None
        watched = psutil.Process(self.process.pid)
        return {"rss": watched.memory_info().rss, "files": watched.num_fds(), "threads": watched.num_threads()}


def free_port() -> int:
    with listen("127.0.0.1", 0) as probe:
        return probe.getsockname()[1]


def key_of(home: Path) -> str:
    """Make a key with every limit, so that all of them are counted."""
    secret = server_secret(home / "gateway")
    database = open_database(None, home / "gateway")
    try:
        return KeyStore(database, secret).create("soak", "user", limits=LIMITS)[1]
    finally:
        database.close()


def holds_of(home: Path) -> int:
    """Reservations that were never settled."""
    database = open_database(None, home / "gateway")
    try:
        with database.transaction() as cursor:
            cursor.execute("SELECT count(*) FROM gateway_holds")
            return int(cursor.rows()[0][0])
    finally:
        database.close()


# ----------------------------------------------------------------------------------------------------------- clients


@dataclass
class Tally:
    """What came back. faults: what must never be, with the first of each kind in words."""

    counts: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])
    words: dict[str, str] = field(default_factory=dict[str, str])
    seconds: list[float] = field(default_factory=list[float])

    def fault(self, kind: str, what: str) -> None:
        self.faults[kind] += 1
        self.words.setdefault(kind, what[:600])


class Client:
    """Asks one thing after the other until the time is over."""

    def __init__(self, number: int, places: Sequence[tuple[str, str]], world: World, tally: Tally) -> None:
        self.draw = random.Random(number)
        self.places, self.world, self.tally = places, world, tally

    async def run(self, session: aiohttp.ClientSession, ends: float) -> None:
        while time.monotonic() < ends:
            url, key = self.draw.choice(self.places)
            expected = self.draw.choice(self.world.expected)
            kind = self.draw.choices(("stream", "whole", "slow", "cancel", "wrong"), (40, 25, 10, 20, 5))[0]
            began = time.monotonic()
            try:
                async with asyncio.timeout(HANGS_S):
                    await self._ask(session, url, key, expected, kind)
            except TimeoutError:
                self.tally.fault("hang", f"{kind} {expected.model} at {url}")
            except (aiohttp.ClientError, OSError) as error:
                self.tally.fault("connection", f"{kind} {expected.model} at {url}: {type(error).__name__}: {error}")
            self.tally.seconds.append(time.monotonic() - began)
            self.tally.counts[f"asked {kind}"] += 1

    async def _ask(self, session: aiohttp.ClientSession, url: str, key: str, expected: Expected, kind: str) -> None:
        body: dict[str, Any] = {
            "model": expected.model, "messages": expected.messages, "max_tokens": expected.max_tokens,
            "stream": kind in ("stream", "slow") or (kind == "cancel" and self.draw.random() < 0.7),
        }  # fmt: skip
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        if kind == "wrong":
            body = self.draw.choice(({**body, "model": "nobody"}, {**body, "max_tokens": -1}, {**body, "n": 99}))
        call = self._call(session, url, key, body, expected, slow=kind == "slow")
        if kind != "cancel":
            await call
            return
        task = asyncio.create_task(call)
        await asyncio.wait((task,), timeout=self.draw.random() ** 2 * 1.5)
        self.tally.counts["hung up" if not task.done() else "hung up too late"] += 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _call(
        self, session: aiohttp.ClientSession, url: str, key: str, body: dict[str, Any], expected: Expected, *, slow: bool
    ) -> None:  # fmt: skip
        own = {"authorization": f"Bearer {key}"}
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=own) as response:
            if response.status != 200:
                self._refused(response, await response.json(), body)
            elif body["stream"]:
                await self._read(response, expected, slow=slow)
            else:
                answer = await response.json()
                self._compare(answer["choices"][0]["message"]["content"], answer["usage"], expected)

    def _refused(self, response: aiohttp.ClientResponse, told: Any, body: dict[str, Any]) -> None:
        status, error = response.status, told["error"]
        self.tally.counts[f"{status} {error['code']}"] += 1
        asked_wrong = body["model"] == "nobody" or body["max_tokens"] < 1 or body.get("n", 1) > 8
        if asked_wrong != (status in (404, 422)) and status not in (429, 503):
            self.tally.fault("status", f"{status} {told} for {body['model']}")
        if status in (429, 503) and "retry-after" not in response.headers:
            self.tally.fault("no Retry-After", f"{status} {told}")
        if set(error) != {"message", "type", "param", "code"} or "x-request-id" not in response.headers:
            self.tally.fault("error format", f"{status} {told}")

    async def _read(self, response: aiohttp.ClientResponse, expected: Expected, *, slow: bool) -> None:
        text, usage, failed, done = "", None, None, False
        async for line in response.content:
            if slow and self.draw.random() < 0.3:
                await asyncio.sleep(self.draw.random() * 0.5)
            data = line.removeprefix(b"data: ").strip()
            if not data:
                continue
            if data == b"[DONE]":
                done = True
                continue
            event = json.loads(data)
            if "error" in event:
                failed = event["error"]
                continue
            usage = event.get("usage") or usage
            text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        if failed is not None:
            self.tally.counts[f"stream ended by {failed['code']}"] += 1
            if not expected.text.startswith(text.rstrip("\ufffd")):
                self.tally.fault("wrong answer", f"{expected} against the part {text!r}")
        elif not done:
            self.tally.fault("stream without an end", f"{expected.model}: {text!r}")
        else:
            self._compare(text, usage, expected)

    def _compare(self, text: str, usage: Any, expected: Expected) -> None:
        if text != expected.text or usage is None or usage["completion_tokens"] != expected.tokens:
            self.tally.fault("wrong answer", f"{expected} against {text!r} {usage}")
        else:
            self.tally.counts["right answers"] += 1
            self.tally.counts["tokens compared"] += expected.tokens


# ---------------------------------------------------------------------------------------------------------- the soak


async def watch(servers: Sequence[Served], weights: dict[str, list[dict[str, int]]], ends: float) -> None:
    """Weigh the processes that live all the time."""
    while time.monotonic() < ends:
        for server in servers:
            weights[server.name].append(server.weigh())
        await asyncio.sleep(2)


async def kill_again(engine: Served, session: aiohttp.ClientSession, kills: int, ends: float) -> list[float]:
    """Kill the upstream so many times, evenly, and start it anew; returns the seconds until it was ready again.

    The moments are set beforehand, so that the time it takes to start puts no kill off beyond the end.
    """
    began, took = time.monotonic(), list[float]()
    pause = (ends - began) / (kills + 1)
    for number in range(kills):
        await asyncio.sleep(max(began + pause * (number + random.uniform(0.8, 1)) - time.monotonic(), 0))
        engine.kill()
        await asyncio.sleep(random.random() * 3)
        engine.start()
        took.append(await engine.ready(session))
        sys.stderr.write(f"killed {number + 1} of {kills}; ready after {took[-1]:.1f} s\n")
    return took


async def release_more(world: World, every_s: float, ends: float) -> None:
    """Make releases while they serve."""
    while time.monotonic() + every_s < ends:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(world.add, 1)


async def soak(
    servers: Sequence[Served], world: World, keys: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Run it all; returns what is recorded."""
    engine, behind, whole = servers
    tally, weights = Tally(), {server.name: list[dict[str, int]]() for server in (behind, whole)}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        for server in servers:
            await server.ready(session)
        before = {server.name: server.weigh() for server in (behind, whole)}
        ends = time.monotonic() + options.minutes * 60
        places = [(behind.url, keys[0]), (whole.url, keys[1])]
        clients = [Client(number, places, world, tally).run(session, ends) for number in range(options.clients)]
        kills = asyncio.create_task(kill_again(engine, session, options.kills, ends - 20))
        others = [watch((behind, whole), weights, ends), release_more(world, options.minutes * 60 / 12, ends)]
        await asyncio.gather(*clients, *others)
        ready_again = await kills
    await asyncio.sleep(3)  # what goes on beside answers may end
    after = {server.name: server.weigh() for server in (behind, whole)}
    at_work: dict[str, int] = {}
    async with aiohttp.ClientSession() as session:
        for server in (behind, whole):
            async with session.get(f"{server.url}/health/ready") as response:
                at_work[server.name] = (await response.json())["at_work"]
    return {
        "counts": dict(sorted(tally.counts.items())), "faults": dict(tally.faults), "first_of_each_fault": tally.words,
        "seconds_p50": round(statistics.median(tally.seconds), 3), "seconds_longest": round(max(tally.seconds), 1),
        "kills": len(ready_again), "ready_again_s": round(max(ready_again, default=0), 1), "at_work_at_the_end": at_work,
        "leaks": {name: leaks(weights[name], before[name], after[name]) for name in weights},
    }  # fmt: skip


def leaks(weights: Sequence[dict[str, int]], before: dict[str, int], after: dict[str, int]) -> dict[str, Any]:
    """Compare memory in the second and the last sixth of the time, and what is open before and after."""
    sixth = max(len(weights) // 6, 1)
    early = statistics.median(each["rss"] for each in weights[sixth : 2 * sixth] or weights)
    late = statistics.median(each["rss"] for each in weights[-sixth:])
    return {
        "rss_mib": [round(each["rss"] / 2**20) for each in weights[:: max(len(weights) // 12, 1)]],
        "rss_growth": round(late / early - 1, 4),
        "files": [before["files"], max(each["files"] for each in weights), after["files"]],
        "threads": [before["threads"], max(each["threads"] for each in weights), after["threads"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--kills", type=int, help="times that the upstream is killed; 20 in 30 minutes")
    parser.add_argument("--base", default="tiny", help="a base's name, or tiny: random weights, many requests")
    parser.add_argument("--adapters", type=int, default=40, help="releases at the start; the engine has 32 slots")
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    options.kills = max(round(options.minutes * 20 / 30), 1) if options.kills is None else options.kills
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are ended then too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = str(write_tiny_base(folder / "base")) if options.base == "tiny" else options.base
        world = make_world(folder, base, options.adapters, options.tokens)
        sys.stderr.write(f"{len(world.expected)} answers are known; the soak begins\n")
        record = go(world, folder, options)
    record = {
        "date": datetime.now(UTC).date().isoformat(), "cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(), "torch": torch.__version__, "minutes": options.minutes,
        "clients": options.clients, "base": options.base, "adapters": options.adapters, "tokens": options.tokens, **record,
    }  # fmt: skip
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(record, indent=2) + "\n")
    grows = options.minutes >= 30 and max(each["rss_growth"] for each in record["leaks"].values()) > MOST_GROWTH
    return int(grows or bool(record["faults"]) or record["holds_left"] != [0, 0] or record["exit_status"] != [0, 0, 0])


def go(world: World, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start the three processes, soak, and end them in order."""
    home, outer = world.home.root, folder / "outer"
    engine = Served("engine", home, (), free_port(), folder / "engine.log")
    settings = folder / "serve.json"
    told = {"upstream": engine.url, "upstream_key_variable": "SOAK_UPSTREAM_KEY", "timeouts": TIMEOUTS}
    settings.write_text(json.dumps(told))  # JSON is YAML
    key = {"SOAK_UPSTREAM_KEY": key_of(home)}
    behind = Served("behind", outer, ("--config", str(settings)), free_port(), folder / "behind.log", key)
    own = folder / "whole.json"
    own.write_text(json.dumps({"timeouts": TIMEOUTS}))
    whole_home = folder / "whole"
    whole_home.mkdir()
    for part in ("artifacts", "runs"):
        (whole_home / part).symlink_to(home / part)
    whole = Served("whole", whole_home, ("--config", str(own)), free_port(), folder / "whole.log")
    keys = [key_of(outer), key_of(whole_home)]
    servers = (engine, behind, whole)
    for server in servers:
        server.start()
    try:
        record = asyncio.run(soak(servers, world, keys, options))
    finally:
        status = [server.close() for server in servers]
    record["holds_left"] = [holds_of(outer), holds_of(whole_home)]
    record["exit_status"] = status
    logs = {server.name: server.log.read_text().splitlines() for server in servers}
    record["log_lines"] = {name: len(lines) for name, lines in logs.items()}
    record["tracebacks"] = {name: sum("Traceback" in line for line in lines) for name, lines in logs.items()}
    for name, lines in logs.items():
        if record["tracebacks"][name]:
            sys.stderr.write(f"--- {name}\n" + "\n".join(lines[-60:]) + "\n")
    return record


if __name__ == "__main__":
    sys.exit(main())
