"""Seconds of training and evaluating: operations to do over the rate of the device, with a band.

N: weights of all linears, of experts those that a token uses. Per token, a multiply-add counted as two operations:
- forward 2N; backward with the base frozen 2N more (only gradients of activations), so LoRA trains at 4N; where every weight
  is trained, 4N more (gradients of weights too), and the head's 2 more for each of its numbers;
- each recomputed layer its share of 2N again;
- the adapter 6 for each of its numbers (forward, gradient of its input, gradient of itself);
- attention 4 for each query number and token seen forward (scores, values), 8 backward (four products);
- the head 4 for each of its numbers, on tokens with loss only (logits, and their gradient in the same pass);
- the reference of preference pairs a forward pass more, without adapter and gradients, once for each packed row.
"""

from __future__ import annotations

from dataclasses import dataclass

from burnish.core.artifacts import Interval, MethodPlan
from burnish.plan.activations import is_full, is_fused
from burnish.plan.adapters import lora_parameters
from burnish.plan.architecture import Architecture
from burnish.plan.constants import constant
from burnish.plan.gpus import Gpu, find_gpu
from burnish.plan.hardware import Hardware
from burnish.plan.step_time import StepSeconds

FORWARD, LORA_BACKWARD, FULL_BACKWARD, RECOMPUTE = 2, 2, 4, 2
ADAPTER_OPERATIONS = 6
ATTENTION_FORWARD, ATTENTION_BACKWARD = 4, 8
HEAD_OPERATIONS, FULL_HEAD_OPERATIONS = 4, 6
MEASURED_GPUS = frozenset({"H100 SXM", "H200"})
"""GPUs that training was timed on."""


@dataclass(frozen=True, slots=True)
class TrainWork:
    """What training computes. `trained`: tokens with loss. `seen`: tokens that the average token attends to.

    `checkpointed_layers`: how many layers are computed again; of a layer that is made again in part, that part of its time.
    `reference_share`: the part of the tokens that a reference reads too.
    """

    tokens: int
    trained: int
    seen: float
    packed_rows: int
    steps: int
    checkpointed_layers: float
    reference_share: float = 0.0


@dataclass(frozen=True, slots=True)
class EvaluateWork:
    """What evaluation computes for all subjects together: tokens read, with loss, and generated one by one."""

    read: int
    trained: int
    generated: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Operations a second of the device in training and in generating, each with its band, and where they come from."""

    train: Interval
    decode: Interval
    source: str


def attention_operations(architecture: Architecture, work: TrainWork) -> float:
    """Operations of attention in a training run, of which `train_operations` are the sum with all others."""
    share = work.checkpointed_layers / architecture.layers
    passes = ATTENTION_FORWARD * (1 + share + work.reference_share) + ATTENTION_BACKWARD
    return passes * architecture.layers * architecture.query_size * work.seen * work.tokens


def train_operations(architecture: Architecture, method: MethodPlan, work: TrainWork) -> float:
    """Operations of a training run."""
    weights, share = architecture.computed_weights, work.checkpointed_layers / architecture.layers
    full = is_full(method)
    adapter = ADAPTER_OPERATIONS * lora_parameters(architecture, method.targets, method.rank)
    backward = FULL_BACKWARD if full else LORA_BACKWARD
    per_token = (FORWARD * (1 + work.reference_share) + backward + RECOMPUTE * share) * weights + adapter
    head = (FULL_HEAD_OPERATIONS if full else HEAD_OPERATIONS) + work.reference_share * FORWARD
    others = per_token * work.tokens + head * architecture.vocabulary * architecture.hidden * work.trained
    return others + attention_operations(architecture, work)


def rates(hardware: Hardware, device: str) -> Rates:
    """Return what the device does, from its probe or from the table of GPUs."""
    if device == "cuda":
        gpu = find_gpu(hardware.gpu_name)
        source = (
            f"{gpu.name}: shares of its {gpu.tflops:g} TFLOP/s and {gpu.gigabytes_per_second:g} GB/s ({gpu.source})"
        )
        train, decode = _band("cuda_train_share", gpu.tflops * 1e12), _decode_rate(gpu)
        if gpu.name not in MEASURED_GPUS:
            wide = constant("unmeasured_gpu_factor")
            return Rates(_widen(train, wide), _widen(decode, wide), f"{source}; never timed on it, so the band is wide")
        return Rates(train, decode, source)
    probed, gain = hardware.gemm_gflops, constant("cpu_bf16_gain") if hardware.cpu_bf16 else 1.0
    if probed is not None:
        cores = "1 core" if hardware.cores == 1 else f"{hardware.cores} cores"
        source = f"{probed:.0f} GFLOP/s by a probe of 50 ms on {cores}, and measured shares of it"
        source += f", {gain:g} times as fast in bfloat16" if hardware.cpu_bf16 else ""
        peak = probed * gain * 1e9
        return Rates(_band("cpu_train_share", peak), _band("cpu_decode_share", peak), source)
    guessed = constant("cpu_gflops_per_core") * hardware.cores * gain
    source = f"{guessed:.0f} GFLOP/s guessed for {hardware.cores} cores without a probe"
    wide = constant("unprobed_factor")
    train, decode = (_band(name, guessed * 1e9) for name in ("cpu_train_share", "cpu_decode_share"))
    return Rates(_widen(train, wide), _widen(decode, wide), source)


def train_seconds(
    architecture: Architecture, method: MethodPlan, work: TrainWork, device: str, rate: Rates
) -> Interval:
    """Seconds of the training loop: products, dequantisation, and what a pass and a step cost by themselves."""
    operations = train_operations(architecture, method, work)
    passes = FORWARD / 2 + LORA_BACKWARD / 2 + work.checkpointed_layers / architecture.layers + work.reference_share
    fixed = (
        work.packed_rows
        * _pass_seconds(method, work.checkpointed_layers / architecture.layers, device)
        * architecture.layers
    )
    fixed += (
        work.steps
        * constant(f"{device}_step_seconds_per_number")
        * (architecture.parameters if is_full(method) else lora_parameters(architecture, method.targets, method.rank))
    )
    if method.quantisation == "nf4":
        fixed += work.packed_rows * passes * architecture.linear_weights * constant(f"{device}_nf4_seconds_per_weight")
    if device == "cuda":
        if is_fused(architecture, method):  # their products run at a rate that attention does not reach
            operations += (constant("cuda_attention_cost") - 1) * attention_operations(architecture, work)
        return _beside(operations, rate, fixed, _gain(architecture, method))
    return Interval(
        low=operations / rate.train.high + fixed,
        mid=operations / rate.train.mid + fixed,
        high=operations / rate.train.low + 2 * fixed,
    )


def later(interval: Interval, seconds: float) -> Interval:
    """Return an estimate with so many seconds more."""
    return Interval(low=interval.low + seconds, mid=interval.mid + seconds, high=interval.high + seconds)


def _beside(operations: float, rate: Rates, host: float, gain: float) -> Interval:
    """The host launches ahead of the GPU: the slower of both decides."""
    return Interval(
        low=operations / (rate.train.high * gain),
        mid=StepSeconds(operations / (rate.train.mid * gain), host).total,
        high=operations / (rate.train.low * gain) + 2 * host,
    )


def _gain(architecture: Architecture, method: MethodPlan) -> float:
    """How much faster than transformers' layers fused ones are, which leave a GPU little but products."""
    if not is_fused(architecture, method):
        return 1.0
    return constant("cuda_fused_gain") * (
        1.0 if method.base_dtype is None else constant(f"cuda_{method.base_dtype}_gain")
    )


def _pass_seconds(method: MethodPlan, recomputed: float, device: str) -> float:
    """Seconds of a layer and packed row beside its products. On a GPU it is launching: again for what is recomputed, and NF4's."""
    seconds = constant(f"{device}_pass_seconds")
    if device == "cuda":
        seconds *= 1 + constant("cuda_recompute_share") * recomputed
        seconds += constant("cuda_nf4_pass_seconds") if method.quantisation == "nf4" else 0.0
    return seconds


def evaluate_seconds(architecture: Architecture, work: EvaluateWork, rate: Rates) -> Interval:
    """Seconds of reading prompts and rows, and of generating answers."""
    head = architecture.vocabulary * architecture.hidden
    read = FORWARD * (architecture.computed_weights * work.read + head * work.trained)
    generated = FORWARD * (architecture.computed_weights + head) * work.generated
    return Interval(
        low=read / rate.train.high + generated / rate.decode.high,
        mid=read / rate.train.mid + generated / rate.decode.mid,
        high=read / rate.train.low + generated / rate.decode.low,
    )


def _decode_rate(gpu: Gpu) -> Interval:
    """Generating reads every weight (two bytes, two operations) once for each batch: its rate is that of the memory."""
    return _band("cuda_decode_share", gpu.gigabytes_per_second * 1e9 * constant("cuda_decode_batch"))


def _band(name: str, peak: float) -> Interval:
    share, low, high = constant(name), constant("band_low"), constant("band_high")
    return Interval(low=peak * share * low, mid=peak * share, high=peak * share * high)


def _widen(interval: Interval, factor: float) -> Interval:
    return Interval(low=interval.low / factor, mid=interval.mid, high=interval.high * factor)
