"""Seconds of a training step on one GPU, beside what the plan says without and after a probe of 20 steps.

    python benchmarks/plan_time.py run OUT.jsonl [SECONDS]   # needs a GPU; begins no configuration after SECONDS
    python benchmarks/plan_time.py score ROWS.jsonl...       # errors; needs neither GPU nor torch

Two loops: the plain one of plan_memory.py (transformers, PEFT, AdamW; predicted by plan/step_time.py) and burnish's own
(packed rows; predicted by plan/time.py). Of each configuration 20 steps are a probe (the last 15 are timed, train/probe.py),
and as many steps as follow are the run that is predicted: its mean step against the probe's. The scored rows of
plan_memory.jsonl have no probe and are scored without one.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import own_loop_memory
import plan_memory

PROBE, WARM_UP, RUN = 20, 5, 30
PLAIN = [
    ("llama-3.2-1b-instruct", "full", 2, 2048, "none"),
    ("llama-3.2-1b-instruct", "lora", 8, 512, "all"),
    ("llama-3.2-1b-instruct", "qlora", 2, 2048, "half"),
    ("pythia-1.4b", "full", 8, 512, "none"),
    ("pythia-1.4b", "lora", 2, 2048, "all"),
    ("pythia-1.4b", "qlora", 1, 8192, "none"),
    ("qwen3-1.7b", "full", 2, 2048, "half"),
    ("qwen3-1.7b", "lora", 8, 512, "none"),
    ("phi-3.5-mini-instruct", "lora", 2, 2048, "none"),
    ("phi-3.5-mini-instruct", "qlora", 8, 512, "half"),
]
OWN = [
    ("llama-3.2-1b-instruct", "lora", 1024, "none"),
    ("llama-3.2-1b-instruct", "lora", 4096, "all"),
    ("llama-3.2-1b-instruct", "qlora", 4096, "half"),
    ("qwen3-1.7b", "lora", 4096, "half"),
    ("qwen3-1.7b", "qlora", 1024, "none"),
    ("phi-3.5-mini-instruct", "lora", 4096, "none"),
    ("phi-3.5-mini-instruct", "qlora", 1024, "all"),
    ("llama-3.2-1b-instruct", "qlora", 1024, "all"),
    ("phi-3.5-mini-instruct", "lora", 1024, "half"),
    ("qwen3-1.7b", "lora", 1024, "all"),
]


def cells() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the configurations, one of the plain loop and one of burnish's own in turn."""
    for plain, own in zip(PLAIN, OWN, strict=True):
        base, method, rows, row_tokens, recomputed = plain
        yield (
            "plain",
            {"base": base, "method": method, "rows": rows, "row_tokens": row_tokens, "recomputed": recomputed},
        )
        base, kind, row_tokens, recomputed = own
        yield "own", {"base": base, "kind": kind, "row_tokens": row_tokens, "recomputed": recomputed}


def planned_plain(cell: dict[str, Any], gpu: str) -> float:
    """Return the seconds of a step that the plan gives without a probe."""
    from burnish.plan.architecture import read_architecture
    from burnish.plan.bases import find_config
    from burnish.plan.footprint import Job
    from burnish.plan.gpus import find_gpu
    from burnish.plan.step_time import step_seconds

    architecture = read_architecture(find_config(cell["base"]))
    layers = {"none": 0, "half": architecture.layers // 2, "all": architecture.layers}[cell["recomputed"]]
    job = Job(cell["method"], cell["rows"], cell["row_tokens"], layers)
    return step_seconds(architecture, job, find_gpu(gpu)).total


def launch_seconds() -> float:
    """Return the seconds in which this host launches one small kernel through torch."""
    import torch

    number, times = torch.zeros(8, device="cuda"), []
    for _ in range(5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(2000):
            number.add_(1.0)
        times.append(time.perf_counter() - began)
    torch.cuda.synchronize()
    return min(times) / 2000


def plain_steps(cell: dict[str, Any], base: Any) -> dict[str, Any]:
    """Train a plain loop and return the seconds of each step, and its peak."""
    import torch

    model = base
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-5, fused=True)
    layers = [module for module in model.modules() if type(module).__name__.endswith(("DecoderLayer", "NeoXLayer"))]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    chosen = {"none": 0, "half": len(layers) // 2, "all": len(layers)}[cell["recomputed"]]
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index < chosen
    model.train()
    ids = torch.randint(3, 30_000, (cell["rows"], cell["row_tokens"]), device="cuda")
    seconds: list[float] = []
    torch.cuda.reset_peak_memory_stats()
    for _ in range(PROBE + RUN):
        torch.cuda.synchronize()
        began = time.perf_counter()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {
        "steps": seconds,
        "peak": torch.cuda.max_memory_allocated(),
        "predicted_peak": sum(plan_memory.predict(cell).values()),
    }


def own_steps(cell: dict[str, Any]) -> dict[str, Any]:
    """Train burnish's own loop and return the seconds of each step, its peak, and what the plan said of both."""
    import torch

    from burnish.core.events import StepDone
    from burnish.model.lora import attach_lora
    from burnish.train import sft
    from burnish.train.loop import train

    own_loop_memory.STEPS = PROBE + RUN
    plan = own_loop_memory.plan_of(cell)
    model = plan_memory.build_base(cell["base"]).eval().requires_grad_(False)
    if cell["kind"] == "qlora":
        from burnish.model.load import quantise_nf4

        quantise_nf4(model, double_quantisation=True, device="cuda", dtype=torch.bfloat16)
    attach_lora(model, plan.method, seed=0)
    model.to("cuda")
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    steps: list[float] = []

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            steps.append(event.seconds)

    objective = sft.objective(plan.train, own_loop_memory.make_rows(cell["row_tokens"]))
    with tempfile.TemporaryDirectory() as folder:
        train(plan, objective, model, folder=Path(folder), emit=note, stop=lambda: False)
    return {
        "steps": steps,
        "peak": torch.cuda.max_memory_allocated(),
        "predicted_peak": own_loop_memory.predict(plan),
        "planned": plan.time.train.mid / plan.train.steps,
    }


def run(out: Path, limit: float) -> None:
    """Measure, the two loops in turn, and write a line for each configuration."""
    import torch
    import transformers

    began = time.perf_counter()
    gpu = torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "gpu": gpu}
    versions["launch_seconds"] = launch_seconds()
    with out.open("w", encoding="utf-8") as file:
        for loop, cell in cells():
            if time.perf_counter() - began > limit:
                break
            torch.manual_seed(0)
            try:
                if loop == "plain":
                    found = plain_steps(cell, plan_memory.build(cell["base"], cell["method"]))
                    found["planned"] = planned_plain(cell, gpu)
                else:
                    found = own_steps(cell)
            except Exception as error:  # noqa: BLE001 - the other configurations are still worth their time
                print(loop, cell, "failed:", repr(error)[:300], flush=True)
                continue
            finally:
                gc.collect()
                torch.cuda.empty_cache()
            line = {"loop": loop, **cell, **found, **versions}
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(
                round(time.perf_counter() - began),
                loop,
                *cell.values(),
                *(f"{e:+.1%}" for e in errors(line)),
                flush=True,
            )


def errors(row: dict[str, Any]) -> tuple[float, float, float]:
    """Return predicted / measured - 1 of the run's mean step after the probe and without it, and of the peak."""
    steps = row["steps"]
    run = statistics.fmean(steps[PROBE:])
    probe = statistics.fmean(steps[WARM_UP:PROBE])
    return probe / run - 1, row["planned"] / run - 1, row["predicted_peak"] / row["peak"] - 1


def share_within(found: list[float], limit: float) -> str:
    """Say how many lie within a limit."""
    return f"{sum(abs(each) <= limit for each in found)} of {len(found)} within {limit:.0%}"


def score(paths: list[Path]) -> None:
    """Print how far predictions were off."""
    rows = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    for part in ("fit", "held-out"):
        chosen = [row for row in rows if row.get("part") == part and "seconds" in row]
        if chosen:
            off = [planned_plain(row, row["gpu"]) / row["seconds"] - 1 for row in chosen]
            mean = statistics.fmean(map(abs, off))
            print(f"plain loop, {chosen[0]['gpu']}, {part}: without a probe {share_within(off, 0.2)}, mean {mean:.1%}")
    for loop in ("plain", "own"):
        chosen = [row for row in rows if row.get("loop") == loop]
        if not chosen:
            continue
        probed, planned, peak = zip(*map(errors, chosen), strict=True)
        print(f"{loop} loop, {chosen[0]['gpu']}: after a probe {share_within(list(probed), 0.05)}, mean "
              f"{statistics.fmean(map(abs, probed)):.1%}; without {share_within(list(planned), 0.2)}, mean "
              f"{statistics.fmean(map(abs, planned)):.1%}; peak {min(peak):+.1%} to {max(peak):+.1%}, mean "
              f"{statistics.fmean(map(abs, peak)):.1%}")  # fmt: skip


def main() -> None:
    """Run or score, as the arguments say."""
    what, *rest = sys.argv[1:]
    if what == "score":
        score([Path(path) for path in rest])
    else:
        run(Path(rest[0]), float(rest[1]) if len(rest) > 1 else float("inf"))


if __name__ == "__main__":
    main()
