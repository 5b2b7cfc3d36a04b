"""AdamW on float32 weights, the learning rate as a pure function of the step, and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

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


def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients so that their global norm is at most `limit`; return the norm they had."""
    return nn.utils.clip_grad_norm_(parameters, limit)
