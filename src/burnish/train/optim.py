"""AdamW on float32 weights, the learning rate as a pure function of the step, and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from burnish.core.artifacts import TrainPlan


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


def adamw(plan: TrainPlan, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay") with float32 states, its update fused."""
    return torch.optim.AdamW(
        parameters,
        lr=plan.learning_rate,
        betas=plan.betas,
        eps=plan.epsilon,
        weight_decay=plan.weight_decay,
        fused=True,
    )


def update(optimizer: torch.optim.AdamW, parameters: Iterable[nn.Parameter], limit: float, loss_scale: float) -> Tensor:
    """Step with gradients divided by the loss's scale and clipped to a global norm of `limit`; return the norm they had.

    Where the norm is not finite nothing is changed. All of it happens on the device: nobody waits for the norm here.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients) / loss_scale
    # What torch's GradScaler gives a fused optimizer: it divides gradients, and skips the step where an infinity was found.
    optimizer.grad_scale = ((norm + 1e-6) / limit).clamp(min=1.0).mul(loss_scale)
    optimizer.found_inf = (~torch.isfinite(norm)).float()
    optimizer.step()
    return norm


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
