"""The engine: one thread that owns the model and answers many requests at once.

`Engine.submit(token ids, adapter, sampling)` gives a stream of token ids. Requests join the running batch at the next
step and leave it at once when they end. The sequences of one step use one adapter; adapters with work take turns.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.errors import BurnishError, ServeError
from burnish.model.generate import Decoder, Emitted, check_fits
from burnish.model.sampling import Sampling
from burnish.serve.adapters import Adapters
from burnish.serve.stream import End, Stream

TURN_STEPS = 8
"""Steps an adapter runs before another one with work gets its turn: changing adapters costs about a millisecond."""
REMEMBERED_PROMPTS = 16
"""Prompts per adapter that a new one is compared with, to find what they share."""
SHARED_TOKENS = 32
"""A shorter common start is not worth keeping apart."""


class QueueFull(ServeError):
    """Too many requests wait already; the same request may succeed later."""


class EngineStopped(ServeError):
    """The engine is closing, closed or broken."""


@dataclass(slots=True, eq=False)
class _Request:
    """A submitted request. `number` is the decoder's, once it runs there."""

    stream: Stream
    tokens: list[int]
    adapter: str | None
    sampling: Sampling
    number: int = -1


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine is doing: requests in rows, requests waiting, rows, and whether it takes new ones."""

    running: int
    waiting: int
    rows: int
    accepting: bool


class _Group:
    """The requests of one adapter: a decoder, who runs in it, and the latest prompts."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.requests: dict[int, _Request] = {}
        self._recent: deque[Tensor] = deque(maxlen=REMEMBERED_PROMPTS)

    def add(self, request: _Request) -> None:
        """Start a request, sharing what it has in common with an earlier prompt."""
        tokens_T = torch.tensor(request.tokens)
        share = max((_common(tokens_T, other) for other in self._recent), default=0)
        self._recent.append(tokens_T)
        request.number = self.decoder.add(
            request.tokens, request.sampling, share=share if share >= SHARED_TOKENS else 0
        )
        self.requests[request.number] = request

    def remove(self, request: _Request) -> None:
        """Take a request out; its row is free."""
        if self.requests.pop(request.number, None) is not None:
            self.decoder.remove(request.number)


class Engine:
    """Answers requests on one base model and any number of adapters. All methods may be called from any thread.

    Args:
        model: the base, in eval mode; it belongs to the engine until `close`.
        adapters: name and folder (PEFT layout) of each adapter.
        rows: requests that run at once.
        queue: requests that may wait for a row.
        piece_tokens: prompt tokens computed between two steps of the running answers.
        kept_tokens: tokens per adapter kept of common starts that nobody uses at the moment.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        adapters: Mapping[str, Path] | None = None,
        rows: int = 16,
        queue: int = 64,
        piece_tokens: int = 256,
        kept_tokens: int = 2048,
    ) -> None:
        self.context_tokens: int = model.config.max_position_embeddings
        self._vocabulary: int = model.config.vocab_size
        self._model = model
        self._rows, self._queue, self._piece_tokens, self._kept_tokens = rows, queue, piece_tokens, kept_tokens
        self._adapters = Adapters(model)
        for name, folder in (adapters or {}).items():
            self._adapters.load(name, folder)
        self._groups: dict[str | None, _Group] = {}
        self._steps_left = TURN_STEPS
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._running: dict[Stream, _Request] = {}
        self._cancelled: list[Stream] = []
        self._accepting = True
        self._failure: BurnishError | None = None
        self._thread = threading.Thread(target=self._work, name="burnish-engine", daemon=True)
        self._thread.start()
        # A thread inside torch while the interpreter ends would abort the process.
        atexit.register(self._abandon)

    def submit(self, token_ids: Sequence[int], adapter: str | None, sampling: Sampling) -> Stream:
        """Ask for the continuation of `token_ids` by the base (adapter None) or one of the adapters.

        Raises ServeError when the adapter or a token is unknown or the request does not fit the context, QueueFull
        when too many wait, EngineStopped when the engine takes no requests.
        """
        self._adapters.check(adapter)
        check_fits(len(token_ids), sampling.max_new_tokens, self.context_tokens)
        if not 0 <= min(token_ids) <= max(token_ids) < self._vocabulary:
            raise ServeError(f"token ids must lie between 0 and {self._vocabulary - 1}")
        request = _Request(Stream(len(token_ids), self._cancel), list(token_ids), adapter, sampling)
        with self._changed:
            if self._failure is not None:
                raise EngineStopped(f"the engine has stopped: {self._failure}. Start the server again.")
            if not self._accepting:
                raise EngineStopped("the engine is closing and takes no new requests")
            if len(self._waiting) >= self._queue:
                raise QueueFull(f"{len(self._waiting)} requests wait already, which is the limit; try again later")
            self._waiting.append(request)
            self._changed.notify_all()
        return request.stream

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters."""
        return self._adapters.names

    @property
    def load(self) -> Load:
        """Return what the engine is doing now."""
        with self._changed:
            accepting = self._accepting and self._failure is None
            return Load(len(self._running), len(self._waiting), self._rows, accepting)

    def stop_accepting(self) -> None:
        """Refuse new requests from now on; those that were taken are answered."""
        with self._changed:
            self._accepting = False
            self._changed.notify_all()

    def close(self, *, drain: bool = True) -> None:
        """Stop after answering (or, drain False, cancelling) what was taken. The model is the plain base again."""
        self.stop_accepting()
        if not drain:
            with self._changed:
                streams = [request.stream for request in (*self._waiting, *self._running.values())]
            for stream in streams:
                stream.cancel()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            atexit.unregister(self._abandon)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def _abandon(self) -> None:
        self.close(drain=False)

    def _cancel(self, stream: Stream) -> None:
        """Called by the stream, in any thread, after it ended as cancelled."""
        with self._changed:
            self._cancelled.append(stream)
            for request in self._waiting:
                if request.stream is stream:
                    self._waiting.remove(request)
                    break
            self._changed.notify_all()

    # -------------------------------------------------------------------------------------------- the engine's thread

    def _work(self) -> None:
        """Run steps until closed. Whatever goes wrong, every stream gets an end."""
        try:
            while self._receive():
                self._step()
            self._adapters.activate(None)
        except Exception as error:
            self._stop_with(ServeError(f"the engine failed: {type(error).__name__}: {error}"))
            raise

    def _receive(self) -> bool:
        """Wait for work, take cancelled requests out and waiting ones in. Returns False when closed and idle."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self._cancelled or not self._accepting)
            for stream in self._cancelled:
                request = self._running.pop(stream, None)
                if request is not None:
                    self._groups[request.adapter].remove(request)
            self._cancelled.clear()
            new: list[_Request] = []
            while self._waiting and len(self._running) < self._rows:
                request = self._waiting.popleft()
                self._running[request.stream] = request
                new.append(request)
            idle = not self._running and not self._accepting
        for request in new:
            self._group(request.adapter).add(request)
        return not idle

    def _group(self, adapter: str | None) -> _Group:
        if adapter not in self._groups:
            decoder = Decoder(
                self._model, rows=self._rows, piece_tokens=self._piece_tokens, kept_tokens=self._kept_tokens
            )
            self._groups[adapter] = _Group(decoder)
        return self._groups[adapter]

    def _step(self) -> None:
        """Run one step of the adapter whose turn it is, and hand out what it gave."""
        busy = [adapter for adapter, group in self._groups.items() if group.requests]
        if not busy:
            return
        adapter = busy[0]
        group = self._groups[adapter]
        self._steps_left -= 1
        if self._steps_left <= 0:
            self._steps_left = TURN_STEPS
            self._groups[adapter] = self._groups.pop(adapter)
        try:
            self._adapters.activate(adapter)
            emitted = group.decoder.step()
        except Exception as error:  # noqa: BLE001 (whatever it was, the streams must hear of it)
            self._fail(group, ServeError(f"this answer failed: {type(error).__name__}: {error}"))
            return
        for item in emitted:
            self._deliver(group, item)

    def _deliver(self, group: _Group, item: Emitted) -> None:
        request = group.requests[item.sequence]
        if item.token is not None:
            request.stream.put(item.token)
        if item.finish is not None:
            del group.requests[item.sequence]
            with self._changed:
                self._running.pop(request.stream, None)
            request.stream.finish(End(item.finish.value))

    def _fail(self, group: _Group, error: ServeError) -> None:
        """End a group's answers with an error. Its decoder starts afresh, so that later requests may succeed."""
        group.decoder.clear()
        failed = list(group.requests.values())
        group.requests.clear()
        with self._changed:
            for request in failed:
                self._running.pop(request.stream, None)
        for request in failed:
            request.stream.finish(error)

    def _stop_with(self, error: ServeError) -> None:
        with self._changed:
            self._failure = error
            left = [*self._waiting, *self._running.values()]
            self._waiting.clear()
            self._running.clear()
        for request in left:
            request.stream.finish(error)


def _common(a: Tensor, b: Tensor) -> int:
    """Length of the common start of two prompts."""
    length = min(len(a), len(b))
    differs = (a[:length] != b[:length]).nonzero()
    return int(differs[0]) if len(differs) else length
