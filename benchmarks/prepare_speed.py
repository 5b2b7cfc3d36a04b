"""The whole of `prepare` on mixed jsonl: MB/s, peak memory of all processes, and whether both grow with the data.

python benchmarks/prepare_speed.py [--megabytes 10,100,1000]   writes benchmarks/results/prepare.json

Rows are those of mixed_rows.py. Everything that is on by default runs: reading, formats, repair, personal data, rendering with
SmolLM2's tokenizer and template, splits by hash with near-duplicate clusters, duplicates, leakage proof, Parquet. Peak memory is
the sum of the resident sets of all processes (shared pages count in each), sampled five times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from mixed_rows import write

from burnish import wiring
from burnish.core.events import discard
from burnish.core.recipe_file import parse_recipe
from burnish.data.prepare import prepare
from burnish.data.workers import processes_for

RESULTS = Path(__file__).parent / "results" / "prepare.json"


class Watch(threading.Thread):
    """Samples the memory and the processor time of this process and its children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self.children_s: dict[int, float] = {}
        self.done = threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self.done.wait(0.2):
            total = me.memory_info().rss
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                    times = child.cpu_times()
                    self.children_s[child.pid] = times.user + times.system
                except psutil.NoSuchProcess:
                    continue
            self.peak_bytes = max(self.peak_bytes, total)


def measure(megabytes: int, base: wiring.Base) -> dict[str, Any]:
    """Write so much, prepare it, and return what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = write(folder / "rows.jsonl", megabytes * 10**6)
        size = (folder / "rows.jsonl").stat().st_size
        raw = {
            "name": "speed",
            "base": "smollm2-135m-instruct",
            "data": str(folder / "rows.jsonl"),
            "method": "lora",
            "system": "You are a helpful assistant.",
        }
        recipe = parse_recipe(raw, source="benchmark")
        watch = Watch()
        watch.start()
        began, cpu = time.perf_counter(), time.process_time()
        made = prepare(recipe, tokenizer=base.tokenizer, folder=folder / "out", root=folder, emit=discard)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        watch.done.set()
        watch.join()
        processes = processes_for(size)
    row = {
        "megabytes": round(size / 1e6, 1),
        "lines": lines,
        "rows_kept": made.ledger.rows_kept,
        "tokens": sum(split.tokens for split in made.splits.values()),
        "seconds": round(seconds, 1),
        "mb_per_second": round(size / 1e6 / seconds, 2),
        "processor_seconds": round(cpu + sum(watch.children_s.values()), 1),
        "mb_per_processor_second": round(size / 1e6 / (cpu + sum(watch.children_s.values())), 2),
        "peak_mib": round(watch.peak_bytes / 2**20),
        "processes": processes,
        "rejected": made.ledger.rejected,
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", default="10,100,1000")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    base = wiring.open_base("smollm2-135m-instruct", discard)
    rows = [measure(int(size), base) for size in options.megabytes.split(",")]
    result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in ("tokenizers", "numpy", "pyarrow", "ftfy")},
        "rows": rows,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
