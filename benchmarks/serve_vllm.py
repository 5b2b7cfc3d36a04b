"""The own engine and vLLM on one machine, same model, adapters and clients, both over HTTP with streamed answers.

`python benchmarks/serve_vllm.py --vllm PYTHON [--threads N]` starts vLLM from the interpreter of its environment, the own engine
behind its API in this process, and vLLM once more behind burnish's API. Clients are one other process; each asks for answers of
a fixed length, one after the other, its adapter by its number. Arms take turns; medians of ratios within a round go to
`benchmarks/results/serve_vllm.json`, with the seconds that both took to start.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from burnish.core.events import Event, Note, discard
from burnish.core.ids import file_sha256
from burnish.doors.serving import HUGE_PAGES
from burnish.model.bases import resolve_base
from burnish.model.load import load_base
from burnish.model.lora import CONFIG, WEIGHTS
from burnish.model.sampling import Sampling
from burnish.serve.adapters import AdapterSource
from burnish.serve.answer import ServedModel
from burnish.serve.api import Service
from burnish.serve.engine import Engine
from burnish.serve.interface import AnsweringEngine
from burnish.serve.server import run_server
from burnish.serve.vllm.engine import VllmEngine
from burnish.text.tokenizer import load_tokenizer
from serve import BASE, make_prompts, write_adapters

RESULTS = Path(__file__).parent / "results" / "serve_vllm.json"
CLIENT = """
import asyncio, json, sys, time
import aiohttp
prompts, tokens = json.loads(sys.argv[1]), int(sys.argv[2])
async def one(session, arm, number, asks):
    count = 0
    for ask in range(asks):
        model = arm["models"][number % len(arm["models"])]
        body = {"model": model, "prompt": prompts[(number + 5 * ask) % len(prompts)], "max_tokens": tokens, "stream": True,
                "temperature": 0, **arm["more"]}
        async with session.post(arm["url"] + "/completions", json=body, headers=arm["headers"]) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    usage = json.loads(line[6:]).get("usage")
                    count += usage["completion_tokens"] if usage else 0
    return count
async def main():
    connector = aiohttp.TCPConnector(force_close=True)  # rounds may be further apart than a kept connection lives
    async with aiohttp.ClientSession(connector=connector) as session:
        for line in sys.stdin:
            arm = json.loads(line)
            began = time.perf_counter()
            counts = await asyncio.gather(*(one(session, arm, number, arm["asks"]) for number in range(arm["clients"])))
            print(json.dumps([time.perf_counter() - began, sum(counts)]), flush=True)
asyncio.run(main())
"""


def listen(engine: AnsweringEngine, base: Path, names: list[str]) -> str:
    """Serve an engine in a thread that ends with the process; returns the URL."""
    told, listening = list[str](), threading.Event()

    def emit(event: Event) -> None:
        assert isinstance(event, Note)
        told.append(event.text)
        listening.set()

    models = {"base": ServedModel(None, None), **{name: ServedModel(name, None) for name in names}}
    service = Service(engine, load_tokenizer(base), models)
    threading.Thread(target=run_server, args=(service, "127.0.0.1", 0), kwargs={"emit": emit}, daemon=True).start()
    listening.wait()
    return told[0].split()[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", default="burnish,vllm,vllm behind burnish", help="which of these, vllm among them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = resolve_base(BASE).folder
    names = [f"n{number}" for number in range(options.adapters)]
    with tempfile.TemporaryDirectory() as folder:
        folders = write_adapters(Path(folder), base, options.adapters, 8)
        sources = [AdapterSource(each, (file_sha256(each / WEIGHTS), file_sha256(each / CONFIG))) for each in folders]
        began = time.perf_counter()
        own = Engine(load_base(base), rows=16)
        own_s = time.perf_counter() - began
        began = time.perf_counter()
        theirs = VllmEngine(
            base, options.vllm, emit=discard, rows=16, slots=options.adapters, rank_limit=8,
            arguments=("--enforce-eager", "--dtype", "float32", "--max-num-batched-tokens", "2048", "--max-model-len", "2048"),
            environment={
                "VLLM_CPU_KVCACHE_SPACE": "1", HUGE_PAGES: os.environ[HUGE_PAGES], "OMP_NUM_THREADS": str(options.threads),
                "VLLM_CPU_OMP_THREADS_BIND": "0" if options.threads == 1 else f"0-{options.threads - 1}",
            },
        )  # fmt: skip
        vllm_s = time.perf_counter() - began
        for engine in (own, theirs):
            for name, source in zip(names, sources, strict=True):
                engine.add_adapter(name, source)
                list(engine.submit([1, 2, 3], name, Sampling(max_new_tokens=2)))
        labels = [theirs._shelf._known[name].label for name in names]
        stops = sorted(load_tokenizer(base).stop_ids)
        usage = {"stream_options": {"include_usage": True}}
        arms: dict[str, dict[str, Any]] = {
            "burnish": {"url": listen(own, base, names), "models": names, "headers": {}, "more": usage},
            "vllm": {
                "url": f"http://127.0.0.1:{theirs._process.port}/v1", "models": labels,
                "headers": {"authorization": f"Bearer {theirs._process.key}"}, "more": {**usage, "stop_token_ids": stops},
            },
            "vllm behind burnish": {"url": listen(theirs, base, names), "models": names, "headers": {}, "more": usage},
        }  # fmt: skip
        arms = {name: arms[name] for name in options.arms.split(",")}
        found = measure(arms, options, psutil.Process(theirs._process._process.pid))
        theirs.close(drain=False)
    result = {
        "date": datetime.date.today().isoformat(),
        "base": BASE,
        "device": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": options.threads,
        "adapters": options.adapters,
        "new_tokens": options.new_tokens,
        "load_average": round(os.getloadavg()[0], 1),
        "seconds_to_load": {"burnish": round(own_s, 1), "vllm": round(vllm_s, 1)},
        "clients": found,
    }
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[f"{options.threads} threads"] = result
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    os._exit(0)  # the servers' threads have no end


def processor_s(vllm: psutil.Process) -> float:
    """Return the processor time that this process and vLLM's have had; whichever does not answer takes next to none."""
    seen = [psutil.Process().cpu_times(), *(each.cpu_times() for each in (vllm, *vllm.children(recursive=True)))]
    return sum(each.user + each.system for each in seen)


def ratios(found: dict[str, list[float]], reference: list[float]) -> dict[str, float]:
    """Return the median over rounds of each arm's value to the reference's."""
    return {
        name: round(statistics.median(a / b for a, b in zip(values, reference, strict=True)), 2)
        for name, values in found.items()
    }


def measure(arms: dict[str, dict[str, Any]], options: argparse.Namespace, vllm: psutil.Process) -> dict[str, Any]:
    """Return what each arm gives for each number of clients, by the clock and by processor time, and the ratios to vLLM."""
    command = [sys.executable, "-c", CLIENT, json.dumps(make_prompts(16)), str(options.new_tokens)]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdin is not None
    assert client.stdout is not None
    found: dict[str, Any] = {}
    for clients in map(int, options.clients.split(",")):
        asks = 2 if clients < 16 else 1
        rates: dict[str, list[float]] = {name: [] for name in arms}
        costs: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(options.rounds + 1):
            for name in list(arms) if number % 2 == 0 else list(reversed(arms)):
                before = processor_s(vllm)
                client.stdin.write(json.dumps({**arms[name], "clients": clients, "asks": asks}) + "\n")
                client.stdin.flush()
                seconds, tokens = json.loads(client.stdout.readline())
                assert tokens > clients * asks * options.new_tokens / 2, (
                    name,
                    tokens,
                )  # random adapters may end an answer
                if number:  # the first round warms up
                    rates[name].append(tokens / seconds)
                    costs[name].append((processor_s(vllm) - before) / tokens)
            print(clients, {name: round(values[-1], 1) for name, values in rates.items() if values}, file=sys.stderr)
        found[str(clients)] = {
            "new_tokens_per_s": {name: round(statistics.median(values), 1) for name, values in rates.items()},
            "ratio_to_vllm_by_the_clock": ratios(rates, rates["vllm"]),
            "processor_ms_a_token": {name: round(1000 * statistics.median(each), 1) for name, each in costs.items()},
            "ratio_to_vllm_by_processor_time": ratios(
                {name: [1 / each for each in cost] for name, cost in costs.items()},
                [1 / each for each in costs["vllm"]],
            ),
        }
    client.stdin.close()
    client.wait()
    return found


if __name__ == "__main__":
    main()
