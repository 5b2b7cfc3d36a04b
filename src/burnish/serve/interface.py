"""What an engine is to those who ask it: the API, the chat in the terminal, and the releases that it serves."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from torch import Tensor

from burnish.model.sampling import Constraint, Sampling
from burnish.serve.adapters import AdapterSource
from burnish.serve.request import Load
from burnish.serve.stream import Stream


class AnsweringEngine(Protocol):
    """Answers requests on one base and any number of adapters: `Engine` in this process, `VllmEngine` in another."""

    @property
    def context_tokens(self) -> int:
        """Tokens of prompt and answer together at most."""
        ...

    @property
    def vocabulary(self) -> int:
        """Logits that the model gives."""
        ...

    @property
    def hidden_size(self) -> int:
        """Numbers of a vector that `embed` gives."""
        ...

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are known."""
        ...

    @property
    def load(self) -> Load:
        """Return what the engine is doing now."""
        ...

    def submit(
        self, token_ids: Sequence[int], adapter: str | None, sampling: Sampling, constraint: Constraint | None = None
    ) -> Stream:
        """Ask for the continuation of `token_ids`; with max_new_tokens 0 they are only read.

        Raises ServeError when it cannot be given.
        """
        ...

    def embed(self, prompts: Sequence[Sequence[int]], adapter: str | None) -> Future[Tensor]:
        """Ask for one vector for each prompt. Raises ServeError when it cannot be given."""
        ...

    def add_adapter(self, name: str, source: AdapterSource | Path, *, lazy: bool = False) -> None:
        """Make an adapter known. Raises ServeError, BaseModelError."""
        ...

    def remove_adapter(self, name: str, *, wait_s: float | None = 0.0) -> bool:
        """Refuse requests for an adapter from now on; returns whether its memory is free. Raises ServeError."""
        ...

    def stop_accepting(self) -> None:
        """Refuse new requests from now on."""
        ...

    def close(self, *, drain: bool = True) -> None:
        """Stop after answering (or, drain False, cancelling) what was taken."""
        ...
