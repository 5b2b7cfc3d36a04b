"""burnish and its peers on the same rows on one GPU: tokens a second, memory, MFU, final loss.

    python benchmarks/train.py burnish unsloth trl trl_liger                   # LoRA in bfloat16 on the 8B shape, full rows
    python benchmarks/train.py burnish unsloth --base nf4 --memory least       # QLoRA, every layer recomputed
    python benchmarks/train.py burnish --base fp8 fp8_all                      # products in float8, backward alone and both ways
    python benchmarks/train.py burnish trl --rows chat                         # rows of mixed length: median 180, at most 2048
    python benchmarks/train.py burnish unsloth trl trl_liger --method full --shape llama-3.2-1b \\
        --optimizer adamw adamw_8bit adamw_in_backward                        # every weight
    python benchmarks/train.py burnish --shape llama-3.2-1b --steps 500        # memory of every step
    python benchmarks/train.py burnish --shape llama-3.3-70b-of-8-layers --base nf4    # and what is planned for all 80 layers

Random weights of a well-known shape; LoRA r=16, alpha=32, on all linear layers; 8,192 tokens a step; adapters and the optimizer's
states in float32. burnish makes its weights on the GPU; for the peers they are written to a folder first (--folder keeps it).
With `--method full` every weight trains. burnish computes in bfloat16 with float32 weights beside it; of the peers TRL loads
float32 weights and computes in bfloat16, Unsloth has bfloat16 weights alone: `weights` of a row says so, --weights has them
otherwise.
On `chat` rows a peer pads batches of 8, its default.
`auto` recomputes no layer that fits into 90% of the card, `least` recomputes all, in rows of half the tokens.
Tokens are those of the rows, without padding. MFU counts 4 operations a weight and token (6 for full fine-tuning), of the
989 TFLOP/s that an H100's and an H200's data sheets give bfloat16. Seconds: medians between the
ends of steps, the first 3 left out. `memory_by_step`: the peak of a step and what is held at its end, told where they change by a
MiB or more, and by how much the peak of any step is above that of the fourth.
A shape with some of its layers left out is also planned with all of them, on --planned-on: a second row, "planned": true.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEAK_FLOPS = 989e12
TOKENS_PER_STEP, ROW = 8192, 2048
PROFILED = 2
"""The last so many steps are profiled."""
PEERS = {"unsloth": ("unsloth", "trl"), "trl": ("trl",), "trl_liger": ("trl", "liger_kernel")}
LIBRARIES = ("torch", "transformers", "peft", "trl", "unsloth", "bitsandbytes", "liger_kernel", "triton")
OPTIMIZERS = ("adamw", "adamw_8bit", "muon", "adafactor", "adamw_in_backward", "adamw_8bit_in_backward")
IN_BACKWARD = "_in_backward"
PEER_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit"}
"""What transformers calls those that it has."""
ALL_LAYERS = {"llama-3.3-70b-of-8-layers": ("llama-3.3-70b", 80)}
MIB = 2**20
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "llama-3.2-1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "head_dim": 64, "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 16, "vocab_size": 50_000,
    },
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
    method: str = "lora"
    optimizer: str = "adamw"
    weights: str | None = None
    base: str = "bf16"
    memory: str = "auto"
    rows: str = "full"
    steps: int = 11
    rank: int = 16
    layers: int | None = None
    row_tokens: int | None = None
    attention: str | None = None
    profile: Path | None = None
    planned_on: str = "h100"

    @property
    def full(self) -> bool:
        """Whether every weight trains."""
        return self.method == "full"

    @property
    def in_backward(self) -> bool:
        """Whether each weight is updated as soon as its gradient is there."""
        return self.optimizer.endswith(IN_BACKWARD)


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


def token_rows(rows: list[dict[str, list[int]]]) -> list[Any]:
    """Return rows as burnish's loop takes them."""
    from burnish.core.rows import TokenRow

    return [
        TokenRow(str(i), tuple(row["ids"]), tuple(row["mask"]), 0, row["mask"].index(1)) for i, row in enumerate(rows)
    ]


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
    rank = 0 if setting.full else setting.rank
    method = MethodPlan(
        kind="full" if setting.full else "qlora" if nf4 else "lora", rank=rank, alpha=2.0 * rank, dropout=0.0,
        targets=() if setting.full else ("all-linear",), quantisation="nf4" if nf4 else "none", double_quantisation=nf4,
        base_dtype=setting.base if setting.base.startswith("fp8") else None,
    )  # fmt: skip
    optimizer = setting.optimizer.removesuffix(IN_BACKWARD)
    halved = setting.memory == "least" and not setting.in_backward  # updates in backward: one packed row a step
    row_tokens = setting.row_tokens or (TOKENS_PER_STEP // 2 if halved else TOKENS_PER_STEP)
    together = TOKENS_PER_STEP // row_tokens
    packed = len(pack(lengths_of(rows), row_tokens, 0))
    steps = count_steps(packed, 1.0, together)
    numbers = TrainPlan(
        seed=0, epochs=1.0, learning_rate=1e-4, schedule="constant", warmup_steps=0, steps=steps, tokens_per_step=TOKENS_PER_STEP,
        row_tokens=row_tokens, rows_per_step=together, weight_decay=0.0, betas=(0.9, 0.999), epsilon=1e-8, max_gradient_norm=1.0,
        checkpoint_every=10_000, checkpointed_layers=layers, device="cuda" if torch.cuda.is_available() else "cpu",
        compute_dtype="bfloat16", threads=8, optimizer=None if optimizer == "adamw" else optimizer,
        optimizer_in_backward=True if setting.in_backward else None,
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
    from burnish.model.full import train_every_weight
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
    given = token_rows(rows)
    all_layers = model.config.num_hidden_layers
    layers = setting.layers if setting.layers is not None else all_layers if setting.memory == "least" else 0
    plan = plan_of(setting, given, layers)
    if setting.full:
        train_every_weight(model)
    else:
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
    memory: list[tuple[int, int]] = []

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            stamps.append(time.perf_counter())  # the loop has waited for the step's numbers; the next step is launched
            steps.append(event)
            memory.append(memory_of_step())
            if event.step == event.steps:
                raise Measured
            if event.step == event.steps - PROFILED - 1 and profiler is not None:
                torch.cuda.synchronize()  # the step after this one runs already: those after it are profiled
                profiler.start()  # what is compiled and tried before would take a minute to sum up

    with tempfile.TemporaryDirectory() as folder, profiled(setting.profile) as profiler, suppress(Measured):
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
        "peak_gib": max(peak for peak, _ in memory) / 2**30, "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        "checkpointed_layers": layers, "row_tokens": plan.train.row_tokens, "memory_by_step": told_memory(memory),
    }  # fmt: skip
    del model
    return found


class Measured(Exception):
    """The last step is done; what a run writes after it is not measured."""


def memory_of_step() -> tuple[int, int]:
    """Return the most bytes held since this was asked last, and those held now: of the GPU, on a CPU resident ones."""
    import torch

    if _device() == "cpu":
        from psutil import Process

        resident = Process().memory_info().rss
        return resident, resident
    seen = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return seen


def told_memory(steps: list[tuple[int, int]]) -> dict[str, Any]:
    """Return the memory of steps in few numbers: [step, GiB] where it is not that of the step told before, and how it grew."""

    def changes(each: list[int]) -> list[list[float]]:
        told: list[list[float]] = []
        last = -MIB
        for number, size in enumerate(each, start=1):
            if abs(size - last) >= MIB:
                told.append([number, round(size / 2**30, 3)])
                last = size
        return told

    peaks = [peak for peak, _ in steps]
    flat = peaks[3:] or peaks[-1:]
    return {
        "steps": len(steps), "peak_gib": changes(peaks)[:20], "held_gib": changes([held for _, held in steps])[:20],
        "grew_mib_after_step_3": round((max(flat) - flat[0]) / MIB, 2),
    }  # fmt: skip


@contextmanager
def profiled(file: Path | None) -> Iterator[Any]:
    """Yield what times GPU kernels once it is started (None without a file); their sums go to the file at the end."""
    if file is None:
        yield None
        return
    from torch.profiler import ProfilerActivity, profile

    seen = profile(activities=[ProfilerActivity.CUDA])
    yield seen
    seen.stop()
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
    command += ["--optim", PEER_OPTIMIZERS[setting.optimizer], "--weights", peer_weights(setting)]
    command += ["--full"] if setting.full else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{setting.who} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found = json.loads(lines[-1].removeprefix("RESULT "))
    per_step = batch * sum(len(row["ids"]) for row in rows) / len(rows)
    found["tokens"] = [per_step] * len(found["seconds"])
    return found


def peer_weights(setting: Setting) -> str:
    """Return the dtype of a peer's weights: as asked, or as it has them by itself."""
    own = "float32" if setting.full and setting.who != "unsloth" else "bfloat16"
    return setting.weights or own


def result(setting: Setting, found: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a measurement."""
    import torch

    shape = SHARED | SHAPES[setting.shape]
    hidden, width = shape["hidden_size"], shape["intermediate_size"]
    head = shape.get("head_dim", hidden // shape["num_attention_heads"])
    layer = hidden * head * (2 * shape["num_attention_heads"] + 2 * shape["num_key_value_heads"]) + 3 * hidden * width
    embeddings = 1 if shape["tie_word_embeddings"] else 2
    weights = shape["num_hidden_layers"] * layer + embeddings * shape["vocab_size"] * hidden
    seconds = statistics.median(found["seconds"])
    speeds = [tokens / time for tokens, time in zip(found["tokens"], found["seconds"], strict=True)]
    padded = (
        setting.rows == "chat" and setting.who != "burnish"
    )  # padded steps take unequal times: what all took counts
    speed = sum(found["tokens"]) / sum(found["seconds"]) if padded else statistics.median(speeds)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if installed(name)}
    device = torch.cuda.get_device_name() if _device() == "cuda" else "cpu"
    operations = 6 if setting.full else 4
    of_full = {
        "optimizer": setting.optimizer,
        "weights": "bfloat16, float32 beside" if setting.who == "burnish" else peer_weights(setting),
    }
    return {
        "who": setting.who, "model": f"{setting.shape}-shape", "method": method_name(setting), **(of_full if setting.full else {}),
        "base_dtype": setting.base, "memory": setting.memory, "rows": setting.rows, "rank": setting.rank,
        "checkpointed_layers": found.get("checkpointed_layers", "its own"), "row_tokens": found.get("row_tokens", "its own"),
        "tokens_per_step": TOKENS_PER_STEP, "attention": setting.attention, "tok_s": round(speed), "step_s": round(seconds, 4),
        "peak_gib": round(found["peak_gib"], 2), "reserved_gib": round(found["reserved_gib"], 2),
        "mfu": round(operations * weights * speed / PEAK_FLOPS, 3), "last_loss": round(found["last_loss"], 4),
        **({"memory_by_step": found["memory_by_step"]} if "memory_by_step" in found else {}),
        "device": device, "date": date.today().isoformat(), "versions": versions,
    }  # fmt: skip


def method_name(setting: Setting) -> str:
    """Return what a row calls the method."""
    return "full" if setting.full else "qlora" if setting.base == "nf4" else "lora"


def planned_row(setting: Setting, measured: dict[str, Any]) -> dict[str, Any]:
    """Return what the plan says of all layers of a shape some of whose layers were measured, and of those beside them."""
    from own_loop_memory import plan_of_rows, predict, seconds_of  # the same folder

    from burnish.core.recipe_file import parse_recipe
    from burnish.plan.bases import reference
    from burnish.plan.gpus import get_gpu
    from burnish.plan.hardware import rented

    name, layers = ALL_LAYERS[setting.shape]
    train = {"row_tokens": TOKENS_PER_STEP, "tokens_per_step": TOKENS_PER_STEP, "learning_rate": 1e-4}
    method = {"kind": method_name(setting), "rank": setting.rank}
    recipe = parse_recipe(
        {"name": "planned", "base": name, "data": "x", "method": method, "train": train}, source="planned"
    )
    gpu = get_gpu(setting.planned_on)

    def plan(count: int) -> Any:
        config = {"model_type": "llama", **SHARED, **SHAPES[setting.shape], "num_hidden_layers": count}
        rows = setting.steps * TOKENS_PER_STEP // ROW
        base = reference(name, config)
        return plan_of_rows(recipe, base, config, rented(gpu), rows=rows, tokens=ROW, trained=ROW - 1)

    some = SHAPES[setting.shape]["num_hidden_layers"]
    part, whole = plan(some), plan(layers)
    beside = {
        "layers": some, "tok_s": round(TOKENS_PER_STEP / seconds_of(part)),
        "peak_gib": round(predict(part) / 2**30, 2), "measured_tok_s": measured["tok_s"],
        "measured_peak_gib": measured["peak_gib"], "measured_on": measured["device"],
        "measured_memory": setting.memory,
    }  # fmt: skip
    return {
        "who": "burnish", "model": f"{name}-shape", "planned": True,
        "says": f"{some} layers measured, {layers} planned", "method": method_name(setting),
        "base_dtype": setting.base, "rank": setting.rank, "checkpointed_layers": whole.train.checkpointed_layers,
        "feed_forward_again": whole.train.feed_forward_again or 0, "row_tokens": TOKENS_PER_STEP,
        "tokens_per_step": TOKENS_PER_STEP, "tok_s": round(TOKENS_PER_STEP / seconds_of(whole)),
        "peak_gib": round(predict(whole) / 2**30, 2), "fits": whole.fits, "plan_of_measured_layers": beside,
        "device": gpu.name, "date": date.today().isoformat(),
    }  # fmt: skip


def installed(name: str) -> bool:
    """Return whether a package is there."""
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
    parser.add_argument(
        "--method", choices=["lora", "full"], default="lora", help="lora (qlora with --base nf4), or full"
    )
    parser.add_argument("--optimizer", nargs="+", choices=OPTIMIZERS, default=["adamw"], help="with --method full")
    parser.add_argument("--weights", choices=["float32", "bfloat16"], help="of the peers in full fine-tuning")
    parser.add_argument("--planned-on", default="h100", help="the card that all layers of a shape are planned on")
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
    if asked.method == "full" and asked.base != ["bf16"]:
        parser.error("--method full trains the base itself: --base bf16 alone.")
    if asked.method != "full" and (asked.optimizer != ["adamw"] or asked.weights):
        parser.error("--optimizer and --weights are for --method full.")
    names = {
        "shape",
        "method",
        "weights",
        "steps",
        "rank",
        "layers",
        "row_tokens",
        "attention",
        "profile",
        "planned_on",
    }
    shared = {name: value for name, value in vars(asked).items() if name in names}
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch) / "model"
        for who in asked.who:
            absent = [name for name in PEERS.get(who, ()) if not installed(name)]
            if absent:
                print(f"{who}: passed over, {', '.join(absent)} is not installed")
                continue
            for base, optimizer, memory, rows in itertools.product(
                asked.base, asked.optimizer, asked.memory, asked.rows
            ):
                setting = Setting(who=who, base=base, optimizer=optimizer, memory=memory, rows=rows, **shared)
                lacks = base.startswith("fp8") or memory != asked.memory[0] or optimizer not in PEER_OPTIMIZERS
                if who != "burnish" and lacks:
                    continue  # peers have none of these
                found = run(setting, folder)
                note(found, asked.out)
                if who == "burnish" and setting.shape in ALL_LAYERS and not setting.full:
                    note(planned_row(setting, found), asked.out)


def note(row: dict[str, Any], out: Path) -> None:
    """Print a row, and add it to the file."""
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
