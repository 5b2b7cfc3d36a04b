"""Train a few steps in fresh processes; print what the plan predicted beside what was measured, one JSON line each.

    OMP_NUM_THREADS=2 python tests/plan/calibrate.py            # all rows: some minutes on two quiet cores
    OMP_NUM_THREADS=2 python tests/plan/calibrate.py qlora 512  # one row: method, row_tokens [prefix tail rank layers base]

The constants of src/burnish/plan/constants.json come from these lines. Not a test: it is slow, and needs a quiet machine.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

BASE = "smollm2-135m-instruct"
STEPS = 4
ROWS: list[tuple[str, int, int, int, int, int]] = [
    # method, row_tokens, prefix, tail, rank, layers recomputed
    ("lora", 128, 0, 64, 16, 0),
    ("lora", 512, 0, 64, 16, 0),
    ("lora", 512, 200, 60, 16, 0),
    ("lora", 512, 0, 64, 64, 0),
    ("lora", 512, 0, 64, 16, 15),
    ("lora", 512, 0, 64, 16, 30),
    ("lora", 1024, 0, 128, 16, 0),
    ("qlora", 128, 0, 64, 16, 0),
    ("qlora", 512, 0, 64, 16, 0),
    ("qlora", 512, 200, 60, 16, 0),
    ("qlora", 512, 0, 64, 16, 30),
    ("qlora", 1024, 0, 128, 16, 0),
]


def peak_rss_bytes() -> int:
    """VmHWM of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure(
    kind: str, row_tokens: int, prefix: int, tail: int, rank: int, layers: int, base_name: str = BASE
) -> dict[str, Any]:
    """Plan and train one row in this process."""
    import torch

    from burnish.core.artifacts import FileRef, Histogram, Ledger, Manifest, Split, TextFingerprint
    from burnish.core.events import Event, StepDone
    from burnish.core.recipe_file import parse_recipe
    from burnish.core.rows import TokenRow
    from burnish.model.bases import read_config, resolve_base
    from burnish.model.load import load_base
    from burnish.model.lora import attach_lora
    from burnish.plan.hardware import detect, probe_gflops
    from burnish.plan.make import make_plan
    from burnish.train import sft
    from burnish.train.loop import train
    from burnish.train.pack import lengths_of

    draw = random.Random(0)
    count = STEPS * ((row_tokens - prefix) // tail)
    vocabulary = 390 if base_name != BASE else 40_000
    shared = tuple(draw.randrange(10, vocabulary) for _ in range(prefix))
    loss = tail // 2
    rows = [
        TokenRow(
            f"{i:012d}",
            shared + tuple(draw.randrange(10, vocabulary) for _ in range(tail)),
            (0,) * (prefix + tail - loss) + (1,) * loss,
            prefix,
            prefix + tail - loss,
        )
        for i in range(count)
    ]
    file = FileRef(path="x", sha256="0" * 64, size_bytes=1)
    split = Split(
        rows=count,
        tokens=count * (prefix + tail),
        unique_tokens=prefix + count * tail,
        trained_tokens=count * loss,
        longest_tokens=prefix + tail,
        longest_answer_tokens=loss,
        lengths=Histogram(edges=(0, 1), counts=(count,)),
        file=file,
        token_file=file,
    )
    manifest = Manifest(
        sources=(),
        fingerprint=TextFingerprint(tokenizer_sha256="", template_sha256="", system=None),
        ledger=Ledger(rows_in=count, rows_kept=count, rejected={}),
        splits={"train": split},
        personal_data={},
        leakage={},
        rejected_file=file,
        settings={},
    )
    base = resolve_base(base_name)
    numbers = {"row_tokens": row_tokens, "tokens_per_step": row_tokens, "learning_rate": 1e-4}
    recipe = parse_recipe(
        {"name": "calibrate", "base": base_name, "data": "x", "method": {"kind": kind, "rank": rank}, "train": numbers},
        source="calibrate",
    )
    config = read_config(base.folder)

    def plan_with(ram_bytes: int) -> Any:
        machine = replace(detect(probe=False), ram_bytes=ram_bytes, gemm_gflops=probe_gflops(0.5), gpu_name=None)
        return make_plan(
            recipe,
            base=base.ref,
            config=config,
            manifest=manifest,
            data_bytes=None,
            hardware=machine,
            token_lengths=lengths_of(rows),
        )

    ram = 2**40
    plan = plan_with(ram)
    while plan.train.checkpointed_layers < layers:
        ram = plan.memory.peak_bytes - 1
        plan = plan_with(ram)
    events: list[Event] = []
    began = time.perf_counter()
    model = load_base(
        base.folder, quantisation=plan.method.quantisation, double_quantisation=plan.method.double_quantisation,
        dtype=getattr(torch, plan.train.compute_dtype),
    )  # fmt: skip
    load_seconds, loaded = time.perf_counter() - began, peak_rss_bytes()
    attach_lora(model, plan.method, seed=0)
    cpu = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        took = train(
            plan, sft.objective(plan.train, rows), model, folder=Path(folder), emit=events.append, stop=lambda: False
        )
    cpu = time.process_time() - cpu
    steps = [event for event in events if isinstance(event, StepDone)]
    seconds = sorted(event.seconds for event in steps)
    return {
        "method": kind,
        "row_tokens": row_tokens,
        "prefix": prefix,
        "tail": tail,
        "rank": rank,
        "layers": plan.train.checkpointed_layers,
        "threads": plan.train.threads,
        "load_seconds": round(load_seconds, 2),
        "load_peak": loaded,
        "seen_peak": took.peak_rss_bytes,
        "peak": peak_rss_bytes(),
        "predicted_peak": plan.memory.peak_bytes,
        "ratio": round(peak_rss_bytes() / plan.memory.peak_bytes, 3),
        "step_seconds": round(seconds[0], 2),
        "predicted_step_seconds": round(plan.time.train.mid / plan.train.steps, 2),
        "cpu_seconds": round(cpu / len(steps), 2),
        "tokens": steps[0].tokens,
        "source": plan.because["time.train"],
        "components": plan.memory.components,
    }


def main() -> None:
    """Measure the row of the arguments, or all rows, each in its own process."""
    if len(sys.argv) > 1:
        kind, *rest = sys.argv[1:]
        asked = [kind, *map(int, rest[:5])]
        default = (kind, 512, 0, 64, 16, 0)
        sys.stdout.write(json.dumps(measure(*(*asked, *default[len(asked) :]), *rest[5:6])) + "\n")
        return
    for row in ROWS:
        subprocess.run([sys.executable, __file__, *map(str, row)], check=True, env=os.environ.copy())


if __name__ == "__main__":
    main()
