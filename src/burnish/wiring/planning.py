"""What the plan stage needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from burnish.core.artifacts import Manifest, Plan
from burnish.core.recipe import Recipe
from burnish.store.home import Home
from burnish.wiring.base import Base
from burnish.wiring.preparing import data_sha256
from burnish.wiring.training import train_rows

if TYPE_CHECKING:
    pass


def plan_inputs(recipe: Recipe, base: Base, manifest: Manifest) -> dict[str, Any]:
    """Return everything that decides the plan: base, dataset, method, loop, and the machine it is for."""
    from burnish.plan.hardware import detect

    hardware = detect(probe=False)
    return {
        "name": recipe.name,
        "base": base.files.ref.model_dump(mode="json"),
        "manifest": manifest.id,
        "method": recipe.method.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json"),
        "evaluate": recipe.evaluate.model_dump(mode="json"),
        "seed": recipe.seed,
        "machine": [hardware.device, hardware.cores, hardware.cpu_bf16, hardware.gpu_name],
    }


def plan(recipe: Recipe, base: Base, manifest: Manifest, home: Home) -> Plan:
    """Resolve every number of the run from the dataset that was prepared."""
    from burnish.plan.bases import read_config
    from burnish.plan.hardware import detect
    from burnish.plan.make import make_plan

    return make_plan(
        recipe,
        base=base.files.ref,
        config=read_config(base.files.folder / "config.json"),
        manifest=manifest,
        data_bytes=None,
        hardware=detect(),
        token_lengths=[
            (row.ids[: row.prefix], row.prefix, len(row.ids) - row.prefix) for row in train_rows(manifest, home)
        ],
    )


def estimate(recipe: Recipe, home: Home) -> Plan:
    """Plan without fetching or loading anything: from the newest dataset of this data, or from the size of the file."""
    from burnish.data.sources.read import stored_bytes
    from burnish.plan.bases import find_config, reference
    from burnish.plan.hardware import detect
    from burnish.plan.make import make_plan

    config = find_config(recipe.base)
    raw = data_sha256(recipe.data)
    manifests = [m for m in home.all(Manifest) if m.settings.get("data_sha256") == raw]
    manifest = manifests[-1] if manifests and manifests[-1].fingerprint.system == recipe.system else None
    lengths = None
    if manifest is not None and home.is_whole(manifest):
        rows = train_rows(manifest, home)
        lengths = [(row.ids[: row.prefix], row.prefix, len(row.ids) - row.prefix) for row in rows]
    return make_plan(
        recipe,
        base=reference(recipe.base, config),
        config=config,
        manifest=manifest,
        data_bytes=stored_bytes(recipe.data),
        hardware=detect(),
        token_lengths=lengths,
    )
