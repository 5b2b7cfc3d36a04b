"""Configurations of well-known models, so that a plan needs no weights and no network."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

from burnish.core.artifacts import BaseRef
from burnish.core.errors import BaseModelError
from burnish.core.ids import content_id
from burnish.store.weights import other_weights

UNREAD = "config:"
"""Begins the digest of a base whose weights were not read."""


NEAR_NAMES = 3
"""Names that are offered for one that is not known."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A well-known model. `also`: Hub ids of the same shape; `parameters`: the count it is published with."""

    name: str
    id: str
    also: tuple[str, ...]
    config: Mapping[str, Any]
    parameters: int
    source: str
    date: str


@cache
def known_models() -> tuple[KnownModel, ...]:
    """Return the table of models.json."""
    table = json.loads(resources.files("burnish.plan").joinpath("models.json").read_text(encoding="utf-8"))
    return tuple(KnownModel(**(row | {"also": tuple(row["also"])})) for row in table)


@cache
def known_configs() -> dict[str, Mapping[str, Any]]:
    """Return the bundled configurations by every name of `_by_name`."""
    return {name: model.config for name, (model, _) in _by_name().items()}


@cache
def _by_name() -> dict[str, tuple[KnownModel, str]]:
    """Return (model, Hub id) by short name, by every Hub id, and by what stands after the owner in it, in lower case."""
    found: dict[str, tuple[KnownModel, str]] = {}
    for model in known_models():
        found[model.name.lower()] = model, model.id
    for model in known_models():
        for name in (model.id, *model.also):
            found[name.lower()] = model, name
            found.setdefault(name.lower().rpartition("/")[2], (model, name))
    return found


def find_config(base: str) -> Mapping[str, Any]:
    """Return the config.json of a base: a folder's own, that file itself, or a bundled one by short name or Hub id.

    Raises BaseModelError with the nearest known names.
    """
    path = Path(base).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise BaseModelError(f'the folder "{path.resolve()}" holds no config.json. {other_weights(path)}')
        return read_config(path / "config.json")
    if path.is_file():
        if path.suffix != ".json":
            raise BaseModelError(
                f'"{base}" is a file; give its folder, which holds config.json as well, or config.json.'
            )
        return read_config(path)
    if base.startswith((".", "/", "~")):
        raise BaseModelError(f'there is no folder "{base}" (looked in {Path.cwd()}); it should hold a config.json.')
    found = known_configs().get(base.lower())
    if found is None:
        near = nearest_names(base)
        said = (
            f" Nearest: {', '.join(near)}." if near else f" Known: {', '.join(model.name for model in known_models())}."
        )
        raise BaseModelError(f'the shape of "{base}" is not known here.{said} Or give a folder with its config.json.')
    return found


def published_id(base: str) -> str:
    """Return the Hub id of a model that is known by a short name; any other name as it is."""
    found = None if "/" in base else _by_name().get(base.lower())
    return base if found is None else found[1]


def stored_quantised(config: Mapping[str, Any]) -> str | None:
    """Return how a model's files hold its weights where that is quantised, such as "gptq"; None where it is not."""
    said = config.get("quantization_config")
    if not isinstance(said, dict):
        return None
    return str(cast("dict[str, Any]", said).get("quant_method") or "quantised")


def nearest_names(base: str) -> list[str]:
    """Return the short names of known models that look most like `base`, the nearest first."""
    wanted = base.lower().rpartition("/")[2]
    short = {name.rpartition("/")[2]: model.name for model in known_models() for name in _names(model)}
    near = difflib.get_close_matches(wanted, short, n=2 * NEAR_NAMES, cutoff=0.5)
    return list(dict.fromkeys(short[name] for name in near))[:NEAR_NAMES]


def _names(model: KnownModel) -> list[str]:
    return [name.lower() for name in (model.name, model.id, *model.also)]


def read_config(path: Path) -> Mapping[str, Any]:
    """Return a config.json. Raises BaseModelError when it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelError(f"cannot read {path}: {error}. A base model's folder holds its config.json.") from error
    if not isinstance(value, dict):
        raise BaseModelError(f"{path} holds {type(value).__name__}, not a JSON object.")
    return cast("dict[str, Any]", value)


def reference(base: str, config: Mapping[str, Any]) -> BaseRef:
    """Return a reference to a base whose weights are not here: its digest is that of the configuration, and says so."""
    return BaseRef(name=base, digest=UNREAD + content_id(dict(config)))
