"""Peak device memory and time of training steps of a plain loop on one GPU, beside what plan/footprint.py says.

    python benchmarks/plan_memory.py fit OUT.jsonl       # the configurations that formulas may be looked at with
    python benchmarks/plan_memory.py held-out OUT.jsonl  # the others: run once, after the formulas are frozen
    python benchmarks/plan_memory.py score ROWS.jsonl    # errors; needs no GPU and no torch

The loop: transformers' model of a well-known shape with random weights in bfloat16, its own loss, PEFT's LoRA (bfloat16
adapters) or every weight, fused AdamW, layers recomputed as transformers does. Step 3 is measured: states exist by then.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ARCHITECTURES = ("llama-3.2-1b-instruct", "qwen3-1.7b", "phi-3.5-mini-instruct", "pythia-1.4b")
METHODS = ("full", "lora", "qlora")
SHAPES = ((8, 512), (2, 2048), (1, 8192))
"""Rows and tokens of each."""
SHARES = ("none", "half", "all")
STEPS = 4


def cells(part: str) -> Iterator[dict[str, Any]]:
    """Yield the configurations of a part. A third is held out, drawn by hash; phi-3.5-mini of 8192 tokens among them."""
    for base in ARCHITECTURES:
        for method in METHODS:
            for rows, tokens in SHAPES:
                for share in SHARES:
                    name = f"{base} {method} {rows}x{tokens} {share}"
                    held = hashlib.sha256(name.encode()).digest()[0] % 3 == 0
                    if held == (part == "held-out"):
                        yield {"base": base, "method": method, "rows": rows, "row_tokens": tokens, "recomputed": share}


def predict(cell: dict[str, Any]) -> dict[str, int]:
    """Return the components that footprint.py gives."""
    from burnish.plan.architecture import read_architecture
    from burnish.plan.bases import find_config
    from burnish.plan.footprint import Job, step_components

    architecture = read_architecture(find_config(cell["base"]))
    layers = {"none": 0, "half": architecture.layers // 2, "all": architecture.layers}[cell["recomputed"]]
    return step_components(architecture, Job(cell["method"], cell["rows"], cell["row_tokens"], layers))


def build_base(base: str) -> Any:
    """Return the model on the GPU with random weights in bfloat16."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from burnish.plan.bases import find_config

    values = dict(find_config(base))
    configuration: Any = CONFIG_MAPPING[values.pop("model_type")]
    config = configuration(**values, attn_implementation="sdpa", pad_token_id=0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    torch.set_default_dtype(torch.float32)
    model.config.use_cache = False
    return model


def build(base: str, method: str) -> Any:
    """Return the model, quantised and with adapters as the method says."""
    import torch

    model = build_base(base)
    if method == "full":
        return model
    model.requires_grad_(False)
    if method == "qlora":
        from burnish.model.load import quantise_nf4

        quantise_nf4(model, double_quantisation=True, device="cuda", dtype=torch.bfloat16)
    from peft import LoraConfig, get_peft_model

    asked = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, asked, autocast_adapter_dtype=False)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    adapted.enable_input_require_grads()
    return adapted


def recompute(model: Any, share: str) -> None:
    """Have none, half or all of the layers recomputed, as transformers does."""
    layers = [module for module in model.modules() if type(module).__name__.endswith(("DecoderLayer", "NeoXLayer"))]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    chosen = {"none": 0, "half": len(layers) // 2, "all": len(layers)}[share]
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index < chosen
    model.train()


def measure(model: Any, optimizer: Any, cell: dict[str, Any]) -> dict[str, Any]:
    """Return peak bytes and seconds of a step."""
    import torch

    recompute(model, cell["recomputed"])
    shape = (cell["rows"], cell["row_tokens"])
    ids = torch.randint(3, 30_000, shape, device="cuda")
    seconds: list[float] = []
    for step in range(STEPS):
        torch.cuda.synchronize()
        if step == STEPS - 2:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before, began = torch.cuda.memory_allocated(), time.perf_counter()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        held = torch.cuda.memory_allocated()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        del loss
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {
        "before": before,
        "after_forward": held,
        "peak": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "seconds": round(statistics.median(seconds[1:]), 4),
    }


def run(part: str, out: Path) -> None:
    """Measure every configuration of a part and write a line for each."""
    import gc

    import torch
    import transformers

    model: Any = None
    optimizer: Any = None
    at: tuple[str, str] | None = None
    found: dict[str, Any] = {}
    with out.open("w", encoding="utf-8") as file:
        for cell in cells(part):
            here = (cell["base"], cell["method"])
            if here != at:
                model = optimizer = None
                gc.collect()
                torch.cuda.empty_cache()
                torch.manual_seed(0)
                model, at = build(*here), here
                trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
                optimizer = torch.optim.AdamW(trained, 1e-5, fused=True)
            try:
                found = measure(model, optimizer, cell)
            except torch.OutOfMemoryError:
                optimizer.zero_grad(set_to_none=True)
                found = {"out_of_memory": True}
            gc.collect()
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info()
            found["context"] = total - free - torch.cuda.memory_reserved()
            versions = {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "gpu": torch.cuda.get_device_name(),
            }
            predicted = predict(cell)
            line = (
                cell
                | {"part": part}
                | found
                | {"predicted": sum(predicted.values()), "components": predicted}
                | versions
            )
            file.write(json.dumps(line) + "\n")
            file.flush()
            ratio = f"{line['predicted'] / found['peak'] - 1:+.1%}" if "peak" in found else "out of memory"
            print(*cell.values(), round(found.get("peak", 0) / 2**30, 2), ratio, found.get("seconds"), flush=True)


def score(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return errors of the prediction, made anew, on rows that were measured: signed error is predicted / measured - 1."""
    errors = [sum(predict(row).values()) / row["peak"] - 1 for row in rows if "peak" in row]
    return {
        "rows": len(errors),
        "mean_absolute": statistics.fmean(map(abs, errors)),
        "lowest": min(errors),
        "highest": max(errors),
    }


def main() -> None:
    """Run or score, as the arguments say."""
    what, path = sys.argv[1], Path(sys.argv[2])
    if what != "score":
        run(what, path)
        return
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if "peak" in row:
            predicted = sum(predict(row).values())
            name = " ".join(str(row[key]) for key in ("base", "method", "rows", "row_tokens", "recomputed"))
            print(f"{predicted / row['peak'] - 1:+.1%} {row['peak'] / 2**30:.2f} GiB {name}")
    for part in ("fit", "held-out"):
        chosen = [row for row in rows if row["part"] == part and "peak" in row]
        if chosen:
            print(part, json.dumps(score(chosen)))


if __name__ == "__main__":
    main()
