"""One ask of a model, in short."""

from __future__ import annotations

from burnish.core.completion import Ask, Turn


def ask(text: str, *, max_tokens: int = 50, seed: int = 0) -> Ask:
    return Ask((Turn("user", text),), max_tokens, 0.5, seed)
