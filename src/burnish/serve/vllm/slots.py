"""Slots for adapters in a vLLM whose kernels take "no adapter" for the last slot: what keeps the base's answers right there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import torch
from safetensors.torch import save

from burnish.model.lora import CONFIG, PEFT_PREFIX, WEIGHTS
from burnish.store.files import write_bytes, write_json

BASE = "base"
"""The base's own name in vLLM."""
ZEROS = "zeros"
"""The name of the adapter that changes nothing."""


class Slots:
    """What one start of vLLM has in its slots, as far as the base's answers depend on it. Belongs to one event loop.

    In vLLM 0.32 the kernels for CPUs read -1, the number of no adapter, as an index from the end
    (`lora/ops/torch_ops/lora_ops.py`): beside an adapter's answer, one of the base is computed with what the last slot holds.
    Slots are filled in order and never emptied: `/v1/unload_lora_adapter` forgets a name (`entrypoints/openai/models/serving.py`),
    and a new adapter is put over the one used longest ago once all slots are taken (`lora/model_manager.py`).

    So the base is asked for by its own name while the last slot is empty. What fills that slot is an adapter of zeros, and from
    then on the base is asked for by the name of that one: no step computes an adapter and no adapter at once. The first adapter
    that is loaded after it waits for the answers that were begun under the base's own name, since zeros may then leave the slot.

    Args:
        adapters: slots that vLLM has, but one.
        load_zeros: loads the adapter of zeros as ZEROS. Raises ServeError.
    """

    def __init__(self, adapters: int, load_zeros: Callable[[], Awaitable[None]]) -> None:
        self._adapters, self._load_zeros = adapters, load_zeros
        self._taken = 0
        self._zeros = False
        self._plain = 0
        self._no_plain = asyncio.Event()
        self._no_plain.set()
        self._one = asyncio.Lock()

    @contextmanager
    def base(self) -> Generator[str]:
        """Yield the name under which an answer of the base is to be asked for, until that answer has ended."""
        if self._zeros:
            yield ZEROS
            return
        self._plain += 1
        self._no_plain.clear()
        try:
            yield BASE
        finally:
            self._plain -= 1
            if not self._plain:
                self._no_plain.set()

    @asynccontextmanager
    async def loading(self) -> AsyncGenerator[None]:
        """Wait until an adapter may be loaded, and let nobody else load one meanwhile. Raises ServeError."""
        async with (
            self._one
        ):  # one at a time: zeros would get another slot than the last beside a load that is under way
            if self._taken >= self._adapters:
                if not self._zeros:
                    await self._load_zeros()
                    self._zeros = True
                await self._no_plain.wait()
            self._taken += 1  # also of a load that fails: whether it took a slot is not told
            yield


def write_zeros(folder: Path, layers: Mapping[str, tuple[int, int]]) -> Path:
    """Write an adapter of rank 1 that changes nothing, in PEFT's layout, for the first of these layers; returns its folder."""
    name, (inputs, outputs) = next(iter(layers.items()))
    folder.mkdir(mode=0o700)
    tensors = {
        f"{PEFT_PREFIX}{name}.lora_A.weight": torch.zeros(1, inputs),
        f"{PEFT_PREFIX}{name}.lora_B.weight": torch.zeros(outputs, 1),
    }
    write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    told = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "bias": "none", "target_modules": [name.rpartition(".")[2]]}
    write_json(folder / CONFIG, told)
    return folder
