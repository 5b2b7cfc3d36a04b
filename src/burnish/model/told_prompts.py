"""Log-probabilities of prompts, as scoring asks for them: what a step's logits tell of the tokens that stand there already.

Logits of a whole prompt would be its length times the vocabulary (8,192 tokens of Llama 3: 4 GB). So a step has no more than
TOLD_TOKENS of them, and their softmax in float32 is made a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from burnish.model.sampling import Likelihood, likelihoods
from burnish.model.sequences import Emitted, ToldPiece

TOLD_TOKENS = 128
"""Prompt tokens that are told in one step, of all prompts together: 25 MB of logits for a vocabulary of 49,152 in float32."""
ROWS = 32
"""Rows of logits whose log-probabilities exist at once."""


def tell(logits_NV: Tensor, pieces: Sequence[ToldPiece]) -> list[Emitted]:
    """Return what is told of each piece, whose logits follow each other in `logits_NV`."""
    told: list[Emitted] = []
    first = 0
    for piece in pieces:
        most = piece.sequence.chooser.sampling.prompt_logprobs or 0
        read: list[Likelihood] = []
        for start in range(0, len(piece.targets), ROWS):
            targets = piece.targets[start : start + ROWS]
            read += likelihoods(logits_NV[first : first + len(targets)], targets, most)
            first += len(targets)
        told.append(Emitted(piece.sequence.number, None, None, read=read))
    return told
