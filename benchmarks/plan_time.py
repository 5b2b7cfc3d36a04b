"""Seconds of a training step on one GPU, beside what the plan says without and after a probe of 20 steps.

    python benchmarks/plan_time.py run OUT.jsonl [--loop plain|own] [--part 1/3] [--seconds S] [--way pinned]  # needs a GPU
    python benchmarks/plan_time.py score ROWS.jsonl...       # errors; needs neither GPU nor torch

Two loops: the plain one of plan_memory.py (transformers, PEFT, AdamW; predicted by plan/step_time.py) and burnish's own
(packed rows; predicted by plan/time.py). Of each configuration 20 steps are a probe (the last 15 are timed, train/probe.py),
and as many steps as follow are the run that is predicted: its mean step against the probe's. The plain configurations are 48 of
the 108 of plan_memory.py, four of each model and method, drawn by hash. --part: every third group of them; --seconds: begins
no configuration after that; --way: how the process is placed (steady_steps.py). The scored rows of plan_memory.jsonl have no
probe and are scored without one.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import own_loop_memory
import plan_memory
import steady_steps

from burnish.plan.probe import LEAST_WAIT

PROBE, WARM_UP, RUN = 20, 5, 40
OF_A_GROUP = 4
"""Plain configurations of a model and a method."""
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


def plain_cells() -> list[dict[str, Any]]:
    """Return the plain configurations, those of one model and method together."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for part in ("fit", "held-out"):
        for cell in plan_memory.cells(part):
            groups.setdefault((cell["base"], cell["method"]), []).append(cell)
    return [cell for group in groups.values() for cell in sorted(group, key=_drawn)[:OF_A_GROUP]]


def _drawn(cell: dict[str, Any]) -> str:
    return hashlib.sha256(f"time {sorted(cell.items())}".encode()).hexdigest()


def cells(loop: str, part: int, parts: int) -> Iterator[dict[str, Any]]:
    """Yield the configurations of a loop that belong to a part: whole groups of one model and method."""
    if loop == "own":
        for base, kind, row_tokens, recomputed in OWN[part - 1 :: parts]:
            yield {"base": base, "kind": kind, "row_tokens": row_tokens, "recomputed": recomputed}
        return
    for number, cell in enumerate(plain_cells()):
        if number // OF_A_GROUP % parts == part - 1:
            yield cell


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


class Plain:
    """The plain model that was built last: configurations of one model and method share it."""

    def __init__(self) -> None:
        self.built: tuple[str, str] | None = None
        self.model: Any = None

    def steps(self, cell: dict[str, Any], gpu: str) -> dict[str, Any]:
        """Train a plain loop and return the seconds of each step, and its peak."""
        import torch

        wanted = (cell["base"], cell["method"])
        if wanted != self.built:
            self.model = None
            empty()
            torch.manual_seed(0)
            self.model, self.built = plan_memory.build(*wanted), wanted
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, 1e-5, fused=True)
        plan_memory.recompute(self.model, cell["recomputed"])
        ids = torch.randint(3, 30_000, (cell["rows"], cell["row_tokens"]), device="cuda")
        empty()
        torch.cuda.reset_peak_memory_stats()
        each = steady_steps.steps(self.model, optimizer, ids, PROBE + RUN)
        return {
            "steps": [step[0] for step in each],
            "waited": [step[1] for step in each],
            "busy": [step[2] for step in each],
            "fixed": [step[3] for step in each],
            "peak": torch.cuda.max_memory_allocated(),
            "predicted_peak": sum(plan_memory.predict(cell).values()),
            "planned": planned_plain(cell, gpu),
        }


def empty() -> None:
    """Give back what nobody holds any more."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


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
    empty()
    torch.cuda.reset_peak_memory_stats()
    steps: list[StepDone] = []

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            steps.append(event)

    objective = sft.objective(plan.train, own_loop_memory.make_rows(cell["row_tokens"]))
    with tempfile.TemporaryDirectory() as folder:
        train(plan, objective, model, folder=Path(folder), emit=note, stop=lambda: False)
    return {
        "steps": [step.seconds for step in steps],
        "waited": [step.waited_seconds for step in steps],
        "peak": torch.cuda.max_memory_allocated(),
        "predicted_peak": own_loop_memory.predict(plan),
        "planned": plan.time.train.mid / plan.train.steps,
    }


def run(options: argparse.Namespace) -> None:
    """Measure and write a line for each configuration."""
    import torch
    import transformers

    began, (part, parts) = time.perf_counter(), map(int, options.part.split("/"))
    gpu, plain = torch.cuda.get_device_name(), Plain()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "gpu": gpu, "way": options.way}
    versions["launch_seconds"] = launch_seconds()
    with options.out.open("a", encoding="utf-8") as file, steady_steps.way(options.way):
        for cell in cells(options.loop, part, parts):
            if time.perf_counter() - began > options.seconds:
                break
            torch.manual_seed(0)
            try:
                found = plain.steps(cell, gpu) if options.loop == "plain" else own_steps(cell)
            except Exception as error:  # noqa: BLE001 - the other configurations are still worth their time
                print(cell, "failed:", repr(error)[:300], flush=True)
                continue
            finally:
                empty()
            line = {"loop": options.loop, **cell, **found, **versions}
            file.write(json.dumps(line) + "\n")
            file.flush()
            off = " ".join(f"{e:+.1%}" for e in errors(line))
            print(
                round(time.perf_counter() - began),
                options.loop,
                *cell.values(),
                off,
                f"waited {waited(line):.0%}",
                flush=True,
            )


def errors(row: dict[str, Any]) -> tuple[float, float, float]:
    """Return predicted / measured - 1 of the run's mean step after the probe and without it, and of the peak."""
    steps = row["steps"]
    run = statistics.fmean(steps[PROBE:])
    probe = statistics.fmean(steps[WARM_UP:PROBE])
    return probe / run - 1, row["planned"] / run - 1, row["predicted_peak"] / row["peak"] - 1


def waited(row: dict[str, Any]) -> float:
    """Return the share of the run's seconds in which the host waited for the GPU."""
    return sum(row["waited"][PROBE:]) / sum(row["steps"][PROBE:])


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
        deciding = {"the GPU decides": True, "launching decides": False}
        for name, waiting in deciding.items():
            part = [errors(row)[0] for row in chosen if "waited" in row and (waited(row) >= LEAST_WAIT) == waiting]
            if part:
                print(f"{loop} loop, {name}: after a probe {share_within(part, 0.05)}, mean "
                      f"{statistics.fmean(map(abs, part)):.1%}")  # fmt: skip
        print(f"{loop} loop, {chosen[0]['gpu']}: after a probe {share_within(list(probed), 0.05)}, mean "
              f"{statistics.fmean(map(abs, probed)):.1%}; without {share_within(list(planned), 0.2)}, mean "
              f"{statistics.fmean(map(abs, planned)):.1%}; peak {min(peak):+.1%} to {max(peak):+.1%}, mean "
              f"{statistics.fmean(map(abs, peak)):.1%}")  # fmt: skip


def main() -> None:
    """Run or score, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    running, scoring = what.add_parser("run"), what.add_parser("score")
    running.add_argument("out", type=Path)
    running.add_argument("--loop", choices=("plain", "own"), default="plain")
    running.add_argument("--part", default="1/1")
    running.add_argument("--seconds", type=float, default=float("inf"))
    running.add_argument("--way", choices=("free", "frozen", "pinned", "one core"), default="free")
    scoring.add_argument("rows", type=Path, nargs="+")
    options = parser.parse_args()
    if options.what == "score":
        score(options.rows)
    else:
        run(options)


if __name__ == "__main__":
    main()
