"""How long a probe is: 20 steps, and more while they do not say what a step takes."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest

from burnish.train.probe import BLOCK, KNOWN, MORE_SECONDS, MOST_STEPS, STEPS, WARM_UP, enough, error_of_mean, timed

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def wandering(steps: int, seed: int) -> list[float]:
    """Seconds that stay slow or fast for ten steps, as those of a host that others share (plan_time_h200.jsonl)."""
    draw, found = random.Random(seed), list[float]()
    while len(found) < steps:
        found += [0.2 * draw.choice((0.8, 0.9, 1.0, 1.1, 1.2))] * 10
    return found[:steps]


def test_the_error_of_a_mean_by_hand() -> None:
    blocks = [1.0] * BLOCK + [1.2] * BLOCK
    assert error_of_mean(blocks) == pytest.approx(statistics.stdev([1.0, 1.2]) / math.sqrt(2) / 1.1)
    assert error_of_mean([9.0, *blocks]) == error_of_mean(blocks), "what is before the first whole block does not count"
    assert error_of_mean([1.0] * (2 * BLOCK - 1)) == math.inf, "one block says nothing of how far blocks are apart"


def test_steady_steps_are_probed_by_twenty_and_wandering_ones_by_more() -> None:
    steady = [0.2 + 0.0005 * (at % 2) for at in range(STEPS)]
    assert not enough(steady[:-1], 0.0)
    assert enough(steady, 0.0)
    assert not enough(wandering(40, 1), 0.0)
    assert enough(wandering(40, 1), MORE_SECONDS), "no longer than a person waits for"
    assert enough(wandering(MOST_STEPS, 1), 0.0)


@pytest.mark.parametrize(("steps", "left_out"), [(2, 1), (8, 4), (20, WARM_UP), (60, 12)])
def test_the_first_steps_do_not_count(steps: int, left_out: int) -> None:
    assert timed(range(steps)) == range(left_out, steps)


def test_a_longer_probe_is_nearer_to_what_follows() -> None:
    """What it is for: over many runs that wander, twice as near as twenty steps."""
    off: dict[int, list[float]] = {STEPS: [], 150: []}
    for seed in range(60):
        each = wandering(1150, seed)
        for steps, found in off.items():
            found.append(abs(statistics.fmean(timed(each[:steps])) / statistics.fmean(each[150:]) - 1))
    assert statistics.fmean(off[150]) < statistics.fmean(off[STEPS]) / 2


def test_the_benchmark_ends_a_probe_as_the_plan_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plan_time  # pyright: ignore[reportMissingImports]

    def course(seconds: list[float]) -> Any:
        made = plan_time.Course()
        for each in seconds:
            if made.over:
                break
            made.add(each)
        return made

    steady = course([0.5] * 300)
    assert (steady.probe, len(steady.each)) == (STEPS, STEPS + plan_time.RUN_STEPS)
    wanders = course(wandering(300, 1))
    assert wanders.probe > STEPS
    assert error_of_mean(timed(wanders.each[: wanders.probe])) <= KNOWN or sum(wanders.each[: wanders.probe]) >= 10
    assert wanders.over


def test_the_first_turn_of_the_benchmark_has_each_model_method_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plan_memory  # pyright: ignore[reportMissingImports]
    import plan_time  # pyright: ignore[reportMissingImports]

    plain = plan_time.plain_cells()
    assert len({tuple(cell.items()) for cell in plain}) == len(plain) == 48
    first = plain[:8]
    assert {cell["base"] for cell in first} == set(plan_memory.ARCHITECTURES)
    assert {cell["method"] for cell in first} == set(plan_memory.METHODS)
    assert {cell["row_tokens"] for cell in first} == {512, 2048, 8192}
    assert {cell["recomputed"] for cell in plain[:24]} == set(plan_memory.SHARES)
    own = plan_time.own_cells()
    assert len({tuple(cell.items()) for cell in own}) == 36
    assert len({(cell["base"], cell["kind"]) for cell in own[:12]}) == 6
