"""`burnish inspect`: a base model looked into, from its configuration alone or with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burnish.core.errors import BaseModelError, UsageError
from burnish.core.events import Emit, Note, Progress
from burnish.store.files import write_bytes
from burnish.store.weights import other_weights


def inspect(
    model: str,
    *,
    rank: int,
    targets: Sequence[str],
    weights: bool | None,
    perplexity: int,
    sample: int,
    emit: Emit,
) -> dict[str, Any]:
    """Return all that can be said about a base model.

    weights: True fetches them where they are not here, False leaves them alone, None reads those of a folder and of a
    bundled base. perplexity: texts to measure it on, 0 for none. sample: weights of a matrix that are rounded, 0 for all.

    Raises BaseModelError for an unknown or damaged model, UsageError for numbers that make no sense.
    """
    if perplexity < 0 or perplexity == 1 or sample < 0:
        raise UsageError("--perplexity needs 2 texts or more (0: none), --sample 0 (all) or more.")
    folder = _folder(model, weights, emit)
    if folder is None and perplexity:
        raise UsageError(f"perplexity needs the weights of {model}: add --weights, or give a folder that holds them.")
    from burnish.plan.bases import find_config, read_config
    from burnish.plan.inspect.report import describe

    config = find_config(model) if folder is None else read_config(folder / "config.json")
    found = describe(model, config, rank=rank, targets=targets)
    if folder is not None:
        _add_weights(found, folder, config, sample, emit)
        if perplexity:
            _add_perplexity(found, folder, config, perplexity, emit)
    return found


def write_inspection(found: dict[str, Any], path: Path) -> None:
    """Write the HTML page about a base model."""
    from burnish.plan.inspect.page import inspection_page

    write_bytes(path, inspection_page(found).encode())


def _folder(model: str, weights: bool | None, emit: Emit) -> Path | None:
    """Return the folder that holds the weights; None when only the configuration shall be, or can be, read."""
    from burnish.model.bases import BUNDLED, resolve_base
    from burnish.plan.bases import published_id

    if weights is False:
        return None
    path = Path(model).expanduser()
    if weights is None and not (model in BUNDLED or (path.is_dir() and any(path.glob("*.safetensors")))):
        if path.is_dir():
            emit(Note("inspect", f"no weights are looked at, only config.json. {other_weights(path)}"))
        return None
    return resolve_base(model if model in BUNDLED or path.is_dir() else published_id(model), emit=emit).folder


def _add_weights(found: dict[str, Any], folder: Path, config: Any, sample: int, emit: Emit) -> None:
    from burnish.model.inspect import layer_of, matrix_files, measure_footprints, weight_matrices
    from burnish.plan.architecture import read_architecture
    from burnish.plan.inspect.report import ladder_rows, weights_section
    from burnish.plan.inspect.weights import look

    architecture = read_architecture(config)
    try:
        found["ladder"] = ladder_rows(architecture, measure_footprints(folder, emit))
    except BaseModelError as error:  # the weights can be looked at all the same
        emit(Note("inspect", f"not measured by loading: {error}"))
    total = len(matrix_files(folder))

    def tell(done: int) -> None:
        emit(Progress("inspect", "rounding the weights", done, total, "matrices"))

    found["weights"] = weights_section(look(weight_matrices(folder), layer_of, sample=sample, progress=tell), sample)


def _add_perplexity(found: dict[str, Any], folder: Path, config: Any, texts: int, emit: Emit) -> None:
    from functools import partial

    from burnish.evaluate.forgetting import general_rows
    from burnish.model.inspect import losses_by_rounding, round_bf16, round_nf4
    from burnish.plan.architecture import read_architecture
    from burnish.plan.inspect.report import perplexity_rows
    from burnish.plan.inspect.rounding import round_weights
    from burnish.plan.inspect.weights import PERPLEXITY_SCHEMES
    from burnish.text.tokenizer import load_tokenizer

    rows = general_rows(load_tokenizer(folder).encode)
    chosen = rows[:: max(1, len(rows) // texts)][:texts]
    schemes = {scheme.label: scheme for scheme in PERPLEXITY_SCHEMES}
    rounders = {"fp32": None, "bf16": round_bf16, "nf4+dq": round_nf4(True)}
    rounders |= {label: partial(round_weights, scheme=scheme) for label, scheme in schemes.items()}
    losses = losses_by_rounding(folder, chosen, rounders, emit)
    found["perplexity"] = perplexity_rows(read_architecture(config), losses, schemes)
