"""Seconds of a training step on one GPU, beside what the plan says without and after a probe.

    python benchmarks/plan_time.py run OUT.jsonl [--loop plain|own] [--part 1/2] [--seconds S] [--way pinned]  # needs a GPU
    python benchmarks/plan_time.py score ROWS.jsonl...       # errors; needs neither GPU nor torch

Two loops: the plain one of plan_memory.py (transformers, PEFT, AdamW; predicted by plan/step_time.py) and burnish's own
(packed rows; predicted by plan/time.py). Of each configuration the first steps are a probe as `burnish plan --probe` makes it
(20 steps, more while their mean is not known to 1%; train/probe.py), and those that follow are the run that is predicted: its
mean step against that of the probe, and of the first 20 steps alone. The run goes on until its own mean is known to 1%, or for
RUN_SECONDS; where its halves are further apart than the bar, the machine wandered and no probe can know.

The plain configurations are 48 of the 108 of plan_memory.py, four of each model and method, drawn by hash; the first 24 hold two
of each. The own ones are the 36 of own_loop_memory.py, so that these rows can be fitted to as well (fit_constants.py own).
--known: rows whose configurations are left out; --part: every second group of the others; --seconds: begins no configuration
after that; --way: how the process is placed (steady_steps.py), `turns`: as it is and then pinned, for the configurations that
the host's launching decides. A row is written as soon as it is there. On an H200 a configuration takes 5 to 15 s. The rows of
plan_memory.jsonl have no probe and are scored without.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import own_loop_memory
import plan_memory
import steady_steps

from burnish.plan.probe import LEAST_WAIT

PROBE, WARM_UP = 20, 5
PROBE_SECONDS, RUN_SECONDS = 10.0, 10.0
"""The longest probe (the product's may take 30) and run."""
RUN_STEPS, LEAST_RUN_SECONDS = 10, 3.0
MOST = 200
"""Steps of a configuration at most."""
OF_A_GROUP, AT_ONCE = 4, 2
"""Plain configurations of a model and a method, and those of them that are measured in one turn, on one build of the model."""


def plain_cells() -> list[dict[str, Any]]:
    """Return the plain configurations, two of each model and method first, models and lengths taking turns."""
    bases, methods = plan_memory.ARCHITECTURES, plan_memory.METHODS
    every = [cell for part in ("fit", "held-out") for cell in plan_memory.cells(part)]
    groups = [
        (base, methods[(at + turn) % len(methods)]) for turn in range(len(methods)) for at, base in enumerate(bases)
    ]
    lengths = [tokens for _, tokens in plan_memory.SHAPES]
    chosen: list[list[dict[str, Any]]] = []
    for number, group in enumerate(groups):
        drawn = sorted((cell for cell in every if (cell["base"], cell["method"]) == group), key=_drawn)[:OF_A_GROUP]
        drawn.sort(key=lambda cell: (lengths.index(cell["row_tokens"]) - number) % len(lengths))
        chosen.append(drawn[::2] + drawn[1::2])
    return [cell for at in range(0, OF_A_GROUP, AT_ONCE) for group in chosen for cell in group[at : at + AT_ONCE]]


def own_cells() -> list[dict[str, Any]]:
    """Return the configurations of the own loop, each model, method, length and recomputation early."""
    return sorted(own_loop_memory.cells(), key=_drawn)


def _drawn(cell: dict[str, Any]) -> str:
    return hashlib.sha256(f"time {sorted(cell.items())}".encode()).hexdigest()


def cells(loop: str, part: int, parts: int, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the configurations of a loop of a part that are not among the known rows: plain ones of one turn together."""
    chosen = own_cells() if loop == "own" else plain_cells()
    chosen = [cell for cell in chosen if not any(cell.items() <= row.items() for row in known)]
    turns = [list(turn) for _, turn in itertools.groupby(chosen, key=lambda cell: (cell["base"], cell.get("method")))]
    if loop == "own":
        turns = [[cell] for cell in chosen]
    for turn in turns[part - 1 :: parts]:
        yield from turn


def read_rows(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the rows of files of JSON lines."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


class Course:
    """A probe and the run after it, as their steps come."""

    def __init__(self) -> None:
        self.each: list[float] = []
        self.probe = 0

    def add(self, seconds: float) -> None:
        """Take a step, and end the probe after it if that is enough."""
        from burnish.train.probe import enough

        self.each.append(seconds)
        if not self.probe and enough(self.each, sum(self.each), PROBE_SECONDS):
            self.probe = len(self.each)

    @property
    def over(self) -> bool:
        """Whether the run is known, or long enough."""
        from burnish.train.probe import KNOWN, error_of_mean

        run = self.each[self.probe :] if self.probe else []
        seconds = sum(run)
        if len(self.each) >= MOST or seconds >= RUN_SECONDS:
            return True
        return len(run) >= RUN_STEPS and seconds >= LEAST_RUN_SECONDS and error_of_mean(run) <= KNOWN


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
        course = Course()

        def ended(made: list[list[float]]) -> bool:
            if made:
                course.add(made[-1][0])
            return course.over

        each = steady_steps.steps(self.model, optimizer, ids, ended)
        return {
            "probe": course.probe,
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

    from burnish.core.errors import Interrupted
    from burnish.core.events import StepDone
    from burnish.model.lora import attach_lora
    from burnish.train import sft
    from burnish.train.loop import train

    own_loop_memory.STEPS = MOST
    plan = own_loop_memory.plan_of(cell)
    model = plan_memory.build_base(cell["base"]).eval().requires_grad_(False)
    if cell["kind"] == "qlora":
        from burnish.model.load import quantise_nf4

        quantise_nf4(model, double_quantisation=True, device="cuda", dtype=torch.bfloat16)
    attach_lora(model, plan.method, seed=0)
    model.to("cuda")
    empty()
    torch.cuda.reset_peak_memory_stats()
    steps, course = list[StepDone](), Course()

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            steps.append(event)
            course.add(event.seconds)

    objective = sft.objective(plan.train, own_loop_memory.make_rows(cell["row_tokens"]))
    with tempfile.TemporaryDirectory() as folder, suppress(Interrupted):
        train(plan, objective, model, folder=Path(folder), emit=note, stop=lambda: course.over)
    return {
        "probe": course.probe,
        "steps": [step.seconds for step in steps],
        "waited": [step.waited_seconds for step in steps],
        "seconds": statistics.median(course.each[course.probe :]),
        "peak": torch.cuda.max_memory_allocated(),
        "predicted_peak": own_loop_memory.predict(plan),
        "components": plan.memory.components,
        "layers": plan.train.checkpointed_layers,
        "planned": own_loop_memory.seconds_of(plan),
    }


def run(options: argparse.Namespace) -> None:
    """Measure and write a line for each configuration."""
    import torch
    import transformers

    began, (part, parts) = time.perf_counter(), map(int, options.part.split("/"))
    known = [row for row in read_rows(options.known) if row.get("loop") == options.loop]
    gpu, plain = torch.cuda.get_device_name(), Plain()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "gpu": gpu}
    versions["launch_seconds"] = launch_seconds()
    ways = ("free", "pinned") if options.way == "turns" else (options.way,)
    with options.out.open("a", encoding="utf-8") as file:
        for cell in cells(options.loop, part, parts, known):
            for way in ways:
                if time.perf_counter() - began > options.seconds:
                    return
                torch.manual_seed(0)
                try:
                    with steady_steps.way(way):
                        found = plain.steps(cell, gpu) if options.loop == "plain" else own_steps(cell)
                except Exception as error:  # noqa: BLE001 - the other configurations are still worth their time
                    print(cell, "failed:", repr(error)[:300], flush=True)
                    break
                finally:
                    empty()
                line = {"loop": options.loop, **cell, **found, **versions, "way": way}
                file.write(json.dumps(line) + "\n")
                file.flush()
                print(round(time.perf_counter() - began), way, *cell.values(), tell(line), flush=True)
                if waited(line) >= LEAST_WAIT:
                    break


@dataclass(frozen=True, slots=True)
class Errors:
    """predicted / measured - 1 of the run's mean step, by its first 20 steps, its probe and the plan, and of its peak."""

    first: float
    probe: float
    planned: float
    peak: float


def errors(row: dict[str, Any]) -> Errors:
    """Return how far a row's predictions are off."""
    steps, ended = row["steps"], row.get("probe", PROBE)
    run = statistics.fmean(steps[ended:])
    first = statistics.fmean(steps[WARM_UP:PROBE])
    probe = statistics.fmean(steps[max(WARM_UP, ended // 5) : ended])
    return Errors(first / run - 1, probe / run - 1, row["planned"] / run - 1, row["predicted_peak"] / row["peak"] - 1)


def wandered(row: dict[str, Any]) -> float:
    """Return how far the second half of a run is from its first."""
    run = row["steps"][row.get("probe", PROBE) :]
    return statistics.fmean(run[len(run) // 2 :]) / statistics.fmean(run[: len(run) // 2]) - 1


def tell(row: dict[str, Any]) -> str:
    """Return a line on a row's errors."""
    off, ended = errors(row), row["probe"]
    return (
        f"{statistics.fmean(row['steps'][ended:]):.4f} s: 20 steps {off.first:+.1%}, probe of {ended} {off.probe:+.1%}, "
        f"plan {off.planned:+.1%}, peak {off.peak:+.1%}; {len(row['steps']) - ended} steps, halves {wandered(row):+.1%} "
        f"apart, waited {waited(row):.0%}"
    )


def waited(row: dict[str, Any]) -> float:
    """Return the share of the run's seconds in which the host waited for the GPU."""
    ended = row.get("probe", PROBE)
    return sum(row["waited"][ended:]) / sum(row["steps"][ended:])


def share_within(found: list[float], limit: float) -> str:
    """Say how many lie within a limit."""
    return f"{sum(abs(each) <= limit for each in found)} of {len(found)} within {limit:.0%}"


def score(paths: list[Path]) -> None:
    """Print how far predictions were off."""
    rows = read_rows(paths)
    for part in ("fit", "held-out"):
        chosen = [row for row in rows if row.get("part") == part and "loop" not in row]
        if chosen:
            off = [planned_plain(row, row["gpu"]) / row["seconds"] - 1 for row in chosen]
            mean = statistics.fmean(map(abs, off))
            print(f"plain loop, {chosen[0]['gpu']}, {part}: without a probe {share_within(off, 0.2)}, mean {mean:.1%}")
    for loop in ("plain", "own"):
        for way in sorted({row.get("way", "free") for row in rows if row.get("loop") == loop}):
            chosen = [row for row in rows if row.get("loop") == loop and row.get("way", "free") == way]
            _score_runs(f"{loop} loop, {chosen[0]['gpu']}, {way}", chosen)


def _score_runs(name: str, rows: list[dict[str, Any]]) -> None:
    kinds = {
        "all": rows,
        "the GPU decides": [row for row in rows if "waited" in row and waited(row) >= LEAST_WAIT],
        "launching decides": [row for row in rows if "waited" in row and waited(row) < LEAST_WAIT],
        "the run's own halves within 5%": [row for row in rows if abs(wandered(row)) <= 0.05],
    }
    for kind, chosen in kinds.items():
        if not chosen:
            continue
        off = [errors(row) for row in chosen]
        told = [
            f"{what} {share_within(found, limit)}, mean {statistics.fmean(map(abs, found)):.1%}"
            for what, found, limit in (
                ("after 20 steps", [each.first for each in off], 0.05),
                ("after the probe", [each.probe for each in off], 0.05),
                ("without", [each.planned for each in off], 0.2),
            )
        ]
        peak = [each.peak for each in off]
        told.append(f"peak {min(peak):+.1%} to {max(peak):+.1%}, mean {statistics.fmean(map(abs, peak)):.1%}")
        print(f"{name}, {kind}: {'; '.join(told)}")


def main() -> None:
    """Run or score, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    running, scoring = what.add_parser("run"), what.add_parser("score")
    running.add_argument("out", type=Path)
    running.add_argument("--loop", choices=("plain", "own"), default="plain")
    running.add_argument("--part", default="1/1")
    running.add_argument("--known", type=Path, nargs="*", default=[])
    running.add_argument("--seconds", type=float, default=float("inf"))
    running.add_argument("--way", choices=("free", "frozen", "pinned", "one core", "turns"), default="free")
    scoring.add_argument("rows", type=Path, nargs="+")
    options = parser.parse_args()
    if options.what == "score":
        score(options.rows)
    else:
        run(options)


if __name__ == "__main__":
    main()
