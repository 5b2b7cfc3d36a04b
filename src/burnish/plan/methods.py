"""The methods beside each other on one GPU: what full fine-tuning, LoRA, QLoRA and DPO would hold, and on how many GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from burnish.core.artifacts import Plan
from burnish.plan.architecture import Architecture
from burnish.plan.constants import constant
from burnish.plan.footprint import Job, host_state_bytes, step_components
from burnish.plan.gpus import Gpu

MOST_GPUS = 64


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method. `components` and `peak_bytes` are on one GPU without sharding, with as few layers recomputed as fit.

    `gpus`: the fewest GPUs (a power of two, sharded) that hold it, None when MOST_GPUS do not;
    `host_bytes`: paged states in the host's memory.
    """

    method: str
    because: str
    components: Mapping[str, int]
    peak_bytes: int
    checkpointed_layers: int
    gpus: int | None
    host_bytes: int


def compare_methods(architecture: Architecture, plan: Plan, gpu: Gpu) -> list[MethodRow]:
    """Return a row for each method, for one row of the plan's tokens, in the plain loop of footprint.py."""
    tokens, rank = plan.train.row_tokens, plan.method.rank
    plain = Job("lora", 1, tokens, rank=rank, targets=plan.method.targets)
    full = replace(plain, method="full")
    cases: list[tuple[str, Job, str]] = [
        ("full", full, "every weight, its gradient and two states in bfloat16"),
        ("full, 8-bit AdamW", replace(full, optimizer="adamw_8bit"), "states of 8 bits with a scale for 256"),
        ("full, paged AdamW", replace(full, optimizer="paged_adamw"), "states in the host's memory, paged in"),
        ("LoRA", plain, f"weights in bfloat16, adapters of rank {rank}"),
        ("QLoRA", replace(plain, method="qlora"), f"linears in NF4 with double quantisation, adapters of rank {rank}"),
        ("DPO, LoRA", replace(plain, rows=2), "two answers a pair; the reference is the base with the adapter off"),
        ("DPO, QLoRA", replace(plain, method="qlora", rows=2), "as above on NF4"),
        ("DPO, full", replace(full, rows=2, reference="copy"), "two answers a pair and a second copy as reference"),
    ]  # fmt: skip
    return [_row(name, job, because, architecture, gpu) for name, job, because in cases]


def _row(name: str, job: Job, because: str, architecture: Architecture, gpu: Gpu) -> MethodRow:
    available = gpu.memory_mib * 2**20 - constant("cuda_process_bytes")
    found = _fewest(architecture, job, available)
    everything = replace(job, checkpointed_layers=architecture.layers)
    components = step_components(architecture, everything if found is None else found)
    trained = architecture.parameters if job.method == "full" else 0
    count: int | None = 1
    while count is not None and _peak(architecture, replace(everything, gpus=count)) > available:
        count = 2 * count if count < MOST_GPUS else None
    return MethodRow(
        method=name,
        because=because,
        components=components,
        peak_bytes=sum(components.values()),
        checkpointed_layers=architecture.layers if found is None else found.checkpointed_layers,
        gpus=count,
        host_bytes=host_state_bytes(job.optimizer, trained),
    )


def _fewest(architecture: Architecture, job: Job, available: float) -> Job | None:
    """Return the job with the fewest recomputed layers that fits one GPU; None when none does."""
    for layers in range(architecture.layers + 1):
        tried = replace(job, checkpointed_layers=layers)
        if _peak(architecture, tried) <= available:
            return tried
    return None


def _peak(architecture: Architecture, job: Job) -> int:
    return sum(step_components(architecture, job).values())
