"""Which weights a folder holds where safetensors are looked for, and what to do about them."""

from __future__ import annotations

from pathlib import Path

MOST_NAMED = 3
KINDS = (
    (
        ("*.bin", "*.pt", "*.pth", "*.ckpt"),
        "pickled weights that can run code when read. Convert it: model.save_pretrained(folder) writes safetensors.",
    ),
    (("*.gguf",), "a format of llama.cpp that burnish does not read: use the model that it was made from."),
    (
        ("*.safetensors",),
        "safetensors under another name than model.safetensors and without an index: an adapter's, or part of a model.",
    ),
)


def other_weights(folder: Path) -> str:
    """Say which weights a folder has that cannot be used, and what to do; that it has none where it has none."""
    for patterns, said in KINDS:
        names = sorted(path.name for pattern in patterns for path in folder.glob(pattern) if path.is_file())
        if names:
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            return f"It has {', '.join(names[:MOST_NAMED])}{more}, {said}"
    return "It has no weights: put model.safetensors beside config.json; model.save_pretrained(folder) writes it."
