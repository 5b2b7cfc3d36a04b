"""Device memory of a training step of the plain loop, component by component.

The plain loop is transformers' model as it is, PEFT's LoRA or every weight trained, torch's AdamW: what people run
elsewhere, and what this project's loop is compared with. memory.py counts burnish's own loop (packed rows, chunked loss,
leaner layers); here nothing of that is assumed. Sources: the forward code of transformers 5 (`modeling_llama.py` and its
siblings), PEFT (`tuners/lora/layer.py`), Korthikanti et al. 2022 (arXiv:2205.05198, section 4) for the method, Rajbhandari
et al. 2020 (arXiv:1910.02054, section 3) for sharding. benchmarks/plan_memory.py holds it against an H100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from burnish.plan.activations import COPIED_RESULT
from burnish.plan.adapters import ALL_LINEAR, adapted, lora_parameters, resolve_targets
from burnish.plan.architecture import Architecture, Block
from burnish.plan.constants import constant
from burnish.plan.inspect.ladder import int8_constant_bytes, int8_weight_bytes
from burnish.plan.inspect.trainable import dora_parameters, houlsby_parameters, ia3_parameters, prefix_parameters
from burnish.plan.memory import quantisation_constant_bytes, weight_bytes
from burnish.plan.optimizers import (
    Optimizer,
    StateBytes,
    Tensors,
    all_tensors,
    gradient_bytes,
    lora_tensors,
    state_bytes,
)

Moment = Literal["generation", "loss", "backward", "end"]
Adapter = Literal["lora", "dora", "ia3", "houlsby", "prefix"]
HALF, SINGLE = 2, 4
LOSS_FORWARD_BYTES, LOSS_BACKWARD_BYTES = 10, 12
"""A logit at its peak in forward (bfloat16, float32, log-softmax) and backward (log-softmax and two float32 gradients)."""
ROLLOUT_TOKEN_BYTES = 8 + 3 * SINGLE
"""A token of a rollout: its id, and three float32 numbers."""
EAGER_SCORE_BYTES = 6
"""A score of eager attention: softmax's float32 result, and it again in bfloat16 for the product with the values."""
GATHERED_LAYERS = 2
"""Layers that sharding gathers at once: the one in use and the next (torch FSDP2, prefetching)."""

COMPONENTS: dict[str, str] = {
    "weights": "the base as loaded; sharded: this GPU's part",
    "quantisation_constants": "scales and tables of NF4 or INT8",
    "reference": "a second copy of the base that does not train, for DPO where the adapter cannot be switched off",
    "critic": "a second model that learns what an answer is worth, with its gradients and states",
    "reward_model": "a frozen model that judges answers",
    "rollouts": "generated answers, and while they are generated their keys and values",
    "adapter": "A and B of each target",
    "gradients": "one number for each trained one, in its dtype; at the start of backward only of what was accumulated",
    "optimizer": "the optimizer's states that live on the device; paged ones live on the host",
    "activations": "what autograd keeps between forward and backward, and the inputs of recomputed layers",
    "recomputed_layer": "one layer computed a second time, or the last one whose backward runs",
    "layer_gradients": "gradients between the two halves of the feed-forward layer, while its backward runs",
    "logits": "logits and their gradients, where the loss is not chunked",
    "dequantised_weight": "the largest quantised weight, unpacked for its product",
    "magnitudes": "what PEFT's DoRA makes to know the length of each row of W + BA, for one linear at a time",
    "gathered_layers": "whole layers that sharding gathers for their computation",
    "workspace": "buffers of cuBLAS",
}
"""What each component is."""


@dataclass(frozen=True, slots=True)
class Job:
    """One step: `rows` sequences of `row_tokens`, of which `checkpointed_layers` layers keep only their inputs.

    `adapter_bytes`: 2 where adapters are bfloat16, 4 for float32. `fused_kernels`: norms, feed-forward and loss of Liger.
    `reference`: "copy" for a second base (DPO; count chosen and rejected rows both). `accumulated`: gradients of earlier
    micro-batches are there. `gpus` over 1: weights, gradients and states sharded over so many (FSDP). `adapter`: which kind;
    `rank` is also the width of Houlsby's bottleneck and the tokens of a prefix. `attention`: eager keeps every score.
    `rollouts`: answers of `row_tokens` that are generated at once before they are learned from (PPO, GRPO). `critic`: a
    second model that learns what an answer is worth, as the policy is trained. `reward_model`: a frozen one as large.
    `optimizer_in_backward`: each weight is updated, and its gradient freed, as soon as that is there.
    """

    method: Literal["full", "lora", "qlora", "lora on int8"]
    rows: int
    row_tokens: int
    checkpointed_layers: int = 0
    rank: int = 16
    targets: tuple[str, ...] = (ALL_LINEAR,)
    double_quantisation: bool = True
    optimizer: Optimizer = "adamw"
    optimizer_in_backward: bool = False
    adapter_bytes: int = HALF
    fused_kernels: bool = False
    reference: Literal["none", "copy"] = "none"
    accumulated: bool = False
    gpus: int = 1
    adapter: Adapter = "lora"
    attention: Literal["fused", "eager"] = "fused"
    rollouts: int = 0
    critic: bool = False
    reward_model: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that are computed at once."""
        return self.rows * self.row_tokens


def step_components(architecture: Architecture, job: Job) -> dict[str, int]:
    """Bytes by component at the worst moment of a step. Their sum is the peak.

    generation: keys and values of all rollouts, no activations. loss: all activations and the logits are held. backward:
    the logits are gone, the last layer's gradients come, a recomputed layer is there once more. end: all gradients, and the
    activations of one layer.
    """
    moments: tuple[Moment, ...] = ("loss", "backward", "end", *(("generation",) if job.rollouts else ()))
    tensors = trained_tensors(architecture, job)
    return max(
        (_moment(architecture, job, moment, tensors) for moment in moments),
        key=lambda components: sum(components.values()),
    )


def _moment(architecture: Architecture, job: Job, moment: Moment, tensors: Sequence[Tensors]) -> dict[str, int]:
    targets = resolve_targets(architecture, job.targets, source="the job")
    full, nf4, end = job.method == "full", job.method == "qlora", moment == "end"
    generation = moment == "generation"
    lora = 0 if full else adapter_parameters(architecture, job.adapter, targets, job.rank)
    trained, item = (architecture.parameters, HALF) if full else (lora, job.adapter_bytes)
    states = state_bytes(job.optimizer, tensors, item).device
    int8 = job.method == "lora on int8"
    weights = weight_bytes(architecture, "nf4" if nf4 else "none", "bfloat16")
    layers = _layer_bytes(architecture, job, targets)
    kept = 0 if end or generation else sum(layers[job.checkpointed_layers :])
    recomputed_inputs = 0 if generation else min(1, job.checkpointed_layers) if end else job.checkpointed_layers
    inputs = recomputed_inputs * job.tokens * architecture.hidden * HALF
    recomputed = moment == "backward" and job.checkpointed_layers == architecture.layers
    gradients = trained * item if end or job.accumulated else 0
    if job.optimizer_in_backward:
        gradients = (
            0 if moment != "end" else gradient_bytes(tensors, item, layers=architecture.layers, in_backward=True)
        )
    if full and moment == "backward":
        gradients = max(gradients, (architecture.head_parameters or architecture.embedding_parameters) * HALF)
    if full and end and architecture.tied_head and not job.optimizer_in_backward:
        gradients += architecture.embedding_parameters * HALF  # of head and embedding, before they are summed
    constants = quantisation_constant_bytes(architecture, double_quantisation=job.double_quantisation) if nf4 else 0
    if int8:
        weights, constants = int8_weight_bytes(architecture), int8_constant_bytes(architecture)
    layer_weights = max(block.parameters for block in architecture.blocks) * HALF
    last_norm = job.tokens * architecture.hidden * _norm_item(architecture, job, trains=full)
    between = 2 * HALF * job.tokens * max(block.width for block in architecture.blocks)
    held = trained * item + states + (0 if full else lora * job.adapter_bytes)
    return {
        "weights": weights // job.gpus,
        "quantisation_constants": constants // job.gpus,
        "reference": weights // job.gpus if job.reference == "copy" else 0,
        "critic": (weights + constants + held) // job.gpus if job.critic else 0,
        "reward_model": weights // job.gpus if job.reward_model else 0,
        "rollouts": _rollout_bytes(architecture, job, cached=generation),
        "adapter": lora * job.adapter_bytes // job.gpus,
        "gradients": gradients // job.gpus,
        "optimizer": states // job.gpus,
        "activations": kept + inputs + (0 if generation else last_norm),
        "recomputed_layer": max(layers) if recomputed or end else 0,
        "layer_gradients": 0 if moment in ("loss", "generation") else between,
        "logits": _logit_bytes(architecture, job) if moment == "loss" else 0,
        "dequantised_weight": HALF * max(linear.weights for linear in architecture.linears) if nf4 or int8 else 0,
        "magnitudes": _dora_bytes(architecture, targets) if job.adapter == "dora" and not full else 0,
        "gathered_layers": GATHERED_LAYERS * layer_weights if job.gpus > 1 else 0,
        "workspace": round(constant("cuda_workspace_bytes")),
    }


def adapter_parameters(architecture: Architecture, adapter: Adapter, targets: tuple[str, ...], rank: int) -> int:
    """Return the numbers that an adapter of this kind trains."""
    match adapter:
        case "lora":
            return lora_parameters(architecture, targets, rank)
        case "dora":
            return dora_parameters(architecture, targets, rank)
        case "ia3":
            return ia3_parameters(architecture)
        case "houlsby":
            return houlsby_parameters(architecture, rank)
        case "prefix":
            return prefix_parameters(architecture, rank)


def _rollout_bytes(architecture: Architecture, job: Job, *, cached: bool) -> int:
    """Token ids, log-probabilities of policy and reference and advantages; while they are generated, keys and values too."""
    tokens = job.rollouts * job.row_tokens
    keys_and_values = 2 * HALF * architecture.layers * architecture.key_value_size if cached else 0
    return tokens * (ROLLOUT_TOKEN_BYTES + keys_and_values)


def _dora_bytes(architecture: Architecture, targets: tuple[str, ...]) -> int:
    """An identity of the inputs, and BA, W, their scaled sum and its square (PEFT 0.21, `tuners/lora/dora.py`)."""
    return HALF * max(
        linear.inputs**2 + 4 * linear.weights
        for block in architecture.blocks
        for linear in adapted(block.linears, targets)
    )


def trained_tensors(architecture: Architecture, job: Job) -> tuple[Tensors, ...]:
    """Return what a job trains, tensor by tensor; adapters other than LoRA as one vector."""
    if job.method == "full":
        return all_tensors(architecture)
    targets = resolve_targets(architecture, job.targets, source="the job")
    if job.adapter == "lora":
        return lora_tensors(architecture, targets, job.rank)
    return (Tensors(1, (adapter_parameters(architecture, job.adapter, targets, job.rank),)),)


def job_states(architecture: Architecture, job: Job) -> StateBytes:
    """Return the bytes of the optimizer's states, on the device and in the host's memory."""
    item = HALF if job.method == "full" else job.adapter_bytes
    return state_bytes(job.optimizer, trained_tensors(architecture, job), item)


def _layer_bytes(architecture: Architecture, job: Job, targets: tuple[str, ...]) -> list[int]:
    """Bytes that each layer keeps, in order."""
    return [
        job.tokens * token_bytes(architecture, block, job, targets)
        for block in architecture.blocks
        for _ in range(block.count)
    ]


def token_bytes(architecture: Architecture, block: Block, job: Job, targets: tuple[str, ...]) -> int:
    """Bytes of one token in one layer.

    RMS norms keep their input in float32 and, where their weight trains, their result; layer norms their input. Attention
    keeps rotated queries and keys, values, its result and a float32 for each head; slices of a fused projection hold all of it.
    Linears that train, or have an adapter, keep what they read, once for those that read the same; adapters A x.
    """
    full = job.method == "full"
    hidden, queries, keys = architecture.hidden, architecture.query_size, architecture.key_value_size
    norm = _norm_item(architecture, job, trains=full)
    total = architecture.hidden_norms * norm * hidden
    if architecture.head_norms:
        total += norm * (queries + keys)
    fused = sum(linear.reads == "attention norm" and linear.outputs > queries for linear in block.linears) == 1
    total += HALF * (2 * queries + 2 * keys + (queries + keys if fused else 0)) + SINGLE * architecture.heads
    if job.attention == "eager":
        total += EAGER_SCORE_BYTES * architecture.heads * job.row_tokens + 2 * HALF * (queries - keys)
        total -= SINGLE * architecture.heads
    if full or job.adapter in ("lora", "dora"):
        total += _linear_bytes(architecture, block, job, targets)
    elif job.adapter == "ia3":
        total += HALF * (2 * keys + block.width)
    elif job.adapter == "houlsby":
        total += 2 * HALF * (hidden + 2 * job.rank)
    kept = 1 if not architecture.gated else 2 if job.fused_kernels else 3
    return total + HALF * kept * block.width


def _linear_bytes(architecture: Architecture, block: Block, job: Job, targets: tuple[str, ...]) -> int:
    """What linears that train, or have LoRA beside them, keep of one token. DoRA keeps its base's result and LoRA's too."""
    full = job.method == "full"
    trained = list(block.linears) if full else adapted(block.linears, targets)
    read = {linear.reads: linear.inputs for linear in trained}
    if architecture.model_type not in COPIED_RESULT:
        read.pop("attention", None)  # the result of attention, counted with it
    total = HALF * sum(read.values())
    if full:
        return total
    total += HALF * job.rank * len(trained)
    if job.adapter_bytes == SINGLE:
        total += SINGLE * sum(linear.inputs for linear in trained)
    if job.adapter == "dora":
        total += 2 * HALF * sum(linear.outputs for linear in trained)
    return total


def _norm_item(architecture: Architecture, job: Job, *, trains: bool) -> int:
    """Bytes that a norm keeps of each number."""
    if not architecture.rms_norms or job.fused_kernels:
        return HALF
    return SINGLE + (HALF if trains else 0)


def _logit_bytes(architecture: Architecture, job: Job) -> int:
    """Bytes of the logits at their peak; with Liger's fused loss a chunk of them and gradients of hidden states."""
    if not job.fused_kernels:
        return LOSS_BACKWARD_BYTES * job.tokens * architecture.vocabulary
    chunks = max(1, -(-architecture.vocabulary // architecture.hidden))
    rows = 1 << max(0, (job.tokens // chunks - 1).bit_length())
    return (HALF + SINGLE) * rows * architecture.vocabulary + 2 * HALF * job.tokens * architecture.hidden
