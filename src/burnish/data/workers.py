"""Work spread over processes: a task for each process, results in the order of the tasks, whatever the number of processes.

The processes are interpreters of their own that run this module, so nothing is forked: threads and locks of the parent do not
reach them, and a script that calls burnish needs no `if __name__ == "__main__"`. Tasks and results are pickled
over pipes, from and to our own children only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import IO, Any, Generic, Protocol, TypeVar

from burnish.core.errors import BurnishError, ResourceError

Task = TypeVar("Task")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
_LENGTH = struct.Struct(">Q")
AHEAD = 2
"""Tasks given out beyond those being worked on, for each process: a process never waits, and memory stays bounded."""


class Setup(Protocol[Result_co]):
    """What a process is told once: something that pickles, and makes the function that does the work."""

    def worker(self) -> Callable[[Any], Result_co]:
        """Return the function from a task to its result; called once in each process."""
        ...


def spread(setup: Setup[Result], tasks: Iterable[Any], processes: int) -> Iterator[Result]:
    """Yield the result of each task, in order. With fewer than two processes all is done in this one.

    A BurnishError of a task is raised here. Raises ResourceError when a process dies, as it does when memory runs out.
    """
    if processes < 2:
        work = setup.worker()
        yield from map(work, tasks)
        return
    with _Processes(setup, processes) as pool:
        yield from pool.results(tasks)


class _Processes(Generic[Result]):
    def __init__(self, setup: Setup[Result], count: int) -> None:
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._all = [_Process() for _ in range(count)]
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="burnish-worker")
        for process in self._all:
            process.send(setup)
            self._idle.put(process)

    def __enter__(self) -> _Processes[Result]:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            process.stop()
        self._threads.shutdown(cancel_futures=True)

    def results(self, tasks: Iterable[Any]) -> Iterator[Result]:
        waiting: deque[Future[Result]] = deque()
        for task in tasks:
            waiting.append(self._threads.submit(self._do, task))
            if len(waiting) > len(self._all) * (1 + AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _do(self, task: Any) -> Result:
        process = self._idle.get()
        try:
            process.send(task)
            return process.receive()
        finally:
            self._idle.put(process)


class _Process:
    def __init__(self) -> None:
        # One thread of arithmetic each: the processes share the cores.
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
        environment = {**os.environ, **limits, "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children
        )

    def send(self, value: Any) -> None:
        assert self._process.stdin is not None
        try:
            _write(self._process.stdin, value)
        except (BrokenPipeError, ValueError) as error:  # ValueError: the pipe was closed here
            raise self._died() from error

    def receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            fine, value = _read(self._process.stdout)
        except (EOFError, ValueError) as error:
            raise self._died() from error
        if not fine:
            raise value
        return value

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what was not read any more is of no use
                    pipe.close()

    def _died(self) -> ResourceError:
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return ResourceError(
            f"a worker process ended early ({how}); the system ends processes when memory runs out. "
            "Free memory, or use fewer processes with BURNISH_PROCESSES=1."
        )


def serve() -> None:
    """Be a worker: read the setup and then tasks from stdin, write results to stdout, until stdin ends."""
    tasks, results = sys.stdin.buffer, sys.stdout.buffer
    work: Callable[[Any], Any] | None = None
    with contextlib.redirect_stdout(sys.stderr):  # whatever is printed must not get between the results
        while True:
            try:
                value = _read(tasks)
            except EOFError:
                return
            try:
                if work is None:
                    work = value.worker()
                    continue
                answer = (True, work(value))
            except BurnishError as error:
                answer = (False, error)
            _write(results, answer)


def _write(pipe: IO[bytes], value: Any) -> None:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> Any:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def processes_for(size_bytes: int, *, least: int = 4 << 20) -> int:
    """Return how many processes to use: $BURNISH_PROCESSES, else a core each, one where there are fewer than `least` bytes."""
    said = os.environ.get("BURNISH_PROCESSES", "")
    if said:
        if not said.isdecimal() or int(said) < 1:
            raise ResourceError(f"BURNISH_PROCESSES is {said!r}; it is a number of processes, 1 or more")
        return int(said)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if size_bytes < least else cores
