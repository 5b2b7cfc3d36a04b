"""Load a base model frozen, in float32, bfloat16 or float16, or with its linear layers as 4-bit NF4."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from burnish.core.errors import BaseModelError, ResourceError

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit
    from transformers import PreTrainedModel


def load_base(
    folder: Path,
    *,
    quantisation: Literal["none", "nf4"] = "none",
    double_quantisation: bool = True,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Return the base model of `folder`, frozen and in eval mode, its weights on `device`.

    With "nf4" every linear layer but the output head is stored in 4 bits (Dettmers et al. 2023, "QLoRA", section 3) and
    computes in `dtype`; embeddings, norms and head stay in `dtype`. The result equals transformers' BitsAndBytesConfig.
    Raises BaseModelError when transformers cannot read the folder, ResourceError when memory is short.
    """
    model = read_base(folder, dtype)
    try:
        if quantisation == "nf4":
            quantise_nf4(model, double_quantisation=double_quantisation, device=device, dtype=dtype)
        return model.to(device)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{folder} does not fit the memory of {device}: {error}. Use method: qlora or a smaller base."
        ) from error


def read_base(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return the base model of `folder` in host memory, frozen and in eval mode. Raises what `load_base` raises."""
    try:
        with quiet_transformers():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                output_loading_info=True,
            )  # fmt: skip
    except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
        raise BaseModelError(f"transformers cannot load {folder} as a causal language model: {error}") from error
    absent = sorted(info["missing_keys"])
    if absent:  # transformers would fill them with random numbers
        raise BaseModelError(
            f"the weight files of {folder} lack {len(absent)} tensors of its config.json, such as {absent[0]}."
        )
    untranspose(model)
    model.eval()
    model.requires_grad_(False)
    model.config.use_cache = False
    return model


class TransposedLinear(nn.Linear):
    """A linear layer whose weight files hold as (in, out), as those of GPT-2 do."""


def untranspose(model: PreTrainedModel) -> None:
    """Replace transformers' Conv1D, a product with a weight (in, out), by a linear layer with the same numbers, in place.

    So adapters, NF4 and all that looks for linear layers find them. Adapters in PEFT's layout are the same for both.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            inputs, outputs = module.weight.shape
            with torch.device("meta"):
                linear = TransposedLinear(inputs, outputs)
            linear.weight = nn.Parameter(module.weight.data.T.contiguous())
            linear.bias = module.bias
            model.set_submodule(name, linear)


@contextmanager
def as_stored(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the weights lie as files hold them, to be saved; the model computes nothing there."""
    turned = [module for module in model.modules() if isinstance(module, TransposedLinear)]
    for module in turned:
        module.weight.data = module.weight.data.T.contiguous()
    try:
        yield
    finally:
        for module in turned:
            module.weight.data = module.weight.data.T.contiguous()


def quantise_nf4(
    model: PreTrainedModel, *, double_quantisation: bool, device: str, dtype: torch.dtype,
    elsewhere: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Replace every linear layer but the output head by bitsandbytes' NF4 layer, one at a time.

    elsewhere: devices of those, by name, that are quantised on `device` and lie on another then.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, linear in frozen_linears(model).items():
        with torch.device("meta"):
            small = Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=dtype,
                compress_statistics=double_quantisation,
                quant_type="nf4",
            )
        small.weight = Params4bit(
            linear.weight.data,
            requires_grad=False,
            compress_statistics=double_quantisation,
            quant_type="nf4",
            module=small,
        )
        small.bias = linear.bias
        # In eval mode bitsandbytes would repack the weights for AVX-512 BF16 and compute in bfloat16: other numbers, and
        # a layout that cannot be read back here.
        small.support_avx512bf16_for_cpu = False
        small.to(device)
        model.set_submodule(name, small.to((elsewhere or {}).get(name, device)).eval())
        linear.weight = None  # type: ignore[assignment]
    # What stays in float is still a view into the mapped weight file; a copy lets go of the whole file's pages.
    for parameter in model.parameters():
        if not isinstance(parameter, Params4bit):
            parameter.data = parameter.data.clone()


def frozen_linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Return every nn.Linear of the model by name, except the output head."""
    head = model.get_output_embeddings()
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
    }


def linear_weight(linear: nn.Linear, dtype: torch.dtype) -> Tensor:
    """Return the weight (out, in) of a linear layer in `dtype`, dequantised when it is stored as NF4."""
    if is_nf4(linear):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(linear.weight.data, linear.weight.quant_state).to(dtype)
    return linear.weight.to(dtype)


def is_nf4(linear: nn.Module) -> bool:
    """Return whether the layer stores its weight in 4 bits."""
    return type(linear).__name__ == "Linear4bit"


def dequantised(model: PreTrainedModel) -> PreTrainedModel:
    """Replace NF4 layers by float layers that hold the very same values, in place, and return the model.

    Decoding few tokens at a time is then several times faster on a CPU; the numbers do not change, the memory does
    (4 bytes a weight in float32 instead of about half a byte).
    """
    for name, module in list(model.named_modules()):
        if is_nf4(module):
            small: Linear4bit = module  # type: ignore[assignment]
            dtype = small.compute_dtype or torch.float32
            with torch.device("meta"):
                plain = nn.Linear(small.in_features, small.out_features, bias=small.bias is not None)
            plain.weight = nn.Parameter(linear_weight(small, dtype), requires_grad=False)
            plain.bias = small.bias
            model.set_submodule(name, plain.eval())
    return model


# It asks to install kernels for a layer that burnish does not use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the block transformers draws no progress bars: burnish emits events, and the doors draw."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
