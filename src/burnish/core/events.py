"""What happens while a stage works. The library emits events and never prints; the doors render them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Root of the events. `stage` is the verb at work: prepare, plan, train, evaluate, release."""

    stage: str


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    """A stage begins to work (it was not already done)."""


@dataclass(frozen=True, slots=True)
class StageDone(Event):
    """A stage has its artifact. `cached` means that the same inputs had been worked on before."""

    artifact_id: str
    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """`done` of `total` `unit`s of `what` are finished."""

    what: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True, slots=True)
class Note(Event):
    """One sentence a person should read."""

    text: str


@dataclass(frozen=True, slots=True)
class StepDone(Event):
    """One optimizer step. Loss in nats per trained token, or the mean of pairs; tokens are those without padding.

    told: what else the objective says of the step, such as rewards. waited_seconds: how long the host waited for a GPU to end the
    step, with the next one launched; next to nothing where launching takes longer than computing.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    trained_tokens: int
    seconds: float
    rss_bytes: int
    device_bytes: int
    told: dict[str, float] = field(default_factory=dict[str, float])
    waited_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Checkpointed(Event):
    """The state after `step` lies on disk."""

    step: int
    folder: str


Emit = Callable[[Event], None]


def discard(event: Event) -> None:
    """An `Emit` for callers that do not listen."""


def event_json(event: Event) -> dict[str, Any]:
    """Return the event as one flat JSON object with its type under 'event'."""
    return {"event": type(event).__name__, **asdict(event)}
