"""Decoding for many sequences at once: each step gives every running sequence its next token.

Sequences of different lengths run side by side without padding, finished ones leave at once, waiting ones join in the
next step, long prompts are computed in pieces between the others' steps, and leading tokens that prompts share are
computed and stored once. Works with transformers' causal language models that pass keyword arguments to their
attention (Llama, Qwen, Mistral, SmolLM and most others since transformers 5), on CPU and CUDA.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from burnish.core.errors import BaseModelError, ServeError
from burnish.model.banked_linear import BankedModel
from burnish.model.cached_attention import Piece, Readers, StepLayout, cached_attention_on
from burnish.model.kv_cache import Prefix, PrefixStore, Rows
from burnish.model.sampling import Chooser, Chosen, Constraint, Likelihood, Sampling, choose_tokens
from burnish.model.shared_starts import shared_starts


class Finish(Enum):
    """Why a sequence ended: a stop token or its constraint's end, its length limit, or its constraint could not go on."""

    STOP = "stop"
    LENGTH = "length"
    FAILED = "failed"


class Emitted(NamedTuple):
    """What a step gave one sequence: a token, its end, or the last token together with the end.

    likelihood: of the token, when the sequence's sampling asks for it.
    """

    sequence: int
    token: int | None
    finish: Finish | None
    likelihood: Likelihood | None = None


@dataclass(slots=True, eq=False)
class _Sequence:
    """A request at work. `own` tokens after its prefix are in the cache; `reading` until its whole prompt is."""

    number: int
    tokens: list[int]
    prompt_tokens: int
    share: int
    chooser: Chooser
    adapter: Hashable | None = None
    prefix: Prefix | None = None
    prefix_tokens: int = 0
    own: int = 0
    reading: bool = True

    @property
    def pending(self) -> int:
        """Tokens after the prefix that are known but not in the cache."""
        return len(self.tokens) - self.prefix_tokens - self.own


@dataclass(slots=True)
class _Batch:
    """The tokens of one step: ids and positions in a row, and the places in it that give a next token.

    decoding, pieces: the adapter of each decoding token, and of each piece of a prompt with its tokens.
    """

    layout: StepLayout
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    sequences: list[_Sequence] = field(default_factory=list)
    decoding: list[Hashable | None] = field(default_factory=list)
    pieces: list[tuple[Hashable | None, slice]] = field(default_factory=list)


class DoesNotFit(ServeError):
    """A prompt and the tokens asked for are more than the model's context holds."""


def check_fits(prompt_tokens: int, new_tokens: int, context_tokens: int) -> None:
    """Raise ServeError when a prompt is empty or no new token is asked for, DoesNotFit when both exceed the context."""
    if prompt_tokens < 1 or new_tokens < 1:
        raise ServeError(f"a prompt of {prompt_tokens} tokens with {new_tokens} new tokens: both must be 1 or more")
    if prompt_tokens + new_tokens > context_tokens:
        raise DoesNotFit(
            f"the prompt has {prompt_tokens} tokens and {new_tokens} new ones are asked for, together "
            f"{prompt_tokens + new_tokens}; the model's context holds {context_tokens}. Shorten the prompt."
        )


class Decoder:
    """Runs up to `rows` sequences at once; more may wait. Not for several threads at once.

    Args:
        model: a causal language model in eval mode. Its attention is switched only while a step runs.
        rows: sequences that run at once.
        piece_tokens: prompt tokens computed in one step at most; smaller keeps running sequences fluent.
        kept_tokens: tokens of unused prefixes kept for later prompts.
        banked: the same model with a bank of adapters, if sequences may name one. The bank may change between steps, but an
            adapter must stay while one of its sequences runs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        rows: int,
        piece_tokens: int = 512,
        kept_tokens: int = 2048,
        banked: BankedModel | None = None,
    ) -> None:
        if model.training:
            raise BaseModelError("the model is in training mode; call model.eval() before generating")
        self.model = model
        self.rows = rows
        self.piece_tokens = piece_tokens
        self.context_tokens: int = model.config.max_position_embeddings
        self._device = model.device
        self._banked = banked
        self._cache = Rows()
        self._prefixes = PrefixStore(kept_tokens)
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._next = 0

    @property
    def running(self) -> int:
        """Sequences that hold a row."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a row."""
        return len(self._waiting)

    def add(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        share: int = 0,
        adapter: Hashable | None = None,
        constraint: Constraint | None = None,
    ) -> int:
        """Queue a prompt and return the sequence's number.

        `share` says that so many first tokens will come again in other prompts with the same adapter: they are computed once
        and kept apart. Prefixes at hand are used without being told. `adapter` is a key of the bank, None the base.
        """
        check_fits(len(prompt), sampling.max_new_tokens, self.context_tokens)
        chooser = Chooser(sampling, prompt, constraint)
        sequence = _Sequence(self._next, list(prompt), len(prompt), min(share, len(prompt) - 1), chooser, adapter)
        self._next += 1
        self._waiting.append(sequence)
        return sequence.number

    def remove(self, number: int) -> None:
        """Forget a sequence; its row is free at once. Numbers that have ended are ignored."""
        for row, sequence in enumerate(self._running):
            if sequence.number == number:
                self._free(row)
                return
        for sequence in self._waiting:
            if sequence.number == number:
                self._waiting.remove(sequence)
                return

    def forget_adapter(self, adapter: Hashable) -> None:
        """Drop what is kept of an adapter that no sequence uses any more."""
        self._prefixes.forget(adapter)

    def clear(self) -> None:
        """Forget every sequence and prefix, and give the memory back."""
        self._waiting.clear()
        self._running.clear()
        self._prefixes.prefixes.clear()
        self._cache.clear()

    @torch.no_grad()
    def step(self) -> list[Emitted]:
        """Compute the next token of every decoding sequence and a piece of the waiting prompts.

        Returns what each sequence got; a sequence whose prompt is not finished yet gets nothing in this step.
        """
        batch = self._plan()
        if not batch.tokens:
            return []
        with cached_attention_on(self.model), self._adapters_of(batch):
            logits = self.model(
                input_ids=torch.tensor([batch.tokens], device=self._device),
                position_ids=torch.tensor([batch.positions], device=self._device),
                use_cache=False,
                logits_to_keep=torch.tensor(batch.last, device=self._device, dtype=torch.int64),
                burnish_step=batch.layout,
            ).logits
        if batch.layout.layers_seen == 0:
            raise BaseModelError(f"{type(self.model).__name__} does not pass keyword arguments to its attention")
        for prefix in self._prefixes.prefixes:
            prefix.ready = prefix.planned
        if not batch.sequences:
            return []
        chosen = choose_tokens(logits[0], [sequence.chooser for sequence in batch.sequences])
        return [self._advance(sequence, token) for sequence, token in zip(batch.sequences, chosen, strict=True)]

    @contextmanager
    def _adapters_of(self, batch: _Batch) -> Iterator[None]:
        if self._banked is None:
            yield
        else:
            with self._banked.step(batch.decoding, batch.pieces):
                yield

    def _advance(self, sequence: _Sequence, chosen: Chosen) -> Emitted:
        """Give a sequence its next token and end it where it must end."""
        token, likelihood = chosen
        sampling, constraint = sequence.chooser.sampling, sequence.chooser.constraint
        stopped = token in sampling.stop_ids
        if not stopped:
            sequence.chooser.take(token)
        if constraint is not None and constraint.failure is not None:
            self._free(self._running.index(sequence))
            return Emitted(sequence.number, None, Finish.FAILED)
        if stopped:
            self._free(self._running.index(sequence))
            return Emitted(sequence.number, None, Finish.STOP)
        sequence.tokens.append(token)
        finish = None
        if constraint is not None and constraint.finished:
            finish = Finish.STOP
        elif len(sequence.tokens) - sequence.prompt_tokens >= sampling.max_new_tokens:
            finish = Finish.LENGTH
        if finish is not None:
            self._free(self._running.index(sequence))
        return Emitted(sequence.number, token, finish, likelihood)

    def _free(self, row: int) -> None:
        """Take a sequence out of its row. Decoding sequences stay in front of one that still reads its prompt."""
        sequence = self._running[row]
        if sequence.prefix is not None:
            self._prefixes.release(sequence.prefix)
        decoding = len(self._running) - self._running[-1].reading
        for source, target in ((decoding - 1, row), (len(self._running) - 1, decoding - 1)):
            if row < decoding and source > target:
                self._cache.move(source, target, self._running[source].own)
                self._running[target] = self._running[source]
        self._running.pop()
        if not self._running:
            self._cache.clear()

    # ---------------------------------------------------------------------------------------------- planning one step

    def _plan(self) -> _Batch:
        """Lay out the next step: one token of each decoding sequence, then prompts in turn up to `piece_tokens`."""
        decoding = [sequence for sequence in self._running if not sequence.reading]
        order = self._decode_order(decoding)
        batch = _Batch(self._decode_layout(decoding, order))
        for row in order:
            sequence = decoding[row]
            batch.decoding.append(sequence.adapter)
            batch.tokens.append(sequence.tokens[-1])
            batch.positions.append(len(sequence.tokens) - 1)
            batch.last.append(len(batch.tokens) - 1)
            batch.sequences.append(sequence)
            sequence.own += 1
        room = self.piece_tokens
        for sequence in self._running[len(decoding) :]:
            room = self._plan_prompt(batch, sequence, len(decoding), room)
        while room > 0 and self._waiting and len(self._running) < self.rows:
            sequence = self._waiting.popleft()
            self._find_prefix(sequence)
            self._running.append(sequence)
            room = self._plan_prompt(batch, sequence, len(self._running) - 1, room)
        rows = min(self.rows, len(self._running) + len(self._waiting))
        self._cache.reserve(rows, max((sequence.own for sequence in self._running), default=0))
        return batch

    def _decode_order(self, decoding: list[_Sequence]) -> list[int]:
        """Return the rows in the order in which their tokens are computed."""
        if self._banked is None:
            return list(range(len(decoding)))
        return self._banked.order([sequence.adapter for sequence in decoding])

    def _decode_layout(self, decoding: list[_Sequence], order: list[int]) -> StepLayout:
        """Return the layout with the decoding sequences placed; sequences that read the same prefix are grouped."""
        groups: dict[tuple[int, int], list[int]] = {}
        for row, sequence in enumerate(decoding):
            if sequence.prefix is not None:
                groups.setdefault((id(sequence.prefix), sequence.prefix_tokens), []).append(row)
        readers: list[Readers] = []
        for rows in groups.values():
            first = decoding[rows[0]]
            assert first.prefix is not None
            together = rows[-1] - rows[0] + 1 == len(rows)
            where = slice(rows[0], rows[-1] + 1) if together else torch.tensor(rows, device=self._device)
            readers.append(Readers(first.prefix, first.prefix_tokens, where))
        return StepLayout(
            cache=self._cache,
            own_B=torch.tensor([sequence.own for sequence in decoding], device=self._device, dtype=torch.int64),
            past_B=torch.tensor(
                [sequence.prefix_tokens for sequence in decoding], device=self._device, dtype=torch.int64
            ),
            own_tokens=max((sequence.own + 1 for sequence in decoding), default=0),
            past_tokens=max((sequence.prefix_tokens for sequence in decoding), default=0),
            readers=readers,
            pieces=[],
            rows=None if order == sorted(order) else order,
        )

    def _find_prefix(self, sequence: _Sequence) -> None:
        """Let a new sequence read a stored prefix, or begin the one it shares with others."""
        body = torch.tensor(sequence.tokens[:-1], dtype=torch.int64)
        prefix, length = self._prefixes.find(body, sequence.adapter)
        if sequence.share >= length + self._prefixes.least_tokens:
            prefix = self._prefixes.build(sequence.tokens[: sequence.share], sequence.adapter)
            length = sequence.share
        if prefix is not None:
            sequence.prefix, sequence.prefix_tokens = prefix, length
            self._prefixes.acquire(prefix)

    def _plan_prompt(self, batch: _Batch, sequence: _Sequence, row: int, room: int) -> int:
        """Add what fits of a prompt (its unfinished prefix first) to the step; return the room left."""
        prefix = sequence.prefix
        if prefix is not None and prefix.planned < sequence.prefix_tokens:
            taken = min(room, len(prefix) - prefix.planned)
            self._add_piece(batch, sequence, Piece(len(batch.tokens), taken, prefix, prefix.planned))
            prefix.planned += taken
            room -= taken
        taken = min(room, sequence.pending)
        if taken == 0 or (prefix is not None and prefix.planned < sequence.prefix_tokens):
            return 0
        piece = Piece(len(batch.tokens), taken, row, sequence.own, prefix, sequence.prefix_tokens)
        self._add_piece(batch, sequence, piece)
        sequence.own += taken
        sequence.reading = sequence.pending > 0
        if not sequence.reading:
            batch.last.append(len(batch.tokens) - 1)
            batch.sequences.append(sequence)
        return room - taken

    @staticmethod
    def _add_piece(batch: _Batch, sequence: _Sequence, piece: Piece) -> None:
        start = piece.prefix_tokens + piece.start
        batch.layout.pieces.append(piece)
        batch.pieces.append((sequence.adapter, slice(piece.first, piece.first + piece.tokens)))
        batch.tokens += sequence.tokens[start : start + piece.tokens]
        batch.positions += range(start, start + piece.tokens)


# ------------------------------------------------------------------------------------------------------- many prompts


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Continue every prompt greedily. Returns the new tokens in the order of the prompts, without the stop token.

    `batch` sequences run at once; `progress(done, total)` is called when sequences end.
    """
    decoder = Decoder(model, rows=batch, piece_tokens=1024)
    sampling = Sampling(max_new_tokens=max_new_tokens, stop_ids=stop_ids)
    order, shares = shared_starts(prompts)
    places = {decoder.add(prompts[place], sampling, share=shares[place]): place for place in order}
    answers: list[list[int]] = [[] for _ in prompts]
    done = 0
    while decoder.running or decoder.waiting:
        emitted = decoder.step()
        for sequence, token, *_ in emitted:
            if token is not None:
                answers[places[sequence]].append(token)
        ended = sum(each.finish is not None for each in emitted)
        done += ended
        if ended and progress is not None:
            progress(done, len(prompts))
    return answers
