"""What `burnish inspect` found, as terminal tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish.core.units import format_count, format_decimal
from burnish.terminal import line, paragraph, table


def print_inspection(found: dict[str, Any], report: Path | None) -> None:
    """Print counts, ladder, modules, adapters, formats, examples, and what the weights add."""
    shape, numbers = found["architecture"], found["parameters"]
    line(
        f"{found['model']}: {shape['model_type']}, {numbers['total']:,} parameters, "
        f"{numbers['linear']:,} of them in linears of layers"
    )
    line(
        f"{shape['layers']} layers, hidden {shape['hidden']:,}, {shape['heads']} heads over "
        f"{shape['key_value_heads']} of keys and values, vocabulary {shape['vocabulary']:,}, context {shape['context']:,}"
    )
    if found["refused"] is not None:
        paragraph(f"`burnish run` refuses this base: {found['refused']}")
    _ladder(found)
    _modules(found)
    _trainable(found)
    _formats(found)
    for example in found["worked"]:
        line(f"\n{example['title']}")
        for text in example["lines"]:
            line(f"  {text}")
        for step in example["steps"]:
            line(
                f"  {step['value']:>6g} / scale = {step['divided']:>8.4f} -> {step['code']:>4} ({step['bits']}) "
                f"-> {step['back']:.4f}"
            )
    if found["weights"] is not None:
        _weights(found["weights"])
    if found["perplexity"] is not None:
        _perplexity(found["perplexity"])
    if report is not None:
        line(f"report: {report}")


def _ladder(found: dict[str, Any]) -> None:
    course: dict[str, float] = found["ladder_of_the_course"] or {}
    measured = any(row["measured_bytes"] is not None for row in found["ladder"])
    columns = ["precision", "bytes", "size", "constants beside", *(["loaded", "constants loaded"] if measured else [])]
    rows: list[list[str]] = []
    for row in found["ladder"]:
        cells = [
            row["precision"],
            f"{row['predicted_bytes']:,}",
            format_decimal(row["predicted_bytes"]),
            f"{row['predicted_constants_bytes']:,}",
        ]
        cells += [f"{row['measured_bytes']:,}", f"{row['measured_constants_bytes']:,}"] if measured else []
        rows.append(
            [*cells, *([f"{course[row['precision']]:.1f}" if row["precision"] in course else ""] if course else [])]
        )
    table("precision ladder", [*columns, *(["course, GB"] if course else [])], rows)
    if course:
        line(
            "the course's exact byte counts do not follow from the model's shape; ours do, and are as transformers counts"
        )


def _modules(found: dict[str, Any]) -> None:
    rows: list[tuple[str, ...]] = []
    for row in found["modules"]:
        adapter = row["adapter"]
        shapes = "" if adapter is None else f"A {_shape(adapter['lora_A'])}, B {_shape(adapter['lora_B'])}"
        rows.append(
            (
                row["module"],
                _shape(row["shape"]),
                str(row["count"]),
                f"{row['parameters']:,}",
                shapes or row["note"],
            )
        )
    adapter = found["adapter"]
    title = (
        f"modules, and adapters of rank {adapter['rank']}: {found['parameters']['trainable']:,} numbers, "
        f"{adapter['share']:.2%}, {format_decimal(adapter['float32_bytes'])} in float32"
    )
    table(title, ("module", "shape", "how often", "numbers", "adapter"), rows)


def _trainable(found: dict[str, Any]) -> None:
    sets = list(found["target_sets"])
    rows = [(str(row["rank"]), *(f"{row['parameters'][name]:,}" for name in sets)) for row in found["ranks"]]
    table("LoRA: numbers trained, by rank and targets", ("rank", *sets), rows)
    methods = ("lora", "dora", "houlsby", "prefix", "ia3")
    rows = [(str(row["size"]), *(f"{row[name]:,}" for name in methods)) for row in found["methods"]]
    table("numbers trained, by method (size: rank, bottleneck, virtual tokens)", ("size", *methods), rows)


def _formats(found: dict[str, Any]) -> None:
    rows: list[tuple[str, ...]] = []
    for row in found["formats"]:
        if "mantissa" in row:
            split = f"1 + {row['exponent']} + {row['mantissa']}"
            sample = next(each for each in row["examples"] if each["value"] == 0.1)
            rows.append(
                (
                    row["format"],
                    str(row["bits"]),
                    split,
                    f"{row['largest']:.4g}",
                    f"{row['step_at_1']:.3g}",
                    f"0.1 = {sample['bits']} = {sample['stored']:.7g}",
                )
            )
        else:
            rows.append(
                (
                    row["format"],
                    str(row["bits"]),
                    "code",
                    f"{row['highest']:g}",
                    "",
                    f"{row['codes']} codes from {row['lowest']:g}",
                )
            )
    table("formats: sign + exponent + mantissa", ("format", "bits", "split", "largest", "step at 1", "example"), rows)


def _weights(weights: dict[str, Any]) -> None:
    line(
        f"\n{weights['symmetric']} matrices fit without a zero point, {weights['asymmetric']} gain 20% or more from one "
        "(8 bits, one scale a matrix)"
    )
    worst = sorted(weights["matrices"], key=lambda m: -m["kurtosis"])[:5]
    table(
        "heaviest tails (a normal distribution has kurtosis 3)",
        ("matrix", "deviation", "lowest", "highest", "kurtosis", "fits"),
        [
            (
                m["name"].removeprefix("model."),
                f"{m['deviation']:.4f}",
                f"{m['low']:.3f}",
                f"{m['high']:.3f}",
                f"{m['kurtosis']:.1f}",
                m["fits"],
            )
            for m in worst
        ],
    )
    rows = sorted(weights["schemes"], key=lambda row: row["relative_error"])
    whole = "all weights" if not weights["sample"] else f"{weights['sample']:,} weights of each matrix"
    table(
        f"rounding error |w - w'| / |w| over the layers ({whole})",
        ("format", "scale per", "calibration", "bits a weight", "error", "signal to noise"),
        [
            (
                r["format"],
                r["granularity"],
                r["calibration"],
                f"{r['bits_per_weight']:.2f}",
                f"{r['relative_error']:.4f}",
                "lossless" if r["decibels"] is None else f"{r['decibels']:.1f} dB",
            )
            for r in rows
        ],
    )


def _perplexity(rows: list[dict[str, Any]]) -> None:
    table(
        f"perplexity against size ({rows[0]['texts']} texts, {rows[0]['tokens']:,} tokens; nats a token beyond fp32, 95% interval)",
        ("format", "size", "perplexity", "beyond fp32"),
        [
            (
                r["format"],
                f"{format_count(r['bytes'])}B",
                f"{r['perplexity']:.2f}",
                f"{r['difference']:+.4f} ({r['low']:+.4f} to {r['high']:+.4f})",
            )
            for r in sorted(rows, key=lambda row: -row["bytes"])
        ],
    )


def _shape(shape: list[int]) -> str:
    return " x ".join(f"{side:,}" for side in shape)
