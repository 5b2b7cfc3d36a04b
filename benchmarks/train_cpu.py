"""burnish and TRL's SFTTrainer on the demo's rows on a CPU: tokens a second, peak resident memory.

    python benchmarks/train_cpu.py                          # all arms, two rounds, two threads: about ten minutes
    python benchmarks/train_cpu.py --arms burnish --rounds 1
    python benchmarks/train_cpu.py --arms burnish --threads 1 2 --rounds 3 --rows 40   # is a second core worth having?

SmolLM2-135M-Instruct in float32, LoRA r=16, alpha=32 on all linear layers, fused AdamW. The same rows of
recipes/flight-search.yaml for all, as token ids and masks; each arm in a process of its own, the arms in turn, round by round.
burnish takes its own plan of that recipe with `method: lora`. TRL takes its defaults (batches of 8, padded, recomputation), the
same without recomputation, and packed rows of 1,024 tokens one at a time (8 at once hold 16 GB).
`tok_s` counts the tokens of the rows, without padding, each row's system prompt in it; `computed_tok_s` what burnish computes
for them, a prompt that rows share once. With several --threads each arm takes each of them in turn; where more threads of burnish
are slower than fewer, the command ends with 1. A run's first step is left out. Peak: VmHWM of the process. Rows are added to --out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "flight-search.yaml"
LIBRARIES = ("torch", "transformers", "peft", "trl")
ARMS = ("burnish", "trl", "trl, nothing recomputed", "trl, packed")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def ours(home_folder: Path, rows: int) -> dict[str, Any]:
    """Train on the first rows as the plan says; rows are written beside for the peers."""
    from burnish import pipeline
    from burnish.core.events import Note, StepDone, discard
    from burnish.core.recipe_file import load_recipe
    from burnish.store.home import Home
    from burnish.train import sft
    from burnish.train.loop import train
    from burnish.wiring import open_base, train_samples
    from burnish.wiring.training import begin

    home = Home(home_folder)
    recipe = load_recipe(RECIPE, overrides=["method={kind: lora, rank: 16, alpha: 32}"])
    made = pipeline.run(recipe, home, discard, until="plan")
    assert made.manifest is not None
    assert made.plan is not None
    chosen = train_samples(made.manifest, home).rows[:rows]
    plan = made.plan.model_copy(update={"train": _steps_of(made.plan.train, chosen)})
    model = begin(plan, open_base(recipe.base, discard), home, discard)
    steps: list[StepDone] = []
    notes: list[str] = []

    def note(event: object) -> None:
        if isinstance(event, StepDone):
            steps.append(event)
        elif isinstance(event, Note):
            notes.append(event.text)

    with tempfile.TemporaryDirectory() as scratch:
        train(
            plan, sft.objective(plan.train, chosen), model, folder=Path(scratch), stop=lambda: False, emit=note,
        )  # fmt: skip
    seconds, computed = sum(step.seconds for step in steps[1:]), sum(step.tokens for step in steps[1:])
    share = computed / sum(step.tokens for step in steps)
    return {
        "tok_s": share * sum(len(row.ids) for row in chosen) / seconds, "computed_tok_s": computed / seconds,
        "last_loss": steps[-1].loss, "steps": len(steps), "tokens_per_step": plan.train.tokens_per_step,
        "checkpointed_layers": plan.train.checkpointed_layers, "threads": plan.train.threads, "notes": notes,
    }  # fmt: skip


def _steps_of(train: Any, rows: Any) -> Any:
    """Return the plan's loop for one epoch over fewer rows."""
    from burnish.core.packing import count_steps, pack
    from burnish.train.pack import lengths_of

    packed = len(pack(lengths_of(rows), train.row_tokens, train.seed))
    steps = count_steps(packed, 1.0, train.rows_per_step)
    return train.model_copy(update={"steps": steps, "warmup_steps": 0, "checkpoint_every": 10_000, "epochs": 1.0})


def write_rows(home_folder: Path, count: int, file: Path) -> Path:
    """Write rows for the peers, prepared by burnish; return the folder of the base."""
    from burnish import pipeline
    from burnish.core.events import discard
    from burnish.core.recipe_file import load_recipe
    from burnish.store.home import Home
    from burnish.wiring import open_base, train_samples

    home = Home(home_folder)
    recipe = load_recipe(RECIPE, overrides=["method={kind: lora, rank: 16, alpha: 32}"])
    made = pipeline.run(recipe, home, discard, until="prepare")
    assert made.manifest is not None
    rows = train_samples(made.manifest, home).rows[:count]
    file.write_text(json.dumps([{"ids": row.ids, "mask": row.mask} for row in rows]), encoding="utf-8")
    return open_base(recipe.base, discard).files.folder


def theirs(folder: Path, file: Path, arm: str) -> dict[str, Any]:
    """Train with TRL on the rows of a file."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = json.loads(file.read_text(encoding="utf-8"))
    packed, batch = arm == "trl, packed", 1 if arm == "trl, packed" else 8
    labels = [[t if m else -100 for t, m in zip(row["ids"], row["mask"], strict=True)] for row in rows]
    data = Dataset.from_dict(
        {"input_ids": [row["ids"] for row in rows], "labels": labels}
        if packed
        else {
            "input_ids": [row["ids"] for row in rows], "attention_mask": [[1] * len(row["ids"]) for row in rows],
            "labels": labels,
        }
    )  # fmt: skip
    stamps: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            stamps.append(time.perf_counter())

    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, max_length=1024, num_train_epochs=1, bf16=False,
        use_cpu=True, gradient_checkpointing=arm != "trl, nothing recomputed", gradient_accumulation_steps=1,
        learning_rate=2e-3, lr_scheduler_type="constant", optim="adamw_torch_fused", report_to="none", save_strategy="no",
        logging_steps=1, packing=packed, dataset_kwargs={"skip_prepare_dataset": not packed}, remove_unused_columns=False,
        disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype="float32"), args=settings, train_dataset=data,
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0, bias="none", target_modules=TARGETS, task_type="CAUSAL_LM"),
        processing_class=tokenizer, callbacks=[Watch()],
        data_collator=None if packed else DataCollatorForSeq2Seq(tokenizer, padding=True),
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = len(stamps)
    tokens = sum(len(row["ids"]) for row in rows) * (steps - 1) / steps
    return {
        "tok_s": tokens / (stamps[-1] - stamps[0]), "last_loss": losses[-1], "steps": steps,
        "tokens_per_step": round(sum(len(row["ids"]) for row in rows) / steps),
        "checkpointed_layers": 0 if arm == "trl, nothing recomputed" else 30,
    }  # fmt: skip


def peak_gib() -> float:
    """Return the most resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**20


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _in_a_process(arm: str, scratch: Path, rows: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", arm, "--scratch", str(scratch), "--rows", str(rows)]
    given = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{arm} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def _child(arm: str, scratch: Path, rows: int) -> None:
    base = Path((scratch / "base.txt").read_text())
    found = ours(scratch / "home", rows) if arm == "burnish" else theirs(base, scratch / "rows.json", arm)
    print("RESULT", json.dumps({**found, "peak_gib": peak_gib()}), flush=True)


def _row(arm: str, found: list[dict[str, Any]], threads: int) -> dict[str, Any]:
    medians = {
        key: statistics.median(each[key] for each in found) for key in ("tok_s", "computed_tok_s") if key in found[0]
    }
    return {
        "who": arm, "model": "smollm2-135m-instruct", "method": "lora", "base_dtype": "float32", "rows": "demo", "rank": 16,
        "checkpointed_layers": found[0]["checkpointed_layers"], "tokens_per_step": found[0]["tokens_per_step"],
        **{key: round(value, 1) for key, value in medians.items()}, "rounds": [round(each["tok_s"], 1) for each in found],
        "peak_gib": round(max(each["peak_gib"] for each in found), 2), "mfu": None, "last_loss": round(found[0]["last_loss"], 4),
        "threads": threads, "notes": found[0].get("notes", []), "device": _processor(), "date": date.today().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }  # fmt: skip


def main() -> None:
    """Run the arms in turn, write their rows and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rows", type=int, default=96, help="rows of the demo that are trained on once")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "train_cpu.jsonl")
    parser.add_argument("--child", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child is not None:
        _child(asked.child, asked.scratch, asked.rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "base.txt").write_text(str(write_rows(scratch / "home", asked.rows, scratch / "rows.json")))
        turns = list(itertools.product(asked.arms, sorted(asked.threads)))
        found: dict[tuple[str, int], list[dict[str, Any]]] = {turn: [] for turn in turns}
        for number in range(asked.rounds):
            for arm, threads in turns:
                if number and arm == "trl, packed":
                    continue  # half as fast as padded: one round is enough
                found[arm, threads].append(_in_a_process(arm, scratch, asked.rows, threads))
                speed = found[arm, threads][-1]["tok_s"]
                print(f"round {number + 1}, {arm}, threads {threads}: {speed:.1f} tok/s", flush=True)
    rows = [_row(arm, each, threads) for (arm, threads), each in found.items()]
    with asked.out.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for row in rows:
        print(json.dumps(row))
    peers, mine = ([row for row in rows if (row["who"] == "burnish") == own] for own in (False, True))
    if peers and mine:
        best, own = (max(among, key=lambda row: row["tok_s"]) for among in (peers, mine))
        print(f"burnish: {own['tok_s'] / best['tok_s']:.2f} times {best['who']}, peak {own['peak_gib']} GiB "
              f"({own['peak_gib'] / best['peak_gib']:.2f} of its {best['peak_gib']})")  # fmt: skip
    slower = False
    for fewer, more in itertools.pairwise(mine):
        gain = more["tok_s"] / fewer["tok_s"]
        print(f"burnish: {more['threads']} threads are {gain:.2f} times as fast as {fewer['threads']}")
        slower |= gain < 1.0
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
