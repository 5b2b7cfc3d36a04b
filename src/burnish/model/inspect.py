"""Look at the weights of a base: its matrices one by one, bytes by loading, losses with rounded weights.

Made for `burnish inspect`, whose arithmetic lies in plan/inspect and never imports torch: it is given these functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from burnish.core.errors import BaseModelError
from burnish.core.events import Emit, Progress
from burnish.core.rows import TokenRow
from burnish.model.bases import weight_files
from burnish.model.load import frozen_linears, is_nf4, load_base
from burnish.model.memory import trim_heap
from burnish.model.row_losses import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
Rounder = Callable[[np.ndarray], np.ndarray]
"""Weights (out, in) float32 -> the same after being stored in some format and read back."""


def matrix_files(folder: Path) -> dict[str, Path]:
    """Return the file of each matrix of the layers, by name. Raises BaseModelError for files that cannot be read."""
    places: dict[str, Path] = {}
    try:
        for file in weight_files(folder):
            with safe_open(folder / file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    if layer_of(name) is not None and len(tensors.get_slice(name).get_shape()) == 2:
                        places[name] = folder / file
    except (SafetensorError, OSError) as error:
        raise BaseModelError(f"cannot read the weights of {folder}: {error}") from error
    return places


def weight_matrices(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, weights (out, in) float32) of each matrix of the layers, in the order of their layers.

    One matrix is held at a time; the model is not built. Raises BaseModelError for files that cannot be read.
    """
    places = matrix_files(folder)
    try:
        for name in sorted(places, key=lambda name: (layer_of(name), name)):
            with safe_open(places[name], framework="pt") as tensors:
                yield name.removesuffix(".weight"), tensors.get_tensor(name).to(torch.float32).numpy()
    except (SafetensorError, OSError) as error:
        raise BaseModelError(f"cannot read the weights of {folder}: {error}") from error


def layer_of(name: str) -> int | None:
    """Return the number of the layer in the name of a weight; None for what is in no layer."""
    found = LAYER.search(name)
    return int(found[1]) if found is not None and name.endswith(".weight") else None


def measure_footprints(folder: Path, emit: Emit) -> dict[str, tuple[int, int]]:
    """Return bytes of (footprint, hidden constants) by precision, by loading the base in each, one after the other.

    The footprint is transformers' `get_memory_footprint()`; the constants are those of quantised layers, which it leaves out.
    """
    loaders: Mapping[str, Callable[[], PreTrainedModel]] = {
        "fp32": lambda: load_base(folder, dtype=torch.float32),
        "bf16": lambda: load_base(folder, dtype=torch.bfloat16),
        "int8": lambda: quantise_int8(load_base(folder, dtype=torch.bfloat16)),
        "nf4": lambda: load_base(folder, quantisation="nf4", double_quantisation=False, dtype=torch.bfloat16),
        "nf4+dq": lambda: load_base(folder, quantisation="nf4", double_quantisation=True, dtype=torch.bfloat16),
    }
    found: dict[str, tuple[int, int]] = {}
    for done, (name, load) in enumerate(loaders.items()):
        emit(Progress("inspect", "loading in each precision", done, len(loaders), "precisions"))
        model = load()
        found[name] = int(model.get_memory_footprint()), sum(map(hidden_bytes, model.modules()))
        del model
        trim_heap()
    emit(Progress("inspect", "loading in each precision", len(loaders), len(loaders), "precisions"))
    return found


def quantise_int8(model: PreTrainedModel) -> PreTrainedModel:
    """Replace every linear layer but the output head by bitsandbytes' int8 layer, in place, and return the model.

    The weights are those of transformers' `BitsAndBytesConfig(load_in_8bit=True)` (Dettmers et al. 2022, LLM.int8()).
    """
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    for name, linear in frozen_linears(model).items():
        with torch.device("meta"):
            small = Linear8bitLt(
                linear.in_features, linear.out_features, bias=linear.bias is not None, has_fp16_weights=False
            )
        small.weight = Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False).to("cpu")
        small.bias = linear.bias
        model.set_submodule(name, small)
    return model


def hidden_bytes(layer: nn.Module) -> int:
    """Return the bytes of what a quantised layer keeps beside its parameters and buffers."""
    if is_nf4(layer):
        state = layer.weight.quant_state
        return sum(value.nbytes for value in _tensors(state))
    return layer.weight.SCB.nbytes if type(layer).__name__ == "Linear8bitLt" else 0


def _tensors(state) -> Iterator[torch.Tensor]:
    for value in (state.absmax, state.code, state.offset):
        if isinstance(value, torch.Tensor):
            yield value
    if state.state2 is not None:
        yield from _tensors(state.state2)


def round_nf4(double_quantisation: bool) -> Rounder:
    """Return the rounding of bitsandbytes' NF4, blocks of 64, as training with method qlora uses it."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def rounded(weights: np.ndarray) -> np.ndarray:
        packed, state = quantize_4bit(
            torch.from_numpy(weights), blocksize=64, quant_type="nf4", compress_statistics=double_quantisation
        )
        return dequantize_4bit(packed, state).to(torch.float32).numpy()

    return rounded


def round_bf16(weights: np.ndarray) -> np.ndarray:
    """Return the weights as bfloat16 has them."""
    return torch.from_numpy(weights).to(torch.bfloat16).to(torch.float32).numpy()


def losses_by_rounding(
    folder: Path, rows: Sequence[TokenRow], rounders: Mapping[str, Rounder | None], emit: Emit
) -> dict[str, list[tuple[float, int]]]:
    """Return, by name, the losses of each row with the layers' weights rounded; None rounds nothing.

    Only the linears of the layers are rounded; embeddings, norms and head stay, and all is computed in float32, so that
    the difference is that of the weights alone. Losses are (nats, tokens) of a row.
    """
    model = load_base(folder)
    linears = frozen_linears(model)
    plain = {name: linear.weight for name, linear in linears.items()}
    found: dict[str, list[tuple[float, int]]] = {}
    for done, (label, rounder) in enumerate(rounders.items()):
        emit(Progress("inspect", "perplexity with rounded weights", done, len(rounders), "formats"))
        for name, linear in linears.items():
            weight = plain[name]
            if rounder is not None:
                weight = nn.Parameter(torch.from_numpy(rounder(weight.detach().numpy())), requires_grad=False)
            linear.weight = weight
        found[label] = [(read.nats, read.tokens) for read in read_rows(model, rows)]
    emit(Progress("inspect", "perplexity with rounded weights", len(rounders), len(rounders), "formats"))
    return found
