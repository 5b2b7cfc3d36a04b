"""Memory of the host for memory of the card: what autograd keeps of a layer waits in pinned memory until backward.

Copies run on a stream of their own: out while the layers after it are computed, and back one layer ahead of backward
(Rhu et al. 2016, "vDNN", arXiv:1602.08124). On a CPU the same code copies from memory to memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from burnish.core.errors import ResourceError
from burnish.core.units import format_bytes

BLOCK_BYTES = 32 * 2**20
"""Pinned memory is taken in blocks of one size, which any tensor can use again; torch rounds each up to a power of two."""
LEAST_BYTES = 2**20
"""Smaller tensors stay: sums of rows, what adapters keep."""


class HostBlocks:
    """Blocks of host memory, pinned for a GPU, that are kept and used again. `bytes` is what was taken from the system."""

    def __init__(self, size: int, *, pinned: bool) -> None:
        self.size, self.pinned, self.bytes = size, pinned, 0
        self._free: list[Tensor] = []

    def take(self, count: int) -> list[Tensor]:
        """Return `count` blocks of bytes. Raises ResourceError when the host has no more memory to pin."""
        while len(self._free) < count:
            try:
                self._free.append(torch.empty(self.size, dtype=torch.uint8, pin_memory=self.pinned))
            except RuntimeError as error:
                raise ResourceError(
                    f"the host has no more memory for what a GPU does not hold: {format_bytes(self.bytes)} are taken, "
                    f"{format_bytes(self.size)} more were refused ({' '.join(str(error).split())[:120]}). Use shorter rows "
                    "(train.row_tokens), or set train.activation_offload: never."
                ) from error
            self.bytes += self.size
        taken, self._free = self._free[-count:], self._free[:-count]
        return taken

    def give(self, blocks: Iterable[Tensor]) -> None:
        """Take blocks back."""
        self._free.extend(blocks)


class Mover:
    """Copies between a device and host memory, on a stream beside the computation's; at once on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def after_computation(self) -> AbstractContextManager[object]:
        """Return a context whose copies begin once all that has been asked of the device so far is done."""
        if self.stream is None:
            return nullcontext()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(self.stream)

    def mark(self) -> torch.cuda.Event | None:
        """Return what `wait` waits for: all copies asked for so far."""
        return None if self.stream is None else self.stream.record_event()

    def wait(self, mark: torch.cuda.Event | None) -> None:
        """Let the computation wait for copies; the host does not."""
        if mark is not None:
            torch.cuda.current_stream(self.device).wait_event(mark)


class Offload:
    """What autograd keeps of chosen layers lives in host memory between forward and backward.

    `around(number, run)` is computed in place of `run`; layers are called in order of their numbers. What is
    small, and what other layers read too (weights, arguments other than hidden states), stays where it is. Of a model that lies on
    several devices each has copies and blocks of its own: a block is used again in the order of one device's copies.
    """

    def __init__(self, model: nn.Module, *, block: int = BLOCK_BYTES, least: int = LEAST_BYTES) -> None:
        devices = {parameter.device for parameter in model.parameters()}
        self.sides = {device: _Side(device, block) for device in devices}
        self.least = least
        self._weights = frozenset(parameter.untyped_storage().data_ptr() for parameter in model.parameters())
        self._last: _LayerPass | None = None

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory that were taken."""
        return sum(side.blocks.bytes for side in self.sides.values())

    def around(self, number: int, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return `run` such that what autograd saves within it goes to the host."""
        return partial(self._within, number, run)

    def _within(self, number: int, run: Callable[..., Tensor], *args: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return run(*args)
        before = self._last
        if before is not None:
            before.let_go()
        shared = self._weights | {tensor.untyped_storage().data_ptr() for tensor in _tensors_of_calls(args)}
        follows = before if before is not None and before.number == number - 1 else None
        self._last = layer = _LayerPass(number, follows, shared)
        with saved_tensors_hooks(partial(self._pack, layer), self._unpack):
            return run(*args)

    def _pack(self, layer: _LayerPass, tensor: Tensor) -> Tensor | _Kept:
        place = tensor.untyped_storage().data_ptr()
        small = tensor.nbytes < max(1, self.least)
        side = self.sides.get(tensor.device)
        flat = None if small or side is None or place in layer.shared else _flat(tensor)
        if side is None or flat is None:
            return tensor.detach()
        lies = layer.found(tensor)
        if lies is None:
            lies = _Lying(side, layer, flat)
            layer.lying.add(lies)
        return _Kept(lies, tensor.shape, tensor.stride(), tensor.dtype)

    def _unpack(self, kept: Tensor | _Kept) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept.tensor()


class _Side:
    """What moves between one device and the host, and where it lies there."""

    def __init__(self, device: torch.device, block: int) -> None:
        self.blocks, self.mover = HostBlocks(block, pinned=device.type == "cuda"), Mover(device)


class _LayerPass:
    """What one layer of one forward pass has on the host, and the layer before it."""

    def __init__(self, number: int, before: _LayerPass | None, shared: frozenset[int]) -> None:
        self.number, self.before, self.shared = number, before, shared
        self.lying: WeakSet[_Lying] = WeakSet()

    def found(self, tensor: Tensor) -> _Lying | None:
        """Return where the very bytes of a tensor went already; they are the same only while the source is held."""
        for lies in self.lying:
            if lies.source is not None and (lies.source.data_ptr(), lies.bytes) == (tensor.data_ptr(), tensor.nbytes):
                return lies
        return None

    def let_go(self) -> None:
        """Free what has been copied out; the computation waits for the copies if it is ahead of them."""
        for lies in list(self.lying):
            lies.let_go()

    def fetch(self) -> None:
        """Begin to copy everything back that is not there."""
        for lies in list(self.lying):
            lies.fetch()


class _Lying:
    """Bytes that were copied to the host. `source`: the bytes on the device, until they are let go of or once they are back."""

    def __init__(self, side: _Side, layer: _LayerPass, flat: Tensor) -> None:
        self.side, self.layer, self.source, self.bytes = side, layer, flat, flat.numel()
        self.held = side.blocks.take(-(-self.bytes // side.blocks.size))
        with side.mover.after_computation():
            for block, part in zip(self.held, flat.split(side.blocks.size), strict=True):
                block[: part.numel()].copy_(part, non_blocking=True)
        self.copied = side.mover.mark()

    def let_go(self) -> None:
        if self.source is not None:
            self.side.mover.wait(self.copied)
            self.source = None

    def fetch(self) -> None:
        if self.source is not None:
            return
        mover = self.side.mover
        self.source = torch.empty(self.bytes, dtype=torch.uint8, device=mover.device)
        with mover.after_computation():
            for block, part in zip(self.held, self.source.split(self.side.blocks.size), strict=True):
                part.copy_(block[: part.numel()], non_blocking=True)
        self.copied = mover.mark()

    def __del__(self) -> None:
        self.let_go()  # a graph may be dropped while copies of it run
        self.side.blocks.give(self.held)


class _Kept:
    """A saved tensor whose bytes lie on the host."""

    def __init__(self, lies: _Lying, shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype) -> None:
        self.lies, self.shape, self.stride, self.dtype = lies, shape, stride, dtype

    def tensor(self) -> Tensor:
        """Return the tensor on the device; what the layer before it has on the host begins to come back."""
        self.lies.layer.fetch()
        flat = self.lies.source
        assert flat is not None
        self.lies.side.mover.wait(self.lies.copied)
        if self.lies.layer.before is not None:
            self.lies.layer.before.fetch()
        return flat.view(self.dtype).as_strided(self.shape, self.stride)


def _flat(tensor: Tensor) -> Tensor | None:
    """Return the bytes of a tensor in the order they lie in; None where others lie between them."""
    order = sorted(range(tensor.ndim), key=lambda dim: tensor.stride(dim), reverse=True)
    if not tensor.permute(order).is_contiguous():
        return None
    return tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def _tensors_of_calls(args: Iterable[Any]) -> Iterable[Tensor]:
    """Return the tensors that functions among `args` are bound to: what a layer reads beside its hidden states."""
    for found in args:
        if isinstance(found, partial):
            yield from _tensors(found.keywords.values())


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
