"""One peer on one GPU: a folder with a model, a file with rows, some steps of LoRA or QLoRA; prints a RESULT line of JSON.

    python benchmarks/peers/sft.py unsloth|trl|trl_liger --model FOLDER --rows ROWS.json --steps 11 --batch 4 [--nf4] [--packing]
        [--full] [--weights float32|bfloat16] [--optim NAME]

Run by benchmarks/train.py. LoRA r=16 alpha=32 on all seven linears, or every weight with --full; fused AdamW unless said, no
accumulation, the peer's own recomputation, bfloat16 computation.
Rows are {"ids": [...], "mask": [...]}; rows of unequal length are padded to the longest of their batch, as the peer does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["unsloth", "trl", "trl_liger"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--steps", type=int, default=11)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--nf4", action="store_true")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--weights", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--optim", default="adamw_torch_fused")
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    if asked.who == "unsloth":
        import unsloth  # before torch and transformers, as it asks
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = json.loads(Path(asked.rows).read_text(encoding="utf-8"))
    longest = max(len(row["ids"]) for row in rows)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    if asked.who == "unsloth":
        model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
            asked.model, max_seq_length=longest, dtype=getattr(torch, asked.weights), load_in_4bit=asked.nf4,
            full_finetuning=asked.full, use_gradient_checkpointing="unsloth", local_files_only=True,
        )  # fmt: skip
        if not asked.full:
            model = unsloth.FastLanguageModel.get_peft_model(
                model, r=16, lora_alpha=32, lora_dropout=0, bias="none", target_modules=TARGETS,
                use_gradient_checkpointing="unsloth",
            )  # fmt: skip
        adapter = None
    else:
        model, adapter = plain_model(asked.model, asked.nf4, getattr(torch, asked.weights))
        adapter = None if asked.full else adapter
    labels = [[t if m else -100 for t, m in zip(row["ids"], row["mask"], strict=True)] for row in rows]
    data = Dataset.from_dict(
        {"input_ids": [row["ids"] for row in rows], "attention_mask": [[1] * len(row["ids"]) for row in rows], "labels": labels}
    )  # fmt: skip
    stamps: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())

    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=asked.batch, max_length=longest, max_steps=asked.steps,
        bf16=True, gradient_checkpointing=True, gradient_accumulation_steps=1, learning_rate=1e-4, lr_scheduler_type="constant",
        optim=asked.optim, report_to="none", save_strategy="no", logging_steps=1, packing=asked.packing,
        dataset_kwargs={"skip_prepare_dataset": not asked.packing}, remove_unused_columns=False,
        use_liger_kernel=asked.who == "trl_liger", seed=0,
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    collate = None if asked.packing else DataCollatorForSeq2Seq(tokenizer, padding=True)
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=data, peft_config=adapter, processing_class=tokenizer,
        data_collator=collate, callbacks=[Watch()],
    )  # fmt: skip
    trainer.train()
    gaps = [later - earlier for earlier, later in itertools.pairwise(stamps[2:])]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found = {
        "seconds": gaps, "last_loss": losses[-1], "losses": losses,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30, "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
    }  # fmt: skip
    print("RESULT", json.dumps(found), flush=True)


def plain_model(folder: str, nf4: bool, dtype: object) -> tuple[object, object]:
    """Return transformers' model and PEFT's adapter, as TRL's documentation puts them together."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantised = {}
    if nf4:
        quantised["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
    device = 0 if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map={"": device}, **quantised)
    adapter = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0, bias="none", target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    return model, adapter


if __name__ == "__main__":
    main()
