"""Requests at work in a decoder, and what a step computes for them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from burnish.core.errors import ServeError
from burnish.model.cached_attention import Piece
from burnish.model.kv_cache import Prefix
from burnish.model.sampling import Chooser, Likelihood


class Finish(Enum):
    """Why a sequence ended: a stop token or its constraint's end, its length limit, or its constraint could not go on."""

    STOP = "stop"
    LENGTH = "length"
    FAILED = "failed"


class Emitted(NamedTuple):
    """What a step gave one sequence: a token, its end, or the last token together with the end.

    likelihood: of the token, when the sequence's sampling asks for it. stop: the stop token that ended it; then the likelihood is
    its. read: those of further tokens of the prompt, in order, when they are asked for; a step may give them alone.
    """

    sequence: int
    token: int | None
    finish: Finish | None
    likelihood: Likelihood | None = None
    stop: int | None = None
    read: Sequence[Likelihood] = ()


@dataclass(slots=True, eq=False)
class SequenceState:
    """A request at work. `own` tokens after its prefix are in row `row` of the cache; `reading` until its whole prompt is.

    found: tokens of stored prefixes that it could have read when it was added; what it reads is settled when it gets a row.
    """

    number: int
    tokens: list[int]
    prompt_tokens: int
    share: int
    chooser: Chooser
    adapter: Hashable | None = None
    prefix: Prefix | None = None
    prefix_tokens: int = 0
    own: int = 0
    row: int = -1
    found: int = 0
    reading: bool = True

    @property
    def pending(self) -> int:
        """Tokens after the prefix that are known but not in the cache."""
        return len(self.tokens) - self.prefix_tokens - self.own

    @property
    def unread(self) -> int:
        """Tokens of the prompt to be computed, those of an unfinished prefix among them; before it has a row, about so many."""
        missing = 0 if self.prefix is None else max(0, self.prefix_tokens - self.prefix.planned)
        return missing + self.pending - (self.found if self.row < 0 else 0)

    @property
    def answers(self) -> bool:
        """Whether anything is to follow its prompt."""
        return self.chooser.sampling.max_new_tokens > 0

    @property
    def told(self) -> bool:
        """Whether log-probabilities of its prompt are asked for. Then every token is computed: no prefix tells them."""
        return self.chooser.sampling.prompt_logprobs is not None


@dataclass(frozen=True, slots=True)
class ToldPiece:
    """A piece of a prompt that is told: the step's token at place `first` + i predicts targets[i], the token after it."""

    sequence: SequenceState
    first: int
    targets: list[int]


@dataclass(slots=True)
class Batch:
    """The tokens of one step: ids and positions in a row, and the places in it that give a next token.

    rows, own: the sequences that decode by their cache row, and how many own tokens each had in the cache before the step.
    order: the rows in the order of their tokens.
    decoding: the adapter of each decoding token. pieces, owners: of prompts, and the adapter of each with its tokens.
    told: pieces of prompts that are told. read: sequences whose prompts this step ends.
    """

    rows: list[SequenceState]
    own: list[int]
    order: list[int]
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    sequences: list[SequenceState] = field(default_factory=list)
    decoding: list[Hashable | None] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    owners: list[tuple[Hashable | None, slice]] = field(default_factory=list)
    told: list[ToldPiece] = field(default_factory=list)
    read: list[SequenceState] = field(default_factory=list)

    @property
    def kept(self) -> list[int]:
        """The places whose logits the step needs: those that give a next token, then those of prompts that are told."""
        told = (range(piece.first, piece.first + len(piece.targets)) for piece in self.told)
        return [*self.last, *(place for places in told for place in places)]


class DoesNotFit(ServeError):
    """A prompt and the tokens asked for are more than the model's context holds."""


def check_fits(prompt_tokens: int, new_tokens: int, context_tokens: int) -> None:
    """Raise ServeError when a prompt is empty or less than no new token is asked for, DoesNotFit when both exceed the context."""
    if prompt_tokens < 1 or new_tokens < 0:
        raise ServeError(
            f"a prompt of {prompt_tokens} tokens with {new_tokens} new tokens: the first must be 1 or more, the second 0 or more"
        )
    if prompt_tokens + new_tokens > context_tokens:
        raise DoesNotFit(
            f"the prompt has {prompt_tokens} tokens and {new_tokens} new ones are asked for, together "
            f"{prompt_tokens + new_tokens}; the model's context holds {context_tokens}. Shorten the prompt or ask for less."
        )


def check_reads(tokens: int, context_tokens: int) -> None:
    """Raise ServeError when a text to read is empty, DoesNotFit when it exceeds the context."""
    if tokens < 1:
        raise ServeError("a text to read must have one token or more")
    if tokens > context_tokens:
        raise DoesNotFit(f"a text has {tokens} tokens; the model's context holds {context_tokens}. Shorten it.")


def check_tokens(token_ids: Iterable[int], vocabulary: int) -> None:
    """Raise ServeError when a token is none of the model's."""
    if not all(0 <= token < vocabulary for token in token_ids):
        raise ServeError(f"token ids must lie between 0 and {vocabulary - 1}")
