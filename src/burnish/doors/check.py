"""`burnish check`: find mistakes without working."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from burnish import wiring
from burnish.core.events import discard
from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes, format_seconds
from burnish.store.home import Home

SAMPLED_ROWS = 1000
"""Rows that the format is told by."""


def check(recipe: Recipe, home: Home) -> dict[str, Any]:
    """Look for mistakes: read every row as `prepare` would, in a throw-away folder, and plan. Nothing is kept.

    Raises what the stages would raise.
    """
    base = wiring.open_base(recipe.base, discard, recipe.template)
    with tempfile.TemporaryDirectory() as folder:
        trial = Home(Path(folder))
        at = trial.folder("prepare", "check")
        manifest = wiring.prepare(recipe, base, trial, at, discard)
        plan = wiring.plan(recipe, base, manifest, trial)
        told = _format(recipe)
    ledger = manifest.ledger
    found: dict[str, Any] = {
        "recipe": recipe.name,
        "base": f"{plan.base.name} ({short(plan.base.digest)})",
        "format": told,
        "rows in": ledger.rows_in,
        "rows kept": ledger.rows_kept,
        "rejected": ", ".join(f"{reason}: {count}" for reason, count in sorted(ledger.rejected.items())) or "none",
        "splits": ", ".join(f"{name}: {split.rows} rows" for name, split in manifest.splits.items()),
        "trained tokens": manifest.splits["train"].trained_tokens,
        "steps": plan.train.steps,
        "peak memory": format_bytes(plan.memory.peak_bytes),
        "time": format_seconds(plan.time.total.mid),
        "fits": {True: "yes", False: "NO", None: "unknown"}[plan.fits],
        "gate": ", ".join(f"{metric} {minimum:g}" for metric, minimum in recipe.gate.items()) or "none",
    }
    return found


def _format(recipe: Recipe) -> str:
    """Say what the rows look like, and why, from the first of them."""
    from burnish.data.formats.detect import detect
    from burnish.data.sources.read import read

    told: list[str] = []
    for name, source in recipe.sources().items():
        if source.columns is not None:
            says = "as the recipe's columns say"
        else:
            values = [row.value for row in islice(read(source.path), SAMPLED_ROWS) if row.value is not None]
            found = detect(values)
            says = f"{found.format or 'none'} ({found.confidence:.0%}): {found.why}"
        told.append(says if isinstance(recipe.data, str) else f"{name}: {says}")
    return "; ".join(told)
