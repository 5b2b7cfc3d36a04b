"""Constants of the plan's seconds on a GPU, fitted to measured rows and written to src/burnish/plan/constants.json.

    python benchmarks/fit_constants.py own benchmarks/results/own_loop_memory_h200.jsonl benchmarks/results/train.jsonl
    python benchmarks/fit_constants.py plain benchmarks/results/plan_memory.jsonl
    ... --write                              # else it only prints what it found

Each constant is moved up and down by shrinking factors, within bounds that physics gives, while the mean absolute logarithm of
predicted over measured falls (it asks as much of short steps as of long ones, and outliers do not decide). Only rows of the part
`fit` are looked at; errors are told of those and of the held-out ones. Rows of train.jsonl (the 8B shape, on other hosts, where
launching must not be told to take longer than the step did) have no part: they are looked at, each as the median of its kind, and
told apart. No GPU, no torch.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import own_loop_memory
import plan_time

from burnish.core.artifacts import Interval, MethodPlan
from burnish.plan import constants
from burnish.plan.adapters import resolve_targets
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config
from burnish.plan.gpus import find_gpu
from burnish.plan.hardware import rented
from burnish.plan.time import TrainWork, rates, train_seconds

FILE = Path(constants.__file__).with_name("constants.json")
OWN: dict[str, tuple[float, float]] = {
    "cuda_pass_seconds": (1e-4, 2e-2),
    "cuda_recompute_share": (0.05, 0.68),  # twice what the operations of launches.py say: 67 for 50
    "cuda_nf4_pass_seconds": (1e-5, 5e-3),
}
"""Bounds of what the host launches. The GPU's own shares are not fitted to these small models, whose launching decides nearly all:
they are those of large ones (benchmarks/results/train.jsonl)."""
PLAIN: dict[str, tuple[float, float]] = {
    "plain_product_share": (0.3, 0.8),
    "plain_attention_share": (0.1, 0.8),
    "plain_norm_bytes": (20, 400),
    "plain_rotary_bytes": (10, 120),
    "plain_feed_forward_bytes": (10, 80),
    "plain_adapter_bytes": (4, 60),
    "plain_logit_bytes": (20, 80),
    "plain_update_bytes": (12, 30),
    "plain_nf4_bytes": (2, 8),
    "plain_launch_seconds": (2e-6, 5e-5),
    "plain_backward_launches": (1, 4),
    "plain_adapter_launches": (5, 25),
    "plain_nf4_launches": (3, 25),
    "plain_recompute_launches": (0.8, 2),
    "plain_step_seconds": (0, 0.02),
}
FACTORS = (2.0, 1.4, 1.2, 1.1, 1.05, 1.02, 1.01)
Row = Mapping[str, Any]


@contextmanager
def instead(values: Mapping[str, float]) -> Any:
    """Within the block the plan goes by these values."""
    table = constants.constants()
    before = dict(table)
    table.update({name: replace(before[name], value=value) for name, value in values.items()})
    try:
        yield
    finally:
        table.update(before)


def of_the_8b_shape(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of burnish's adapters on the 8B shape among those of train.jsonl: of each kind the median."""
    kinds: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.get("who") == "burnish" and row["model"] == "llama-3.1-8b-shape" and row["method"] != "full":
            kind = row["base_dtype"], row["rows"], row["checkpointed_layers"], row["row_tokens"]
            kinds.setdefault(kind, []).append(row)
    return [
        {
            **each[-1],
            "seconds": statistics.median(row["step_s"] for row in each),
            "gpu": each[-1]["device"],
            "part": "8B",
        }
        for each in kinds.values()
    ]


def planned_training(row: Row) -> Interval:
    """Return the seconds that the plan gives for a row of train.jsonl of the 8B shape."""
    llama, nf4 = read_architecture(find_config("llama-3.1-8b-instruct")), row["base_dtype"] == "nf4"
    method = MethodPlan(
        kind=row["method"], rank=row["rank"], alpha=32.0, dropout=0.0, double_quantisation=nf4,
        targets=resolve_targets(llama, ("all-linear",), source="x"), quantisation="nf4" if nf4 else "none",
        base_dtype=row["base_dtype"] if row["base_dtype"].startswith("fp8") else None,
    )  # fmt: skip
    tokens = round(row["tok_s"] * row["step_s"])
    work = TrainWork(
        tokens=tokens, trained=tokens, seen=1024 if row["rows"] == "full" else 150,
        packed_rows=8192 // row["row_tokens"], steps=1, checkpointed_layers=row["checkpointed_layers"],
    )  # fmt: skip
    return train_seconds(llama, method, work, "cuda", rates(rented(find_gpu(row["device"])), "cuda"))


def planned(row: Row) -> float:
    """Return the seconds of a step that the plan gives for a row of any of the files."""
    if "who" in row:
        return planned_training(row).mid
    if "kind" in row:
        return own_loop_memory.seconds_of(own_loop_memory.plan_of(dict(row)))
    return plan_time.planned_plain(dict(row), row["gpu"])


def off(rows: Sequence[Row], values: Mapping[str, float]) -> list[float]:
    """Return log(predicted / measured) of each row."""
    with instead(values):
        return [math.log(planned(row) / row["seconds"]) for row in rows]


def fit(names: Mapping[str, tuple[float, float]], cost: Callable[[Mapping[str, float]], float]) -> dict[str, float]:
    """Move one constant at a time while that helps, by smaller and smaller factors."""
    found = {name: min(max(constants.constant(name), low), high) for name, (low, high) in names.items()}
    best = cost(found)
    for factor in FACTORS:
        moved = True
        while moved:
            moved = False
            for name, (low, high) in names.items():
                for tried in (found[name] * factor, found[name] / factor):
                    values = {**found, name: min(max(tried, low), high)}
                    now = cost(values)
                    if now < best - 1e-6:
                        found, best, moved = values, now, True
    return found


def tell(part: str, rows: Sequence[Row], values: Mapping[str, float]) -> str:
    """Return one line about the errors."""
    errors = [math.exp(each) - 1 for each in off(rows, values)]
    near = sum(abs(error) <= 0.2 for error in errors)
    return f"{part}: {near} of {len(rows)} within 20%, mean {statistics.fmean(map(abs, errors)):.1%}"


def main() -> None:
    """Fit, print, and write when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("own", "plain"))
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = [json.loads(line) for path in options.rows for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if "seconds" in row and "who" not in row] + of_the_8b_shape(rows)
    fitted = [row for row in rows if row["part"] in ("fit", "8B")]
    names = OWN if options.what == "own" else PLAIN
    before = {name: constants.constant(name) for name in names}
    found = fit(names, lambda values: statistics.fmean(map(abs, off(fitted, values))))
    devices = sorted({row["gpu"] for row in fitted})
    for part in ("fit", "8B", "held-out"):
        chosen = [row for row in rows if row["part"] == part]
        if chosen:
            print(f"before, {tell(part, chosen, before)}; after, {tell(part, chosen, found)}")
    for name, value in found.items():
        bound = " (at its bound)" if value in names[name] else ""
        print(f"{name}: {before[name]:.4g} -> {value:.4g}{bound}")
    if options.write:
        table = json.loads(FILE.read_text(encoding="utf-8"))
        files = ", ".join(path.name for path in options.rows)
        source = f"benchmarks/fit_constants.py {options.what}: {len(fitted)} rows on {', '.join(devices)} ({files}), within bounds"
        for name, value in found.items():
            table[name] |= {
                "value": float(f"{value:.3g}"),
                "source": source,
                "date": datetime.now(UTC).date().isoformat(),
            }
        FILE.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
