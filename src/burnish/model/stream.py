"""Larger than the card: frozen weights of decoder layers lie in host memory and are copied to the device as each layer needs them.

Two buffers on the device take turns: while one layer is computed, the next one's weights arrive in the other, forward in the
order of the layers and backward in the opposite one (Pudipeddi et al. 2020, arXiv:2002.05645, of weights that do not train).
Norms, biases and adapters stay on the device. On a CPU the same code copies from memory to memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from burnish.core.errors import BaseModelError, ResourceError
from burnish.core.units import format_bytes
from burnish.model.load import is_nf4, load_base, quantise_nf4, read_base
from burnish.model.offload import Mover
from burnish.model.passes import is_recomputing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BUFFERS = 2
"""Layers on the device at once: the one that is computed, and the next."""
ALIGNED = 16
"""Tensors of a buffer begin at multiples of so many bytes."""


def load_streamed(
    folder: Path, *, streamed_layers: int, quantisation: Literal["none", "nf4"] = "none",
    double_quantisation: bool = True, device: str = "cpu", dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:  # fmt: skip
    """Return the base model of `folder` as `load_base` does, with the weights of so many decoder layers in host memory.

    Raises BaseModelError when transformers cannot read the folder or the model has fewer layers, ResourceError when memory is
    short.
    """
    if not streamed_layers:
        return load_base(
            folder, quantisation=quantisation, double_quantisation=double_quantisation, device=device, dtype=dtype
        )
    model = read_base(folder, dtype)
    chosen = spread(model, streamed_layers)
    hosted = [f"{name}.{own}" for name, layer in chosen.items() for own in linears_of(layer)]
    try:
        if quantisation == "nf4":
            quantise_nf4(
                model,
                double_quantisation=double_quantisation,
                device=device,
                dtype=dtype,
                elsewhere=dict.fromkeys(hosted, "cpu"),
            )
        stream(list(chosen.values()), torch.device(device))
        model.to(device)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{folder} does not fit the memory of {device} with {streamed_layers} of its layers in host memory: {error}. "
            "Set more train.streamed_layers, or use a smaller base."
        ) from error
    return model


def spread(model: nn.Module, count: int) -> dict[str, nn.Module]:
    """Return `count` decoder layers by name, evenly spread: copies then have the time of the layers in between.

    Raises BaseModelError for more layers than there are.
    """
    layers = [
        (name, module) for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if count > len(layers):
        raise BaseModelError(
            f"train.streamed_layers is {count}, and {type(model).__name__} has {len(layers)} decoder layers that can be streamed."
        )
    return dict(layers[number * len(layers) // count] for number in range(count))


def stream(layers: Sequence[nn.Module], device: torch.device) -> None:
    """Put frozen weights of these layers into host memory, in place, and all else of them on the device that computes them."""
    weights = WeightStream(device)
    for number, layer in enumerate(layers):
        part = StreamedPart(weights, number, list(linears_of(layer).values()))
        weights.parts.append(part)
        part.leave()
        layer.to(device)
    weights.begin()
    for part, layer in zip(weights.parts, layers, strict=True):
        layer.add_module("streamed_part", part)
        part.attach(layer)


def streamed_devices(model: nn.Module) -> dict[nn.Module, torch.device]:
    """Return the device that each streamed linear layer is computed on."""
    parts = (module for module in model.modules() if isinstance(module, StreamedPart))
    return {linear: part.weights.mover.device for part in parts for linear in part.linears}


class WeightStream:
    """The buffers of a device, and which layer's weights each holds. Its layers are numbered in the order of the forward pass."""

    def __init__(self, device: torch.device) -> None:
        self.mover = Mover(device)
        self.parts: list[StreamedPart] = []
        self.copied_bytes = 0
        self._buffers: list[_Buffer] = []

    def begin(self) -> None:
        """Make the buffers."""
        size = max((part.host.numel() for part in self.parts), default=0)
        count = min(BUFFERS, len(self.parts))
        self._buffers = [_Buffer(torch.empty(size, dtype=torch.uint8, device=self.mover.device)) for _ in range(count)]

    def use(self, number: int, following: int | None) -> None:
        """Let the computation wait for a layer's weights, and begin to copy those of the following one."""
        here = self._holding(number) or self._load(number, None)
        self.mover.wait(here.ready)
        if following is not None and following in range(len(self.parts)) and self._holding(following) is None:
            self._load(following, here)

    def _holding(self, number: int) -> _Buffer | None:
        return next((buffer for buffer in self._buffers if buffer.number == number), None)

    def _load(self, number: int, kept: _Buffer | None) -> _Buffer:
        buffer = next(buffer for buffer in self._buffers if buffer is not kept)
        if buffer.number is not None:
            self.parts[buffer.number].leave()
        part = self.parts[number]
        with self.mover.after_computation():  # which reads the layer that was there
            buffer.bytes[: part.host.numel()].copy_(part.host, non_blocking=True)
        buffer.ready, buffer.number = self.mover.mark(), number
        part.lie_in(buffer.bytes)
        self.copied_bytes += part.host.numel()
        return buffer


class _Buffer:
    """Memory of the device for one layer."""

    def __init__(self, data: Tensor) -> None:
        self.bytes = data
        self.number: int | None = None
        self.ready: torch.cuda.Event | None = None


class StreamedPart(nn.Module):
    """The frozen weights of one layer. It is a part of the layer, so that it goes along where a fused layer takes its place."""

    def __init__(self, weights: WeightStream, number: int, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weights, self.number, self.linears = weights, number, tuple(linears)
        tensors = [
            *map(_weight, linears),
            *(each for linear in linears for each in _constants(linear, weights.mover.device)),
        ]
        self._places: list[tuple[Callable[[Tensor], None], torch.Size, torch.dtype, slice]] = []
        size = 0
        for tensor, put in tensors:
            start = -(-size // ALIGNED) * ALIGNED
            size = start + tensor.nbytes
            self._places.append((put, tensor.shape, tensor.dtype, slice(start, size)))
        self.host = _host_bytes(size, pinned=weights.mover.device.type == "cuda")
        for (tensor, _), (_, _, _, place) in zip(tensors, self._places, strict=True):
            self.host[place].copy_(tensor.detach().contiguous().view(-1).view(torch.uint8))

    def lie_in(self, data: Tensor) -> None:
        """Let the layer's weights lie in a buffer."""
        for put, shape, dtype, place in self._places:
            put(data[place].view(dtype).view(shape))

    def bring(self) -> None:
        """Copy the layer's weights to the device, unless they are there."""
        self.weights.use(self.number, None)

    def leave(self) -> None:
        """Let the layer have no weights: a computation that does not ask for them first fails."""
        for put, shape, dtype, _ in self._places:
            put(torch.empty((0, *shape[1:]), dtype=dtype, device=self.weights.mover.device))

    def attach(self, layer: nn.Module) -> None:
        """Let the layer's calls, and the gradient of its result, ask for the weights."""
        layer.register_forward_pre_hook(self._before)
        layer.register_forward_hook(self._after)

    def _before(self, layer: nn.Module, args: Any) -> None:
        if is_recomputing():
            self.weights.use(self.number, None)
        elif torch.is_grad_enabled():
            self.weights.use(self.number, self.number + 1)
        else:  # no backward follows, so the next pass begins with the first layer
            self.weights.use(self.number, (self.number + 1) % len(self.weights.parts))

    def _after(self, layer: nn.Module, args: Any, result: Any) -> None:
        hidden = result[0] if isinstance(result, tuple) else result
        if hidden.requires_grad and torch.is_grad_enabled() and not is_recomputing():
            hidden.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.weights.use(self.number, self.number - 1)


def linears_of(layer: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers within a layer by name: what is streamed of it."""
    return {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}


def _weight(linear: nn.Linear) -> tuple[Tensor, Callable[[Tensor], None]]:
    def put(tensor: Tensor) -> None:
        linear.weight.data = tensor

    return linear.weight.data, put


def _constants(linear: nn.Linear, device: torch.device) -> Iterator[tuple[Tensor, Callable[[Tensor], None]]]:
    """Return the scales of an NF4 weight, which are as many as its blocks. Its tables are small, and go to the device."""
    if not is_nf4(linear):
        return
    state = linear.weight.quant_state
    yield state.absmax, partial(setattr, state, "absmax")
    state.code = state.code.to(device)
    if state.nested:
        state.offset = state.offset.to(device)
        yield state.state2.absmax, partial(setattr, state.state2, "absmax")
        state.state2.code = state.state2.code.to(device)


def _host_bytes(size: int, *, pinned: bool) -> Tensor:
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
    except RuntimeError as error:
        raise ResourceError(
            f"the host has no {format_bytes(size)} left for a layer's weights ({' '.join(str(error).split())[:120]}). Use qlora, "
            "fewer train.streamed_layers, or a smaller base."
        ) from error
