"""A program: an engine whose process may not have more memory, on a real base with real adapters. Prints what came of it.

`python short_of_memory.py BASE ADAPTER...`; RLIMIT_DATA holds the process, as a container's limit or a full card would. Adapters
are a to d by the names of their folders. What is large must be mapped by itself (GLIBC_TUNABLES), or holes of the heap are room
that no limit knows of.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from burnish.core.errors import ServeError
from burnish.model.load import load_base
from burnish.model.memory import trim_heap
from burnish.model.sampling import Sampling
from burnish.serve.engine import Engine
from burnish.serve.stream import Stream

PROMPT = [5, *range(20, 60), *range(100, 104)]
NEW = 24
MIB = 2**20


def data_bytes() -> int:
    """What counts for RLIMIT_DATA: private memory that can be written."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmData"))


@contextmanager
def at_most(more_bytes: int) -> Iterator[None]:
    """Within the block the process gets so much more memory than it has now, and then no more."""
    trim_heap()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def main(base: Path, folders: dict[str, Path]) -> dict[str, object]:
    """Load a and b, let them answer, and ask for more than there is room for."""
    torch.set_num_threads(1)
    go_on = threading.Event()
    go_on.set()
    model = load_base(base)

    def wait(module: torch.nn.Module, inputs: object) -> None:
        assert go_on.wait(60)

    model.get_input_embeddings().register_forward_pre_hook(wait)
    told: dict[str, object] = {}
    with Engine(model, adapters=folders, rows=8, slots=8) as engine:
        size = Path(folders["a"] / "adapter_model.safetensors").stat().st_size

        def ask(name: str | None) -> Stream:
            return engine.submit(PROMPT, name, Sampling(max_new_tokens=NEW))

        def tokens(stream: Stream) -> list[int] | str:
            try:
                return list(stream)
            except ServeError as error:
                return f"{type(error).__name__}: {error}"

        def begun(*names: str) -> list[tuple[Stream, list[int]]]:
            """Let adapters begin an answer, and hold the engine in its next step."""
            streams = [ask(name) for name in names]
            first = [[next(iter(stream))] for stream in streams]
            go_on.clear()
            return list(zip(streams, first, strict=True))

        told["alone"] = tokens(ask(None))
        at_work = begun("a", "b")
        two = engine.adapter_bytes
        with at_most(size // 2):
            asked = [ask("c"), ask(None)]
            go_on.set()
            told["c beside a and b"], told["base beside it"] = map(tokens, asked)
            told["a and b"] = [[*first, *stream] for stream, first in at_work]
            told["more"] = engine.adapter_bytes - two
        at_work = begun("a")
        with at_most(size // 2):  # b is idle now
            stream = ask("d")
            go_on.set()
            told["d in the place of b"] = tokens(stream)
            told["a"] = [*at_work[0][1], *at_work[0][0]]
            told["resident"] = engine.resident_adapters
            try:
                told["b must be read"] = tokens(ask("b"))
            except ServeError as error:
                told["b must be read"] = f"{type(error).__name__}: {error}"
            told["base after it"] = tokens(ask(None))
        told["with memory"] = [tokens(ask(name)) for name in "abcd"]
        told["grown"] = engine.adapter_bytes - two
        held = data_bytes()
        for name in folders:
            assert engine.remove_adapter(name, wait_s=30)
        trim_heap()
        told["left"], told["given back"], told["size"] = engine.adapter_bytes, held - data_bytes(), size
    return told


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1]), {Path(each).name: Path(each) for each in sys.argv[2:]}), sys.stdout)
