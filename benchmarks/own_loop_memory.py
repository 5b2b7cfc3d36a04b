"""Peak device memory and time of burnish's own loop on one GPU, beside what the plan says (plan/memory.py).

    python benchmarks/own_loop_memory.py run OUT.jsonl [SECONDS]  # needs a GPU; begins no configuration after SECONDS
    python benchmarks/own_loop_memory.py score ROWS.jsonl         # errors; needs no GPU

Random weights of well-known shapes in bfloat16 or NF4, packed rows of samples of 512 tokens, eight steps of which the last five are
timed. A third of the configurations is held out by hash: constants are fitted to the others alone (fit_constants.py). The
prediction is that of what torch allocates: the plan's peak without CUDA's context and the allocator's share.
"""

from __future__ import annotations

import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plan_memory import build_base  # the same folder

BASES = ("llama-3.2-1b-instruct", "qwen3-1.7b", "phi-3.5-mini-instruct")
SAMPLE, STEPS, TIMED = 512, 8, 5


_enough: dict[tuple[str, str, int, str], int] = {}
"""The memory of a plan with so many recomputed layers, once it was found."""


def cells() -> Iterator[dict[str, Any]]:
    """Yield the configurations, each with its part; those of the smallest rows first, so that a run cut short has every model."""
    for tokens in (1024, 4096):
        for share in ("none", "half", "all"):
            for base in BASES:
                for kind in ("lora", "qlora"):
                    held = hashlib.sha256(f"own {base} {kind} {tokens} {share}".encode()).digest()[0] % 3 == 0
                    part = "held-out" if held else "fit"
                    yield {"base": base, "kind": kind, "row_tokens": tokens, "recomputed": share, "part": part}


def make_rows(tokens: int) -> list[Any]:
    """Return samples that fill STEPS packed rows."""
    from burnish.core.rows import TokenRow

    draw, half = random.Random(0), SAMPLE // 2
    return [
        TokenRow(
            f"{i:012d}", tuple(draw.randrange(10, 30_000) for _ in range(SAMPLE)), (0,) * half + (1,) * half, 0, half
        )
        for i in range(STEPS * tokens // SAMPLE)
    ]


def plan_of_rows(
    recipe: Any, base: Any, config: dict[str, Any], machine: Any, *, rows: int, tokens: int, trained: int
) -> Any:
    """Return the plan of a recipe on a machine, with so many rows of so many tokens each, of which `trained` have a loss."""
    from burnish.core.artifacts import FileRef, Histogram, Ledger, Manifest, Split, TextFingerprint
    from burnish.plan.make import make_plan

    file = FileRef(path="x", sha256="0" * 64, size_bytes=1)
    split = Split(
        rows=rows, tokens=rows * tokens, unique_tokens=rows * tokens, trained_tokens=rows * trained,
        longest_tokens=tokens, longest_answer_tokens=trained, lengths=Histogram(edges=(0, 1), counts=(rows,)), file=file,
        token_file=file,
    )  # fmt: skip
    manifest = Manifest(
        sources=(), fingerprint=TextFingerprint(tokenizer_sha256="", template_sha256="", system=None),
        ledger=Ledger(rows_in=rows, rows_kept=rows, rejected={}), splits={"train": split}, personal_data={}, leakage={},
        rejected_file=file, settings={},
    )  # fmt: skip
    return make_plan(
        recipe, base=base, config=config, manifest=manifest, data_bytes=None, hardware=machine,
        token_lengths=[("", 0, tokens)] * rows,
    )  # fmt: skip


def plan_of(cell: dict[str, Any]) -> Any:
    """Return the plan of a cell on its GPU (an H100 unless measured) with memory for just so many recomputed layers."""
    from burnish.core.recipe_file import parse_recipe
    from burnish.plan.bases import find_config, reference
    from burnish.plan.hardware import Hardware

    tokens = cell["row_tokens"]
    asked = {"row_tokens": tokens, "tokens_per_step": tokens, "learning_rate": 1e-4, "checkpoint_every": 1000}
    recipe = parse_recipe(
        {"name": "own", "base": cell["base"], "data": "x", "method": cell["kind"], "train": asked}, source="own"
    )
    config = find_config(cell["base"])
    base = reference(cell["base"], config)

    def on(gpu_bytes: int) -> Any:
        gpu = cell.get("gpu", "NVIDIA H100 80GB HBM3")
        machine = Hardware(cores=8, gpu_name=gpu, gpu_bytes=gpu_bytes, gpu_capability=(9, 0))
        rows = STEPS * tokens // SAMPLE
        return plan_of_rows(recipe, base, config, machine, rows=rows, tokens=SAMPLE, trained=SAMPLE // 2)

    key = (cell["base"], cell["kind"], tokens, cell["recomputed"])
    plan = on(_enough.get(key, 2**40))
    layers = config["num_hidden_layers"]
    wanted = {"none": 0, "half": layers // 2, "all": layers}[cell["recomputed"]]
    while plan.train.checkpointed_layers < wanted:
        _enough[key] = plan.memory.peak_bytes - 1
        plan = on(_enough[key])
    return plan


def predict(plan: Any) -> int:
    """Return what torch will have allocated at most."""
    parts = plan.memory.components
    return plan.memory.peak_bytes - parts["context"] - parts["allocator"]


def seconds_of(plan: Any) -> float:
    """Return the planned seconds of a step."""
    return plan.time.train.mid / plan.train.steps


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """Train and return peak bytes and the seconds of a step."""
    import gc

    import torch

    from burnish.core.events import StepDone
    from burnish.model.lora import attach_lora
    from burnish.train import sft
    from burnish.train.loop import train

    plan = plan_of(cell)
    gc.collect()
    torch.cuda.empty_cache()
    torch.manual_seed(0)
    model = build_base(cell["base"]).eval().requires_grad_(False)
    if cell["kind"] == "qlora":
        from burnish.model.load import quantise_nf4

        quantise_nf4(model, double_quantisation=True, device="cuda", dtype=torch.bfloat16)
    attach_lora(model, plan.method, seed=0)
    model.to("cuda")
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, steps, waited = torch.cuda.memory_allocated(), list[float](), list[float]()

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            steps.append(event.seconds)
            waited.append(event.waited_seconds)

    with tempfile.TemporaryDirectory() as folder:
        train(
            plan,
            sft.objective(plan.train, make_rows(cell["row_tokens"])),
            model,
            folder=Path(folder),
            emit=note,
            stop=lambda: False,
        )
    found = {
        "before": before,
        "peak": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "seconds": round(statistics.median(steps[-TIMED:]), 4),
        "waited": round(statistics.median(waited[-TIMED:]), 4),
        "layers": plan.train.checkpointed_layers,
        "planned_seconds": round(seconds_of(plan), 4),
        "predicted": predict(plan),
        "components": plan.memory.components,
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(),
    }
    del model
    return found


def main() -> None:
    """Run or score, as the arguments say."""
    what, path = sys.argv[1], Path(sys.argv[2])
    if what == "score":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for part in ("fit", "held-out"):
            of_part = [row for row in rows if row["part"] == part]
            plans = [plan_of(row) for row in of_part]
            for what, errors in (
                ("peak", [predict(plan) / row["peak"] - 1 for plan, row in zip(plans, of_part, strict=True)]),
                ("seconds", [seconds_of(plan) / row["seconds"] - 1 for plan, row in zip(plans, of_part, strict=True)]),
            ):
                mean, near = statistics.fmean(map(abs, errors)), sum(abs(error) <= 0.2 for error in errors)
                print(f"{part} {len(errors)} {what}: mean {mean:.2%}, {min(errors):+.1%} to {max(errors):+.1%}, "
                      f"{near} within 20%")  # fmt: skip
        return
    began, limit = time.perf_counter(), float(sys.argv[3]) if len(sys.argv) > 3 else float("inf")
    with path.open("w", encoding="utf-8") as file:
        for cell in cells():
            if time.perf_counter() - began > limit:
                break
            line = cell | measure(cell)
            file.write(json.dumps(line) + "\n")
            file.flush()
            memory, seconds = (
                line[a] / line[b] - 1 for a, b in (("predicted", "peak"), ("planned_seconds", "seconds"))
            )
            print(*cell.values(), line["layers"], round(line["peak"] / 2**30, 2), f"{memory:+.1%}", line["seconds"],
                  f"{seconds:+.0%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
