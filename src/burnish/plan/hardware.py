"""The machine as data: what may be used, not what is built in. Detected without torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from burnish.plan.gpus import Gpu

PROBE_SIZE = 1024
"""Width of the probe's square float32 matrices: 2 * 1024^3 operations a product, enough to fill two dozen cores."""
RENTED_CORES = 8
"""CPU cores that come with one rented GPU."""
CPU_INFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Units that multiply bfloat16 and add in float32: AVX-512 and AMX of x86-64, and Arm's."""
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_MEMORY = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Limit, use and statistics of memory in control groups of version 2 and 1."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine. Bytes are those free to use now; None where it could not be found out.

    `cores` counts what affinity, the cgroup's quota and OMP_NUM_THREADS leave. `gemm_gflops` is the measured float32
    matrix product of NumPy on the CPU, in 1e9 operations a second. `cpu_bf16` says whether the CPU multiplies bfloat16 in
    its own units. `gpu_capability` is CUDA's compute capability, such as (9, 0). `rented`: the machine is paid by the hour.
    `gpus`: how many CUDA may use, each taken for as large as the first.
    """

    cores: int
    ram_bytes: int | None = None
    cpu_name: str = ""
    gemm_gflops: float | None = None
    cpu_bf16: bool = False
    gpu_name: str | None = None
    gpu_bytes: int | None = None
    gpu_capability: tuple[int, int] | None = None
    rented: bool = False
    gpus: int = 1

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where training runs unless the recipe says otherwise."""
        return "cpu" if self.gpu_name is None else "cuda"

    def processor(self, device: str) -> str:
        """Return the name of what computes there: the CPU's, or the GPU's."""
        return self.cpu_name if device == "cpu" else self.gpu_name or ""


def rented(gpu: Gpu) -> Hardware:
    """Return a rented machine with one GPU of the table, all of its memory free."""
    return Hardware(
        cores=RENTED_CORES,
        gpu_name=gpu.name,
        gpu_bytes=gpu.memory_mib * 2**20,
        gpu_capability=gpu.capability,
        rented=True,
    )


def detect(*, probe: bool = True) -> Hardware:
    """Return this machine. With `probe`, some 50 ms go into measuring the CPU's matrix product."""
    gpu_name, gpu_bytes, capability, gpus = _first_gpu()
    return Hardware(
        cores=usable_cores(),
        ram_bytes=free_ram_bytes(),
        cpu_name=_cpu_name(),
        gemm_gflops=probe_gflops() if probe else None,
        cpu_bf16=has_bf16(_read(CPU_INFO) or ""),
        gpu_name=gpu_name,
        gpu_bytes=gpu_bytes,
        gpu_capability=capability,
        gpus=gpus,
    )


def usable_cores(cgroup: Path = CGROUP_ROOT) -> int:
    """Return the cores this process may use: its affinity, lowered by the quota of its control group.

    OMP_NUM_THREADS lowers it further: who sets it says how many threads this work shall have.
    """
    affinity = len(os.sched_getaffinity(0)) if platform.system() == "Linux" else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    limits = [affinity, *([] if quota is None else [int(quota)]), *([int(asked)] if asked.isdecimal() else [])]
    return max(1, min(limits))


def free_ram_bytes(cgroup: Path = CGROUP_ROOT) -> int:
    """Return the memory this process may still take: what is free, lowered by its control group's limit.

    File pages that the kernel can drop (`inactive_file`) count as free, as they do in the machine's own number.
    """
    free = psutil.virtual_memory().available
    for limit_file, used_file, stat_file in CGROUP_MEMORY:
        limit, used = _number(cgroup / limit_file), _number(cgroup / used_file)
        if limit is not None and used is not None:
            return max(0, min(free, limit - used + _inactive_file_bytes(cgroup / stat_file)))
    return free


def _inactive_file_bytes(path: Path) -> int:
    for line in (_read(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def has_bf16(cpuinfo: str) -> bool:
    """Return whether the flags that /proc/cpuinfo lists name units for bfloat16; False without such a file."""
    flags = (line.partition(":")[2] for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")))
    return not BF16_FLAGS.isdisjoint(next(flags, "").split())


def probe_gflops(seconds: float = 0.05) -> float:
    """Return the best rate of float32 matrix products in `seconds`, in 1e9 operations a second.

    NumPy's BLAS uses the threads its environment gives it (all usable cores by default), as torch does.
    """
    import numpy as np

    matrix = np.ones((PROBE_SIZE, PROBE_SIZE), dtype=np.float32)
    out = np.empty_like(matrix)
    np.matmul(matrix, matrix, out=out)
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        began = time.perf_counter()
        np.matmul(matrix, matrix, out=out)
        now = time.perf_counter()
        best = min(best, now - began)
        if now >= end:
            return 2 * PROBE_SIZE**3 / best / 1e9


def _cpu_quota(cgroup: Path) -> float | None:
    """Cores by the control group's quota, version 2 or 1; None without one."""
    both = _read(cgroup / "cpu.max")
    if both is not None:
        quota, _, period = both.partition(" ")
        return None if quota == "max" else int(quota) / int(period or 100_000)
    quota_us, period_us = _number(cgroup / "cpu/cpu.cfs_quota_us"), _number(cgroup / "cpu/cpu.cfs_period_us")
    return quota_us / period_us if quota_us is not None and quota_us > 0 and period_us else None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def _read(path: Path) -> str | None:
    """The file's text; None where this system has no such file."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None


def _cpu_name() -> str:
    for line in (_read(CPU_INFO) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _first_gpu() -> tuple[str | None, int | None, tuple[int, int] | None, int]:
    """Name, free bytes and compute capability of the first visible NVIDIA GPU, as nvidia-smi tells them, and how many there are."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if program is None or visible in ("", "-1"):
        return None, None, None, 1
    command = [program, "--query-gpu=name,memory.free,compute_cap", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError):
        return None, None, None, 1
    return *parse_nvidia_smi(answer, first=visible), count_gpus(answer, visible)


def count_gpus(answer: str, visible: str | None) -> int:
    """Return how many GPUs of nvidia-smi's lines CUDA_VISIBLE_DEVICES leaves; one at least."""
    lines = sum(line.count(",") >= 2 for line in answer.splitlines())
    return max(1, min(lines, len(visible.split(","))) if visible else lines)


def parse_nvidia_smi(answer: str, *, first: str | None = None) -> tuple[str | None, int | None, tuple[int, int] | None]:
    """Read `name, MiB free, capability` lines. `first` is CUDA_VISIBLE_DEVICES: its first number picks the line."""
    lines = [line for line in answer.splitlines() if line.count(",") >= 2]
    chosen = first.split(",")[0].strip() if first else "0"
    index = int(chosen) if chosen.isdigit() else 0
    if index >= len(lines):
        return None, None, None
    name, free, capability = (part.strip() for part in lines[index].rsplit(",", 2))
    major, _, minor = capability.partition(".")
    known = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
    return name, int(free) * 2**20 if free.isdigit() else None, known
