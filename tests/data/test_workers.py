"""Work in other processes gives what it gives here, in order; a process that dies is an error that says so."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from preparing import Prepare

from burnish.core.errors import DataError, ResourceError
from burnish.data.workers import processes_for, spread


@dataclass(frozen=True)
class Square:
    """What each process is told; it lies in this file, which the processes can import as the tests do."""

    plus: int

    def worker(self) -> Callable[[int], int]:
        return self.work

    def work(self, number: int) -> int:
        if number == 13:
            raise DataError("thirteen is refused")
        if number == 666:
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdout.write("noise that must not get between the results\n")
        return number * number + self.plus


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_order_of_the_tasks(processes: int) -> None:
    numbers = [n for n in range(50) if n != 13]
    assert list(spread(Square(1), numbers, processes)) == [n * n + 1 for n in numbers]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_ours_is_raised_here_with_its_words(processes: int) -> None:
    results = spread(Square(0), [1, 2, 13, 4], processes)
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(DataError, match="thirteen is refused"):
        next(results)


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(ResourceError, match=r"signal 9\).*memory"):
        list(spread(Square(0), [1, 666, 3], 2))


def test_tasks_are_taken_only_as_fast_as_results_are(capfd: pytest.CaptureFixture[str]) -> None:
    taken: list[int] = []

    def tasks() -> object:
        for number in range(100, 200):
            taken.append(number)
            yield number

    results = spread(Square(0), tasks(), 2)  # pyright: ignore[reportArgumentType]
    next(results)
    assert len(taken) <= 10
    results.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_small_data_needs_no_other_process_and_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes_for(1000) == 1
    assert processes_for(1 << 30) == len(os.sched_getaffinity(0))
    monkeypatch.setenv("BURNISH_PROCESSES", "3")
    assert processes_for(1000) == 3
    monkeypatch.setenv("BURNISH_PROCESSES", "many")
    with pytest.raises(ResourceError, match="BURNISH_PROCESSES is 'many'"):
        processes_for(1000)


def test_a_dataset_is_the_same_whatever_the_number_of_processes(
    run_prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"instruction": f"say {n} to ann{n % 7}@example.com", "response": str(n % 50)} for n in range(3000)]
    lines = [*rows, b"broken", *rows[:100]]
    one = run_prepare(lines, folder="one")
    monkeypatch.setenv("BURNISH_PROCESSES", "2")
    two = run_prepare(lines, folder="two")
    assert one.manifest.id == two.manifest.id
    names = sorted(path.name for path in one.folder.iterdir())
    assert names == sorted(path.name for path in two.folder.iterdir())
    for name in names:
        assert Path(one.folder / name).read_bytes() == Path(two.folder / name).read_bytes()
