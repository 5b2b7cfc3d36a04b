"""Every weight of a model trained: which they are, and the model on disk as a base of its own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from burnish.model.load import as_stored, quiet_transformers
from burnish.store.files import sync_folder, unwritable, write_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENIZER_FILES = ("tokenizer*", "*.jinja", "special_tokens_map.json", "vocab.json", "merges.txt")
SHARD_BYTES = 5 * 10**9
"""Weights are written in files of at most so much, as most models are published."""


def train_every_weight(model: PreTrainedModel) -> None:
    """Let every weight of a loaded base be trained."""
    model.requires_grad_(True)


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what has gradients, by name; a weight that two layers share once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def embedding_names(model: PreTrainedModel) -> frozenset[str]:
    """Return the names of the weights that embed tokens or predict them."""
    found = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in found)


def save_model(model: PreTrainedModel, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write configuration and weights as transformers reads them, in safetensors of at most `shard_bytes`; whole or not at all.

    Raises StoreError or ResourceError when the place cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        cached, model.config.use_cache = (
            model.config.use_cache,
            True,
        )  # off while it trains; those who load it answer with it
        try:
            for weight in model.parameters():  # those that training joined lie apart again: a file holds each by itself
                if weight.untyped_storage().nbytes() > weight.nbytes:
                    weight.data = weight.data.clone()
            with quiet_transformers(), as_stored(model):
                model.save_pretrained(scratch, max_shard_size=shard_bytes)
        finally:
            model.config.use_cache = cached
        if folder.exists():
            shutil.rmtree(folder)
        scratch.chmod(0o755)
        scratch.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise unwritable(folder, error) from error


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy what a tokenizer is made of from one base's folder to another's. Raises StoreError or ResourceError."""
    for pattern in TOKENIZER_FILES:
        for path in sorted(source.glob(pattern)):
            write_bytes(folder / path.name, path.read_bytes())
