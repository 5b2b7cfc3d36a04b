"""Frozen layers streamed from the host's pinned memory beside layers that stay: tokens a second, memory of the card, and the loss.

    python benchmarks/streamed.py                                   # LoRA in bfloat16 and QLoRA: 0, 8, 16, 24, 32 of 32 layers
    python benchmarks/streamed.py --base bf16 --streamed 0 32 --row-tokens 4096
    python benchmarks/streamed.py --shape tiny --base nf4 --streamed 0 2 --row-tokens 2048     # a CPU: the same code

Random weights of the Llama-3.1-8B shape, LoRA r=16 on all linears, one packed row a step, no layer computed again. Losses of a
base must be the same whatever is streamed: the run ends with an error where they are not. Seconds: medians between the ends of
steps, the first 3 left out. Rows are added to --out (benchmarks/results/streamed.jsonl).
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import itertools
import json
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from train import HERE, LIBRARIES, SHAPES, Setting, build, installed, make_rows, plan_of, token_rows  # the same folder

WARM = 3


def measure(setting: Setting, streamed: int, rows: list[Any]) -> dict[str, Any]:
    """Train, and return what was seen."""
    import torch

    from burnish.core.events import StepDone
    from burnish.model.load import quantise_nf4
    from burnish.model.lora import attach_lora
    from burnish.model.stream import StreamedPart, spread, stream
    from burnish.train import sft
    from burnish.train.loop import train

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    model = build(setting.shape)
    if setting.base == "nf4":
        quantise_nf4(model, double_quantisation=True, device=device.type, dtype=torch.bfloat16)
    if streamed:
        stream(list(spread(model, streamed).values()), device)
        model.to(device)
    plan = plan_of(setting, rows, setting.layers or 0)
    attach_lora(model, plan.method, seed=0)
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    stamps: list[float] = []
    steps: list[StepDone] = []

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            stamps.append(time.perf_counter())
            steps.append(event)

    with tempfile.TemporaryDirectory() as folder:
        train(plan, sft.objective(plan.train, rows), model, folder=Path(folder), emit=note, stop=lambda: False)
    seconds = statistics.median(later - earlier for earlier, later in itertools.pairwise(stamps[WARM - 1 :]))
    parts = [module for module in model.modules() if isinstance(module, StreamedPart)]
    return {
        "tok_s": round(steps[-1].tokens / seconds), "step_s": round(seconds, 4), "losses": [step.loss for step in steps],
        "peak_gib": round((torch.cuda.max_memory_allocated() if cuda else steps[-1].rss_bytes) / 2**30, 2),
        "layer_mib": round(parts[0].host.numel() / 2**20, 1) if parts else 0.0,
        "copied_gib_a_step": round(parts[0].weights.copied_bytes / 2**30 / len(steps), 2) if parts else 0.0,
    }  # fmt: skip


def main() -> None:
    """Measure what the arguments ask for."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--base", nargs="+", choices=["bf16", "nf4"], default=["bf16", "nf4"])
    parser.add_argument("--streamed", nargs="+", type=int, default=[0, 8, 16, 24, 32])
    parser.add_argument("--row-tokens", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=0, help="how many layers are computed again")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "streamed.jsonl")
    asked = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    for base in asked.base:
        setting = Setting(
            who="burnish",
            shape=asked.shape,
            base=base,
            row_tokens=asked.row_tokens,
            layers=asked.layers,
            steps=asked.steps,
        )
        rows = token_rows(make_rows("full", asked.steps))
        expected = list[float]()
        for streamed in asked.streamed:
            found = measure(setting, streamed, rows)
            row = {
                "who": "burnish", "model": f"{asked.shape}-shape", "method": "qlora" if base == "nf4" else "lora",
                "base_dtype": base, "streamed_layers": streamed, "row_tokens": asked.row_tokens,
                "checkpointed_layers": asked.layers,
                **{name: value for name, value in found.items() if name != "losses"}, "last_loss": found["losses"][-1],
                "device": device, "date": date.today().isoformat(),
                "versions": {name: importlib.metadata.version(name) for name in LIBRARIES if installed(name)},
            }  # fmt: skip
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            expected = expected or found["losses"]
            off = max(abs(mine - its) / its for mine, its in zip(found["losses"], expected, strict=True))
            if off > 1e-2:
                raise SystemExit(f"{streamed} streamed layers give losses {off:.1%} from those of the first run.")
            gc.collect()


if __name__ == "__main__":
    main()
