"""The process that vLLM runs in: started, asked for its health, and started again when it ends or does not answer."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from burnish.core.errors import ServeError
from burnish.core.events import Emit, Note
from burnish.serve.vllm import leash as leash_module

HANDED_ON = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
"""Variables of this process that vLLM gets, beside those whose names begin with VLLM_ or CUDA_."""
CHECK_S = 2.0
MISSED_CHECKS = 5
"""So many checks in a row without an answer, and the process is taken for hung."""
MOST_STARTS = 5
"""So many starts in a row that did not come up, and nothing is tried any more."""
STOP_S = 10.0
TOLD_CHARACTERS = 1500


ASK_DEVICE = "from vllm.platforms import current_platform; print(current_platform.device_type)"


def device_of(python: Path, environment: Mapping[str, str], *, limit_s: float = 300.0) -> str:
    """Return what the vLLM of an environment computes on, as it says itself: "cpu", "cuda" or another. Raises ServeError."""
    env, command = {**_handed_on(), **environment}, [str(python), "-c", ASK_DEVICE]
    try:
        asked = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=limit_s)
    except OSError as error:
        raise ServeError(
            f"{python} cannot be started: {error}. --vllm takes the interpreter of vLLM's environment"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ServeError(f"{python} did not import vLLM within {limit_s:g} s") from error
    if asked.returncode:
        words = (asked.stderr or asked.stdout)[-TOLD_CHARACTERS:].strip()
        raise ServeError(f"vLLM cannot be imported by {python}; its last words: {words}")
    return asked.stdout.rstrip().rpartition("\n")[2]  # after what it logs


def _handed_on() -> dict[str, str]:
    """Return what vLLM gets of this process's environment, and what it is told in any case."""
    own = {
        name: value for name, value in os.environ.items() if name in HANDED_ON or name.startswith(("VLLM_", "CUDA_"))
    }
    return {
        **own, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


class VllmProcess:
    """A vLLM server on 127.0.0.1 with a key of its own, until `stop`. `starts` counts how often it came up.

    Args:
        python: the interpreter of the environment that vLLM is installed in.
        arguments: of vLLM's server, without host and port.
        folder: private; keeps the log.
        lost: called, in the watching thread, each time a process that was up is gone.
        start_s: seconds that a start may take.
    """

    def __init__(
        self,
        python: Path,
        arguments: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str],
        lost: Callable[[], None],
        emit: Emit,
        start_s: float = 600.0,
    ) -> None:
        self.starts = 0
        self.key = secrets.token_urlsafe(32)
        self.port = 0
        self._python, self._arguments, self._log = python, list(arguments), folder / "vllm.log"
        self._environment, self._lost, self._emit, self._start_s = dict(environment), lost, emit, start_s
        self._up = threading.Event()
        self._stopping = threading.Event()
        self._failure: str | None = None
        self._process = self._spawn()
        self._watcher = threading.Thread(target=self._watch, name="burnish-vllm", daemon=True)
        self._watcher.start()

    @property
    def up(self) -> bool:
        """Whether it answers."""
        return self._up.is_set()

    @property
    def failure(self) -> str | None:
        """Why it is not started again any more."""
        return self._failure

    def wait_up(self) -> None:
        """Wait until it answers. Raises ServeError when it does not come up."""
        while not self._up.wait(0.05):
            if self._failure is not None:
                raise ServeError(self._failure)

    def stop(self) -> None:
        """End it, and its children."""
        self._stopping.set()
        self._watcher.join()
        self._end()

    # ------------------------------------------------------------------------------------------- the watching thread

    def _watch(self) -> None:
        """Bring it up, watch it, and begin again, until stopped or until it does not come up."""
        failed = 0
        while not self._stopping.is_set():
            if self._come_up():
                failed = 0
                self.starts += 1
                self._up.set()
                self._stay()
                self._up.clear()
                if self._stopping.is_set():
                    return
                self._emit(Note("serve", "the vLLM process ended or hung; it is started again"))
                self._lost()
            else:
                failed += 1
                if failed >= MOST_STARTS:
                    self._failure = (
                        f"vLLM did not come up {failed} times in a row; its last words: {self._last_words()}"
                    )
                    return
            self._end()
            if not self._stopping.wait(min(2.0**failed, 30.0)):
                self._process = self._spawn()

    def _come_up(self) -> bool:
        until = time.monotonic() + self._start_s
        while time.monotonic() < until and not self._stopping.wait(0.1):
            if self._process.poll() is not None:
                return False
            if self._healthy():
                return True
        return False

    def _stay(self) -> None:
        """Return when the process is gone, hung, or to be stopped."""
        missed = 0
        while missed < MISSED_CHECKS and not self._stopping.wait(0.2 if missed else CHECK_S / 4):
            if self._process.poll() is not None:
                return
            missed = 0 if self._healthy() else missed + 1

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CHECK_S)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        key = {"VLLM_API_KEY": self.key}  # not among the arguments, which every user of the machine can read
        leash = [sys.executable, "-I", leash_module.__file__]  # ends with this process, even if that is killed
        command = [*leash, str(self._python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*command, "--port", str(self.port), *self._arguments],
                env={**_handed_on(), **key, **self._environment}, stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True, cwd=self._log.parent,
            )  # fmt: skip

    def _end(self) -> None:
        """End the process group: vLLM's engine is a child of its server."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - TOLD_CHARACTERS))
            return log.read().decode("utf-8", "replace").strip()
