"""Keys and values of tokens already computed: rows of running sequences, and prefixes that several of them share.

A sequence's past is a shared prefix (perhaps empty) followed by its own tokens. Own tokens lie in preallocated rows
that grow when needed; a prefix is stored once, however many sequences read it. Shapes: K key/value heads, S tokens, D
head size.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

GROWTH_TOKENS = 64
"""Rows grow by at least this many tokens, so that growing is rare."""


@dataclass(slots=True)
class LayerRows:
    """One layer's own tokens: keys and values of shape (rows, K, S, D)."""

    keys: Tensor
    values: Tensor

    def write(self, rows_T: Tensor, positions_T: Tensor, key_TKD: Tensor, value_TKD: Tensor) -> None:
        """Store token i at own position positions_T[i] of row rows_T[i]."""
        self.keys[rows_T, :, positions_T] = key_TKD
        self.values[rows_T, :, positions_T] = value_TKD


@dataclass(slots=True)
class Rows:
    """The own tokens of the running sequences in every layer. Layers appear as the model reaches them.

    `moves` counts how often they went to another place in memory, which ends what a CUDA graph knows of them. Growing ahead of
    need ends at `most_rows` and `most_tokens`: there can never be more.
    """

    most_rows: int = sys.maxsize
    most_tokens: int = sys.maxsize
    rows: int = 0
    tokens: int = 0
    moves: int = 0
    layers: dict[int, LayerRows] = field(default_factory=dict)

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for `rows` sequences of `tokens` own tokens each; layers follow at their next use."""
        if rows > self.rows:
            self.rows = max(rows, min(2 * self.rows, self.most_rows))
            self.moves += 1
        if tokens > self.tokens:
            self.tokens = max(tokens, min(self.tokens + max(GROWTH_TOKENS, self.tokens // 4), self.most_tokens))
            self.moves += 1

    def layer(self, index: int, like_KTD: Tensor) -> LayerRows:
        """Return a layer's rows in the reserved size; `like_KTD` tells heads, head size, type and device."""
        layer = self.layers.get(index)
        heads, _, size = like_KTD.shape
        if layer is None or layer.keys.shape[0] < self.rows or layer.keys.shape[2] < self.tokens:
            shape = (self.rows, heads, self.tokens, size)
            grown = LayerRows(like_KTD.new_zeros(shape), like_KTD.new_zeros(shape))
            if layer is not None:
                rows, _, tokens, _ = layer.keys.shape
                grown.keys[:rows, :, :tokens] = layer.keys
                grown.values[:rows, :, :tokens] = layer.values
            self.layers[index] = layer = grown
        return layer

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` own tokens of row `source` over row `target`."""
        for layer in self.layers.values():
            layer.keys[target, :, :tokens] = layer.keys[source, :, :tokens]
            layer.values[target, :, :tokens] = layer.values[source, :, :tokens]

    def swap(self, one: int, other: int, tokens: int) -> None:
        """Exchange the first `tokens` own tokens of two rows."""
        for layer in self.layers.values():
            for kept in (layer.keys, layer.values):
                before = kept[one, :, :tokens].clone()
                kept[one, :, :tokens] = kept[other, :, :tokens]
                kept[other, :, :tokens] = before

    def absorb(self, row: int, prefix: Prefix, tokens: int, own: int) -> None:
        """Put the first `tokens` tokens of a prefix before the `own` tokens of a row, for which there is room."""
        for index, shared in prefix.layers.items():
            layer = self.layer(index, shared[0])
            for kept, before in zip((layer.keys, layer.values), shared, strict=True):
                kept[row, :, tokens : tokens + own] = kept[row, :, :own].clone()
                kept[row, :, :tokens] = before[:, :tokens]

    def clear(self) -> None:
        """Give the memory back."""
        self.rows, self.tokens = 0, 0
        self.moves += 1
        self.layers.clear()


class Prefix:
    """Leading tokens with their keys and values, stored once and read by several sequences.

    `planned` tokens are computed by the end of the step being prepared, `ready` tokens by the last finished step. `owner` is
    the adapter that computed it: another adapter has other keys and values for the same tokens.
    """

    def __init__(self, tokens: Sequence[int], owner: Hashable | None = None) -> None:
        self.owner = owner
        self.tokens = torch.tensor(tokens, dtype=torch.int64)
        self.planned = 0
        self.ready = 0
        self.users = 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def layer(self, index: int, like_KTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, each of shape (K, S, D)."""
        if index not in self.layers:
            heads, _, size = like_KTD.shape
            shape = (heads, len(self), size)
            self.layers[index] = (like_KTD.new_zeros(shape), like_KTD.new_zeros(shape))
        return self.layers[index]

    def common(self, tokens_T: Tensor) -> int:
        """Return how many leading tokens are the same here and in `tokens_T`."""
        length = min(len(self), len(tokens_T))
        differs = (self.tokens[:length] != tokens_T[:length]).nonzero()
        return int(differs[0]) if len(differs) else length

    def take_over(self, other: Prefix, tokens: int) -> None:
        """Start from the first `tokens` tokens of another prefix, which must be ready there."""
        for index, (keys, values) in other.layers.items():
            own_keys, own_values = self.layer(index, keys)
            own_keys[:, :tokens] = keys[:, :tokens]
            own_values[:, :tokens] = values[:, :tokens]
        self.planned = self.ready = tokens


class PrefixStore:
    """The prefixes at hand, least recently used first. Unused ones are kept while they fit in `budget_tokens`."""

    def __init__(self, budget_tokens: int, least_tokens: int = 16) -> None:
        self.budget_tokens = budget_tokens
        self.least_tokens = least_tokens
        self.prefixes: list[Prefix] = []

    def find(
        self, tokens_T: Tensor, owner: Hashable | None = None, *, ready: bool = False
    ) -> tuple[Prefix | None, int]:
        """Return the owner's prefix that has the most leading tokens of `tokens_T`, and how many (0: too few to help).

        `ready`: only tokens that are computed count; otherwise those of prefixes that are still being computed do, too.
        """
        best, length = None, self.least_tokens - 1
        for prefix in self.prefixes:
            if prefix.owner != owner:
                continue
            common = prefix.common(tokens_T)
            if ready:
                common = min(common, prefix.ready)
            if common > length:
                best, length = prefix, common
        return (best, length) if best is not None else (None, 0)

    def build(self, tokens: Sequence[int], owner: Hashable | None = None) -> Prefix:
        """Return a new prefix for `tokens`, begun from the owner's longest one; its rest is still to be computed."""
        prefix = Prefix(tokens, owner)
        source, length = self.find(prefix.tokens, owner, ready=True)
        if source is not None:
            prefix.take_over(source, length)
        self._add(prefix, source, length)
        return prefix

    def keep(self, tokens: Sequence[int], owner: Hashable | None, rows: Rows, row: int) -> None:
        """Store the first tokens of a row, which are computed there, for later prompts."""
        prefix = Prefix(tokens, owner)
        for index, layer in rows.layers.items():
            kept = (layer.keys[row, :, : len(prefix)].clone(), layer.values[row, :, : len(prefix)].clone())
            prefix.layers[index] = kept
        prefix.planned = prefix.ready = len(prefix)
        self._add(prefix, *self.find(prefix.tokens, owner, ready=True))
        self.trim()

    def _add(self, prefix: Prefix, source: Prefix | None, length: int) -> None:
        """Add a prefix, in place of a shorter one that is a part of it and that nobody reads."""
        if source is not None and length == len(source) and source.users == 0:
            self.prefixes.remove(source)
        self.prefixes.append(prefix)

    def forget(self, owner: Hashable) -> None:
        """Drop the prefixes of an adapter that is gone; none of them may have readers."""
        self.prefixes = [prefix for prefix in self.prefixes if prefix.owner != owner]

    def acquire(self, prefix: Prefix) -> None:
        """Count a reader and mark the prefix as just used."""
        prefix.users += 1
        self.prefixes.remove(prefix)
        self.prefixes.append(prefix)

    def release(self, prefix: Prefix) -> None:
        """Count a reader out and drop unused prefixes that no longer fit."""
        prefix.users -= 1
        self.trim()

    def trim(self) -> None:
        """Drop the least recently used prefixes without readers until the rest fits the budget."""
        unused = [prefix for prefix in self.prefixes if prefix.users == 0]
        surplus = sum(len(prefix) for prefix in unused) - self.budget_tokens
        for prefix in unused:
            if surplus <= 0:
                return
            self.prefixes.remove(prefix)
            surplus -= len(prefix)
