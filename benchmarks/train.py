"""burnish and its peers on the same rows on one GPU: tokens a second, memory, MFU, final loss.

    python benchmarks/train.py burnish unsloth trl trl_liger                   # LoRA in bfloat16 on the 8B shape, full rows
    python benchmarks/train.py burnish unsloth --base nf4 --memory least       # QLoRA, every layer recomputed
    python benchmarks/train.py burnish --base fp8 fp8_all                      # products in float8, backward alone and both ways
    python benchmarks/train.py burnish trl --rows chat                         # rows of mixed length: median 180, at most 2048

Random weights of a well-known shape; LoRA r=16, alpha=32, on all linear layers; 8,192 tokens a step; adapters and the optimizer's
states in float32. burnish makes its weights on the GPU; for the peers they are written to a folder first (--folder keeps it).
On `chat` rows a peer pads batches of 8, its default.
`auto` recomputes no layer that fits into 90% of the card, `least` recomputes all, in rows of half the tokens.
Tokens are those of the rows, without padding. MFU counts 4 operations a weight and token (6 for full fine-tuning), of the
989 TFLOP/s that an H100's and an H200's data sheets give bfloat16. Seconds: medians between the
ends of steps, the first 3 left out.
Peers that are not installed are passed over, which is said. Rows are added to --out (benchmarks/results/train.jsonl).
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import itertools
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEAK_FLOPS = 989e12
TOKENS_PER_STEP, ROW = 8192, 2048
PEERS = {"unsloth": ("unsloth", "trl"), "trl": ("trl",), "trl_liger": ("trl", "liger_kernel")}
LIBRARIES = ("torch", "transformers", "peft", "trl", "unsloth", "bitsandbytes", "liger_kernel", "triton")
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "llama-3.2-1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "head_dim": 64, "tie_word_embeddings": True,
    },
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 16},
    "llama-3.3-70b-of-8-layers": {
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 8, "num_attention_heads": 64,
    },
}  # fmt: skip
SHARED = {
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One measurement. `layers`: how many are recomputed; None leaves it to `memory`."""

    who: str
    shape: str = "llama-3.1-8b"
    base: str = "bf16"
    memory: str = "auto"
    rows: str = "full"
    steps: int = 11
    rank: int = 16
    layers: int | None = None
    row_tokens: int | None = None
    attention: str | None = None
    profile: Path | None = None


def make_rows(kind: str, steps: int) -> list[dict[str, list[int]]]:
    """Return rows as token ids and a mask: full rows, or chats whose lengths are log-normal."""
    draw = random.Random(0)
    rows: list[dict[str, list[int]]] = []
    wanted = (steps + 1) * TOKENS_PER_STEP
    while sum(len(row["ids"]) for row in rows) < wanted:
        length = ROW if kind == "full" else min(ROW, max(16, round(180 * math.exp(draw.gauss(0, 0.9)))))
        prompt = 1 if kind == "full" else length // 2
        rows.append(
            {"ids": [draw.randrange(3, 49_000) for _ in range(length)], "mask": [0] * prompt + [1] * (length - prompt)}
        )
    return rows  # fmt: skip


def build(shape: str) -> Any:
    """Return a Llama of this shape on the GPU with random weights in bfloat16, frozen."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**(SHARED | SHAPES[shape]))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(_device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def plan_of(setting: Setting, rows: list[Any], layers: int) -> Any:
    """Return a plan that trains every row once, one packed row of the step's tokens at a time (half of them in `least`)."""
    import torch

    from burnish.core.artifacts import (
        BaseRef,
        Interval,
        Memory,
        MethodPlan,
        Parameters,
        Plan,
        TimePlan,
        TokenPlan,
        TrainPlan,
    )  # fmt: skip
    from burnish.core.packing import count_steps, pack
    from burnish.train.pack import lengths_of

    nf4 = setting.base == "nf4"
    method = MethodPlan(
        kind="qlora" if nf4 else "lora", rank=setting.rank, alpha=2.0 * setting.rank, dropout=0.0, targets=("all-linear",),
        quantisation="nf4" if nf4 else "none", double_quantisation=nf4,
        base_dtype=setting.base if setting.base.startswith("fp8") else None,
    )  # fmt: skip
    row_tokens = setting.row_tokens or (TOKENS_PER_STEP // 2 if setting.memory == "least" else TOKENS_PER_STEP)
    together = TOKENS_PER_STEP // row_tokens
    packed = len(pack(lengths_of(rows), row_tokens, 0))
    steps = count_steps(packed, 1.0, together)
    numbers = TrainPlan(
        seed=0, epochs=1.0, learning_rate=1e-4, schedule="constant", warmup_steps=0, steps=steps, tokens_per_step=TOKENS_PER_STEP,
        row_tokens=row_tokens, rows_per_step=together, weight_decay=0.0, betas=(0.9, 0.999), epsilon=1e-8, max_gradient_norm=1.0,
        checkpoint_every=10_000, checkpointed_layers=layers, device="cuda" if torch.cuda.is_available() else "cpu",
        compute_dtype="bfloat16", threads=8,
    )  # fmt: skip
    none = Interval(low=0.0, mid=0.0, high=0.0)
    return Plan(
        name="benchmark", base=BaseRef(name=setting.shape, digest="0" * 64), manifest=None, method=method, train=numbers,
        parameters=Parameters(total=1, trainable=1), memory=Memory(weights_bytes=1, peak_bytes=1, components={}),
        tokens=TokenPlan(per_epoch=1, total=1, trained=1, exact=True),
        time=TimePlan(train=none, evaluate=none, total=none), fits=True, because={},
    )  # fmt: skip


def measure_burnish(setting: Setting, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Train in this process and return what was seen."""
    import torch

    from burnish.core.events import StepDone
    from burnish.core.rows import TokenRow
    from burnish.model.fused.paths import usual_paths
    from burnish.model.load import quantise_nf4
    from burnish.model.lora import attach_lora
    from burnish.train import sft
    from burnish.train.loop import train

    gc.collect()
    torch.cuda.empty_cache()
    model = build(setting.shape)
    if setting.base == "nf4":
        quantise_nf4(model, double_quantisation=True, device=_device(), dtype=torch.bfloat16)
    given = [
        TokenRow(str(i), tuple(row["ids"]), tuple(row["mask"]), 0, row["mask"].index(1)) for i, row in enumerate(rows)
    ]
    all_layers = model.config.num_hidden_layers
    layers = setting.layers if setting.layers is not None else all_layers if setting.memory == "least" else 0
    plan = plan_of(setting, given, layers)
    attach_lora(model, plan.method, seed=0)
    model.to(_device())
    paths = usual_paths(model)
    if setting.attention is not None:
        paths = replace(paths, attention=setting.attention)
    gc.collect()
    if _device() == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    stamps: list[float] = []
    steps: list[Any] = []

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            stamps.append(time.perf_counter())  # the loop has waited for the step's loss and gradient norm by then
            steps.append(event)

    with tempfile.TemporaryDirectory() as folder, profiled(setting.profile):
        train(
            plan,
            sft.objective(plan.train, given),
            model,
            folder=Path(folder),
            emit=note,
            stop=lambda: False,
            paths=paths,
        )
    found = {
        "seconds": [later - earlier for earlier, later in itertools.pairwise(stamps[2:])],
        "tokens": [step.tokens for step in steps[3:]],
        "losses": [step.loss for step in steps], "last_loss": steps[-1].loss,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30, "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        "checkpointed_layers": layers, "row_tokens": plan.train.row_tokens,
    }  # fmt: skip
    del model
    return found


@contextmanager
def profiled(file: Path | None) -> Iterator[None]:
    """Within the block GPU kernels are timed; their sums go to a file."""
    if file is None:
        yield
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        yield
    file.write_text(seen.key_averages().table(sort_by="cuda_time_total", row_limit=70, max_name_column_width=110))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def write_model(shape: str, folder: Path) -> None:
    """Write the model and a tokenizer for the peers to load."""
    if not (folder / "config.json").exists():
        build(shape).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(HERE / "peers" / name, folder)


def measure_peer(setting: Setting, rows: list[dict[str, list[int]]], folder: Path) -> dict[str, Any]:
    """Run a peer in a process of its own and return what it saw."""
    given = folder.parent / f"rows-{setting.rows}.json"
    given.write_text(json.dumps(rows), encoding="utf-8")
    command = [
        sys.executable,
        str(HERE / "peers" / "sft.py"),
        setting.who,
        "--model",
        str(folder),
        "--rows",
        str(given),
    ]
    batch = 4 if setting.rows == "full" else 8
    command += ["--steps", str(setting.steps), "--batch", str(batch), *(["--nf4"] if setting.base == "nf4" else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{setting.who} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found = json.loads(lines[-1].removeprefix("RESULT "))
    per_step = batch * sum(len(row["ids"]) for row in rows) / len(rows)
    found["tokens"] = [per_step] * len(found["seconds"])
    return found


def result(setting: Setting, found: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a measurement."""
    import torch

    shape = SHARED | SHAPES[setting.shape]
    hidden, width = shape["hidden_size"], shape["intermediate_size"]
    head = shape.get("head_dim", hidden // shape["num_attention_heads"])
    layer = hidden * head * (2 * shape["num_attention_heads"] + 2 * shape["num_key_value_heads"]) + 3 * hidden * width
    weights = shape["num_hidden_layers"] * layer + 2 * shape["vocab_size"] * hidden
    seconds = statistics.median(found["seconds"])
    speeds = [tokens / time for tokens, time in zip(found["tokens"], found["seconds"], strict=True)]
    padded = (
        setting.rows == "chat" and setting.who != "burnish"
    )  # padded steps take unequal times: what all took counts
    speed = sum(found["tokens"]) / sum(found["seconds"]) if padded else statistics.median(speeds)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if _installed(name)}
    device = torch.cuda.get_device_name() if _device() == "cuda" else "cpu"
    return {
        "who": setting.who, "model": f"{setting.shape}-shape", "method": "qlora" if setting.base == "nf4" else "lora",
        "base_dtype": setting.base, "memory": setting.memory, "rows": setting.rows, "rank": setting.rank,
        "checkpointed_layers": found.get("checkpointed_layers", "its own"), "row_tokens": found.get("row_tokens", "its own"),
        "tokens_per_step": TOKENS_PER_STEP, "attention": setting.attention, "tok_s": round(speed), "step_s": round(seconds, 4),
        "peak_gib": round(found["peak_gib"], 2), "reserved_gib": round(found["reserved_gib"], 2),
        "mfu": round(4 * weights * speed / PEAK_FLOPS, 3), "last_loss": round(found["last_loss"], 4),
        "device": device, "date": date.today().isoformat(), "versions": versions,
    }  # fmt: skip


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def run(setting: Setting, folder: Path) -> dict[str, Any]:
    """Measure one setting and return its row."""
    rows = make_rows(setting.rows, setting.steps)
    if setting.who == "burnish":
        return result(setting, measure_burnish(setting, rows))
    write_model(setting.shape, folder)
    return result(setting, measure_peer(setting, rows, folder))


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", nargs="+", choices=["burnish", *PEERS])
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--base", nargs="+", choices=["bf16", "nf4", "fp8", "fp8_all"], default=["bf16"])
    parser.add_argument("--memory", nargs="+", choices=["auto", "least"], default=["auto"])
    parser.add_argument("--rows", nargs="+", choices=["full", "chat"], default=["full"])
    parser.add_argument("--steps", type=int, default=11)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--layers", type=int, help="how many layers burnish recomputes")
    parser.add_argument("--row-tokens", type=int, help="tokens of burnish's packed rows")
    parser.add_argument("--attention", help="burnish's attention kernel: varlen, blocks, flex, masked")
    parser.add_argument("--profile", type=Path, help="time burnish's GPU kernels and write their sums here")
    parser.add_argument("--folder", type=Path, help="where the peers' model is written, and left")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "train.jsonl")
    asked = parser.parse_args()
    names = {"shape", "steps", "rank", "layers", "row_tokens", "attention", "profile"}
    shared = {name: value for name, value in vars(asked).items() if name in names}
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch) / "model"
        for who in asked.who:
            absent = [name for name in PEERS.get(who, ()) if not _installed(name)]
            if absent:
                print(f"{who}: passed over, {', '.join(absent)} is not installed")
                continue
            for base, memory, rows in itertools.product(asked.base, asked.memory, asked.rows):
                if who != "burnish" and (base.startswith("fp8") or memory != asked.memory[0]):
                    continue  # peers have neither
                row = run(Setting(who=who, base=base, memory=memory, rows=rows, **shared), folder)
                with asked.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
