"""What `accelerate estimate-memory` says of models beside what `burnish plan` says, and what an H100 took.

    python benchmarks/beside_accelerate.py           # the two tables of docs/plan.md, on standard output
    python benchmarks/beside_accelerate.py --write   # into docs/plan.md

The command asks the Hub about every model first, so it does not run without a network. Its own functions are called here instead,
on a model made from the same config.json on the meta device, in the lines of its `create_empty_model` and `gather_data`.
Measured are the rows of `results/plan_memory.jsonl` in which every weight trains: a plain loop, weights and states in bfloat16.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plan_memory import predict

from burnish.core.units import format_decimal
from burnish.plan.architecture import Architecture, read_architecture
from burnish.plan.bases import find_config
from burnish.plan.inspect.report import ladder_rows

BASES = ("llama-3.2-1b-instruct", "qwen3-1.7b", "phi-3.5-mini-instruct")
ROWS = Path(__file__).parent / "results" / "plan_memory.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "plan.md"
BEGIN, END = "<!-- benchmarks/beside_accelerate.py begins -->\n", "<!-- and ends -->\n"
BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
RUNGS = {"float32": "fp32", "float16": "bf16", "int8": "int8", "int4": "nf4+dq"}
"""Our rung of the precision ladder for each of its dtypes."""


@dataclass(frozen=True, slots=True)
class Theirs:
    """Bytes of a model that are to be loaded, by dtype, and to be trained with Adam; None where it says N/A."""

    loaded: dict[str, float]
    trained: dict[str, float | None]


def theirs(base: str) -> Theirs:
    """Return what accelerate says."""
    import torch
    from accelerate import init_empty_weights
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes
    from transformers import CONFIG_MAPPING, AutoModel

    values = dict(find_config(base))
    config = CONFIG_MAPPING[values.pop("model_type")](**values)
    with init_empty_weights():
        model = AutoModel.from_config(config, dtype=torch.float32)
    total, _ = calculate_maximum_sizes(model)
    most = {dtype: max(estimate_training_usage(total, dtype).values()) for dtype in BITS}
    trained = {dtype: None if size == -1 else float(size) for dtype, size in most.items()}
    return Theirs({dtype: total * bits / 32 for dtype, bits in BITS.items()}, trained)


def ours(architecture: Architecture) -> dict[str, int]:
    """Return the bytes as loaded by dtype: what get_memory_footprint() of transformers counts."""
    rungs = {row["precision"]: row["predicted_bytes"] for row in ladder_rows(architecture, None)}
    return {dtype: rungs[rung] for dtype, rung in RUNGS.items()}


def measured(base: str) -> list[tuple[str, int, int]]:
    """Return (configuration, measured, predicted) of the rows in which every weight trains, the smallest and the largest peak."""
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    rows = sorted((r for r in rows if r["base"] == base and r["method"] == "full"), key=lambda r: r["peak"])
    return [
        (f"{r['rows']} x {r['row_tokens']} tokens, {r['recomputed']} recomputed", r["peak"], sum(predict(r).values()))
        for r in (rows[0], rows[-1])
    ]


def tables() -> str:
    """Return both tables."""
    return "\n".join([*_loaded(), "", *_trained()]) + "\n"


def _loaded() -> Iterator[str]:
    yield "| as loaded: accelerate / burnish | " + " | ".join(f"{dtype}" for dtype in BITS) + " |"
    yield "|---|" + "--:|" * len(BITS)
    for base in BASES:
        said, own = theirs(base).loaded, ours(read_architecture(find_config(base)))
        cells = [f"{format_decimal(said[dtype])} / {format_decimal(own[dtype])}" for dtype in BITS]
        yield f"| {base} | " + " | ".join(cells) + " |"


def _trained() -> Iterator[str]:
    yield "| every weight trains, bfloat16, one H100 | measured | burnish | accelerate, float16 with Adam |"
    yield "|---|--:|--:|--:|"
    for base in BASES:
        said = theirs(base).trained["float16"]
        assert said is not None, "accelerate has a number for float16"
        for configuration, took, predicted in measured(base):
            own = f"{format_decimal(predicted)} ({predicted / took - 1:+.1%})"
            yield f"| {base}, {configuration} | {format_decimal(took)} | {own} | {format_decimal(said)} ({said / took - 1:+.0%}) |"


def page(text: str) -> str:
    """Return docs/plan.md with the tables as they are now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + tables() + END + after


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(tables())
