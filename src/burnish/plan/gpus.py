"""Data-sheet numbers of GPUs: dense half-precision tensor operations (float32 accumulation) and memory bandwidth."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from burnish.core.errors import UsageError, did_you_mean

SOURCE = "NVIDIA's data sheet, dense BF16 or FP16"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model. `words` are those that tell it apart in the name that nvidia-smi gives, and `memory_mib` its total there.

    `gigabytes_per_second`: of its own memory. `host_gigabytes_per_second`: each way between it and the host's (PCIe, 16 lanes).
    """

    name: str
    words: tuple[str, ...]
    memory_mib: int
    tflops: float
    gigabytes_per_second: float
    host_gigabytes_per_second: float
    watts: float
    capability: tuple[int, int]
    source: str = SOURCE


@cache
def gpus() -> tuple[Gpu, ...]:
    """Return the table of gpus.json."""
    table = json.loads(resources.files("burnish.plan").joinpath("gpus.json").read_text(encoding="utf-8"))
    return tuple(Gpu(**(row | {"words": tuple(row["words"]), "capability": tuple(row["capability"])})) for row in table)


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


def named_gpu(name: str) -> Gpu | None:
    """Return the GPU that a person means by `h100`, `rtx4090` or `H100 SXM`; None when it is not in the table."""
    wanted = name.lower().replace(" ", "").replace("-", "").removeprefix("nvidia").removeprefix("rtx")
    for gpu in gpus():
        known = {gpu.name.lower().replace(" ", "").removeprefix("rtx"), *(word.lower() for word in gpu.words)}
        if wanted in known:
            return gpu
    return None


def get_gpu(name: str) -> Gpu:
    """Return the GPU of a name. Raises UsageError with the known ones."""
    found = named_gpu(name)
    if found is None:
        known = [gpu.words[0].lower() for gpu in gpus()]
        raise UsageError(f'no GPU "{name}" is known. Known: {", ".join(known)}.{did_you_mean(name.lower(), known)}')
    return found
