"""Steps between their launch and the reading of their numbers: a GPU computes one while the host prepares the next."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.model.devices import to_host
from burnish.model.memory import MemoryPeak
from burnish.train.objective import Packed


class Moment:
    """Now, by the clock of a device, which comes to it when all that was asked of it before is done. A CPU is there at once."""

    def __init__(self, device: torch.device) -> None:
        self.event: torch.cuda.Event | None = None
        self.seconds = time.perf_counter()
        if device.type == "cuda":
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record(torch.cuda.current_stream(device))

    def wait(self) -> float:
        """Wait until the device is there; return the seconds that it took."""
        if self.event is None:
            return 0.0
        began = time.perf_counter()
        self.event.synchronize()
        return time.perf_counter() - began

    def since(self, earlier: Moment) -> float:
        """Return the seconds between two moments of one device that it has come to."""
        if self.event is None or earlier.event is None:
            return self.seconds - earlier.seconds
        return earlier.event.elapsed_time(self.event) / 1000.0


@dataclass(frozen=True, slots=True)
class Launched:
    """A step that a device was asked for: what it reads, the names of its numbers, and those, on their way to the host."""

    step: int
    batch: Sequence[Packed]
    names: tuple[str, ...]
    numbers: Tensor
    began: Moment
    ended: Moment
    rss_bytes: int
    device_bytes: int


@dataclass(frozen=True, slots=True)
class Read:
    """A step whose numbers are known. seconds: from its begin, or from the end of the step before if that was not read then."""

    launched: Launched
    loss: float
    norm: float
    told: dict[str, float]
    seconds: float
    waited_seconds: float


class LaunchedSteps:
    """The steps that were launched and are not read yet, in order."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._waiting: deque[Launched] = deque()

    def begin(self) -> Moment:
        """Return when a step that is launched now begins: when the one before it ends, if that is still computed."""
        return self._waiting[-1].ended if self._waiting else Moment(self.device)

    def add(
        self, step: int, batch: Sequence[Packed], began: Moment, loss: Tensor, norm: Tensor, told: Mapping[str, Tensor],
        peak: MemoryPeak,
    ) -> None:  # fmt: skip
        """Let the loss, the gradient norm and what else is told of a step come to the host when they are computed."""
        numbers = to_host(torch.stack([loss, *(number.to(loss) for number in (norm, *told.values()))]))
        ended = Moment(self.device)
        self._waiting.append(
            Launched(step, batch, tuple(told), numbers, began, ended, peak.rss_bytes, peak.device_bytes)
        )

    def read(self, *, leaving: int) -> Iterator[Read]:
        """Wait for, and yield, every step but the last `leaving`."""
        while len(self._waiting) > leaving:
            launched = self._waiting[0]
            waited = launched.ended.wait()
            loss, norm, *told = launched.numbers.tolist()
            seconds = launched.ended.since(launched.began)
            self._waiting.popleft()
            yield Read(launched, loss, norm, dict(zip(launched.names, told, strict=True)), seconds, waited)
