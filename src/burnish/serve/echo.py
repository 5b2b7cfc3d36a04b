"""The prompt in front of its answer, as a text completion with `echo` gives it, with what is told of its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from burnish.model.sampling import Likelihood
from burnish.serve.bodies import Told
from burnish.text.tokenizer import Detokenizer, Tokenizer

PIECE_TOKENS = 128
"""Tokens of a prompt that are told in one event of a stream: one event for all of a long prompt would be megabytes."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt's text; where its log-probabilities are told also its tokens, and at which character each of them begins."""

    text: str
    ids: Sequence[int] = ()
    offsets: Sequence[int] = field(default=())

    def pieces(self, likelihoods: Sequence[Likelihood]) -> Iterator[tuple[str, list[Told]]]:
        """Yield the text in pieces with what is told of each; `likelihoods` are those of the tokens from the second on."""
        if not self.ids:
            yield self.text, []
            return
        told = [
            Told(token, likelihoods[place - 1] if place else None, offset)
            for place, (token, offset) in enumerate(zip(self.ids, self.offsets, strict=True))
        ]
        for start in range(0, len(told), PIECE_TOKENS):
            piece = told[start : start + PIECE_TOKENS]
            end = start + PIECE_TOKENS
            text = self.text[piece[0].offset : told[end].offset if end < len(told) else len(self.text)]
            yield text, piece


def echo_of(tokenizer: Tokenizer, prompt: str | Sequence[int], ids: Sequence[int], *, told: bool) -> Echo:
    """Return how a prompt is echoed: a text as it was sent, ids as their text with special tokens. `ids`: the prompt's tokens.

    A token that goes on with a character begins where that character does. What the tokenizer put before a text takes no place.
    """
    if not told:
        return Echo(prompt if isinstance(prompt, str) else tokenizer.decode(ids, special=True))
    detokenizer = Detokenizer(tokenizer, special=True)
    decoded = ""
    offsets: list[int] = []
    for token in ids:
        offsets.append(len(decoded))
        decoded += detokenizer.add(token)
    decoded += detokenizer.finish()
    text = prompt if isinstance(prompt, str) else decoded
    before = len(decoded) - len(text) if decoded.endswith(text) else 0
    return Echo(text, ids, [min(max(offset - before, 0), len(text)) for offset in offsets])
