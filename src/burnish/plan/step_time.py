"""Seconds of a training step of the plain loop on one GPU: what the GPU computes and moves, and what the host launches.

A step takes as long as the slower of the two, since the host runs ahead of the GPU. Operations are counted as in time.py,
over a share of the data sheet's rate; bytes are what the element-wise kernels of transformers' eager layers read and write,
over the data sheet's bandwidth (the roofline: Williams et al. 2009, Communications of the ACM 52(4)); launches are the
kernels of a layer, counted from its parts. Shares, bytes and seconds of a launch stand in constants.json: they were fitted
to 69 steps on an H100 and held against 39 others (benchmarks/plan_time.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from burnish.plan.adapters import adapted, lora_parameters, resolve_targets
from burnish.plan.architecture import Architecture, Linear
from burnish.plan.constants import constant
from burnish.plan.footprint import Job
from burnish.plan.gpus import Gpu

OVERLAP_POWER = 6
"""Two parts that run beside each other take (a^6 + b^6)^(1/6): the longer one, and 12% more where both are equal."""
RECOMPUTED_MOVES = 1 / 3
"""The forward pass moves a third of a step's bytes; a recomputed layer moves them again."""
ROTARY_LAUNCHES, ATTENTION_LAUNCHES, RESIDUAL_LAUNCHES = 12, 3, 2
RMS_NORM_LAUNCHES, LAYER_NORM_LAUNCHES = 8, 1
LAYER_NORM_MOVES = 0.35
"""A fused layer norm moves so much of what an RMS norm of many kernels does, residual sums included."""


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Seconds of one step: of the GPU's work, of the host's launching, and of both beside each other."""

    gpu: float
    host: float

    @property
    def total(self) -> float:
        """The step."""
        return (self.gpu**OVERLAP_POWER + self.host**OVERLAP_POWER) ** (1 / OVERLAP_POWER)


def step_seconds(architecture: Architecture, job: Job, gpu: Gpu) -> StepSeconds:
    """Return the seconds of a step of `job` on a GPU: forward, backward and AdamW's update."""
    return StepSeconds(_gpu_seconds(architecture, job, gpu), _host_seconds(architecture, job))


def operations(architecture: Architecture, job: Job) -> tuple[float, float]:
    """Return the operations of a step in matrix products and in attention (half of the pairs, as it is causal)."""
    full, share = job.method == "full", job.checkpointed_layers / architecture.layers
    backward, head = (4, 6) if full else (2, 4)
    products = (2 + backward + 2 * share) * architecture.computed_weights
    products += head * architecture.vocabulary * architecture.hidden + 6 * _adapter_numbers(architecture, job)
    pairs = job.tokens * job.row_tokens / 2 * architecture.query_size * architecture.layers
    return job.tokens * products, pairs * (4 * (1 + share) + 10)


def _gpu_seconds(architecture: Architecture, job: Job, gpu: Gpu) -> float:
    products, attention = operations(architecture, job)
    peak, bandwidth = gpu.tflops * 1e12, gpu.gigabytes_per_second * 1e9
    return (
        products / (peak * constant("plain_product_share"))
        + attention / (peak * constant("plain_attention_share"))
        + _moved_bytes(architecture, job) / bandwidth
    )


def _moved_bytes(architecture: Architecture, job: Job) -> float:
    """Bytes that everything but matrix products and attention reads and writes in a step."""
    share, layers = job.checkpointed_layers / architecture.layers, architecture.layers
    norms = architecture.hidden * (1.0 if architecture.rms_norms else LAYER_NORM_MOVES)
    turned = (architecture.query_size + architecture.key_value_size) * _rotated_share(architecture)
    width = max(block.width for block in architecture.blocks)
    linears = [] if job.method == "full" else _adapted_linears(architecture, job)
    passed = layers * (
        norms * constant("plain_norm_bytes")
        + turned * constant("plain_rotary_bytes")
        + width * constant("plain_feed_forward_bytes")
        + sum(linear.outputs for linear in linears) * constant("plain_adapter_bytes")
    )
    moved = job.tokens * (passed * (1 + RECOMPUTED_MOVES * share))
    moved += job.tokens * architecture.vocabulary * constant("plain_logit_bytes")
    trained = architecture.parameters if job.method == "full" else _adapter_numbers(architecture, job)
    moved += trained * constant("plain_update_bytes")
    if job.method == "qlora":
        moved += (2 + share) * architecture.linear_weights * constant("plain_nf4_bytes")
    return moved


def _host_seconds(architecture: Architecture, job: Job) -> float:
    """Launches of a layer, forward and backward, times the seconds of one; recomputed layers are launched again."""
    norm = RMS_NORM_LAUNCHES if architecture.rms_norms else LAYER_NORM_LAUNCHES
    linears = len(architecture.blocks[0].linears)
    norms = architecture.hidden_norms + (2 if architecture.head_norms else 0)
    own = linears + norms * norm + ROTARY_LAUNCHES + ATTENTION_LAUNCHES + RESIDUAL_LAUNCHES
    own += 3 if architecture.gated else 2
    adapters = (
        0 if job.method == "full" else len(_adapted_linears(architecture, job)) * constant("plain_adapter_launches")
    )
    unpacked = linears * constant("plain_nf4_launches") if job.method == "qlora" else 0
    launched = own * (1 + constant("plain_backward_launches")) + adapters + unpacked
    again = own + adapters / 3 + unpacked / 2
    share = job.checkpointed_layers / architecture.layers
    layer = launched + again * constant("plain_recompute_launches") * share
    return constant("plain_launch_seconds") * architecture.layers * layer + constant("plain_step_seconds")


def _adapted_linears(architecture: Architecture, job: Job) -> list[Linear]:
    return adapted(architecture.blocks[0].linears, resolve_targets(architecture, job.targets, source="the job"))


def _adapter_numbers(architecture: Architecture, job: Job) -> int:
    if job.method == "full":
        return 0
    return lora_parameters(architecture, resolve_targets(architecture, job.targets, source="the job"), job.rank)


def _rotated_share(architecture: Architecture) -> float:
    """Share of a head that rotary positions turn: their table has a float32 pair for every two numbers."""
    return min(1.0, architecture.buffer_bytes / 4 / architecture.head_size)
