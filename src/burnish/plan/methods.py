"""The methods beside each other on one GPU: what full fine-tuning, LoRA, QLoRA and DPO would hold, and on how many GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from burnish.core.artifacts import Plan
from burnish.plan.architecture import Architecture
from burnish.plan.constants import constant
from burnish.plan.footprint import Job, job_states, step_components
from burnish.plan.gpus import Gpu
from burnish.plan.step_time import step_seconds

MOST_GPUS = 64
GROUP = 8
"""Answers to a prompt that GRPO compares, and as many for PPO (Shao et al. 2024, arXiv:2402.03300, take 64)."""
SHARD_BYTES = 5 * 10**9
"""Weights are published in files of at most so much, and read one at a time (huggingface_hub's default)."""


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method. `components` and `peak_bytes` are on one GPU without sharding, with as few layers recomputed as fit.

    `gpus`: the fewest GPUs (a power of two, sharded) that hold it, None when MOST_GPUS do not; `sharded_bytes`: the peak
    of each of them. `row_tokens`: of the one row that a step has. `host_bytes`: paged states in the host's memory;
    `ram_bytes`: all that the host holds, with Python and one file of the weights while it is read. `step_seconds`: of
    one row on one GPU, None where it is not modelled.
    """

    method: str
    because: str
    components: Mapping[str, int]
    peak_bytes: int
    checkpointed_layers: int
    gpus: int | None
    host_bytes: int
    sharded_bytes: int | None
    ram_bytes: int
    step_seconds: float | None
    row_tokens: int


def compare_methods(architecture: Architecture, plan: Plan, gpu: Gpu) -> list[MethodRow]:
    """Return a row for each method, for one row of the plan's tokens, in the plain loop of footprint.py."""
    tokens, rank = plan.train.row_tokens, plan.method.rank
    plain = Job("lora", 1, tokens, rank=rank, targets=plan.method.targets)
    full = replace(plain, method="full")
    cases: list[tuple[str, Job, str]] = [
        ("full", full, "every weight, its gradient and two states in bfloat16"),
        ("full, 8-bit AdamW", replace(full, optimizer="adamw_8bit"), "states of 8 bits with a scale for 256"),
        ("full, paged AdamW", replace(full, optimizer="paged_adamw"), "states in the host's memory, paged in"),
        ("full, paged 8-bit", replace(full, optimizer="paged_adamw_8bit"), "states of 8 bits in the host's memory"),
        ("full, Muon", replace(full, optimizer="muon"), "one state for matrices of layers, AdamW's two for the rest"),
        ("full, Adafactor", replace(full, optimizer="adafactor"), "a state for each row and column of a matrix"),
        ("full, in backward", replace(full, optimizer="adafactor", optimizer_in_backward=True),
         "Adafactor, and each weight updated as soon as its gradient is there"),
        ("LoRA", plain, f"weights in bfloat16, adapters of rank {rank}"),
        ("QLoRA", replace(plain, method="qlora"), f"linears in NF4 with double quantisation, adapters of rank {rank}"),
        ("LoRA on int8", replace(plain, method="lora on int8"), "linears as LLM.int8(), a scale for each row"),
        ("DoRA", replace(plain, adapter="dora"), "LoRA and a length for each row; keeps two results of each linear"),
        ("Houlsby", replace(plain, adapter="houlsby"), f"two bottlenecks of width {rank} in each layer"),
        ("prefix", replace(plain, adapter="prefix"), f"{rank} virtual tokens of keys and values in each layer"),
        ("(IA)3", replace(plain, adapter="ia3"), "factors of keys, values and the feed-forward layer"),
        ("LoRA, eager attention", replace(plain, attention="eager"), "every score of attention is kept, in 6 bytes"),
        ("DPO, LoRA", replace(plain, rows=2), "two answers a pair; the reference is the base with the adapter off"),
        ("DPO, QLoRA", replace(plain, method="qlora", rows=2), "as above on NF4"),
        ("DPO, full", replace(full, rows=2, reference="copy"), "two answers a pair and a second copy as reference"),
        ("GRPO, LoRA", replace(plain, rollouts=GROUP), f"{GROUP} answers at once, learned from one by one; no critic"),
        ("GRPO, QLoRA", replace(plain, method="qlora", rollouts=GROUP), "as above on NF4"),
        ("PPO, LoRA", replace(plain, rollouts=GROUP, critic=True, reward_model=True), "a critic and a reward model as large"),
        ("PPO, full", replace(full, rollouts=GROUP, critic=True, reward_model=True, reference="copy"),
         "the same with every weight of policy and critic, and a reference"),
    ]  # fmt: skip
    return [_row(name, job, because, architecture, gpu) for name, job, because in cases]


def _row(name: str, job: Job, because: str, architecture: Architecture, gpu: Gpu) -> MethodRow:
    available = gpu.memory_mib * 2**20 - constant("cuda_process_bytes")
    found = _fewest(architecture, job, available)
    everything = replace(job, checkpointed_layers=architecture.layers)
    components = step_components(architecture, everything if found is None else found)
    count: int | None = 1
    while count is not None and _peak(architecture, replace(everything, gpus=count)) > available:
        count = 2 * count if count < MOST_GPUS else None
    sharded = None if count is None else _peak(architecture, replace(everything, gpus=count))
    host = job_states(architecture, job).host
    return MethodRow(
        method=name,
        because=because,
        components=components,
        peak_bytes=sum(components.values()),
        checkpointed_layers=architecture.layers if found is None else found.checkpointed_layers,
        gpus=count,
        host_bytes=host,
        sharded_bytes=sharded,
        ram_bytes=round(constant("cpu_process_bytes")) + host + min(SHARD_BYTES, components["weights"]),
        step_seconds=None if found is None else _seconds(architecture, found, gpu),
        row_tokens=job.row_tokens,
    )


def _seconds(architecture: Architecture, job: Job, gpu: Gpu) -> float | None:
    """Seconds of a step, for the loops that were timed: dense layers, every weight or LoRA, AdamW on the device."""
    timed = (job.adapter, job.attention, job.optimizer, job.rows, job.rollouts) == ("lora", "fused", "adamw", 1, 0)
    dense = all(block.experts is None for block in architecture.blocks)
    if not (timed and dense and job.method != "lora on int8"):
        return None
    return step_seconds(architecture, job, gpu).total


def _fewest(architecture: Architecture, job: Job, available: float) -> Job | None:
    """Return the job with the fewest recomputed layers that fits one GPU; None when none does."""
    for layers in range(architecture.layers + 1):
        tried = replace(job, checkpointed_layers=layers)
        if _peak(architecture, tried) <= available:
            return tried
    return None


def _peak(architecture: Architecture, job: Job) -> int:
    return sum(step_components(architecture, job).values())
