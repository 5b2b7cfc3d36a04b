"""The engine: one thread that owns the model and answers many requests at once.

`Engine.submit(token ids, adapter, sampling)` gives a stream of token ids. Requests join the running batch at the next
step and leave it at once when they end. Sequences of a step may each have another adapter.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.errors import BurnishError, ServeError
from burnish.model.banked_linear import BankedModel
from burnish.model.cached_attention import cached_attention_on
from burnish.model.decoder import Decoder
from burnish.model.sampling import Constraint, Sampling
from burnish.model.sequences import Emitted, Finish, check_fits, check_reads, check_tokens
from burnish.serve.adapters import Adapters, AdapterSource, Claim
from burnish.serve.failures import EngineStopped, failure_of, form_not_kept
from burnish.serve.line import Line
from burnish.serve.recent_prompts import RecentPrompts
from burnish.serve.request import Embedding, Load, Request
from burnish.serve.stream import End, Stream
from burnish.serve.vectors import Vectors

PASSES = 32
"""So many later requests may begin before one that waits for a slot for its adapter; then the others wait for it."""


class Engine:
    """Answers requests on one base model and any number of adapters. All methods may be called from any thread.

    Args:
        model: the base, in eval mode; it belongs to the engine until `close`.
        adapters: name and folder (PEFT layout) of each adapter that is known from the start.
        rows: requests that run at once.
        queue: requests that may wait for a row.
        piece_tokens: prompt tokens computed between two steps of the running answers.
        kept_tokens: tokens kept of common starts that nobody uses at the moment, of all adapters together.
        slots: adapters in memory at once; any number may be known.
        rank_limit: the highest rank of an adapter.
        graphs: on a GPU, replay decoding steps as CUDA graphs, with Triton's kernels for many adapters.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        adapters: Mapping[str, Path] | None = None,
        rows: int = 16,
        queue: int = 64,
        piece_tokens: int = 256,
        kept_tokens: int = 8192,
        slots: int = 32,
        rank_limit: int = 256,
        graphs: bool = True,
    ) -> None:
        self.context_tokens: int = model.config.max_position_embeddings
        self.vocabulary: int = model.config.vocab_size
        self.hidden_size: int = model.config.hidden_size
        self._model = model
        self._rows = rows
        graphs = graphs and model.device.type == "cuda"
        self._banked = BankedModel(model, tiled=graphs)
        try:
            self._adapters = Adapters(self._banked, slots=slots, rank_limit=rank_limit)
            for name, folder in (adapters or {}).items():
                self._adapters.add(name, AdapterSource(folder))
        except BurnishError:
            self._banked.take_off()
            raise
        self._decoder = Decoder(
            model, rows=rows, piece_tokens=piece_tokens, kept_tokens=kept_tokens, banked=self._banked, static=graphs
        )
        self._recent = RecentPrompts()
        self._changed = threading.Condition()
        self._line = Line(queue)
        self._vectors = Vectors(self._banked, piece_tokens)
        self._running: dict[Stream, Request] = {}
        self._in_decoder: dict[int, Request] = {}
        self._cancelled: list[Stream] = []
        self._accepting = True
        self._failure: BurnishError | None = None
        self._thread = threading.Thread(target=self._work, name="burnish-engine", daemon=True)
        self._thread.start()
        # A thread inside torch while the interpreter ends would abort the process.
        atexit.register(self._abandon)

    def submit(
        self, token_ids: Sequence[int], adapter: str | None, sampling: Sampling, constraint: Constraint | None = None
    ) -> Stream:
        """Ask for the continuation of `token_ids` by the base (adapter None) or one of the adapters.

        An adapter that is not in memory is read here, in the caller's thread. Raises ServeError when the adapter or a token is
        unknown or the request does not fit the context, QueueFull when too many wait, EngineStopped when the engine takes no
        requests, NoMemory when there is none to read the adapter, BaseModelError when it cannot be read any more.
        """
        self._adapters.check(adapter)
        check_fits(len(token_ids), sampling.max_new_tokens, self.context_tokens)
        check_tokens([*token_ids, *sampling.logit_bias], self.vocabulary)
        claim = self._claim(adapter)
        request = Request(Stream(len(token_ids), self._cancel), list(token_ids), claim, sampling, constraint)
        self._take(request)
        return request.stream

    def embed(self, prompts: Sequence[Sequence[int]], adapter: str | None) -> Future[Tensor]:
        """Return, once computed, the mean of the last layer's states of each prompt: float32 (prompts, hidden), on the CPU.

        Raises as `submit` does.
        """
        self._adapters.check(adapter)
        for prompt in prompts:
            check_reads(len(prompt), self.context_tokens)
            check_tokens(prompt, self.vocabulary)
        claim = self._claim(adapter)
        asked = Embedding([list(prompt) for prompt in prompts], claim, Future())
        self._take(asked)
        return asked.vectors

    def _claim(self, adapter: str | None) -> Claim | None:
        """Raise as `_check_open` and `Adapters.claim` do."""
        with self._changed:
            self._check_open()
            self._line.reading += 1
        try:
            return None if adapter is None else self._adapters.claim(adapter)
        finally:
            with self._changed:
                self._line.reading -= 1
                self._changed.notify_all()  # an adapter that was taken out while it was read may be able to go now

    def _take(self, asked: Request | Embedding) -> None:
        """Let a request wait for the engine's thread. Raises as `_check_open` does; then its claim has ended."""
        try:
            with self._changed:
                self._check_open()
                self._line.add(asked)
                self._changed.notify_all()
        except ServeError:
            self._drop(asked.claim, started=False)
            raise

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _check_open(self) -> None:
        """Raise when a new request cannot be taken."""
        with self._changed:
            if self._failure is not None:
                raise EngineStopped(f"the engine has stopped: {self._failure}. Start the server again.")
            if not self._accepting:
                raise EngineStopped("the engine is closing and takes no new requests")
            self._line.check_room()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are known."""
        return self._adapters.names

    @property
    def resident_adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are in slots, least recently used first."""
        return self._adapters.resident

    @property
    def adapter_bytes(self) -> int:
        """Memory of all slots."""
        return self._adapters.bytes

    def add_adapter(self, name: str, source: AdapterSource | Path, *, lazy: bool = False) -> None:
        """Make an adapter known while the engine runs. It is read and checked now, or at its first request when `lazy`.

        Raises ServeError when the name is taken, BaseModelError when the adapter is damaged or does not fit this base.
        """
        self._adapters.add(name, source if isinstance(source, AdapterSource) else AdapterSource(source), lazy=lazy)

    def remove_adapter(self, name: str, *, wait_s: float | None = 0.0) -> bool:
        """Refuse requests for an adapter from now on, and free its memory when the last one that was taken has ended.

        Waits up to `wait_s` seconds for that (None: as long as it takes); returns whether the memory is free. Raises ServeError
        when there is no such adapter.
        """
        self._adapters.remove(name)
        self._wake()
        return self._adapters.wait_gone(wait_s)

    @property
    def load(self) -> Load:
        """Return what the engine is doing now."""
        with self._changed:
            accepting = self._accepting and self._failure is None
            return Load(len(self._running), len(self._line), self._rows, accepting, self._line.limit)

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
                requests, vectors = self._line.leave()
                vectors += self._vectors.leave()
                running = list(self._running.values())
            for request in (*requests, *running):
                request.stream.cancel()
            for asked in vectors:
                asked.fail(EngineStopped("the engine closed before the vectors were computed"))
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
            waiting = next((request for request in self._line.requests if request.stream is stream), None)
            if waiting is not None:
                self._line.requests.remove(waiting)
                self._drop(waiting.claim, started=False)
            self._changed.notify_all()

    def _drop(self, claim: Claim | None, *, started: bool) -> None:
        if claim is not None:
            self._adapters.drop(claim, started=started)
            self._wake()

    # -------------------------------------------------------------------------------------------- the engine's thread

    def _work(self) -> None:
        """Run steps until closed. Whatever goes wrong, every stream gets an end."""
        try:
            with cached_attention_on(self._model):
                while self._receive():
                    self._embed()
                    if self._in_decoder:
                        self._step()
        except Exception as error:
            self._stop_with(ServeError(f"the engine failed: {type(error).__name__}: {error}"))
            raise
        finally:
            self._decoder.clear()
            self._adapters.close()
            self._banked.take_off()

    def _receive(self) -> bool:
        """Wait for work, take cancelled requests out and waiting ones in. Returns False when closed and idle."""
        with self._changed:
            self._changed.wait_for(self._has_work)
            for stream in self._cancelled:
                request = self._running.pop(stream, None)
                if request is not None:
                    del self._in_decoder[request.number]
                    self._decoder.remove(request.number)
                    self._drop(request.claim, started=True)
            self._cancelled.clear()
            for key in self._adapters.settle():
                self._decoder.forget_adapter(key)
            self._admit()
            return bool(self._running or self._line.embeddings or self._vectors.begun or self._accepting)

    def _has_work(self) -> bool:
        waiting = (
            self._line.requests or self._running or self._line.embeddings or self._vectors.begun or self._cancelled
        )
        return bool(waiting) or not self._accepting or self._adapters.unsettled

    def _admit(self) -> None:
        """Let waiting requests run as rows and slots allow. One whose adapter finds no slot is passed by others, for a while."""
        blocked: Request | None = None
        for request in list(self._line.requests):
            if len(self._running) >= self._rows or (blocked is not None and blocked.passed >= PASSES):
                break
            placed = self._place(request, "this answer")
            if placed is False:
                blocked = blocked or request
                continue
            self._line.requests.remove(request)
            if placed is True:
                self._start(request)
                if blocked is not None:
                    blocked.passed += 1
            else:
                request.stream.finish(placed)

    def _place(self, asked: Request | Embedding, what: str) -> bool | BurnishError:
        """Return whether a request has what it needs of adapters, or why it never will; then its claim has ended."""
        try:
            return asked.claim is None or self._adapters.place(asked.claim)
        except Exception as error:  # noqa: BLE001 (one request's fault must not end the engine)
            self._drop(asked.claim, started=False)
            return failure_of(what, error)

    def _start(self, request: Request) -> None:
        """Hand a request to the decoder, sharing what it has in common with an earlier prompt of the same adapter."""
        try:
            share = self._recent.shared(request.tokens, request.adapter)
            request.number = self._decoder.add(
                request.tokens, request.sampling, share=share, adapter=request.adapter, constraint=request.constraint
            )
        except Exception as error:  # noqa: BLE001 (one request's fault must not end the engine)
            self._drop(request.claim, started=True)
            request.stream.finish(failure_of("this answer", error))
        else:
            self._running[request.stream] = self._in_decoder[request.number] = request

    def _embed(self) -> None:
        """Make a batch of the vectors that are asked for, those first whose adapters find a slot."""
        with self._changed:
            for asked in list(self._line.embeddings):
                placed = False if self._vectors.full else self._place(asked, "the vectors")
                if placed is not False:
                    self._line.embeddings.remove(asked)
                if placed is True:
                    self._vectors.begun.append(asked)
                elif placed is not False:
                    asked.fail(placed)
            if not self._vectors.begun:
                return
            asked = self._vectors.begun[0]
        error: BurnishError | None = None
        try:
            self._vectors.make(asked, beside=bool(self._in_decoder))
        except Exception as raised:  # noqa: BLE001 (whatever it was, the caller must hear of it)
            error = failure_of("the vectors", raised)
        with self._changed:
            if self._vectors.end(asked, error):
                self._drop(asked.claim, started=True)

    def _step(self) -> None:
        """Run one step and hand out what it gave."""
        try:
            emitted = self._decoder.step()
        except Exception as error:  # noqa: BLE001 (whatever it was, the streams must hear of it)
            self._fail(failure_of("this answer", error))
            return
        for item in emitted:
            self._deliver(item)

    def _deliver(self, item: Emitted) -> None:
        request = self._in_decoder[item.sequence]
        request.stream.read(item.read)
        if item.token is not None:
            request.stream.put(item.token, item.likelihood)
        elif item.stop is not None and item.likelihood is not None:
            request.stream.stopped_by = (item.stop, item.likelihood)
        if item.finish is not None:
            self._end(request)
            failed = item.finish is Finish.FAILED
            request.stream.finish(form_not_kept(request.constraint) if failed else End(item.finish.value))

    def _end(self, request: Request) -> None:
        """Note that a request has left the decoder."""
        del self._in_decoder[request.number]
        with self._changed:
            self._running.pop(request.stream, None)
            self._drop(request.claim, started=True)

    def _fail(self, error: BurnishError) -> None:
        """End the running answers with an error. The decoder starts afresh, so that later requests may succeed."""
        self._decoder.clear()
        failed = list(self._in_decoder.values())
        for request in failed:
            self._end(request)
        for request in failed:
            request.stream.finish(error)

    def _stop_with(self, error: ServeError) -> None:
        with self._changed:
            self._failure = error
            requests, vectors = self._line.leave()
            vectors += self._vectors.leave()
            requests += self._running.values()
            self._running.clear()
        for request in requests:
            request.stream.finish(error)
        for asked in vectors:
            asked.fail(error)
