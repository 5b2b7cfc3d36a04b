"""Why steps that the host's launching decides wander: where its threads run, the collector, or the machine itself.

    python benchmarks/steady_steps.py OUT.json [SECONDS]     # needs a GPU

About a minute and a half. One plain loop (transformers, PEFT's LoRA, AdamW) whose GPU is mostly idle, in blocks of 20 steps,
the ways in turn so that all see the same hour: `free` as Python starts; `frozen` with everything that exists put out of the
collector's sight; `pinned`
with every thread of the process on four neighbouring cores; `one core` on one. Beside each step stand the seconds that the
host waited for the GPU at its end, processor seconds of the process, and the seconds of a fixed Python loop just before it: where
that loop wanders with the steps, the machine does it and no program can help it.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plan_memory

CELLS = (("llama-3.2-1b-instruct", "lora", 8, 512, "all"), ("qwen3-1.7b", "lora", 8, 512, "none"))
BLOCK, ROUNDS, SPIN = 20, 2, 20_000


@contextmanager
def way(name: str) -> Iterator[None]:
    """Run a block in one of the ways."""
    before = os.sched_getaffinity(0)
    chosen = {"pinned": 4, "one core": 1}.get(name)
    if name != "free":
        gc.collect()
        gc.freeze()
    if chosen is not None:
        _place(set(sorted(before)[-chosen:]))
    try:
        yield
    finally:
        gc.unfreeze()
        _place(before)


def _place(cores: set[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except OSError as error:  # a thread that just ended
            print(task.name, error, flush=True)


def spin() -> float:
    """Seconds of a fixed piece of Python: how fast this host is just now."""
    began, total = time.perf_counter(), 0
    for number in range(SPIN):
        total += number
    return time.perf_counter() - began


def host() -> dict[str, Any]:
    """What the machine tells of itself."""
    found: dict[str, Any] = {
        "system": os.uname().version,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
    }
    for path in (
        "/sys/fs/cgroup/cpu.max",
        "/sys/fs/cgroup/cpu.stat",
        "/sys/devices/system/node/online",
        "/proc/version",
    ):
        if Path(path).exists():
            found[path] = Path(path).read_text(encoding="utf-8").strip()
    return found


def steps(model: Any, optimizer: Any, ids: Any, ended: Callable[[list[list[float]]], bool]) -> list[list[float]]:
    """Return of each step: seconds, seconds waited for the GPU at its end, processor seconds, seconds of the fixed loop.

    ended: asked after each step, with those that were made.
    """
    import torch

    found: list[list[float]] = []
    torch.cuda.synchronize()
    while not ended(found):
        fixed, busy, began = spin(), time.process_time(), time.perf_counter()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        launched = time.perf_counter()
        torch.cuda.synchronize()
        computed = time.perf_counter()
        found.append([computed - began, computed - launched, time.process_time() - busy, fixed])
    return found


def main() -> None:
    """Measure and write."""
    import torch

    out, limit = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else float("inf")
    began, blocks = time.perf_counter(), []
    for base, method, rows, tokens, recomputed in CELLS:
        model = plan_memory.build(base, method)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-5, fused=True)
        plan_memory.recompute(model, recomputed)
        ids = torch.randint(3, 30_000, (rows, tokens), device="cuda")
        steps(model, optimizer, ids, lambda made: len(made) == 5)
        for turn in range(ROUNDS):
            for name in ("free", "frozen", "pinned", "one core"):
                if time.perf_counter() - began > limit:
                    break
                before = host()
                with way(name):
                    steps(model, optimizer, ids, lambda made: len(made) == 3)
                    each = steps(model, optimizer, ids, lambda made: len(made) == BLOCK)
                blocks.append(
                    {"base": base, "turn": turn, "way": name, "steps": each, "before": before, "after": host()}
                )
                seconds, waited, busy, fixed = map(statistics.fmean, zip(*each, strict=True))
                apart = statistics.stdev(step[0] for step in each) / seconds
                same = statistics.correlation([step[0] for step in each], [step[3] for step in each])
                print(f"{base} {turn} {name}: {seconds:.4f} s, {apart:.1%} apart, waited {waited / seconds:.0%}, busy "
                      f"{busy / seconds:.2f} cores, fixed {fixed * 1e3:.2f} ms, correlation {same:+.2f}", flush=True)  # fmt: skip
        del model, optimizer
        gc.collect()
        torch.cuda.empty_cache()
    out.write_text(json.dumps({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "blocks": blocks}))


if __name__ == "__main__":
    main()
