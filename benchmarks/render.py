"""Rows of 300 tokens rendered in a second on one core: one by one, many at once, and the way before.

python benchmarks/render.py FOLDER_OF_A_BASE [rows]   (any folder with a tokenizer and a ChatML template)
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "text"))

import slow_render

from burnish.text.messages import Message
from burnish.text.pieces import Conversation
from burnish.text.render import render_answers, render_many
from burnish.text.tokenizer import Tokenizer, load_tokenizer

SYSTEM = "You are a helpful assistant. Today is Tuesday 2025-07-08. Answer as JSON."


def rows_of(tokenizer: Tokenizer, count: int, tokens: int) -> list[Conversation]:
    """Conversations of about so many tokens of words that occur as often as words do (rank to the power of -1)."""
    draw = random.Random(0)
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    words = sorted({word for word in text.split() if tokenizer.control_token_in(word) is None})
    draw.shuffle(words)
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    each = len(tokenizer.encode(" ".join(draw.choices(words, weights, k=2000)))) / 2000
    said = [" ".join(draw.choices(words, weights, k=max(1, int((tokens - 40) / each / 2)))) for _ in range(2 * count)]
    return [
        Conversation(
            [
                Message(role="system", content=SYSTEM),
                Message(role="user", content=said[2 * at]),
                Message(role="assistant", content=said[2 * at + 1]),
            ]
        )
        for at in range(count)
    ]


def main() -> None:
    """Print a table."""
    tokenizer = load_tokenizer(Path(sys.argv[1]))
    rows = rows_of(tokenizer, int(sys.argv[2]) if len(sys.argv) > 2 else 4000, 300)
    characters = sum(len(message["content"]) for row in rows for message in row.messages)
    ways: dict[str, Callable[[], list[object]]] = {
        "the way before": lambda: [slow_render.render_example(tokenizer, row.messages) for row in rows],
        "one by one": lambda: [render_answers(tokenizer, row.messages)[0] for row in rows],
        "render_many": lambda: [found[0] for found in render_many(tokenizer, rows) if isinstance(found, list)],
    }
    results: list[list[object]] = []
    for name, way in ways.items():
        start = time.perf_counter()
        results.append(way())
        took = time.perf_counter() - start
        print(f"{name:<15} {len(rows) / took:7.0f} rows/s {characters / took / 1e6:6.2f} MB/s")
    assert results[0] == results[1] == results[2]
    tokens = sum(len(found.ids) for found in render_many_flat(tokenizer, rows))
    print(f"{len(rows)} rows of {tokens / len(rows):.0f} tokens on average")


def render_many_flat(tokenizer: Tokenizer, rows: list[Conversation]) -> list[slow_render.Rendered]:
    """All renderings in one list."""
    return [rendered for found in render_many(tokenizer, rows) if isinstance(found, list) for rendered in found]


if __name__ == "__main__":
    main()
