"""Data-sheet numbers of GPUs: dense half-precision tensor operations (float32 accumulation) and memory bandwidth."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

SOURCE = "NVIDIA's data sheet, dense BF16 or FP16"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model. `words` are those that tell it apart in the name that nvidia-smi gives."""

    name: str
    words: tuple[str, ...]
    memory_gib: int
    tflops: float
    gigabytes_per_second: float
    source: str = SOURCE


@cache
def gpus() -> tuple[Gpu, ...]:
    """Return the table of gpus.json."""
    table = json.loads(resources.files("burnish.plan").joinpath("gpus.json").read_text(encoding="utf-8"))
    return tuple(Gpu(**(row | {"words": tuple(row["words"])})) for row in table)


def find_gpu(name: str | None) -> Gpu:
    """Return the GPU that a name from nvidia-smi tells; an unknown one is taken as the slowest, and says so."""
    words = set((name or "").replace("-", " ").split())
    for gpu in gpus():
        if words & set(gpu.words):
            return gpu
    slowest = min(gpus(), key=lambda gpu: gpu.tflops)
    return replace(
        slowest, name=name or "unknown GPU", source=f"not in the table, so taken as the slowest, {slowest.name}"
    )
