"""The choice of paths (train/choose.py) as a run makes it on a card: what it measured, what it took, what that gained.

    python benchmarks/choose_paths.py                                      # 1B shape, chats of mixed length, 400 steps
    python benchmarks/choose_paths.py --shape llama-3.1-8b --rows full     # samples of one length
    python benchmarks/choose_paths.py --shape tiny --steps 6               # on a CPU: the same measurement, ways of a CPU

Random weights, LoRA r=16 on all linears, 8,192 tokens a step (benchmarks/train.py). Three parts: the run begins and measures; it
trains --steps on what was chosen; it begins again, and remembers. Beside them 20 steps each on the usual and on the plain paths.
Writes one line of JSON to --out: the notes of the run, seconds of the measurement, tokens a second of each (medians, the first 3
steps left out), last losses.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import train as bench  # the same folder

SHORT = 20


def main() -> None:
    """Choose, train on what was chosen, choose again; write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=bench.SHAPES, default="llama-3.2-1b")
    parser.add_argument("--base", choices=["bf16", "nf4"], default="bf16")
    parser.add_argument("--rows", choices=["full", "chat"], default="chat")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=bench.HERE / "results" / "choose_paths.jsonl")
    asked = parser.parse_args()
    setting = bench.Setting(
        who="burnish", shape=asked.shape, base=asked.base, rows=asked.rows, steps=max(asked.steps, SHORT)
    )
    row = measure(setting, asked.steps)
    with asked.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


def measure(setting: bench.Setting, steps: int) -> dict[str, Any]:
    """Return the row of a run."""
    import torch

    from burnish.model.fused.paths import PLAIN, usual_paths
    from burnish.model.lora import attach_lora

    rows = bench.token_rows(bench.make_rows(setting.rows, setting.steps))
    plan = bench.plan_of(setting, rows, 0)
    model = bench.build(setting.shape)
    if setting.base == "nf4":
        from burnish.model.load import quantise_nf4

        quantise_nf4(model, double_quantisation=True, device=bench._device(), dtype=torch.bfloat16)
    attach_lora(model, plan.method, seed=0)
    model.to(bench._device())
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        chosen = choose_as_a_run(plan, rows, model, Path(folder), notes)
        seconds = time.perf_counter() - began
        found = {"chosen": steps_on(plan, rows, model, chosen, steps)}
        if bench._device() == "cuda":
            again = choose_as_a_run(plan, rows, model, Path(folder), notes)
            assert again == chosen, "the verdict of the same shape is another the second time"
    for name, paths in (("usual", usual_paths(model)), ("plain", PLAIN)):
        found[name] = steps_on(plan, rows, model, paths, min(SHORT, steps))
    return {
        "model": f"{setting.shape}-shape", "base_dtype": setting.base, "rows": setting.rows, "steps": steps,
        "choice_seconds": round(seconds, 1), "notes": notes, "paths": asdict(chosen), "on": found,
        "device": torch.cuda.get_device_name() if bench._device() == "cuda" else "cpu", "torch": torch.__version__,
        "date": date.today().isoformat(),
    }  # fmt: skip


def choose_as_a_run(plan: Any, rows: list[Any], model: Any, home: Path, notes: list[str]) -> Any:
    """Return the paths that a run of this plan takes. On a CPU, where a run measures nothing, measure what it has."""
    from burnish.model.fused.paths import ON_CPU
    from burnish.train import sft
    from burnish.train.choose import choose, measured

    def note(event: Any) -> None:
        notes.append(event.text)

    objective = sft.objective(plan.train, rows)
    if bench._device() == "cuda":
        return choose(plan, objective, model, home=home, emit=note)
    stages = ({"masked attention": {"attention": "masked"}}, {"loss in chunks of 512": {"loss_chunk": 512}})
    return measured(plan, objective, model, objective.longest(), ON_CPU, stages, note)[1]


def steps_on(plan: Any, rows: list[Any], model: Any, paths: Any, steps: int) -> dict[str, Any]:
    """Train so many steps on some paths from a fresh adapter; return their median speed and the last loss."""
    import torch

    from burnish.core.events import StepDone
    from burnish.model.lora import lora_layers
    from burnish.train import sft
    from burnish.train.loop import train

    for layer in lora_layers(model).values():
        torch.nn.init.zeros_(layer.lora_B)
    done: list[StepDone] = []

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            done.append(event)
            if event.step == steps:
                raise bench.Measured

    gc.collect()
    with tempfile.TemporaryDirectory() as folder, bench.suppress(bench.Measured):
        objective = sft.objective(plan.train, rows)
        train(plan, objective, model, folder=Path(folder), emit=note, stop=lambda: False, paths=paths)
    counted = done[min(3, len(done) - 1) :]
    speed = statistics.median(step.tokens / step.seconds for step in counted)
    return {"steps": len(done), "tok_s": round(speed), "last_loss": round(done[-1].loss, 4)}


if __name__ == "__main__":
    main()
