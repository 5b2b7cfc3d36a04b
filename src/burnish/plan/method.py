"""What a recipe's method and optimizer become on this machine, and what cannot be had there."""

from __future__ import annotations

from typing import Literal

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import Problem, RecipeError
from burnish.core.recipe import Recipe
from burnish.plan.activations import Device, Dtype
from burnish.plan.adapters import ALL_LINEAR, resolve_targets
from burnish.plan.architecture import Architecture
from burnish.plan.optimizers import bias_tensors

OPTIMIZERS = {
    "adamw_8bit": "AdamW with two states of 8 bits; embeddings, and weights of under 4,096 numbers, keep float32",
    "paged_adamw_8bit": "AdamW with states of 8 bits, in memory that the host takes in where the GPU's is short",
    "muon": "Muon with one float32 state for matrices of layers, at AdamW's rate; AdamW for embeddings, head, norms and biases",
    "adafactor": "Adafactor with a state for each row and column of a matrix; its rate is a share of a weight's root mean square",
}
"""What each optimizer but AdamW is."""
Fp8 = Literal["fp8", "fp8_all"]
FLOAT8: dict[Fp8, str] = {
    "fp8": "the recipe asks for gradients multiplied with the frozen weights in float8; the forward pass is exact",
    "fp8_all": "the recipe asks for all products with frozen weights in float8, forward and backward",
}


def method_plan(
    recipe: Recipe, architecture: Architecture, device: Device, dtype: Dtype, because: dict[str, str]
) -> MethodPlan:
    """Return the method with every number resolved. Raises RecipeError for unknown targets and for what cannot be had here."""
    asked = recipe.method
    if asked.kind == "full":
        because["method.kind"] = "every weight trains, so there is no adapter: rank 0"
        return MethodPlan(
            kind="full", rank=0, alpha=0.0, dropout=0.0, targets=(), quantisation="none", double_quantisation=False,
            plain=True if asked.plain else None,
        )  # fmt: skip
    targets = resolve_targets(architecture, asked.targets, source=f"recipe {recipe.name}")
    everything = f"{ALL_LINEAR} in {architecture.model_type}: each linear but the output head"
    because["method.targets"] = everything if ALL_LINEAR in asked.targets else "the recipe names them"
    nf4 = asked.kind == "qlora"
    because["method.quantisation"] = (
        "qlora stores the frozen linears as 4-bit NF4; embeddings, norms and head stay as they are"
        if nf4
        else "lora keeps the frozen weights as they are"
    )
    return MethodPlan(
        kind=asked.kind,
        rank=asked.rank,
        alpha=asked.alpha,
        dropout=asked.dropout,
        targets=targets,
        quantisation="nf4" if nf4 else "none",
        double_quantisation=nf4 and asked.double_quantisation,
        plain=True if asked.plain else None,
        base_dtype=_base_dtype(recipe, device, dtype, because),
        rslora=True if asked.rslora else None,
        bias=_bias(recipe, architecture, targets, because),
        dora=_dora(recipe, because),
    )


ALONE = "such an adapter is evaluated, and PEFT loads it; `burnish serve` serves low-rank products alone, many at once"


def _bias(
    recipe: Recipe, architecture: Architecture, targets: tuple[str, ...], because: dict[str, str]
) -> Literal["all", "lora_only"] | None:
    """Return which biases train. Raises RecipeError where the base has none of them."""
    asked = recipe.method.bias
    if asked == "none":
        return None
    if not bias_tensors(architecture, targets, asked):
        what = "none of its adapted linear layers has a bias" if asked == "lora_only" else "it has no biases"
        says = f"a base of type {architecture.model_type}: {what}, so there is nothing to train. Leave bias out."
        raise RecipeError(f"recipe {recipe.name}", [Problem("method.bias", asked, says)])
    which = "biases of adapted layers train too" if asked == "lora_only" else "every bias trains too"
    because["method.bias"] = f"{which}, as in PEFT; {ALONE}"
    return asked


def _dora(recipe: Recipe, because: dict[str, str]) -> Literal[True] | None:
    if not recipe.method.dora:
        return None
    because["method.dora"] = f"layers take the plain path, whose results are kept before their rows are scaled; {ALONE}"
    return True


def _base_dtype(recipe: Recipe, device: Device, dtype: Dtype, because: dict[str, str]) -> Fp8 | None:
    """Return the float8 form where the recipe asks for it. Raises RecipeError where it cannot be had."""
    asked = recipe.method
    if asked.base_dtype == "auto":
        return None
    trouble = None
    if asked.kind == "qlora":
        trouble = "qlora stores the frozen weights in 4 bits. Use `kind: lora`, or leave base_dtype out."
    elif asked.plain:
        trouble = "`plain: true` switches float8 off with every other fast path. Leave one of the two out."
    elif asked.dora:
        trouble = "dora takes the plain path, which has no float8. Leave one of the two out."
    elif device == "cpu" or dtype != "bfloat16":
        trouble = "float8 products need an NVIDIA card of Ada, Hopper or newer. Leave base_dtype out."
    if trouble is not None:
        raise RecipeError(f"recipe {recipe.name}", [Problem("method.base_dtype", asked.base_dtype, trouble)])
    because["method.base_dtype"] = FLOAT8[asked.base_dtype]
    return asked.base_dtype


def check_optimizer(recipe: Recipe, device: Device, dtype: Dtype, because: dict[str, str]) -> None:
    """Say what the optimizer is. Raises RecipeError where it cannot be had."""
    asked = recipe.train
    if asked.optimizer != "adamw":
        because["train.optimizer"] = OPTIMIZERS[asked.optimizer]
    problems: list[Problem] = []
    if asked.optimizer == "paged_adamw_8bit" and device == "cpu":
        says = "pages states between a GPU and its host, and there is no GPU here. Use adamw_8bit: it holds the same states."
        problems.append(Problem("train.optimizer", asked.optimizer, says))
    if asked.optimizer_in_backward:
        because["train.optimizer_in_backward"] = (
            f"each weight is updated when its gradient is there; a gradient is clipped by itself to a norm of "
            f"{asked.max_gradient_norm:g}, because the norm of all is not known before the last"
        )
        if dtype == "float16":
            says = "float16 must be able to skip a whole step whose gradients overflow. Leave it out, or use a card with bfloat16."
            problems.append(Problem("train.optimizer_in_backward", "true", says))
    if problems:
        raise RecipeError(f"recipe {recipe.name}", problems)
