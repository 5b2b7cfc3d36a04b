"""A small tokenizer, and a function that writes rows and prepares them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from preparing import CONTEXT, Prepare, Prepared, write_rows
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from burnish.core.events import Event
from burnish.core.recipe_file import parse_recipe
from burnish.data.prepare import prepare
from burnish.text.tokenizer import Tokenizer, load_tokenizer

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level BPE with chatml's markers and a context of 512 tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=MARKERS, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["find me flights from the city to the city under 800"] * 4, trainer)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": CONTEXT}))
    return load_tokenizer(folder)


@pytest.fixture
def run_prepare(tmp_path: Path, tokenizer: Tokenizer) -> Prepare:
    """Return run(rows, tasks={}, folder="out", tokenizer=..., **recipe keys); rows are objects, or lines as bytes."""
    standard = tokenizer

    def run(
        rows: Sequence[dict[str, Any] | bytes],
        tasks: dict[str, Sequence[dict[str, Any] | bytes]] | None = None,
        folder: str = "out",
        tokenizer: Tokenizer | None = None,
        key: bytes | None = None,
        vault: Path | None = None,
        embed: Any = None,
        forgotten: Any = None,
        **settings: Any,
    ) -> Prepared:
        data = write_rows(tmp_path / "rows.jsonl", rows)
        files = {name: str(write_rows(tmp_path / f"{name}.jsonl", task)) for name, task in (tasks or {}).items()}
        raw = {"name": "test", "base": "tiny", "data": str(data), "method": "lora", "evaluate": {"tasks": files}}
        recipe = parse_recipe(raw | settings, source="test")
        events: list[Event] = []
        out = tmp_path / folder
        manifest = prepare(
            recipe,
            tokenizer=tokenizer or standard,
            folder=out,
            root=tmp_path,
            emit=events.append,
            key=key,
            vault=vault,
            embed=embed,
            forgotten=forgotten,
        )
        return Prepared(manifest, out, events)

    return run
