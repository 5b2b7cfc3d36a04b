"""Decoder layers over several devices, in order: each computes its layers and hands hidden states to the next.

One device computes at a time; what is gained is memory. Embeddings, last norm and output head are on the first device, to which
hidden states come back, so losses and whoever calls the model know of one device alone. Frozen weights that no device holds are
streamed to the one that computes their layer (stream.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.modeling_layers import GradientCheckpointingLayer

from burnish.core.errors import BaseModelError, ResourceError
from burnish.model.attention import PackedLayout
from burnish.model.load import quantise_nf4, read_base
from burnish.model.stream import linears_of, spread, stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_placed(
    folder: Path, *, devices: Sequence[str], layers_by_device: Sequence[int], streamed_layers: int = 0,
    quantisation: Literal["none", "nf4"] = "none", double_quantisation: bool = True, dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:  # fmt: skip
    """Return the base model of `folder` as `load_base` does, so many of its layers on each device.

    streamed_layers: so many of all, spread evenly, have their frozen weights in host memory.

    Raises BaseModelError when transformers cannot read the folder or has another number of layers, ResourceError when memory is
    short.
    """
    model = read_base(folder, dtype)
    homes = layer_homes(model, devices, layers_by_device)
    hosted = spread(model, streamed_layers)
    try:
        if quantisation == "nf4":
            elsewhere = {
                f"{name}.{own}": "cpu" if name in hosted else device
                for name, device in homes.items()
                for own in linears_of(model.get_submodule(name))
            }
            quantise_nf4(
                model, double_quantisation=double_quantisation, device=devices[0], dtype=dtype, elsewhere=elsewhere
            )
        for device in devices:
            stream([layer for name, layer in hosted.items() if homes[name] == device], torch.device(device))
        place(model, homes, devices[0])
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{folder} does not fit the memory of {', '.join(devices)}: {error}. Use qlora, more train.devices or "
            "train.streamed_layers, or a smaller base."
        ) from error
    return model


def layer_homes(model: nn.Module, devices: Sequence[str], layers_by_device: Sequence[int]) -> dict[str, str]:
    """Return the device of each decoder layer by the layer's name, in order. Raises BaseModelError for another number of layers."""
    names = [name for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    homes = [device for device, count in zip(devices, layers_by_device, strict=True) for _ in range(count)]
    if len(homes) != len(names):
        raise BaseModelError(
            f"the plan places {len(homes)} layers, and {type(model).__name__} has {len(names)} that can be placed."
        )
    return dict(zip(names, homes, strict=True))


def place(model: PreTrainedModel, homes: Mapping[str, str], first: str) -> None:
    """Put each layer on its device, in place, everything else on the first, and let calls carry hidden states along."""
    last = next(reversed(homes))
    for name, module in model.named_modules():
        apart = any(layer == name or layer.startswith(f"{name}.") or name.startswith(f"{layer}.") for layer in homes)
        if name and not apart:
            module.to(first)
    angles = {device: WeakTensorKeyDictionary() for device in homes.values()}
    for name, device in homes.items():
        layer = model.get_submodule(name).to(device)
        part = PlacedPart(torch.device(device), torch.device(first) if name == last else None, angles[device])
        layer.add_module("placed_part", part)
        part.attach(layer)


class PlacedPart(nn.Module):
    """Where a layer is. It is a part of the layer, so that it goes along where a fused layer takes its place."""

    def __init__(self, device: torch.device, back: torch.device | None, brought: WeakTensorKeyDictionary) -> None:
        """brought: copies of what every layer of this device is called with, by the tensor they are copies of."""
        super().__init__()
        self.device, self.back, self.brought = device, back, brought

    def attach(self, layer: nn.Module) -> None:
        """Let what the layer is called with come to its device; the last one's result goes back to the first."""
        layer.register_forward_pre_hook(self._before, with_kwargs=True)
        if self.back is not None:
            layer.register_forward_hook(self._after)

    def _before(self, layer: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return moved(args, self.device), moved(kwargs, self.device, self.brought)

    def _after(self, layer: nn.Module, args: Any, result: Any) -> Any:
        return moved(result, self.back)


def moved(value: Any, device: torch.device | None, brought: WeakTensorKeyDictionary | None = None) -> Any:
    """Return a value with the tensors and layouts of packed rows within it on a device.

    brought: what has no gradient, and is copied once, such as the angles that all layers rotate by.
    """
    match value:
        case Tensor() if brought is None or value.requires_grad or value.device == device:
            return value.to(device)
        case Tensor():
            if value not in brought:
                brought[value] = value.to(device)
            return brought[value]
        case PackedLayout():
            return value.on(torch.device(device or "cpu"))
        case tuple() | list():
            return type(value)(moved(each, device, brought) for each in value)
        case dict():
            return {key: moved(each, device, brought) for key, each in value.items()}
        case _:
            return value
