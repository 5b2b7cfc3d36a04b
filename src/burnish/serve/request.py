"""What the engine is asked for."""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from burnish.core.errors import BurnishError
from burnish.model.sampling import Constraint, Sampling
from burnish.serve.adapters import Claim
from burnish.serve.stream import Stream


@dataclass(slots=True, eq=False)
class Request:
    """A submitted request. `number` is the decoder's, once it runs there."""

    stream: Stream
    tokens: list[int]
    claim: Claim | None
    sampling: Sampling
    constraint: Constraint | None
    number: int = -1
    passed: int = 0

    @property
    def adapter(self) -> Hashable | None:
        """Key of the adapter in the bank."""
        return None if self.claim is None else self.claim.key


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A request for vectors instead of an answer. made: those of the first prompts, batch by batch."""

    prompts: list[list[int]]
    claim: Claim | None
    vectors: Future[Tensor]
    made: list[Tensor] = field(default_factory=list[Tensor])

    @property
    def adapter(self) -> Hashable | None:
        """Key of the adapter in the bank."""
        return None if self.claim is None else self.claim.key

    @property
    def count(self) -> int:
        """Return how many vectors are made."""
        return sum(part.shape[0] for part in self.made)

    def fail(self, error: BurnishError) -> None:
        """Tell whoever still waits that there will be no vectors."""
        if self.vectors.set_running_or_notify_cancel():
            self.vectors.set_exception(error)


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine is doing: requests in rows, requests waiting, rows, whether it takes new ones, how many may wait."""

    running: int
    waiting: int
    rows: int
    accepting: bool
    queue: int
