"""Data-sheet numbers of GPUs: dense half-precision tensor operations (float32 accumulation) and memory bandwidth."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from burnish.core.errors import UsageError, did_you_mean

SOURCE = "NVIDIA's data sheet, dense BF16 or FP16"

SAID_BESIDE = re.compile(r"NVIDIA|GEFORCE|RTX|TESLA|SXM\d?|PCIE|GENERATION|HBM\d\w?|GPU")
"""Words beside a GPU's own name that tell no two kinds apart which the table holds."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model.

    `words`: what tells it apart in the name that nvidia-smi gives, each one word or several that must all stand there.
    `memory_mib`: its total there. `gigabytes_per_second`: of its own memory. `host_gigabytes_per_second`: each way between
    it and the host's (PCIe, 16 lanes).
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


@cache
def find_gpu(name: str | None) -> Gpu:
    """Return the GPU that a name from nvidia-smi tells; an unknown one is taken as the slowest, and says so."""
    found = _told_by(_words(name or ""))
    if found is not None:
        return found
    slowest = min(gpus(), key=lambda gpu: gpu.tflops)
    return replace(
        slowest, name=name or "unknown GPU", source=f"not in the table, so taken as the slowest, {slowest.name}"
    )


def named_gpu(name: str) -> Gpu | None:
    """Return the GPU that a person means by `h100`, `rtx4090`, `H100 SXM` or `A100-80GB`; None when it is not in the table.

    Every word must say something of that GPU: its name, its maker's names, its socket, its memory.
    """
    words = _words(name)
    found = _told_by(words)
    if found is None:
        return None
    known = set(_words(f"{found.name} {' '.join(found.words)}"))
    rest = [word for word in words if word not in known and not SAID_BESIDE.fullmatch(word)]
    return found if all(_is_memory(word, found) for word in rest) else None


def _words(name: str) -> list[str]:
    """Return the words of a name in capitals; `rtx4090` and `h100sxm` are two each."""
    return re.sub(r"[-_/,()]|(?<=RTX)(?=\w)|(?<=\w)(?=SXM|PCIE)", " ", name.upper()).split()


def _is_memory(word: str, gpu: Gpu) -> bool:
    """Whether a word such as 80GB is the GPU's memory, in GB or GiB and rounded as people do."""
    size = re.fullmatch(r"(\d+)GI?B", word)
    return size is not None and gpu.memory_mib / 2**10 - 1 < int(size[1]) < gpu.memory_mib * 2**20 / 10**9 + 1


def _told_by(words: Sequence[str]) -> Gpu | None:
    """Return the GPU whose words all stand there, the one with most of them."""
    found: list[tuple[int, Gpu]] = []
    for gpu in gpus():
        told = [len(needed) for text in gpu.words if set(needed := _words(text)) <= set(words)]
        if told:
            found.append((max(told), gpu))
    return max(found, key=lambda each: each[0])[1] if found else None


def get_gpu(name: str) -> Gpu:
    """Return the GPU of a name. Raises UsageError with the known ones."""
    return get_gpus([name])[0]


def get_gpus(names: Sequence[str]) -> list[Gpu]:
    """Return the GPUs of names, each once. Raises UsageError with every name that tells none, and the known ones."""
    found = {name: named_gpu(name) for name in names}
    unknown = [name for name, gpu in found.items() if gpu is None]
    if not unknown:
        return list(dict.fromkeys(gpu for gpu in found.values() if gpu is not None))
    known = [gpu.words[0].lower().replace(" ", "-") for gpu in gpus()]
    problems = " ".join(f'no GPU "{name}" is known.{_meant(name, known)}' for name in unknown)
    raise UsageError(f"{problems} Known, all of NVIDIA: {', '.join(known)}.")


def _meant(name: str, known: Sequence[str]) -> str:
    """Say which GPU may be meant, or that several names were written without commas."""
    parts = re.split(r"[\s;:|+]+", name.strip())
    if len(parts) > 1 and all(named_gpu(part) for part in parts):
        return f" Names stand with commas between them: {','.join(parts)}."
    return did_you_mean(name.lower().replace(" ", "-"), known)
