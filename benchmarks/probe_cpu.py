"""The demo's first steps on a CPU: what a probe of 20 of them says of the others, in seconds and in resident memory.

    OMP_NUM_THREADS=2 python benchmarks/probe_cpu.py [--steps 110] [--out benchmarks/results/probe_cpu.json]

On an idle machine. The steps are those of the run itself (train/probe.py uses the same loop), so one process is measured: the
steps 6 to 20 are the probe, those after 20 the run that it predicts. `peak_bytes` of the probe is the peak until step 20. Beside
them stand what the plan says without a probe, and what preparing the data leaves: resident memory with plan and data at hand, of
this process and of another (`--held HOME`) that found them prepared, both after the heap was trimmed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from burnish import pipeline, wiring
from burnish.core.artifacts import Manifest, Plan
from burnish.core.errors import Interrupted
from burnish.core.events import StepDone
from burnish.core.recipe import Recipe
from burnish.core.recipe_file import load_recipe
from burnish.model.lora import attach_lora
from burnish.model.memory import trim_heap
from burnish.store.home import Home
from burnish.train.loop import train
from burnish.train.probe import STEPS, spread, timed
from burnish.wiring.base import load_planned
from burnish.wiring.training import planned_objective

ROOT = Path(__file__).parents[1]


def planned(home: Home) -> tuple[Recipe, Plan, Manifest, int]:
    """Prepare and plan the demo; return the resident memory then, too."""
    import torch  # noqa: F401 - what training loads, so that it is in both numbers

    recipe = load_recipe(ROOT / "recipes" / "flight-search.yaml", ())
    done = pipeline.run(recipe, home, lambda event: None, until="plan")
    assert done.plan is not None
    assert done.manifest is not None
    trim_heap()
    return recipe, done.plan, done.manifest, psutil.Process().memory_info().rss


def measure(home: Home, steps: int) -> tuple[list[StepDone], Plan, int]:
    """Prepare and plan the demo, and return its first steps, its plan, and the resident memory before them."""
    recipe, plan, manifest, held = planned(home)
    base = wiring.open_base(recipe.base, lambda event: None)
    model = load_planned(plan, base, lambda event: None)
    attach_lora(model, plan.method, seed=plan.train.seed)
    found: list[StepDone] = []

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            found.append(event)

    objective = planned_objective(plan, manifest, home, model)
    with contextlib.suppress(Interrupted):
        train(plan, objective, model, folder=home.root, emit=note, stop=lambda: len(found) >= steps)
    return found, plan, held


def main() -> None:
    """Measure, compare and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "probe_cpu.json")
    parser.add_argument(
        "--held", type=Path, metavar="HOME", help="only print what a process holds that finds all prepared"
    )
    options = parser.parse_args()
    os.chdir(ROOT)
    if options.held is not None:
        print(planned(Home(options.held))[-1])
        return
    with tempfile.TemporaryDirectory() as folder:
        steps, plan, held_here = measure(Home(Path(folder)), options.steps)
        told = subprocess.run([sys.executable, __file__, "--held", folder], capture_output=True, text=True, check=True)
    held_again = int(told.stdout.split()[-1])
    probe, run = timed(steps[:STEPS]), steps[STEPS:]
    of_probe, of_run = (sum(s.seconds for s in part) / sum(s.tokens for s in part) for part in (probe, run))
    held, peak = max(step.rss_bytes for step in steps[:STEPS]), max(step.rss_bytes for step in steps)
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"{os.cpu_count()} cores, {platform.machine()}",
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load": os.getloadavg()[0],
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "bitsandbytes")},
        "steps": len(steps),
        "seconds_a_step": {
            "probe": statistics.fmean(s.seconds for s in probe),
            "run": statistics.fmean(s.seconds for s in run),
        },
        "seconds_error": of_probe / of_run - 1,
        "spread_of_probe": spread(probe),
        "rss_bytes": {"probe": held, "run": peak},
        "rss_error": held / peak - 1,
        "planned_bytes": plan.memory.peak_bytes,
        "planned_error": plan.memory.peak_bytes / peak - 1,
        "planned_components": plan.memory.components,
        "before_training": {"data_prepared_here": held_here, "found_prepared": held_again},
        "each": [[step.tokens, round(step.seconds, 3), step.rss_bytes] for step in steps],
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in record.items() if key != "each"}, indent=2))


if __name__ == "__main__":
    main()
