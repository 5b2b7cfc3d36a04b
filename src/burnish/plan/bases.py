"""Configurations of well-known models, so that a plan needs no weights and no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

from burnish.core.artifacts import BaseRef
from burnish.core.errors import BaseModelError, did_you_mean
from burnish.core.ids import content_id

UNREAD = "config:"
"""Begins the digest of a base whose weights were not read."""


@cache
def known_configs() -> dict[str, dict[str, Any]]:
    """Return the bundled configurations by short name and by Hub id, in lower case."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(resources.files("burnish.plan").joinpath("configs").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".json"):
            config = json.loads(file.read_text(encoding="utf-8"))
            found[file.name.removesuffix(".json")] = config
            found[str(config["_name_or_path"]).lower()] = config
    return found


def find_config(base: str) -> Mapping[str, Any]:
    """Return the config.json of a base: a folder's own, or a bundled one by short name or Hub id.

    Raises BaseModelError with the nearest known names.
    """
    path = Path(base).expanduser()
    if path.is_dir():
        return read_config(path / "config.json")
    found = known_configs().get(base.lower())
    if found is None:
        short = sorted(name for name in known_configs() if "/" not in name)
        raise BaseModelError(
            f'the shape of "{base}" is not known here. Known: {", ".join(short)}.'
            f"{did_you_mean(base.lower(), known_configs())} Or give a folder with its config.json."
        )
    return found


def read_config(path: Path) -> Mapping[str, Any]:
    """Return a config.json. Raises BaseModelError when it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"cannot read {path}: {error}. A base model's folder holds its config.json.") from error
    if not isinstance(value, dict):
        raise BaseModelError(f"{path} holds {type(value).__name__}, not a JSON object.")
    return cast("dict[str, Any]", value)


def reference(base: str, config: Mapping[str, Any]) -> BaseRef:
    """Return a reference to a base whose weights are not here: its digest is that of the configuration, and says so."""
    return BaseRef(name=base, digest=UNREAD + content_id(dict(config)))
