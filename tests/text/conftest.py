"""Small tokenizers in folders, as base models ship them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_templates import CHATML, TRIMS, MakeFolder
from sentences import LINES, LLAMA3_WORDS
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<s>",
)


def byte_level() -> Backend:
    """A byte-level BPE as Llama 3 and most newer models have it."""
    words = pre_tokenizers.Split(Regex(LLAMA3_WORDS), behavior="isolated")
    return _trained(pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))


def gpt2() -> Backend:
    """A byte-level BPE that cuts words as GPT-2 does: two newlines are one token only where the text ends."""
    return _trained(pre_tokenizers.ByteLevel(add_prefix_space=False))


def _trained(words: pre_tokenizers.PreTokenizer) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = words
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(LINES * 4, trainer)
    return backend


def byte_fallback() -> Backend:
    """A BPE with word-start marks and byte tokens, as Llama 2 and Mistral have it."""
    letters = sorted({letter for line in LINES[:3] for letter in line.replace(" ", "▁")} | {"▁"})
    tokens = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = [("▁", "f"), ("l", "i"), ("▁", "N")]
    tokens += [a + b for a, b in merges]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence([])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return backend


BACKENDS: dict[str, Callable[[], Backend]] = {"byte level": byte_level, "gpt2": gpt2, "byte fallback": byte_fallback}


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """Return a function that writes a tokenizer folder with a template and a kind of vocabulary."""

    def make(template: str | None = CHATML, backend: str = "byte level", **settings: object) -> Path:
        folder = tmp_path_factory.mktemp("tokenizer")
        BACKENDS[backend]().save(str(folder / "tokenizer.json"))
        llama3 = template == TRIMS
        config: dict[str, object] = {
            "bos_token": "<s>",
            "eos_token": "<|eot_id|>" if llama3 else "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "model_max_length": 10**30,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config | settings), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}), encoding="utf-8")
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return folder

    return make
