"""`burnish doctor`: what this machine has, and whether a run would go."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from burnish.core.errors import BurnishError
from burnish.core.units import format_bytes
from burnish.store.home import Home

NEEDED_DISK_BYTES = 3 << 30
NEEDED_RAM_BYTES = 4 << 30


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
