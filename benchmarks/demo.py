"""Run the demo from nothing in a fresh home and write down what it took and what came out.

python benchmarks/demo.py [--home FOLDER] [--out benchmarks/results/demo.json]
The README's numbers are made from that file by `make docs`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = "recipes/flight-search.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="an empty folder; default: a temporary one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "demo.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        began = time.perf_counter()
        command = [sys.executable, "-m", "burnish", "run", RECIPE, "--home", str(home), "--json"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - began
        result = json.loads(done.stdout)
        report = json.loads((home / "artifacts" / "report" / f"{result['report']}.json").read_text())
        adapter = json.loads((home / "artifacts" / "adapter" / f"{result['adapter']}.json").read_text())
        plan = json.loads((home / "artifacts" / "plan" / f"{result['plan']}.json").read_text())
        manifest = json.loads((home / "artifacts" / "manifest" / f"{result['manifest']}.json").read_text())
        again = time.perf_counter()
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        second = time.perf_counter() - again
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"{os.cpu_count()} cores, {platform.machine()}",
        "threads": plan["train"]["threads"],
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "bitsandbytes")},
        "exit_code": done.returncode,
        "seconds": {"total": round(seconds, 1), **result["seconds"], "second_run": round(second, 1)},
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "train": adapter["measured"],
        "predicted": {"peak_bytes": plan["memory"]["peak_bytes"], "train_seconds": plan["time"]["train"]},
        "tokens": plan["tokens"],
        "ledger": manifest["ledger"],
        "gate": result["gate"],
        "scores": report["scores"],
        "comparisons": report["comparisons"],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: record[key] for key in ("seconds", "peak_rss_bytes", "gate")}, indent=2))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
