"""Token ids of an answer become text: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.text.tokenizer import Detokenizer, Tokenizer


class TextStream:
    """Turns one answer's tokens into pieces of text. `stopped` is True once a stop string came up.

    Text that may be the beginning of a stop string is held back until the next tokens decide. The pieces together are
    the answer's text up to the first stop string, which is not part of it. `characters` is the length of all text so far, that
    which is held back among it.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        self.characters = 0

    def add(self, token: int) -> str:
        """Take a token; return the text that is certain now."""
        return "" if self.stopped else self._release(self._detokenizer.add(token), last=False)

    def finish(self) -> str:
        """Return the text that was held back, at the end of the answer."""
        return "" if self.stopped else self._release(self._detokenizer.finish(), last=True)

    def _release(self, text: str, *, last: bool) -> str:
        self._held += text
        self.characters += len(text)
        ends = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if ends:
            self.stopped = True
            certain, self._held = self._held[: min(ends)], ""
            return certain
        keep = 0 if last else self._possible_stop()
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
