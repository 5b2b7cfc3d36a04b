"""The serving engine against its own best path, against PEFT's mixed batches, and against answering one by one.

`python benchmarks/serve.py PART [--threads N]` measures one part on SmolLM2-135M-Instruct (float32, CPU) and writes it into
`benchmarks/results/serve.json`. Arms take turns within a round (A B C, C B A, ...), or step by step, so that other work on the
machine meets all of them; medians of ratios within a round, or of pairs of steps, are reported. Prompts are random tokens,
answers have a fixed length, adapters are random matrices of rank 8 (or `--rank`) on all linear layers.

parity      greedy tokens of 8 adapters and the base, alone and in one mixed batch, against transformers + PEFT
adapters    16 requests, two settings against each other (--arms): one adapter, 16, 16 of 64 resident, none, PEFT's `adapter_names`
continuous  16 clients: 16 rows against 1 row
prompts     a prompt of 20 tokens right after one of 5,000: seconds to the first token of both
http        16 streaming clients over HTTP in another process against 16 threads in this one
churn       1,000 times: add an adapter, use it, take it out; resident memory
start       `burnish serve` in an empty home, from the command to the first 200 of /health/ready
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
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import peft
import psutil
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.core.events import Event, Note
from burnish.doors.serving import HUGE_PAGES
from burnish.model.banked_linear import BankedModel
from burnish.model.bases import resolve_base
from burnish.model.cached_attention import cached_attention_on
from burnish.model.decoder import Decoder
from burnish.model.load import load_base
from burnish.model.lora import attach_lora, lora_parameters, read_adapter, save_adapter
from burnish.model.lora_bank import pack
from burnish.model.memory import trim_heap
from burnish.model.sampling import Sampling
from burnish.serve.engine import Engine
from burnish.serve.stream import Stream

os.environ.setdefault(HUGE_PAGES, "1")  # as `burnish serve` does
BASE = "smollm2-135m-instruct"
RESULTS = Path(__file__).parent / "results" / "serve.json"
REQUESTS, PROMPT_TOKENS = 16, 8
TIE = 1e-4


def write_adapters(folder: Path, base: Path, count: int, rank: int) -> list[Path]:
    """Write random adapters that change the base's answers."""
    method = MethodPlan(
        kind="lora", rank=rank, alpha=2.0 * rank, dropout=0.0, targets=("all-linear",), quantisation="none",
        double_quantisation=False,
    )  # fmt: skip
    model = load_base(base)
    attach_lora(model, method, seed=0)
    written: list[Path] = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in lora_parameters(model).items():
                parameter.normal_(0, 0.02 if name.endswith("lora_B") else 0.05, generator=generator)
        save_adapter(model, folder / str(number), method, BASE)
        written.append(folder / str(number))
    return written


def make_prompts(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, 49000, (count, PROMPT_TOKENS), generator=generator).tolist()


def run_engine(engine: Engine, names: Sequence[str | None], new_tokens: int) -> tuple[float, list[list[int]]]:
    """Submit all requests at once; return the seconds until the last answer, and the answers."""
    began = time.perf_counter()
    prompts = make_prompts(len(names))
    streams = [
        engine.submit(prompt, name, Sampling(max_new_tokens=new_tokens))
        for prompt, name in zip(prompts, names, strict=True)
    ]
    answers = [list(stream) for stream in streams]
    return time.perf_counter() - began, answers


def run_peft(model: PeftModel, names: Sequence[str], new_tokens: int) -> float:
    ids = torch.tensor(make_prompts(len(names)))
    began = time.perf_counter()
    model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, min_new_tokens=new_tokens,
        do_sample=False, eos_token_id=None, pad_token_id=0, adapter_names=list(names),
    )  # fmt: skip
    return time.perf_counter() - began


@dataclass
class Times:
    """Seconds of each arm in each round: by the clock, and of this process's processor time."""

    clock: dict[str, list[float]]
    processor: dict[str, list[float]]

    def ratio(self, fast: str, slow: str) -> dict[str, float]:
        """How many times the throughput of `slow` the arm `fast` has: medians over rounds.

        On a machine that others use too, processor time is the steadier of the two.
        """

        def median(times: dict[str, list[float]]) -> float:
            return round(statistics.median(b / a for a, b in zip(times[fast], times[slow], strict=True)), 3)

        return {"by_the_clock": median(self.clock), "by_processor_time": median(self.processor)}

    def rates(self, tokens: int) -> dict[str, float]:
        """New tokens a second of processor time, at one thread those of a quiet machine."""
        return {name: round(tokens / statistics.median(values), 1) for name, values in self.processor.items()}


def interleave(arms: dict[str, Callable[[], float]], rounds: int) -> Times:
    """Run the arms in turns, forth and back."""
    times = Times({name: [] for name in arms}, {name: [] for name in arms})
    for number in range(rounds):
        order = list(arms) if number % 2 == 0 else list(reversed(arms))
        for name in order:
            before = time.process_time()
            times.clock[name].append(arms[name]())
            times.processor[name].append(time.process_time() - before)
        print({name: round(values[-1], 2) for name, values in times.processor.items()}, file=sys.stderr, flush=True)
    return times


# -------------------------------------------------------------------------------------------------------------- parts


def parity(base: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    folders = write_adapters(folder, base, 8, options.rank)
    names: list[str | None] = [None, *(str(number) for number in range(8))]
    with Engine(load_base(base), adapters=dict(zip(names[1:], folders, strict=True)), rows=len(names)) as engine:  # type: ignore[arg-type]
        _, mixed = run_engine(engine, names, 32)
        prompts = make_prompts(len(names))
        alone = [
            list(engine.submit(prompt, name, Sampling(max_new_tokens=32)))
            for prompt, name in zip(prompts, names, strict=True)
        ]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    equal, ties, wrong = 0, 0, 0
    for prompt, name, *ours in zip(prompts, names, alone, mixed, strict=True):
        tuned = model if name is None else PeftModel.from_pretrained(model, folders[int(name)])
        ids = torch.tensor([prompt])
        whole = tuned.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, pad_token_id=0,
            eos_token_id=None,
        )  # fmt: skip
        want = whole[0, len(prompt) :].tolist()
        for got in ours:
            verdict = _compare(tuned, prompt, got, want)
            equal, ties, wrong = equal + verdict[0], ties + verdict[1], wrong + verdict[2]
        if name is not None:
            tuned.unload()
    return {"answers_equal": equal, "answers_equal_up_to_a_tie": ties, "answers_wrong": wrong, "tokens_each": 32}


def _compare(model: PreTrainedModel, prompt: list[int], got: list[int], want: list[int]) -> tuple[int, int, int]:
    if got == want:
        return 1, 0, 0
    at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *want[:at]]])).logits[0, -1]
    tie = abs(float(logits[got[at]] - logits[want[at]])) < TIE
    return 0, int(tie), int(not tie)


SETTINGS: dict[str, list[str | None]] = {
    "no adapter": [None] * REQUESTS,
    "one": ["n0"] * REQUESTS,
    "4": [f"n{number % 4}" for number in range(REQUESTS)],
    "16": [f"n{number}" for number in range(REQUESTS)],
    "16 of 64": [f"n{4 * number}" for number in range(REQUESTS)],
    "peft 4": [f"n{number % 4}" for number in range(REQUESTS)],
    "peft 16": [f"n{number}" for number in range(REQUESTS)],
}


def adapters(base: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare two of the settings; "16 of 64" has 64 adapters in memory, the others those they use.

    The engine's own arms take turns step by step, on one copy of the weights; against PEFT whole rounds of requests take turns.
    """
    one, other = options.arms.split(",")
    folders = write_adapters(folder, base, 16, options.rank)
    if not options.arms.count("peft"):
        return {"rank": options.rank, **_by_steps(base, folders, (one, other), options)}
    arms: dict[str, Callable[[], float]] = {}
    engines: list[Engine] = []
    for arm in (one, other):
        names = SETTINGS[arm]
        if arm.startswith("peft"):
            arms[arm] = partial(
                run_peft,
                peft_model(base, folders, sorted({*names} - {None})),
                names,
                options.new_tokens,  # type: ignore[arg-type]
            )
            continue
        known = {name: folders[int(name[1:])] for name in names if name is not None}
        engine = Engine(load_base(base), adapters=known, rows=REQUESTS, slots=64)
        for name in known:
            list(engine.submit([1, 2, 3], name, Sampling(max_new_tokens=1)))
        engines.append(engine)
        arms[arm] = lambda engine=engine, names=names: run_engine(engine, names, options.new_tokens)[0]
    for run in arms.values():
        run()
    times = interleave(arms, options.rounds)
    for engine in engines:
        engine.close()
    return {
        "rank": options.rank,
        "new_tokens_per_processor_second": times.rates(REQUESTS * options.new_tokens),
        f"throughput of {one} / {other}": times.ratio(one, other),
        "processor_seconds": {name: [round(each, 2) for each in values] for name, values in times.processor.items()},
    }


def _by_steps(
    base: Path, folders: Sequence[Path], arms: tuple[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """Let two decoders of one model take turns step by step, and compare the steps of each pair and whole rounds."""
    banked = BankedModel(load_base(base))
    for number in range(64 if "16 of 64" in arms else 16):
        method, tensors = read_adapter(folders[number % 16], banked.sizes)
        banked.bank.load(f"n{number}", pack(banked.layout, method, tensors, banked.bank.dtype))
    pairs: list[tuple[float, float]] = []
    rounds: list[float] = []
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    with cached_attention_on(banked.model):
        for number in range(options.rounds + 1):
            decoders = {arm: Decoder(banked.model, rows=REQUESTS, piece_tokens=256, banked=banked) for arm in arms}
            for arm, decoder in decoders.items():
                for prompt, name in zip(make_prompts(REQUESTS), SETTINGS[arm], strict=True):
                    decoder.add(prompt, Sampling(max_new_tokens=options.new_tokens), adapter=name)
            steps: list[dict[str, float]] = []
            while decoders[arms[0]].waiting or decoders[arms[0]].running:
                took: dict[str, float] = {}
                for arm in arms if len(steps) % 2 else reversed(arms):
                    began = time.perf_counter()
                    decoders[arm].step()
                    took[arm] = time.perf_counter() - began
                steps.append(took)
            if number == 0:  # warms up
                continue
            pairs += [(took[arms[0]], took[arms[1]]) for took in steps[1:]]
            for arm in arms:
                seconds[arm].append(round(sum(took[arm] for took in steps), 2))
            rounds.append(seconds[arms[1]][-1] / seconds[arms[0]][-1])
            print({arm: each[-1] for arm, each in seconds.items()}, round(rounds[-1], 3), file=sys.stderr, flush=True)
    banked.take_off()
    ratios = [other / one for one, other in pairs]
    return {
        f"throughput of {arms[0]} / {arms[1]}": {
            "rounds": round(statistics.median(rounds), 3),
            "decoding_steps": round(statistics.median(ratios), 3),
            "quarters_of_steps": [round(each, 3) for each in statistics.quantiles(ratios, n=4)],
            "pairs": len(pairs),
        },
        "ms_a_step": {
            arm: round(1000 * statistics.median(pair[place] for pair in pairs), 2) for place, arm in enumerate(arms)
        },
        "seconds_a_round": seconds,
    }


def peft_model(base: Path, folders: Sequence[Path], names: Sequence[str]) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(model, folders[int(names[0][1:])], adapter_name=names[0])
    for name in names[1:]:
        theirs.load_adapter(folders[int(name[1:])], adapter_name=name)
    return theirs.eval()


def continuous(base: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    with Engine(load_base(base), rows=REQUESTS) as many, Engine(load_base(base), rows=1) as one:
        arms = {
            "16 rows": lambda: run_engine(many, [None] * REQUESTS, options.new_tokens)[0],
            "1 row": lambda: run_engine(one, [None] * REQUESTS, options.new_tokens)[0],
        }
        arms["16 rows"]()
        seconds = interleave(arms, options.rounds)
    tokens = REQUESTS * options.new_tokens
    return {
        "new_tokens_per_processor_second": seconds.rates(tokens),
        "ratio": seconds.ratio("16 rows", "1 row"),
    }


def prompts(base: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the first token of a short prompt, alone and while a long one is read, while four answers run."""
    draw = torch.Generator().manual_seed(1)

    def ask(engine: Engine, tokens: int, new_tokens: int = 1) -> tuple[Stream, float]:
        prompt = torch.randint(10, 49000, (tokens,), generator=draw).tolist()
        return engine.submit(prompt, None, Sampling(max_new_tokens=new_tokens)), time.perf_counter()

    def first(stream: Stream, began: float) -> float:
        next(iter(stream))
        return time.perf_counter() - began

    found: dict[str, list[float]] = {"short_alone": [], "short_after_long": [], "long": [], "new_tokens_meanwhile": []}
    with Engine(load_base(base), rows=REQUESTS) as engine:
        first(*ask(engine, 20))
        for _ in range(options.rounds):
            found["short_alone"].append(first(*ask(engine, 20)))
            running = [ask(engine, 8, 2000)[0] for _ in range(4)]
            for stream in running:
                next(iter(stream))
            before = sum(stream.new_tokens for stream in running)
            long = ask(engine, 5000)
            time.sleep(0.1)  # the long one is being read
            found["short_after_long"].append(first(*ask(engine, 20)))
            found["long"].append(first(*long))
            found["new_tokens_meanwhile"].append(sum(stream.new_tokens for stream in running) - before)
            for stream in running:
                stream.cancel()
    return {name: [round(value, 2) for value in values] for name, values in found.items()}


CLIENT = """
import asyncio, json, sys, time
import aiohttp
url, prompts, tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
async def one(session, prompt):
    count = 0
    body = {"model": "base", "prompt": prompt, "max_tokens": tokens, "stream": True}
    async with session.post(url + "/completions", json=body) as response:
        async for line in response.content:
            count += line.startswith(b"data: {")
    return count
async def main():
    connector = aiohttp.TCPConnector(force_close=True)  # rounds may be further apart than a kept connection lives
    async with aiohttp.ClientSession(connector=connector) as session:
        for line in sys.stdin:
            began = time.perf_counter()
            counts = await asyncio.gather(*(one(session, prompt) for prompt in prompts))
            print(json.dumps([time.perf_counter() - began, sum(counts)]), flush=True)
asyncio.run(main())
"""


def http(base: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from burnish.serve.answer import ServedModel
    from burnish.serve.api import Service
    from burnish.serve.server import run_server
    from burnish.text.tokenizer import load_tokenizer

    engine = Engine(load_base(base), rows=REQUESTS)
    service = Service(engine, load_tokenizer(base), {"base": ServedModel(None, None)})
    stop, listening, notes = threading.Event(), threading.Event(), list[str]()

    def emit(event: Event) -> None:
        assert isinstance(event, Note)
        notes.append(event.text)
        listening.set()

    server = threading.Thread(target=run_server, args=(service, "127.0.0.1", 0), kwargs={"emit": emit, "stop": stop})
    server.start()
    listening.wait()
    url = notes[0].split()[2]
    command = [sys.executable, "-c", CLIENT, url, json.dumps(make_prompts(REQUESTS)), str(options.new_tokens)]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdin is not None
    assert client.stdout is not None

    def over_http() -> float:
        client.stdin.write("go\n")  # type: ignore[union-attr]
        client.stdin.flush()  # type: ignore[union-attr]
        seconds, events = json.loads(client.stdout.readline())  # type: ignore[union-attr]
        assert events >= REQUESTS * options.new_tokens / 4, events
        return seconds

    arms = {"engine": lambda: run_engine(engine, [None] * REQUESTS, options.new_tokens)[0], "http": over_http}
    for arm in arms.values():
        arm()
    seconds = interleave(arms, options.rounds)
    client.stdin.close()
    client.wait()
    stop.set()
    server.join()
    found = seconds.ratio("http", "engine")
    return {"overhead_percent": {name: round(100 * (1 / value - 1), 2) for name, value in found.items()}}


def churn(base: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    folders = write_adapters(folder, base, 2, options.rank)
    trim_heap()
    process, seen = psutil.Process(), list[int]()
    with Engine(load_base(base), rows=4) as engine:
        began = time.perf_counter()
        for number in range(1000):
            engine.add_adapter("x", folders[number % 2])
            list(engine.submit([1, 2, 3], "x", Sampling(max_new_tokens=1)))
            assert engine.remove_adapter("x", wait_s=30)
            if (number + 1) % 100 == 0:
                trim_heap()
                seen.append(process.memory_info().rss)
        seconds = time.perf_counter() - began
        assert engine.adapter_bytes == 0
    return {
        "times": 1000,
        "rss_mb": [round(value / 2**20, 1) for value in seen],
        "growth_percent": round(100 * (max(seen[1:]) / seen[0] - 1), 2),
        "ms_each": round(seconds, 1),
    }


def start(base: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    found: list[float] = []
    for number in range(options.rounds):
        port = 20000 + os.getpid() % 20000 + number
        command = [sys.executable, "-m", "burnish", "serve", "--home", str(folder / str(number)), "--port", str(port)]
        began = time.perf_counter()
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.02)
        found.append(time.perf_counter() - began)
        server.terminate()
        server.wait()
    return {"seconds_to_ready": [round(value, 2) for value in found], "median_s": round(statistics.median(found), 2)}


PARTS = {
    "parity": parity, "adapters": adapters, "continuous": continuous, "prompts": prompts, "http": http, "churn": churn,
    "start": start,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arms", default="16,one", help=f"of adapters: two of {', '.join(SETTINGS)}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = resolve_base(BASE).folder
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = PARTS[options.part](base, Path(folder), options)
    told = {
        "date": datetime.date.today().isoformat(),
        "base": BASE,
        "threads": options.threads,
        "requests": REQUESTS,
        "new_tokens": options.new_tokens,
        "device": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    key = options.part if options.part != "adapters" else f"adapters: {options.arms} (rank {options.rank})"
    results[key] = {**told, **found}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results[key], indent=2))


if __name__ == "__main__":
    main()
