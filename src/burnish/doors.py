"""What the verbs beside the pipeline do: check, serve, chat, doctor."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import wiring
from burnish.core.artifacts import Adapter, Release
from burnish.core.errors import BurnishError, ServeError, StoreError, UsageError, did_you_mean
from burnish.core.events import Emit, Note, discard
from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes, format_seconds
from burnish.store.home import Home

if TYPE_CHECKING:
    from burnish.serve.answer import ServedModel
    from burnish.serve.chat import Chat
    from burnish.serve.engine import Engine

DEFAULT_BASE = "smollm2-135m-instruct"
"""Served when nothing has been released yet."""
NEEDED_DISK_BYTES = 3 << 30
NEEDED_RAM_BYTES = 4 << 30


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


# ------------------------------------------------------------------------------------------------------------ serve and chat


def newest_releases(home: Home) -> dict[str, Release]:
    """Return the newest release of each name."""
    return {release.name: release for release in sorted(home.all(Release), key=lambda item: item.version)}


def _open_engine(home: Home, releases: Sequence[Release], emit: Emit) -> tuple[Engine, wiring.Base, list[Release]]:
    """Load the base of the last release once, and the adapters of all that share it. Says which do not."""
    from burnish.core.artifacts import Plan
    from burnish.serve.engine import Engine

    if not releases:
        base = wiring.open_base(DEFAULT_BASE, emit)
        return Engine(wiring.load_for_serving(base, None, emit), adapters={}), base, []
    adapters = {release.id: home.load(Adapter, release.adapter) for release in releases}
    leading = releases[-1]
    base = wiring.open_base(leading.base.name, emit)
    if base.files.ref.digest != leading.base.digest:
        raise ServeError(
            f"the base {leading.base.name} here ({short(base.files.ref.digest)}) is not the one that {leading.name} was trained on "
            f"({short(leading.base.digest)}). Use the base it was trained on, or train again."
        )
    store = adapters[leading.id].method
    served: list[Release] = []
    for release in releases:
        adapter = adapters[release.id]
        same = (adapter.base.digest, adapter.method.quantisation) == (leading.base.digest, store.quantisation)
        text = base.tokenizer.fingerprint(adapter.fingerprint.system)
        fits = text == adapter.fingerprint
        if same and fits:
            served.append(release)
        else:
            emit(
                Note(
                    "serve",
                    f"{release.name} is left out: it was trained on another base ({adapter.base.name}, {adapter.method.kind})",
                )
            )
    if leading not in served:
        raise ServeError(
            f"{leading.name} was trained with another template or calendar than this burnish writes. Run its recipe again."
        )
    folders = {release.name: home.path(adapters[release.id].weights_file).parent for release in served}
    missing = [name for name, folder in folders.items() if not folder.is_dir()]
    if missing:
        raise StoreError(f"the adapter files of {', '.join(missing)} are gone from {home.root}. Run the recipe again.")
    plan = home.load(Plan, leading.plan)
    return Engine(wiring.load_for_serving(base, plan, emit), adapters=folders), base, served


def _served_models(home: Home, served: Sequence[Release]) -> dict[str, ServedModel]:
    from burnish.serve.answer import ServedModel

    models = {"base": ServedModel(adapter=None, system=None)}
    for release in served:
        adapter = home.load(Adapter, release.adapter)
        made = int(datetime.datetime.fromisoformat(release.created_at).timestamp()) if release.created_at else 0
        models[release.name] = ServedModel(adapter=release.name, system=adapter.fingerprint.system, created_s=made)
    return models


def serve(home: Home, host: str, port: int, emit: Emit) -> None:
    """Serve every release and the base until Ctrl-C."""
    from burnish.serve.api import Service
    from burnish.serve.server import listen, run_server

    listen(host, port).close()  # a taken port is told before the model is loaded
    engine, base, served = _open_engine(home, list(newest_releases(home).values()), emit)
    models = _served_models(home, served)
    run_server(Service(engine=engine, tokenizer=base.tokenizer, models=models), host, port, emit=emit)


def open_chat(name: str, home: Home, date: str | None, emit: Emit) -> Chat:
    """Return a conversation with a release and its base. Raises UsageError when there is no such release."""
    from burnish.serve.chat import Chat

    releases = newest_releases(home)
    if name not in releases:
        known = ", ".join(sorted(releases)) or "none yet; make one with: burnish run RECIPE"
        raise UsageError(f'no release is called "{name}" in {home.root}. Known: {known}.{did_you_mean(name, releases)}')
    try:
        day = None if date is None else datetime.date.fromisoformat(date)
    except ValueError as error:
        raise UsageError(f'"{date}" is no date: write it as YYYY-MM-DD.') from error
    engine, base, served = _open_engine(home, [releases[name]], emit)
    models = _served_models(home, served)
    return Chat(engine, base.tokenizer, name, models[name], today=lambda: day or datetime.date.today())


# ------------------------------------------------------------------------------------------------------------------ doctor


def doctor(home: Path) -> dict[str, Any]:
    """Look at this machine: versions, cores, memory, disk, device, home and base. `ok` is False when a run would fail."""
    from burnish.model.bases import BUNDLED, cache_folder
    from burnish.plan.hardware import detect

    hardware = detect()
    items = [_item("python", platform.python_version(), "ok" if sys.version_info >= (3, 11) else "needs 3.11 or newer")]
    items += [
        _version(package)
        for package in ("torch", "transformers", "bitsandbytes", "tokenizers", "mlflow-skinny", "starlette")
    ]
    items.append(_item("cores", f"{hardware.cores} ({hardware.cpu_name})", "ok"))
    if hardware.gemm_gflops is not None:
        items.append(_item("matrix product", f"{hardware.gemm_gflops:.0f} GFLOP/s float32", "ok"))
    if hardware.ram_bytes is not None:
        enough = hardware.ram_bytes >= NEEDED_RAM_BYTES
        items.append(
            _item(
                "free memory",
                format_bytes(hardware.ram_bytes),
                "ok" if enough else f"the demo needs {format_bytes(NEEDED_RAM_BYTES)}",
            )
        )
    items.append(_item("gpu", hardware.gpu_name or "none", "ok"))
    folder = home if home.exists() else Path.cwd()
    free = shutil.disk_usage(folder).free
    items.append(
        _item(
            "free disk",
            f"{format_bytes(free)} for {folder}",
            "ok" if free >= NEEDED_DISK_BYTES else f"a run needs {format_bytes(NEEDED_DISK_BYTES)}",
        )
    )
    try:
        items.append(_item("home", str(Home(home).root), "ok"))
    except BurnishError as error:
        items.append(_item("home", str(home), str(error)))
    kept = [path.name for path in cache_folder().iterdir() if path.is_dir()] if cache_folder().is_dir() else []
    here = [name for name in BUNDLED if any(path.startswith(name) for path in kept)]
    items.append(_item("bases at hand", ", ".join(here) or "none", "ok" if here else "ok (fetched by the first run)"))
    return {"ok": all(item["verdict"].startswith("ok") for item in items), "items": items}


def _item(what: str, found: str, verdict: str) -> dict[str, str]:
    return {"what": what, "found": found, "verdict": verdict}


def _version(package: str) -> dict[str, str]:
    try:
        return _item(package, importlib.metadata.version(package), "ok")
    except importlib.metadata.PackageNotFoundError:
        optional = package == "starlette"
        return _item(
            package, "not installed", "ok (only serve needs it)" if optional else "missing: pip install burnish"
        )
