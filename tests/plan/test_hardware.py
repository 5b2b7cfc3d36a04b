"""What may be used is what affinity, control groups and nvidia-smi leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from burnish.plan.hardware import detect, free_ram_bytes, has_bf16, parse_nvidia_smi, probe_gflops, usable_cores

AFFINITY = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _no_thread_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """OMP_NUM_THREADS of whoever runs the tests is not what is tested."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def group(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000", AFFINITY), ("100000 100000", 1), ("50000 100000", 1), ("99900000 100000", AFFINITY)],
)
def test_cores_follow_the_quota_of_version_2(tmp_path: Path, text: str, cores: int) -> None:
    assert usable_cores(group(tmp_path, cpu_DOT_max=text)) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", AFFINITY), ("100000", 1)])
def test_cores_follow_the_quota_of_version_1(tmp_path: Path, quota: str, cores: int) -> None:
    root = group(tmp_path, cpu__cpu_DOT_cfs_quota_us=quota, cpu__cpu_DOT_cfs_period_us="100000")
    assert usable_cores(root) == cores


def test_without_a_control_group_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == AFFINITY


@pytest.mark.parametrize(
    ("asked", "cores"), [("1", 1), ("999", AFFINITY), ("0", 1), ("many", AFFINITY), ("", AFFINITY)]
)
def test_who_asks_for_fewer_threads_gets_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str, cores: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert usable_cores(tmp_path) == cores


def test_free_memory_is_what_the_limit_leaves_with_file_pages_that_can_be_dropped(tmp_path: Path) -> None:
    root = group(
        tmp_path, memory_DOT_max="1000000", memory_DOT_current="700000", memory_DOT_stat="anon 1\ninactive_file 200000"
    )
    assert free_ram_bytes(root) == 500_000


def test_free_memory_in_version_1(tmp_path: Path) -> None:
    root = group(tmp_path, memory__memory_DOT_limit_in_bytes="1000000", memory__memory_DOT_usage_in_bytes="400000")
    assert free_ram_bytes(root) == 600_000


def test_an_unlimited_group_leaves_what_the_machine_has_free(tmp_path: Path) -> None:
    root = group(tmp_path, memory_DOT_max="max", memory_DOT_current="700000")
    assert free_ram_bytes(root) > 2**20


def test_a_gpu_is_read_from_nvidia_smi() -> None:
    answer = "NVIDIA H100 80GB HBM3, 81000, 9.0\nTesla T4, 15000, 7.5\n"
    assert parse_nvidia_smi(answer) == ("NVIDIA H100 80GB HBM3", 81000 * 2**20, (9, 0))
    assert parse_nvidia_smi(answer, first="1,0") == ("Tesla T4", 15000 * 2**20, (7, 5))
    assert parse_nvidia_smi(answer, first="7") == (None, None, None)
    assert parse_nvidia_smi("No devices were found\n") == (None, None, None)
    assert parse_nvidia_smi("Odd, [N/A], [N/A]\n") == ("Odd", None, None)


def test_hidden_gpus_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Tesla T4, 15000, 7.5'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert detect(probe=False).gpu_name == "Tesla T4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert detect(probe=False).device == "cpu"


def test_a_driver_that_does_not_answer_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = detect(probe=False)
    assert (found.gpu_name, found.device) == (None, "cpu")


@pytest.mark.parametrize(
    ("cpuinfo", "found"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni\n", True),
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 fma avx512f\n", False),
        ("model name\t: a CPU with avx512_bf16 in its name\nflags\t\t: fpu\n", False),
        ("", False),
    ],
)
def test_bfloat16_units_are_read_from_the_flags(cpuinfo: str, found: bool) -> None:
    assert has_bf16(cpuinfo) is found


def test_this_machine_is_found() -> None:
    found = detect(probe=False)
    assert found.cores == usable_cores()
    assert found.ram_bytes is not None
    assert found.ram_bytes > 2**20
    assert found.gemm_gflops is None


def test_the_probe_measures_this_machine() -> None:
    assert 0.5 < probe_gflops(0.02) < 100_000
