"""Optimizers on float32 weights, the learning rate as a pure function of the step, and clipping."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from burnish.core.artifacts import TrainPlan
from burnish.core.errors import ResourceError

QUANTISATION_TABLES = frozenset({"qmap1", "qmap2"})
"""States of bitsandbytes that are the same for all weights, and made anew."""


def learning_rate(plan: TrainPlan, step: int) -> float:
    """Return the rate of optimizer step `step`, counted from 0.

    It rises linearly over the first `warmup_steps` (the first step is not wasted at rate 0), then stays, or falls to 0
    linearly or along half a cosine (Loshchilov and Hutter 2017, "SGDR", equation 5, one period).
    """
    if step < plan.warmup_steps:
        return plan.learning_rate * (step + 1) / (plan.warmup_steps + 1)
    share = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    shape = {"constant": 1.0, "linear": 1.0 - share, "cosine": 0.5 * (1.0 + math.cos(math.pi * share))}[plan.schedule]
    return plan.learning_rate * shape


def optimizers(
    plan: TrainPlan, parameters: Mapping[str, nn.Parameter], embeddings: Collection[str] = ()
) -> list[torch.optim.Optimizer]:
    """Return the optimizers that together update each of the parameters, of the plan's kind.

    adamw: Loshchilov and Hutter 2019, arXiv:1711.05101. adamw_8bit, paged_adamw_8bit: Dettmers et al. 2022, arXiv:2110.02861, its
    states in blocks of 256; embeddings keep float32 ones (section 2.3). muon: Jordan et al. 2024 for matrices, at AdamW's rates
    (Liu et al. 2025, arXiv:2502.16982, equation 4); embeddings, norms and biases take AdamW. adafactor: Shazeer and Stern 2018,
    arXiv:1804.04235, algorithm 4: its rate is a share of each weight's root mean square. Vectors do not decay.
    """
    match plan.optimizer:
        case None:
            return [adamw(plan, parameters.values())]
        case "adafactor":
            groups = _groups(plan, parameters.values())
            return [torch.optim.Adafactor(groups, lr=plan.learning_rate, beta2_decay=-0.8)]
        case "muon":
            matrices = {name: p for name, p in parameters.items() if p.ndim == 2 and name not in embeddings}
            rest = [p for name, p in parameters.items() if name not in matrices]
            found: list[torch.optim.Optimizer] = []
            if matrices:
                decay, rate = plan.weight_decay, plan.learning_rate
                all_matrices = list(matrices.values())
                found.append(
                    torch.optim.Muon(all_matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
                )
            return [*found, *([adamw(plan, rest)] if rest else [])]
        case "adamw_8bit" | "paged_adamw_8bit":
            return _in_8_bits(plan, parameters, embeddings, paged=plan.optimizer == "paged_adamw_8bit")


def adamw(plan: TrainPlan, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """Return AdamW with float32 states, its update fused."""
    groups = _groups(plan, parameters)
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=plan.betas, eps=plan.epsilon, fused=True)


def _in_8_bits(
    plan: TrainPlan, parameters: Mapping[str, nn.Parameter], embeddings: Collection[str], *, paged: bool
) -> list[torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW
    except ImportError as error:
        raise ResourceError(
            f"train.optimizer: {plan.optimizer} needs bitsandbytes: pip install bitsandbytes."
        ) from error
    sides = (8, [p for name, p in parameters.items() if name not in embeddings]), (
        32, [p for name, p in parameters.items() if name in embeddings]
    )  # fmt: skip
    return [
        AdamW(
            _groups(plan, chosen), lr=plan.learning_rate, betas=plan.betas, eps=plan.epsilon, optim_bits=bits, is_paged=paged,
        )
        for bits, chosen in sides
        if chosen
    ]  # fmt: skip


def _groups(plan: TrainPlan, parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Return matrices, which decay, and vectors (norms and biases), which do not, as groups of an optimizer."""
    every = list(parameters)
    matrices, vectors = [p for p in every if p.ndim > 1], [p for p in every if p.ndim <= 1]
    groups = {"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors, "weight_decay": 0.0}
    return [group for group in groups if group["params"]]


def update(
    among: Sequence[torch.optim.Optimizer], parameters: Iterable[nn.Parameter], limit: float, loss_scale: float
) -> Tensor:
    """Step with gradients divided by the loss's scale and clipped to a global norm of `limit`; return the norm they had.

    Where the norm is not finite AdamW changes nothing, and others nothing if the loss is scaled; without, the run ends there.
    The device does all of it, and nobody waits for the norm, unless another optimizer than AdamW has to be kept from a step.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients) / loss_scale
    divisor = ((norm + 1e-6) / limit).clamp(min=1.0).mul(loss_scale)
    if len(among) == 1 and isinstance(among[0], torch.optim.AdamW):
        # What torch's GradScaler gives a fused optimizer: it divides gradients, and skips the step where an infinity was found.
        among[0].grad_scale = divisor
        among[0].found_inf = (~torch.isfinite(norm)).float()
    elif loss_scale == 1.0 or torch.isfinite(norm):
        for device in {gradient.device for gradient in gradients}:
            torch._foreach_div_([each for each in gradients if each.device == device], divisor.to(device))
    else:
        return norm
    make_steps(among)
    return norm


def make_steps(among: Iterable[torch.optim.Optimizer]) -> None:
    """Make a step of each. A fused one does not tell torch that it changed a weight, by which copies of it are known to be old."""
    for optimizer in among:
        optimizer.step()
        for group in optimizer.param_groups:
            torch.autograd.graph.increment_version(group["params"])


def states_of(among: Sequence[torch.optim.Optimizer], parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return every state as `<weight>.<state>`; whole numbers that are no tensors as int64."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    return {
        f"{names[id(parameter)]}.{key}": value.detach() if isinstance(value, Tensor) else torch.tensor(value)
        for optimizer in among
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if key not in QUANTISATION_TABLES
    }


def put_states(
    among: Sequence[torch.optim.Optimizer], parameters: Mapping[str, nn.Parameter], states: Mapping[str, Tensor]
) -> None:
    """Put back what `states_of` returned, bit for bit."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in states.items():
        name, _, state = key.rpartition(".")
        by_name.setdefault(name, {})[state] = value
    names = {id(parameter): name for name, parameter in parameters.items()}
    for optimizer in among:
        for group_number, group in enumerate(optimizer.param_groups):
            for number, parameter in enumerate(group["params"]):
                found = by_name.get(names[id(parameter)], {})
                if isinstance(optimizer, torch.optim.AdamW | torch.optim.Adafactor | torch.optim.Muon):
                    optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in found.items()}
                    continue
                optimizer.init_state(group, parameter, group_number, number)  # bitsandbytes': its memory may be paged
                state = optimizer.state[parameter]
                for key, value in found.items():
                    if isinstance(state[key], Tensor):
                        state[key].copy_(value)
                    else:
                        state[key] = int(value)


@dataclass(slots=True)
class LossScale:
    """What a loss is multiplied by so that float16 gradients do not vanish.

    Micikevicius et al. 2018, arXiv:1710.03740, section 3.2. Halved, and the step skipped, when a gradient overflows; doubled after
    `patience` steps without. bfloat16 and float32 need none: there it stays 1, and an overflow is an error.
    """

    value: float = 1.0
    clean: int = 0
    patience: int = 2000

    @property
    def fixed(self) -> bool:
        """Whether the scale does not follow the gradients."""
        return self.value == 1.0

    def follow(self, finite: bool) -> None:
        """Take note of a step."""
        self.clean = self.clean + 1 if finite else 0
        if not finite:
            self.value /= 2.0
        elif self.clean == self.patience:
            self.value, self.clean = self.value * 2.0, 0


FIRST_SCALE = 2.0**16


def loss_scale(plan: TrainPlan) -> LossScale:
    """Return the scale that a run begins with."""
    return LossScale(FIRST_SCALE if plan.compute_dtype == "float16" else 1.0)
