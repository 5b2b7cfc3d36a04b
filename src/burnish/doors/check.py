"""`burnish check`: find mistakes without working."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from burnish import wiring
from burnish.core.events import discard
from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes, format_seconds
from burnish.store.home import Home


def check(recipe: Recipe, home: Home) -> dict[str, Any]:
    """Look for mistakes: read every row as `prepare` would, in a throw-away folder, and plan. Nothing is kept.

    Raises what the stages would raise.
    """
    base = wiring.open_base(recipe.base, discard)
    with tempfile.TemporaryDirectory() as folder:
        trial = Home(Path(folder))
        at = trial.folder("prepare", "check")
        manifest = wiring.prepare(recipe, base, trial, at, discard)
        plan = wiring.plan(recipe, base, manifest, trial)
    ledger = manifest.ledger
    found: dict[str, Any] = {
        "recipe": recipe.name,
        "base": f"{plan.base.name} ({short(plan.base.digest)})",
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
