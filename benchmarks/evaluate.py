"""The evaluation stage on a finished run: an adapter's own layers, a bank, and answers that reading has begun, in turns.

`python benchmarks/evaluate.py HOME` takes the newest adapter of a home (as `burnish run RECIPE --home HOME` leaves it) and
evaluates it on the first rows of each task, each arm in a process of its own. Arms: `layers` has the adapter on the model's layers
and writes every answer from its first token; `bank` has packed layers and a bank of adapters; `begun` also lets answers begin with
what reading the expected ones has shown that the model would write itself, as the stage does. Prints one JSON document: medians of
seconds by arm, of the stage by the clock and by processor time, and of each part by processor time, which other work on the machine
changes least; peaks of resident memory; and how many answers differ from those of the first arm. `--keep FOLDER` keeps every run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from burnish.core.artifacts import Adapter, Manifest, Plan
from burnish.core.events import discard
from burnish.core.rows import TokenRow
from burnish.evaluate.run import Subject, evaluate, peak_rss_bytes
from burnish.store.home import Home
from burnish.subjects import ModelSubject
from burnish.wiring import load_for_serving, open_base
from burnish.wiring.evaluating import eval_rows, on_layers, subjects

ARMS = ("layers", "bank", "begun")


class Timed:
    """A subject whose parts are timed and whose answers are kept."""

    def __init__(self, subject: Subject, *, begun: bool) -> None:
        self.subject, self.begun = subject, begun
        self.seconds = {"read": 0.0, "answer": 0.0}
        self.answers: list[list[int]] = []
        self.known = 0

    def read(self, rows: Sequence[TokenRow]) -> Sequence[tuple[float, int, int]]:
        began = time.process_time()
        found = self.subject.read(rows)
        self.seconds["read"] += time.process_time() - began
        return found

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        begun: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Callable[[int, int], None],
    ) -> list[list[int]]:
        began = time.process_time()
        known = begun if self.begun else [()] * len(prompts)
        found = self.subject.complete(prompts, known, max_new_tokens, progress)
        self.seconds["answer"] += time.process_time() - began
        self.answers += found
        self.known += sum(map(len, known))
        return found


def one(home: Home, arm: str, rows: int, threads: int, dtype: str | None, forgetting: bool) -> dict[str, Any]:
    """Evaluate once in this process."""
    plan, manifest, adapter = (_newest(home, kind) for kind in (Plan, Manifest, Adapter))
    changes = {"threads": threads, **({"compute_dtype": dtype} if dtype else {})}
    plan = plan.model_copy(update={"train": plan.train.model_copy(update=changes)})
    base = open_base(plan.base.name, discard)
    tasks = {name: eval_rows(split, home)[:rows] for name, split in manifest.splits.items() if name != "train"}
    longest = -(-5 * manifest.splits["train"].longest_answer_tokens // 4) + 8
    if arm == "layers":
        lenders = on_layers(load_for_serving(base, plan, discard), None, home.path(adapter.weights_file).parent)
        found = {name: ModelSubject(lent, base.tokenizer.stop_ids) for name, lent in lenders.items()}
    else:
        found = subjects(adapter, plan, base, home, discard)
    timed = {name: Timed(subject, begun=arm == "begun") for name, subject in found.items()}
    began, spent = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        evaluate(
            name="benchmark", adapter=adapter, manifest=manifest, tasks=tasks, subjects=timed, encode_general=base.tokenizer.encode,
            decode=base.tokenizer.decode, max_new_tokens=longest, forgetting=forgetting, folder=Path(folder), root=Path(folder),
            seed=0, emit=discard,
        )  # fmt: skip
    return {
        "stage": time.perf_counter() - began,
        "processor": time.process_time() - spent,
        "seconds": {f"{name} {part}": s for name, each in timed.items() for part, s in each.seconds.items()},
        "answers": {name: each.answers for name, each in timed.items()},
        "begun": {name: each.known for name, each in timed.items()},
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _newest(home: Home, kind: type[Any]) -> Any:
    folder = home.root / "artifacts" / kind.__name__.lower()
    return home.load(kind, max(folder.glob("*.json"), key=lambda path: path.stat().st_mtime).stem)


def turns(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
    asked = [str(options.home), "--rows", str(options.rows), "--threads", str(options.threads)]
    asked += ["--dtype", options.dtype] if options.dtype else []
    asked += ["--forgetting"] if options.forgetting else []
    for number in range(options.rounds):
        for arm in options.arms:
            command = [sys.executable, __file__, *asked, "--one", arm]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[arm].append(json.loads(done.stdout))
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{arm}-{number}.json").write_text(done.stdout)
            print(f"round {number + 1}, {arm}: {found[arm][-1]['stage']:.1f} s", file=sys.stderr)
    return found


def summary(runs: Sequence[dict[str, Any]], first: dict[str, Any]) -> dict[str, Any]:
    parts = runs[0]["seconds"]
    return {
        "stage_s": round(statistics.median(run["stage"] for run in runs), 1),
        "processor_s": round(statistics.median(run["processor"] for run in runs), 1),
        **{f"{part}_s": round(statistics.median(run["seconds"][part] for run in runs), 1) for part in parts},
        "peak_rss_mib": round(max(run["peak_rss_bytes"] for run in runs) / 2**20),
        "begun_tokens": runs[0]["begun"],
        "written_tokens": {name: sum(map(len, answers)) for name, answers in runs[0]["answers"].items()},
        "other_answers": {
            name: sum(a != b for a, b in zip(answers, first["answers"][name], strict=True))
            for name, answers in runs[0]["answers"].items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="a home with a trained adapter")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rows", type=int, default=48, help="rows of each task")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="instead of what the plan computes in")
    parser.add_argument("--forgetting", action="store_true", help="read the general texts too")
    parser.add_argument("--keep", type=Path, help="a folder for what every run gave, answers included")
    parser.add_argument("--one", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(
            json.dumps(
                one(Home(options.home), options.one, options.rows, options.threads, options.dtype, options.forgetting)
            )
        )
        return
    runs = turns(options)
    head = {"rows": options.rows, "threads": options.threads, "dtype": options.dtype, "rounds": options.rounds}
    arms = {arm: summary(each, runs[options.arms[0]][0]) for arm, each in runs.items()}
    print(json.dumps({**head, "load_average": round(os.getloadavg()[0], 1), "arms": arms}, indent=2))


if __name__ == "__main__":
    main()
