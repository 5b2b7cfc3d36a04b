"""Where a run trains, and in which numbers."""

from __future__ import annotations

from burnish.core.errors import Problem, RecipeError
from burnish.core.recipe import Recipe
from burnish.plan.activations import Device, Dtype
from burnish.plan.hardware import Hardware

BF16_CAPABILITY = (8, 0)
"""NVIDIA GPUs compute in bfloat16 from Ampere on (CUDA C programming guide, arithmetic instructions)."""


def choose_device(recipe: Recipe, hardware: Hardware, because: dict[str, str]) -> Device:
    """Return where the run trains. Raises RecipeError for a GPU that is not there."""
    asked = recipe.train.device
    if asked == "cuda" and hardware.device != "cuda":
        raise RecipeError(
            f"recipe {recipe.name}", [Problem("train.device", "cuda", "nvidia-smi finds no GPU here. Use auto or cpu.")]
        )
    if asked != "auto":
        because["train.device"] = "the recipe says so"
        return asked
    found = "nvidia-smi finds no GPU"
    if hardware.device == "cuda":
        found = f"a rented {hardware.gpu_name}" if hardware.rented else f"nvidia-smi finds {hardware.gpu_name}"
    because["train.device"] = found
    return hardware.device


def choose_dtype(device: Device, hardware: Hardware, because: dict[str, str]) -> Dtype:
    """Return what the run computes in."""
    if device == "cpu":
        if hardware.cpu_bf16:
            because["train.compute_dtype"] = (
                "this CPU multiplies bfloat16 in its own units, about twice as fast as float32"
            )
            return "bfloat16"
        because["train.compute_dtype"] = "CPUs without bfloat16 units compute it many times slower than float32"
        return "float32"
    if hardware.gpu_capability is not None and hardware.gpu_capability < BF16_CAPABILITY:
        because["train.compute_dtype"] = (
            f"compute capability {hardware.gpu_capability[0]}.{hardware.gpu_capability[1]} has no bfloat16 (8.0 has)"
        )
        return "float16"
    because["train.compute_dtype"] = "the range of float32 at half its size, on tensor cores"
    return "bfloat16"
