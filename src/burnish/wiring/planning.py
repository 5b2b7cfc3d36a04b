"""What the plan stage needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.core.artifacts import Manifest, Plan
from burnish.core.errors import BaseModelError
from burnish.core.recipe import Recipe
from burnish.store.home import Home
from burnish.wiring.base import Base
from burnish.wiring.samples import asked_order, train_samples
from burnish.wiring.starting import check_start, start_of

if TYPE_CHECKING:
    from burnish.core.artifacts import Probe
    from burnish.core.ids import Id
    from burnish.core.mix import RunOrder
    from burnish.core.packing import Length
    from burnish.plan.calibrate import RunError
    from burnish.plan.solve import Inputs


def plan_inputs(recipe: Recipe, base: Base, manifest: Manifest, home: Home) -> dict[str, Any]:
    """Return everything that decides the plan: base, dataset, method, loop, and the machine it is for."""
    from burnish.plan.hardware import detect

    hardware, start = detect(probe=False), start_of(recipe, home)
    return {
        "name": recipe.name,
        "base": base.files.ref.model_dump(mode="json"),
        "manifest": manifest.id,
        "method": recipe.method.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json"),
        **_ratios(recipe),
        **({"objective": recipe.objective.model_dump(mode="json")} if recipe.objective.pairs else {}),
        **({} if start is None else {"start": start.id}),
        "evaluate": recipe.evaluate.model_dump(mode="json"),
        "seed": recipe.seed,
        "machine": [hardware.device, hardware.cores, hardware.cpu_bf16, hardware.gpu_name],
    }


def plan(recipe: Recipe, base: Base, manifest: Manifest, home: Home) -> Plan:
    """Resolve every number of the run from the dataset that was prepared."""
    from burnish.plan.hardware import detect

    made = _prepared_inputs(recipe, base, manifest, home).plan(detect())
    start = start_of(recipe, home)
    if start is not None:
        check_start(recipe, start, made.base, made.method)
    return made


def _prepared_inputs(recipe: Recipe, base: Base, manifest: Manifest, home: Home) -> Inputs:
    from burnish.plan.bases import read_config
    from burnish.plan.solve import Inputs

    lengths, order = _rows(recipe, manifest, home)
    start = start_of(recipe, home)
    return Inputs(
        recipe=recipe,
        base=base.files.ref,
        config=read_config(base.files.folder / "config.json"),
        manifest=manifest,
        data_bytes=None,
        token_lengths=lengths,
        order=order,
        start=None if start is None else start.id,
        errors=stored_errors(home),
        probes=stored_probes(home),
    )


def _ratios(recipe: Recipe) -> dict[str, Any]:
    ratios = {name: source.ratio for name, source in recipe.sources().items() if source.ratio is not None}
    return {"ratios": list(ratios.items())} if ratios else {}


def _rows(recipe: Recipe, manifest: Manifest, home: Home) -> tuple[list[Length], RunOrder | None]:
    """Return the lengths of what is trained on, and the order that the recipe asks for."""
    samples = train_samples(manifest, home)
    return samples.lengths, asked_order(recipe, manifest, home, samples)


def shape_of(base: str) -> Mapping[str, Any]:
    """Return the config.json of a base: a folder's, a bundled one, or for a Hub id the one in its cache.

    Raises BaseModelError with the nearest known names.
    """
    from burnish.plan.bases import find_config, read_config

    try:
        return find_config(base)
    except BaseModelError as unknown:
        from burnish.model.bases import HUB_ID

        if Path(base).expanduser().is_dir() or not HUB_ID.match(base):
            raise
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(base, "config.json")
        if not isinstance(cached, str):
            raise BaseModelError(f"{unknown} Or fetch the shape alone: hf download {base} config.json") from None
        return read_config(Path(cached))


def planning_inputs(recipe: Recipe, home: Home, prices: Path | None = None) -> Inputs:
    """Gather what a plan is made of but the machine: the newest dataset of this data, or the size of the file."""
    from burnish.data.sources.fingerprint import data_fingerprint
    from burnish.data.sources.read import stored_bytes
    from burnish.plan.bases import reference
    from burnish.plan.prices import read_prices
    from burnish.plan.solve import Inputs

    config = shape_of(recipe.base)
    raw = data_fingerprint(recipe)
    manifests = [m for m in home.all(Manifest) if m.settings.get("data_sha256") == raw]
    said = (recipe.system, recipe.template or None)
    newest = manifests[-1] if manifests else None
    same = newest is not None and (newest.fingerprint.system, newest.fingerprint.variables) == said
    same = same and newest is not None and newest.of_pairs == recipe.objective.pairs
    manifest = newest if same else None
    lengths = order = None
    if manifest is not None and home.is_whole(manifest):
        lengths, order = _rows(recipe, manifest, home)
    start = start_of(recipe, home)
    return Inputs(
        recipe=recipe,
        base=reference(recipe.base, config),
        config=config,
        manifest=manifest,
        data_bytes=sum(stored_bytes(source.path) or 0 for source in recipe.sources().values()),
        token_lengths=lengths,
        order=order,
        start=None if start is None else start.id,
        prices=read_prices(prices),
        errors=stored_errors(home),
        probes=stored_probes(home),
    )


def stored_probes(home: Home) -> dict[Id, Probe]:
    """Return the probes of the home by the content of their shape."""
    from burnish.core.artifacts import Probe
    from burnish.core.ids import content_id

    return {content_id(probe.shape): probe for probe in home.all(Probe)}


def stored_errors(home: Home) -> list[RunError]:
    """Return predicted against measured of every run of the home."""
    from burnish.core.artifacts import Adapter, EvalReport
    from burnish.plan.calibrate import run_errors

    plans = {plan.id: plan for plan in home.all(Plan)}
    reports = {report.adapter: report for report in home.all(EvalReport)}
    adapters = [adapter for adapter in home.all(Adapter) if adapter.plan in plans]
    return run_errors([(plans[each.plan], each, reports.get(each.id)) for each in adapters])


def estimate(recipe: Recipe, home: Home) -> Plan:
    """Plan for this machine without fetching weights or loading anything."""
    from burnish.plan.hardware import detect

    return planning_inputs(recipe, home).plan(detect())
