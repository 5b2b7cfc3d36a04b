"""Runs a command until it ends, or until standard input closes: then whoever held the other end is gone, however it went.

`python leash.py COMMAND...`, in a process group of its own, which it kills. So a server that is killed leaves no vLLM behind.
Imports nothing of burnish: it runs as a file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType


def main() -> int:
    """Return 0 when the command did."""
    signal.signal(signal.SIGTERM, _left_to_the_command)
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_hold, daemon=True).start()
    return 0 if command.wait() == 0 else 1


def _hold() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _left_to_the_command(number: int, frame: FrameType | None) -> None:
    """The group was told to end: the command has its own way to do that."""


if __name__ == "__main__":
    sys.exit(main())
