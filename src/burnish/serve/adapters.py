"""Adapters of one base model by name, of which one at a time (or none) is on the model."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from burnish.core.errors import ServeError, did_you_mean
from burnish.model.lora import load_adapter, lora_layers
from burnish.model.lora_linear import LoraLinear


class Adapters:
    """Keeps each adapter's layers and puts them on the model when asked. The base's weights are shared by all of them.

    Belongs to the thread that runs the model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._layers: dict[str, dict[str, LoraLinear]] = {}
        self._active: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names that can be activated."""
        return tuple(self._layers)

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter (PEFT layout) from a folder and keep it under `name`, in place of one that had it before.

        Raises BaseModelError when the folder's adapter is broken or does not fit this base; the others stay usable.
        """
        self.activate(None)
        try:
            load_adapter(self._model, folder)
            self._layers[name] = lora_layers(self._model)
        finally:
            self._take_off(lora_layers(self._model))

    def activate(self, name: str | None) -> None:
        """Let the model answer with this adapter, or as the base when None."""
        if name == self._active:
            return
        self.check(name)
        if self._active is not None:
            self._take_off(self._layers[self._active])
        self._active = None
        if name is not None:
            for place, layer in self._layers[name].items():
                self._model.set_submodule(place, layer)
        self._active = name

    def check(self, name: str | None) -> None:
        """Raise ServeError when there is no such adapter."""
        if name is not None and name not in self._layers:
            known = ", ".join(sorted(self._layers)) or "none"
            raise ServeError(f'there is no adapter "{name}" here. Known: {known}.{did_you_mean(name, self._layers)}')

    def _take_off(self, layers: dict[str, LoraLinear]) -> None:
        for place, layer in layers.items():
            self._model.set_submodule(place, layer.base)
