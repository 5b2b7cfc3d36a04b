"""The state of a run on disk: trained weights and optimizer states as safetensors, everything else as readable JSON.

No random state is stored: what is random in a step is drawn from (seed, step). A checkpoint is written beside, flushed and
renamed, so a folder `step-*` is whole; one that is not (a failing disk) is recognised by its hashes and passed over.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from burnish.core.errors import TrainingError
from burnish.core.ids import file_sha256
from burnish.store.files import sync_folder, unwritable, write_bytes, write_json

KEEP = 2
WEIGHTS, OPTIMIZER, STATE = "adapter", "optimizer", "state.json"
PIECE_BYTES = 512 * 2**20
"""Tensors are written in files of about so much, so that no second copy of all of them is ever in memory."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands: steps done, the length of its event file then, the plan it follows, and the scale of its loss."""

    step: int
    plan: str
    events_bytes: int
    sha256: dict[str, str]
    loss_scale: tuple[float, int] = (1.0, 0)


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    states: Mapping[str, Tensor],
    *,
    step: int,
    plan: str,
    events_bytes: int,
    loss_scale: tuple[float, int] = (1.0, 0),
) -> Path:
    """Write `folder/step-N` and remove all but the last two. states: of the optimizers, by name.

    Raises StoreError or ResourceError when it cannot.
    """
    target = folder / f"step-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():  # left over, not whole: a whole one would have been resumed from
            shutil.rmtree(target)
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".writing-"))
        _write_pieces(scratch, WEIGHTS, {name: parameter.detach() for name, parameter in parameters.items()})
        _write_pieces(scratch, OPTIMIZER, states)
        hashes = {path.name: file_sha256(path) for path in sorted(scratch.iterdir())}
        state = RunState(step, plan, events_bytes, hashes, loss_scale)
        write_json(scratch / STATE, asdict(state))
        scratch.rename(target)
        sync_folder(folder)
        for old in _whole_or_not(folder)[:-KEEP]:
            shutil.rmtree(old)
    except OSError as error:
        raise unwritable(target, error) from error
    return target


def _write_pieces(folder: Path, stem: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as `stem.safetensors`, `stem-2.safetensors` and so on."""
    pieces: list[dict[str, Tensor]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        if held and held + tensor.nbytes > PIECE_BYTES:
            pieces.append({})
            held = 0
        pieces[-1][name] = tensor
        held += tensor.nbytes
    for number, piece in enumerate(pieces, start=1):
        file = f"{stem}.safetensors" if number == 1 else f"{stem}-{number}.safetensors"
        write_bytes(folder / file, save({name: tensor.contiguous() for name, tensor in piece.items()}))


def _read_pieces(folder: Path, stem: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted([folder / f"{stem}.safetensors", *folder.glob(f"{stem}-*.safetensors")]):
        found |= load_file(path)
    return found


def latest_checkpoint(folder: Path, plan: str) -> tuple[Path, RunState] | None:
    """Return the newest whole checkpoint, or None. Raises TrainingError if it belongs to another plan."""
    for scratch in folder.glob(".writing-*"):
        shutil.rmtree(scratch)
    for path in reversed(_whole_or_not(folder)):
        state = _read_state(path)
        if state is None:
            continue
        if state.plan != plan:
            raise TrainingError(
                f"{path} belongs to plan {state.plan[:12]}, not {plan[:12]}. Train in another folder, or remove it."
            )
        return path, state
    return None


def load_checkpoint(path: Path, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Put the weights back, bit for bit, and return the states of the optimizers. Raises TrainingError for other weights."""
    weights = _read_pieces(path, WEIGHTS)
    if weights.keys() != parameters.keys():
        raise TrainingError(f"{path} holds other weights than are trained. Remove it to begin again.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return _read_pieces(path, OPTIMIZER)


def _whole_or_not(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _read_state(path: Path) -> RunState | None:
    try:
        state = RunState(**json.loads((path / STATE).read_text(encoding="utf-8")))
        torn = any(file_sha256(path / name) != sha256 for name, sha256 in state.sha256.items())
    except (OSError, ValueError, TypeError):
        return None
    return None if torn else state
