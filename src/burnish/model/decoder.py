"""Decoding for many sequences at once: each step gives every running sequence its next token.

Sequences of different lengths run side by side without padding, finished ones leave at once, waiting ones join in the
next step, prompts are computed in pieces between the others' steps, long and short ones side by side (prompt_room.py),
and leading tokens that prompts share are computed and stored once. Works with transformers' causal language models that
pass keyword arguments to their attention (Llama, Qwen, Mistral, SmolLM and most others since transformers 5), on CPU and
CUDA.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.errors import BaseModelError
from burnish.model.banked_linear import BankedModel
from burnish.model.cached_attention import Piece, Readers, StepLayout, cached_attention_on
from burnish.model.kv_cache import PrefixStore, Rows
from burnish.model.lora_parts_gpu import bucket
from burnish.model.prompt_room import divide_room, divide_told
from burnish.model.sampling import Chooser, Chosen, Constraint, Sampling, choose_tokens
from burnish.model.sequences import Batch, Emitted, Finish, SequenceState, ToldPiece, check_fits
from burnish.model.static_steps import OWN_TOKENS, StaticSteps, has_static_steps
from burnish.model.told_prompts import TOLD_TOKENS, tell


class Decoder:
    """Runs up to `rows` sequences at once; more may wait. Not for several threads at once.

    Args:
        model: a causal language model in eval mode. Its attention is switched only while a step runs.
        rows: sequences that run at once.
        piece_tokens: prompt tokens computed in one step at most; smaller keeps running sequences fluent.
        kept_tokens: tokens of unused prefixes kept for later prompts.
        banked: the same model with a bank of adapters, if sequences may name one. The bank may change between steps, but an
            adapter must stay while one of its sequences runs.
        static: let steps in which every sequence decodes have one of few shapes, so that on a GPU a CUDA graph replays them; a
            sequence then takes a copy of the prefix it reads. Has no effect where the model does not allow it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        rows: int,
        piece_tokens: int = 512,
        kept_tokens: int = 2048,
        banked: BankedModel | None = None,
        static: bool = False,
    ) -> None:
        if model.training:
            raise BaseModelError("the model is in training mode; call model.eval() before generating")
        self.model = model
        self.rows = rows
        self.piece_tokens = piece_tokens
        self.context_tokens: int = model.config.max_position_embeddings
        self._device = model.device
        self._banked = banked
        self._cache = Rows(rows, self.context_tokens)
        self._prefixes = PrefixStore(kept_tokens)
        self._static = StaticSteps(model, self._cache, banked) if static and has_static_steps(model) else None
        self._waiting: deque[SequenceState] = deque()
        self._reading: list[SequenceState] = []
        self._decoding: list[SequenceState] = []  # by their rows, which are the first ones
        self._next = 0

    @property
    def running(self) -> int:
        """Sequences that hold a row."""
        return len(self._reading) + len(self._decoding)

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
        sequence = SequenceState(self._next, list(prompt), len(prompt), min(share, len(prompt) - 1), chooser, adapter)
        if not sequence.told:
            sequence.found = self._prefixes.find(torch.tensor(sequence.tokens[:-1], dtype=torch.int64), adapter)[1]
        self._next += 1
        self._waiting.append(sequence)
        return sequence.number

    def remove(self, number: int) -> None:
        """Forget a sequence; its row is free at once. Numbers that have ended are ignored."""
        for sequence in (*self._decoding, *self._reading):
            if sequence.number == number:
                self._free(sequence)
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
        self._reading.clear()
        self._decoding.clear()
        self._prefixes.prefixes.clear()
        self._cache.clear()

    @torch.no_grad()
    def step(self) -> list[Emitted]:
        """Compute the next token of every decoding sequence and a piece of the waiting prompts.

        Returns what each sequence got; one whose prompt is not finished yet gets at most log-probabilities of its tokens.
        """
        batch = self._plan()
        if not batch.tokens:
            return []
        with cached_attention_on(self.model):
            if self._static is not None and not batch.pieces:
                logits_NV = self._static.run(batch.tokens, batch.own, batch.decoding)
            else:
                logits_NV = self._run(batch)
        for prefix in self._prefixes.prefixes:
            prefix.ready = prefix.planned
        next_tokens = len(batch.last)
        emitted = tell(logits_NV[next_tokens:], batch.told)
        for sequence in batch.read:
            self._keep_start(sequence)
        if batch.sequences:
            chosen = choose_tokens(logits_NV[:next_tokens], [sequence.chooser for sequence in batch.sequences])
            emitted += [self._advance(sequence, token) for sequence, token in zip(batch.sequences, chosen, strict=True)]
        for sequence in batch.read:
            if not sequence.answers:
                self._free(sequence)
                emitted.append(Emitted(sequence.number, None, Finish.LENGTH))
        return emitted

    def _run(self, batch: Batch) -> Tensor:
        """Compute a step of any shape."""
        layout = self._layout(batch)
        with self._adapters_of(batch):
            logits = self.model(
                input_ids=torch.tensor([batch.tokens], device=self._device),
                position_ids=torch.tensor([batch.positions], device=self._device),
                use_cache=False,
                logits_to_keep=torch.tensor(batch.kept, device=self._device, dtype=torch.int64),
                burnish_step=layout,
            ).logits
        if layout.layers_seen == 0:
            raise BaseModelError(f"{type(self.model).__name__} does not pass keyword arguments to its attention")
        return logits[0]

    @contextmanager
    def _adapters_of(self, batch: Batch) -> Iterator[None]:
        if self._banked is None:
            yield
        else:
            with self._banked.step(batch.decoding, batch.owners):
                yield

    def _advance(self, sequence: SequenceState, chosen: Chosen) -> Emitted:
        """Give a sequence its next token and end it where it must end."""
        token, likelihood = chosen
        sampling, constraint = sequence.chooser.sampling, sequence.chooser.constraint
        stopped = token in sampling.stop_ids
        if not stopped:
            sequence.chooser.take(token)
        if constraint is not None and constraint.failure is not None:
            self._free(sequence)
            return Emitted(sequence.number, None, Finish.FAILED)
        if stopped:
            self._free(sequence)
            return Emitted(sequence.number, None, Finish.STOP, likelihood, stop=token)
        sequence.tokens.append(token)
        finish = None
        if constraint is not None and constraint.finished:
            finish = Finish.STOP
        elif len(sequence.tokens) - sequence.prompt_tokens >= sampling.max_new_tokens:
            finish = Finish.LENGTH
        if finish is not None:
            self._free(sequence)
        return Emitted(sequence.number, token, finish, likelihood)

    def _free(self, sequence: SequenceState) -> None:
        """Take a sequence out of its row. The last one that decodes moves into it."""
        if sequence.prefix is not None:
            self._prefixes.release(sequence.prefix)
        if sequence in self._reading:
            self._reading.remove(sequence)
        else:
            last = self._decoding.pop()
            if last is not sequence:
                self._cache.move(last.row, sequence.row, last.own)
                self._decoding[sequence.row] = last
                last.row = sequence.row
        if not self.running and self._static is None:
            self._cache.clear()

    # ---------------------------------------------------------------------------------------------- planning one step

    def _plan(self) -> Batch:
        """Lay out the next step: one token of each decoding sequence, then up to `piece_tokens` of prompts."""
        self._begin_decoding()
        decoding = list(self._decoding)
        if self._static is not None:
            self._take_prefixes(decoding)
        order = self._decode_order(decoding)
        batch = Batch(decoding, [sequence.own for sequence in decoding], order)
        for row in order:
            sequence = decoding[row]
            batch.decoding.append(sequence.adapter)
            batch.tokens.append(sequence.tokens[-1])
            batch.positions.append(len(sequence.tokens) - 1)
            batch.last.append(len(batch.tokens) - 1)
            batch.sequences.append(sequence)
            sequence.own += 1
        self._plan_prompts(batch)
        self._reserve(max((sequence.own for sequence in (*decoding, *self._reading)), default=0))
        return batch

    def _begin_decoding(self) -> None:
        """Let sequences whose prompts are read have the rows after those that decode."""
        done = sorted((each for each in self._reading if not each.reading), key=lambda sequence: sequence.row)
        for sequence in done:
            row = len(self._decoding)
            other = next((each for each in self._reading if each.row == row), None)
            if other is None:
                self._cache.move(sequence.row, row, sequence.own)
            elif other is not sequence:
                self._cache.swap(row, sequence.row, max(other.own, sequence.own))
                other.row = sequence.row
            sequence.row = row
            self._reading.remove(sequence)
            self._decoding.append(sequence)

    def _plan_prompts(self, batch: Batch) -> None:
        """Add pieces of prompts to the step, of those that are being read and of as many that wait as there are rows."""
        self._reserve(0)
        room, told_room = self.piece_tokens, TOLD_TOKENS
        while room > 0:
            free = self.rows - self.running
            first = [*self._reading, *islice(self._waiting, free)]
            prompts = sorted((each for each in first if each.reading), key=lambda sequence: sequence.number)
            given = divide_room([sequence.unread for sequence in prompts], room)
            given = divide_told(given, [sequence.told for sequence in prompts], told_room)
            left = room
            for sequence, tokens in zip(prompts, given, strict=True):
                if tokens:
                    if sequence.row < 0:
                        self._begin_reading(sequence, whole=tokens == sequence.unread)
                    left = left - tokens + self._plan_prompt(batch, sequence, tokens)
                    told_room -= tokens if sequence.told else 0
            if left == room:
                return
            room = left  # more than nothing when a prompt found a longer prefix than it expected, or may not be told faster

    def _begin_reading(self, sequence: SequenceState, *, whole: bool) -> None:
        """Give a waiting sequence a row: the next to decode when its `whole` prompt is read in this step, else out of the way."""
        taken = {*range(len(self._decoding)), *(each.row for each in self._reading)}
        free = [row for row in range(self._cache.rows) if row not in taken]
        self._waiting.remove(sequence)
        self._find_prefix(sequence)
        sequence.row = free[0 if whole else -1]
        self._reading.append(sequence)

    def _reserve(self, tokens: int) -> None:
        """Let every row that is or will be taken hold so many tokens."""
        rows = min(self.rows, self.running + len(self._waiting))
        if self._static is None or not rows:
            self._cache.reserve(rows, tokens)
        else:
            self._cache.reserve(bucket(rows), bucket(tokens, OWN_TOKENS))

    def _take_prefixes(self, decoding: list[SequenceState]) -> None:
        """Copy the prefixes of sequences that begin to decode into their rows."""
        begun = [(row, sequence) for row, sequence in enumerate(decoding) if sequence.prefix is not None]
        if begun:
            self._reserve(1 + max(sequence.own + sequence.prefix_tokens for _, sequence in begun))
        for row, sequence in begun:
            assert sequence.prefix is not None
            self._cache.absorb(row, sequence.prefix, sequence.prefix_tokens, sequence.own)
            self._prefixes.release(sequence.prefix)
            sequence.own += sequence.prefix_tokens
            sequence.prefix, sequence.prefix_tokens = None, 0

    def _decode_order(self, decoding: list[SequenceState]) -> list[int]:
        """Return the rows in the order in which their tokens are computed."""
        if self._banked is None:
            return list(range(len(decoding)))
        return self._banked.order([sequence.adapter for sequence in decoding])

    def _layout(self, batch: Batch) -> StepLayout:
        """Return where each token of a step belongs; sequences that read the same prefix are grouped."""
        decoding = batch.rows
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
            own_B=torch.tensor(batch.own, device=self._device, dtype=torch.int64),
            past_B=torch.tensor(
                [sequence.prefix_tokens for sequence in decoding], device=self._device, dtype=torch.int64
            ),
            own_tokens=max(batch.own, default=-1) + 1,
            past_tokens=max((sequence.prefix_tokens for sequence in decoding), default=0),
            readers=readers,
            pieces=batch.pieces,
            rows=None if batch.order == sorted(batch.order) else batch.order,
        )

    def _find_prefix(self, sequence: SequenceState) -> None:
        """Let a new sequence read a stored prefix, or begin the one it shares with others."""
        if sequence.told:
            return
        body = torch.tensor(sequence.tokens[:-1], dtype=torch.int64)
        prefix, length = self._prefixes.find(body, sequence.adapter)
        if sequence.share >= length + self._prefixes.least_tokens:
            prefix = self._prefixes.build(sequence.tokens[: sequence.share], sequence.adapter)
            length = sequence.share
        if prefix is not None:
            sequence.prefix, sequence.prefix_tokens = prefix, length
            self._prefixes.acquire(prefix)

    def _plan_prompt(self, batch: Batch, sequence: SequenceState, room: int) -> int:
        """Add what fits of a prompt (its unfinished prefix first) to the step; return the room left."""
        prefix = sequence.prefix
        if prefix is not None and prefix.planned < sequence.prefix_tokens:
            taken = min(room, sequence.prefix_tokens - prefix.planned)
            self._add_piece(batch, sequence, Piece(len(batch.tokens), taken, prefix, prefix.planned))
            prefix.planned += taken
            room -= taken
            if prefix.planned < sequence.prefix_tokens:
                return room
        taken = min(room, sequence.pending)
        if taken == 0:
            return room
        piece = Piece(len(batch.tokens), taken, sequence.row, sequence.own, prefix, sequence.prefix_tokens)
        self._add_piece(batch, sequence, piece)
        if sequence.told:
            targets = sequence.tokens[sequence.own + 1 : sequence.own + taken + 1]
            batch.told.append(ToldPiece(sequence, piece.first, targets))
        sequence.own += taken
        sequence.reading = sequence.pending > 0
        if not sequence.reading:
            batch.read.append(sequence)
            if sequence.answers:
                batch.last.append(len(batch.tokens) - 1)
                batch.sequences.append(sequence)
        return room - taken

    def _keep_start(self, sequence: SequenceState) -> None:
        """Store what a prompt that is told shares with others, now that it is read: it lies in the sequence's own row."""
        start = sequence.tokens[: sequence.share]
        if sequence.told and len(start) >= self._prefixes.least_tokens:
            stored = self._prefixes.find(torch.tensor(start, dtype=torch.int64), sequence.adapter)[1]
            if stored < len(start):
                self._prefixes.keep(start, sequence.adapter, self._cache, sequence.row)

    @staticmethod
    def _add_piece(batch: Batch, sequence: SequenceState, piece: Piece) -> None:
        start = piece.prefix_tokens + piece.start
        batch.pieces.append(piece)
        batch.owners.append((sequence.adapter, slice(piece.first, piece.first + piece.tokens)))
        batch.tokens += sequence.tokens[start : start + piece.tokens]
        batch.positions += range(start, start + piece.tokens)
