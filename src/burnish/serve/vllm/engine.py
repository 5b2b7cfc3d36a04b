"""Answers by vLLM in a process of its own, behind the interface of the engine: token ids in, streams of token ids out."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import aiohttp
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from burnish.core.errors import ServeError
from burnish.core.events import Emit, Note
from burnish.model.lora import adaptable_layers
from burnish.model.sampling import Constraint, Sampling
from burnish.model.sequences import check_fits, check_tokens
from burnish.serve.adapters import AdapterSource
from burnish.serve.failures import EngineStopped, QueueFull
from burnish.serve.request import Load
from burnish.serve.stream import Stream
from burnish.serve.vllm.process import VllmProcess, device_of
from burnish.serve.vllm.shelf import Shelf, Shelved
from burnish.serve.vllm.slots import BASE, ZEROS, Slots, write_zeros
from burnish.serve.vllm.wire import Events, body_of, lines_of

RANKS = (8, 16, 32, 64, 128, 256)
"""Ranks for which vLLM can be started."""
QUIET_S = 600
"""Seconds without a word from vLLM before an answer counts as lost."""


class VllmEngine:
    """Answers requests on one base and any number of released adapters. All methods may be called from any thread.

    Args:
        base: folder of the base, with its tokenizer.
        python: the interpreter of the environment that vLLM is installed in.
        rows: requests that run at once.
        queue: requests that may wait beside them.
        slots: adapters in the device's memory at once, beside one of zeros on a CPU; any number may be known.
        rank_limit: the highest rank of an adapter; one of RANKS.
        arguments, environment: further ones for vLLM's server.
        start_s: seconds that a start may take.
    """

    def __init__(
        self,
        base: Path,
        python: Path,
        *,
        emit: Emit,
        rows: int = 16,
        queue: int = 64,
        slots: int = 8,
        rank_limit: int = 64,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        start_s: float = 600.0,
    ) -> None:
        if rank_limit not in RANKS:
            raise ServeError(f"vLLM's rank limit is one of {', '.join(map(str, RANKS))}, not {rank_limit}")
        self._guarded = (
            device_of(python, environment or {}) == "cpu"
        )  # kernels of other devices leave rows of the base alone
        config = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
        self.context_tokens: int = config.max_position_embeddings
        self.vocabulary: int = config.vocab_size
        self.hidden_size: int = config.hidden_size
        self._rows, self._queue = rows, queue
        self._folder = Path(tempfile.mkdtemp(prefix="burnish-vllm-"))
        with torch.device("meta"):
            shape = AutoModelForCausalLM.from_config(config)
        layers = adaptable_layers(shape)
        self._shelf = Shelf(self._folder, layers, rank_limit)
        self._emit, self._slots = emit, slots
        self._zeros = write_zeros(self._folder / ZEROS, layers)
        self._filled: dict[int, Slots] = {}
        self._changed = threading.Condition()
        self._running: dict[Stream, Future[None]] = {}
        self._accepting = True
        self._loop = asyncio.new_event_loop()
        self._loading: dict[str, asyncio.Lock] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="burnish-vllm-client", daemon=True)
        told = [
            "--model", str(base), "--served-model-name", BASE, "--enable-lora",
            # No adapter has a part for the output head. With one prepared, vLLM (0.32) ends when log-probabilities of a prompt are
            # computed beside other answers.
            "--lora-target-modules", *sorted({name.rpartition(".")[2] for name in layers}),
            "--max-loras", str(slots + 1 if self._guarded else slots), "--max-cpu-loras", str(4 * slots),
            "--max-lora-rank", str(rank_limit), "--max-num-seqs", str(rows), "--max-model-len", str(self.context_tokens),
            "--structured-outputs-config.backend", "guidance", *arguments,
        ]  # fmt: skip
        self._process = VllmProcess(
            python, told, self._folder, environment=environment or {}, lost=self._lose, emit=emit, start_s=start_s
        )
        self._thread.start()
        atexit.register(self._abandon)
        try:
            self._process.wait_up()
        except ServeError:
            self.close(drain=False)
            raise

    # ------------------------------------------------------------------------------------------------------- asking

    def submit(
        self, token_ids: Sequence[int], adapter: str | None, sampling: Sampling, constraint: Constraint | None = None
    ) -> Stream:
        """Ask for the continuation of `token_ids` by the base (adapter None) or one of the adapters. Raises as `Engine.submit`."""
        check_fits(len(token_ids), sampling.max_new_tokens, self.context_tokens)
        check_tokens([*token_ids, *sampling.logit_bias], self.vocabulary)
        shelved = None if adapter is None else self._shelf.claim(adapter)
        stream = Stream(len(token_ids), self._cancel)
        try:
            body = body_of(BASE if shelved is None else shelved.label, token_ids, sampling, constraint)
            with self._changed:
                self._check_open()
                self._running[stream] = self._begin(self._answer(stream, body, sampling, shelved))
        except ServeError:
            if shelved is not None:
                self._shelf.drop(shelved)
            raise
        return stream

    def embed(self, prompts: Sequence[Sequence[int]], adapter: str | None) -> Future[Tensor]:
        """Raise ServeError: a vLLM server that generates gives no vectors."""
        raise ServeError("vLLM gives no embeddings beside answers; serve embeddings with the own engine.")

    def _check_open(self) -> None:
        if self._process.failure is not None:
            raise EngineStopped(self._process.failure)
        if not self._accepting:
            raise EngineStopped("the engine is closing and takes no new requests")
        if not self._process.up:
            raise EngineStopped("the vLLM process is being started again; try again later")
        if len(self._running) >= self._rows + self._queue:
            raise QueueFull(
                f"{len(self._running) - self._rows} requests wait already, which is the limit; try again later"
            )

    def _begin(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _cancel(self, stream: Stream) -> None:
        """Called by the stream, in any thread: closing the connection makes vLLM stop."""
        with self._changed:
            future = self._running.get(stream)
        if future is not None:
            future.cancel()

    def _lose(self) -> None:
        """Called when the process is gone: nothing that it had is left."""
        with self._changed:
            streams = list(self._running)
        for stream in streams:
            if stream.finish(ServeError("the vLLM process ended while it answered; ask again")):
                self._cancel(stream)

    # --------------------------------------------------------------------------------------------- the client's thread

    async def _answer(self, stream: Stream, body: dict[str, Any], sampling: Sampling, shelved: Shelved | None) -> None:
        """Ask for one answer and hand out its tokens. Whatever happens, the stream gets an end."""
        try:
            if shelved is not None:
                await self._load(shelved)
                await self._ask(stream, body, sampling)
            else:
                slots = self._slots_now()
                with slots.base() if slots is not None else nullcontext(BASE) as label:
                    await self._ask(stream, {**body, "model": label}, sampling)
        except ServeError as error:
            stream.finish(error)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            stream.finish(ServeError(f"vLLM broke off: {type(error).__name__}: {error}"))
        finally:
            stream.finish(ServeError("this answer ended without an end"))
            if shelved is not None:
                self._shelf.drop(shelved)
            with self._changed:
                self._running.pop(stream, None)
                self._changed.notify_all()

    async def _ask(self, stream: Stream, body: dict[str, Any], sampling: Sampling) -> None:
        async with self._post("/v1/completions", body) as response:
            if response.status != 200:
                raise ServeError(f"vLLM refused the request ({response.status}): {await _reason(response)}")
            events = Events(sampling, stream.prompt_tokens)
            async for line in lines_of(response.content.iter_any()):
                piece = events.read(line)
                if piece is None:
                    continue
                stream.read(piece.prompt)
                stream.stopped_by = stream.stopped_by or piece.stop
                for place, token in enumerate(piece.tokens):
                    stream.put(token, piece.likelihoods[place] if piece.likelihoods else None)
                if piece.end is not None:
                    stream.finish(piece.end)

    def _slots_now(self) -> Slots | None:
        """Return what is known of vLLM's slots since it was started last."""
        if not self._guarded:
            return None
        start = self._process.starts
        if start not in self._filled:
            self._filled = {start: Slots(self._slots, self._load_zeros)}
        return self._filled[start]

    async def _load_zeros(self) -> None:
        await self._tell_load(ZEROS, self._zeros)
        told = f"more than {self._slots} adapters were used; on a CPU the base costs as much as an adapter from now on"
        self._emit(Note("serve", told))

    async def _load(self, shelved: Shelved) -> None:
        """Let vLLM load an adapter, once for each of its starts. Raises ServeError.

        A load that began goes on when the request that wanted it is cancelled: vLLM would have the adapter, and nobody know it.
        """
        if shelved.loaded_in == self._process.starts:
            return
        load = asyncio.ensure_future(self._load_once(shelved))
        self._loads.add(load)
        load.add_done_callback(self._loads.discard)
        await asyncio.shield(load)

    async def _load_once(self, shelved: Shelved) -> None:
        async with self._loading.setdefault(shelved.label, asyncio.Lock()):
            start, slots = self._process.starts, self._slots_now()
            if shelved.loaded_in == start:
                return
            async with slots.loading() if slots is not None else nullcontext():
                if not self._process.up or self._process.starts != start:
                    raise ServeError("the vLLM process ended before it loaded the adapter; ask again")
                await self._tell_load(shelved.label, shelved.folder)
            shelved.loaded_in = start

    async def _tell_load(self, label: str, folder: Path) -> None:
        told = {"lora_name": label, "lora_path": str(folder)}
        async with self._post("/v1/load_lora_adapter", told) as response:
            if response.status != 200:
                raise ServeError(f"vLLM does not load the adapter ({response.status}): {await _reason(response)}")

    async def _unload(self, shelved: Shelved) -> None:
        async with self._loading.setdefault(shelved.label, asyncio.Lock()):
            if shelved.loaded_in == self._process.starts and self._process.up:
                with suppress(aiohttp.ClientError):  # a process that is gone has nothing loaded
                    async with self._post("/v1/unload_lora_adapter", {"lora_name": shelved.label}) as response:
                        if response.status not in (200, 404):
                            raise ServeError(f"vLLM does not unload the adapter: {await _reason(response)}")
        self._loading.pop(shelved.label, None)
        self._shelf.forget(shelved)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=QUIET_S)
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, read_bufsize=1 << 20)
        url = f"http://127.0.0.1:{self._process.port}{path}"
        return self._session.post(url, json=body, headers={"authorization": f"Bearer {self._process.key}"})

    # --------------------------------------------------------------------------------------------------- adapters, end

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are known."""
        return self._shelf.names

    def add_adapter(self, name: str, source: AdapterSource | Path, *, lazy: bool = False) -> None:
        """Make a released adapter known. Raises as `Engine.add_adapter`, and ServeError for one without digests."""
        self._shelf.add(name, source if isinstance(source, AdapterSource) else AdapterSource(source), lazy=lazy)

    def remove_adapter(self, name: str, *, wait_s: float | None = 0.0) -> bool:
        """Refuse requests for an adapter from now on, and unload it when the last one that was taken has ended.

        Waits up to `wait_s` seconds for that; returns whether it is unloaded.
        """
        shelved = self._shelf.remove(name)

        async def when_free() -> None:
            while shelved.users:
                await asyncio.sleep(0.02)
            await self._unload(shelved)

        unloading = self._begin(when_free())
        try:
            unloading.result(wait_s)
        except TimeoutError:
            return False
        return True

    @property
    def load(self) -> Load:
        """Return what the engine is doing now."""
        with self._changed:
            taken = len(self._running)
            accepting = self._accepting and self._process.up
        return Load(min(taken, self._rows), max(0, taken - self._rows), self._rows, accepting, self._queue)

    def stop_accepting(self) -> None:
        """Refuse new requests from now on; those that were taken are answered."""
        with self._changed:
            self._accepting = False

    def close(self, *, drain: bool = True) -> None:
        """Stop after answering (or, drain False, cancelling) what was taken; the process ends."""
        self.stop_accepting()
        if not self._thread.is_alive():  # closed before
            return
        if not drain:
            with self._changed:
                streams = list(self._running)
            for stream in streams:
                stream.cancel()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        self._process.stop()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self._abandon)

    async def _end(self) -> None:
        for load in list(self._loads):
            load.cancel()
        await asyncio.gather(*self._loads, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(drain=kind is None)

    def _abandon(self) -> None:
        self.close(drain=False)


async def _reason(response: aiohttp.ClientResponse) -> str:
    """Return what a refusal says, in short."""
    return (await response.content.read(2000)).decode("utf-8", "replace")
