"""All that can be said about a base model, as plain values: what arithmetic gives, and what its weights add when they are there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.core.errors import UsageError
from burnish.plan.adapters import ALL_LINEAR, lora_parameters, resolve_targets
from burnish.plan.architecture import Architecture, read_architecture
from burnish.plan.inspect.affine import worked_examples
from burnish.plan.inspect.formats import format_table
from burnish.plan.inspect.ladder import SEEDS_LADDER, SEEDS_MODEL, Measured, ladder
from burnish.plan.inspect.rounding import Scheme
from burnish.plan.inspect.trainable import MEANING, method_table, rank_table, target_sets
from burnish.plan.inspect.tree import module_tree
from burnish.plan.inspect.weights import Matrix, layer_rows, scheme_rows
from burnish.plan.refused import why_refused

RANK_LIMIT = 1024
NORMAL = 1.96
"""Standard errors to the ends of a 95% interval."""


def describe(
    model: str, config: Mapping[str, Any], *, rank: int = 16, targets: Sequence[str] = (ALL_LINEAR,)
) -> dict[str, Any]:
    """Return what the configuration alone tells: counts, ladder, modules, adapters, formats, examples.

    Raises BaseModelError for a config that cannot be counted, RecipeError for unknown targets, UsageError for a rank that is none.
    """
    if not 1 <= rank <= RANK_LIMIT:
        raise UsageError(f"--rank {rank} is outside 1 to {RANK_LIMIT}. Typical: 8 to 64.")
    architecture = read_architecture(config, source=f"config.json of {model}")
    names = resolve_targets(architecture, targets, source=f"inspect {model}")
    trained = lora_parameters(architecture, names, rank)
    return {
        "model": model,
        "architecture": _architecture(architecture),
        "refused": why_refused(config),
        "parameters": {
            "total": architecture.parameters,
            "linear": architecture.linear_weights,
            "embedding": architecture.embedding_parameters,
            "head": architecture.head_parameters,
            "trainable": trained,
        },
        "adapter": {
            "rank": rank,
            "targets": list(names),
            "float32_bytes": 4 * trained,
            "share": trained / architecture.parameters,
        },
        "ladder": ladder_rows(architecture, None),
        "ladder_of_the_course": dict(SEEDS_LADDER) if architecture.parameters == SEEDS_MODEL else None,
        "modules": module_tree(architecture, names, rank),
        "target_sets": {name: list(found) for name, found in target_sets(architecture).items()},
        "ranks": rank_table(architecture),
        "methods": method_table(architecture),
        "methods_mean": dict(MEANING),
        "formats": format_table(),
        "worked": [example.as_json() for example in worked_examples()],
        "weights": None,
        "perplexity": None,
    }


def _architecture(architecture: Architecture) -> dict[str, Any]:
    return {
        "model_type": architecture.model_type,
        "layers": architecture.layers,
        "hidden": architecture.hidden,
        "heads": architecture.heads,
        "key_value_heads": architecture.key_value_heads,
        "head_size": architecture.head_size,
        "intermediate": architecture.intermediate,
        "vocabulary": architecture.vocabulary,
        "context": architecture.context,
        "tied_head": architecture.tied_head,
    }


def ladder_rows(architecture: Architecture, measured: Mapping[str, Measured] | None) -> list[dict[str, Any]]:
    """Return the precision ladder as plain rows."""
    return [
        {
            "precision": rung.name,
            "predicted_bytes": rung.footprint,
            "predicted_constants_bytes": rung.constants,
            "because": rung.because,
            "measured_bytes": rung.measured_footprint,
            "measured_constants_bytes": rung.measured_constants,
        }
        for rung in ladder(architecture, measured)
    ]


def weights_section(matrices: Sequence[Matrix], sample: int) -> dict[str, Any]:
    """Return what the weights show: each matrix, each layer, each scheme over all. Raises UsageError when there are none."""
    if not matrices:
        raise UsageError(
            "no weight matrix of a layer was found: names such as model.layers.0.mlp.up_proj.weight are looked for."
        )
    return {
        "sample": sample,
        "matrices": [matrix.as_json() for matrix in matrices],
        "layers": layer_rows(matrices),
        "schemes": scheme_rows(matrices),
        "symmetric": sum(matrix.fits == "symmetric" for matrix in matrices),
        "asymmetric": sum(matrix.fits == "asymmetric" for matrix in matrices),
    }


def perplexity_rows(
    architecture: Architecture,
    losses: Mapping[str, Sequence[tuple[float, int]]],
    schemes: Mapping[str, Scheme],
) -> list[dict[str, Any]]:
    """Return a row for each format: bytes of the model, perplexity, and by how much its loss exceeds that of fp32.

    losses: (nats, tokens) of each text by name; "fp32" must be among them. The interval is that of the paired difference
    in nats a token, with texts as clusters (Miller 2024, arXiv:2411.00640).
    """
    plain = losses["fp32"]
    rows: list[dict[str, Any]] = []
    for name, found in losses.items():
        tokens = sum(count for _, count in found)
        mean = sum(nats for nats, _ in found) / tokens
        difference, error = _paired(plain, found, tokens)
        rows.append(
            {
                "format": name,
                "bytes": _stored_bytes(architecture, name, schemes.get(name)),
                "perplexity": math.exp(mean),
                "difference": difference,
                "low": difference - NORMAL * error,
                "high": difference + NORMAL * error,
                "texts": len(found),
                "tokens": tokens,
            }
        )
    return rows


def _paired(a: Sequence[tuple[float, int]], b: Sequence[tuple[float, int]], tokens: int) -> tuple[float, float]:
    """Return the mean difference in nats a token, and its standard error over texts (ratio estimate)."""
    deltas = [after - before for (before, _), (after, _) in zip(a, b, strict=True)]
    mean = sum(deltas) / tokens
    spread = sum((delta - mean * count) ** 2 for delta, (_, count) in zip(deltas, a, strict=True))
    return mean, math.sqrt(spread * len(a) / max(1, len(a) - 1)) / tokens


def _stored_bytes(architecture: Architecture, name: str, scheme: Scheme | None) -> int:
    if scheme is None:
        rung = next(rung for rung in ladder(architecture) if rung.name == name)
        return rung.footprint + rung.constants
    bits = sum(
        block.count * linear.weights * scheme.bits_per_weight(linear.outputs, linear.inputs)
        for block in architecture.blocks
        for linear in block.linears
    )
    rest = 2 * (architecture.parameters - architecture.linear_weights) + architecture.buffer_bytes
    return round(bits / 8) + rest
