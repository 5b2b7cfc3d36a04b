"""The longest row under a cap of memory: one step of QLoRA on a shape with random weights, and what the plan says of it.

    python benchmarks/long_context.py                                  # 78,475 tokens in 24 GB, 191,728 in 48 GB; needs a GPU
    python benchmarks/long_context.py --at 24:120000 --attention varlen
    python benchmarks/long_context.py --plan --at 24:78475 48:191728 80:342733      # calculates; needs no GPU
    python benchmarks/long_context.py --shape tiny --at 24:3000        # a few seconds on a CPU: the same code

NF4 weights, rank 32 on all linears, one row of so many tokens a step (batch 1). Lengths are those of Unsloth's published table for
Llama-3.1-8B (github.com/unslothai/unsloth, "Context length benchmarks"). A GB is 1e9 bytes. torch may hold no more than the cap,
less what CUDA itself takes by the plan's count: a step that needs more fails. Layers give way as the plan says: computed again, in
pieces, kept by the host (pinned memory, so the host needs what the plan tells). Seconds of a first step hold compilation.
Rows are added to --out (benchmarks/results/long_context.jsonl).
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import random
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from own_loop_memory import plan_of_rows  # the same folder

from train import HERE, LIBRARIES, SHAPES, SHARED, build, installed  # the same folder

USUAL = ("24:78475", "48:191728")


def plan_of(shape: str, gigabytes: float, tokens: int, asked: argparse.Namespace) -> Any:
    """Return the plan of steps of one row each, on this machine with no more memory on its GPU than the cap."""
    from burnish.core.recipe_file import parse_recipe
    from burnish.plan.bases import reference
    from burnish.plan.hardware import Hardware, detect

    config = SHARED | SHAPES[shape] | {"model_type": "llama", "max_position_embeddings": max(131072, tokens)}
    here = detect(probe=False)
    name = here.gpu_name or ("NVIDIA H100 80GB HBM3" if asked.plan else None)
    cap = {"gpu_name": name, "gpu_bytes": int(gigabytes * 1e9), "gpu_capability": here.gpu_capability or (9, 0)}
    machine = Hardware(cores=here.cores, ram_bytes=None if asked.plan else here.ram_bytes, **(cap if name else {}))
    train = {
        "row_tokens": tokens, "tokens_per_step": tokens, "learning_rate": 1e-4, "checkpoint_every": 1000,
        "memory_share": asked.share,
    }  # fmt: skip
    recipe = parse_recipe(
        {"name": "long", "base": shape, "data": "x", "method": {"kind": "qlora", "rank": 32}, "train": train},
        source="long",
    )
    return plan_of_rows(
        recipe, reference(shape, config), config, machine, rows=asked.steps, tokens=tokens, trained=tokens - 1
    )


def make_rows(tokens: int, steps: int) -> list[Any]:
    """Return one row for each step."""
    from burnish.core.rows import TokenRow

    draw = random.Random(0)
    return [
        TokenRow(
            f"{i:012d}", tuple(draw.randrange(10, 30_000) for _ in range(tokens)), (0,) + (1,) * (tokens - 1), 0, 1
        )
        for i in range(steps)
    ]


def cap_memory(gigabytes: float, context: int) -> None:
    """Let torch hold no more than the cap, less what CUDA itself takes."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (gigabytes * 1e9 - context) / total))


def measure(shape: str, tokens: int, plan: Any, asked: argparse.Namespace) -> dict[str, Any]:
    """Train the steps and return what they took."""
    import torch

    from burnish.core.events import Note, StepDone
    from burnish.model.fused.paths import usual_paths
    from burnish.model.load import quantise_nf4
    from burnish.model.lora import attach_lora
    from burnish.train import sft
    from burnish.train.loop import train

    cuda = plan.train.device == "cuda"
    model = build(shape)
    model.config.max_position_embeddings = max(131072, tokens)
    quantise_nf4(
        model, double_quantisation=True, device=plan.train.device, dtype=getattr(torch, plan.train.compute_dtype)
    )
    model = model.to(getattr(torch, plan.train.compute_dtype)) if not cuda else model
    attach_lora(model, plan.method, seed=0)
    model.to(plan.train.device)
    paths = usual_paths(model)
    if asked.attention is not None:
        paths = replace(paths, attention=asked.attention)
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    steps: list[StepDone] = []
    told: list[str] = []

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            steps.append(event)
            print(f"step {event.step}: {event.seconds:.1f} s", flush=True)
        elif isinstance(event, Note):
            told.append(event.text)
            print(event.text, flush=True)

    print("the model is there; the longest row goes forward once before the first step", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        train(plan, sft.objective(plan.train, make_rows(tokens, asked.steps)), model, folder=Path(folder), emit=note,
              stop=lambda: False, paths=paths)  # fmt: skip
    held = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if cuda else (steps[-1].rss_bytes, 0)
    return {
        "step_s": [round(step.seconds, 2) for step in steps], "tok_s": round(tokens / min(step.seconds for step in steps), 1),
        "losses": [round(step.loss, 4) for step in steps], "peak_gb": round(held[0] / 1e9, 2),
        "reserved_gb": round(held[1] / 1e9, 2), "host_rss_gb": round(steps[-1].rss_bytes / 1e9, 2), "told": told,
    }  # fmt: skip


def row_of(shape: str, gigabytes: float, tokens: int, plan: Any, asked: argparse.Namespace) -> dict[str, Any]:
    """Return what the plan says, as the beginning of a row."""
    memory, train = plan.memory, plan.train
    return {
        "who": "burnish", "model": f"{shape}-shape", "method": "qlora", "base_dtype": "nf4", "rank": plan.method.rank,
        "cap_gb": gigabytes, "tokens": tokens, "fits": plan.fits, "checkpointed_layers": train.checkpointed_layers,
        "feed_forward_again": train.feed_forward_again, "offloaded_layers": train.offloaded_layers,
        "piece_tokens": train.piece_tokens, "planned_peak_gb": round(memory.peak_bytes / 1e9, 2),
        "planned_host_gb": round((memory.host_bytes or 0) / 1e9, 2),
        "planned_step_s": round(plan.time.train.mid / train.steps, 1), "attention": asked.attention,
        "components_gb": {name: round(size / 1e9, 2) for name, size in memory.components.items()},
    }  # fmt: skip


def main() -> None:
    """Plan, and measure unless asked not to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", nargs="+", default=list(USUAL), metavar="GB:TOKENS", help="caps and lengths of rows")
    parser.add_argument("--plan", action="store_true", help="calculate only")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.9, help="share of the cap that the plan may fill")
    parser.add_argument("--attention", help="attention kernel: varlen, blocks, flex")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "long_context.jsonl")
    asked = parser.parse_args()
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # before torch is imported
    for each in asked.at:
        gigabytes, tokens = float(each.partition(":")[0]), int(each.partition(":")[2])
        plan = plan_of(asked.shape, gigabytes, tokens, asked)
        row = row_of(asked.shape, gigabytes, tokens, plan, asked)
        print(json.dumps(row), plan.because.get("train.offloaded_layers", ""), sep="\n", flush=True)
        if asked.plan:
            continue
        import torch

        device = "cpu"
        if plan.train.device == "cuda":
            cap_memory(gigabytes, plan.memory.components["context"])
            device = torch.cuda.get_device_name()
        row |= measure(asked.shape, tokens, plan, asked) | {
            "device": device, "date": date.today().isoformat(),
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES if installed(name)},
        }  # fmt: skip
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
