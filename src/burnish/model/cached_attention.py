"""Attention over cached keys and values for tokens of many sequences laid end to end in one row.

One step computes N tokens: first one token for each decoding sequence (sequence i owns cache row i), then pieces of
prompts. transformers hands every layer's queries, keys and values to the function registered here as
"burnish_cached", together with the `StepLayout` that the decoder passed to the model's forward call. No token is
padded, and a prefix shared by several sequences is read once for all of them: their queries are multiplied with it
together, and one softmax spans prefix and own tokens (the idea of cascade inference: Ye et al. 2024, FlashInfer,
arXiv:2501.01005).

Shapes: B decoding sequences, K key/value heads, R query heads per key/value head, H = K*R, D head size, P longest
prefix, S longest own past, T tokens of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from burnish.core.errors import BaseModelError
from burnish.model.kv_cache import LayerRows, Prefix, Rows

NAME = "burnish_cached"


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive prompt tokens of one sequence, or of a prefix.

    first:  index of the first token in the step's row of tokens.
    tokens: how many.
    target: the cache row, or the prefix, that keeps them.
    start:  position of the first token within the target.
    prefix: what comes before the target's tokens, and how much of it (None and 0 for a prefix itself).
    """

    first: int
    tokens: int
    target: int | Prefix
    start: int
    prefix: Prefix | None = None
    prefix_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Readers:
    """Decoding sequences that read the same leading tokens of the same prefix: their cache rows."""

    prefix: Prefix
    prefix_tokens: int
    rows: slice | Tensor


@dataclass(slots=True)
class StepLayout:
    """Where each token of a step belongs. Decoding sequences write at `own_B`, after `past_B` prefix tokens.

    `rows` is the cache row of each decoding token when they are not in the order of the rows. `rounded`: own_tokens is more than
    the longest own past.
    """

    cache: Rows
    own_B: Tensor
    past_B: Tensor
    own_tokens: int
    past_tokens: int
    readers: list[Readers]
    pieces: list[Piece]
    rows: list[int] | None = None
    rounded: bool = False
    masks: dict[int | None, Tensor] = field(default_factory=dict)
    piece_masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)
    layers_seen: int = 0
    row_B: Tensor = field(init=False)
    own_in_order_B: Tensor = field(init=False)
    token_B: Tensor | None = field(init=False, default=None)
    _rotations: tuple[Tensor, Tensor] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.row_B = torch.arange(len(self.own_B), device=self.own_B.device)
        self.own_in_order_B = self.own_B
        if self.rows is not None:
            self.row_B = torch.tensor(self.rows, device=self.own_B.device)
            self.own_in_order_B = self.own_B[self.row_B]
            self.token_B = torch.argsort(self.row_B)

    def rotations(self, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (1, N, D) as (N, 1, D), the first half of the sines negative, for x cos + roll(x, D / 2) sin.

        Su et al. 2021, arXiv:2104.09864, equation 34, with the halves of a head as pairs. Computed once: all layers turn alike.
        """
        if self._rotations is None:
            cos_1ND, sin_1ND = angles
            sin_N1D = sin_1ND[0][:, None].clone()
            sin_N1D[..., : sin_N1D.shape[-1] // 2].neg_()
            self._rotations = cos_1ND[0][:, None], sin_N1D
        return self._rotations

    def decode_mask(self, window: int | None, like: Tensor) -> Tensor:
        """Return the additive mask (B, 1, 1, P + S): 0 where a token of the past is seen, -inf elsewhere."""
        if window not in self.masks:
            past_P = torch.arange(self.past_tokens, device=like.device)
            own_S = torch.arange(self.own_tokens, device=like.device)
            now_B1 = (self.past_B + self.own_B)[:, None]
            seen_BP = past_P < self.past_B[:, None]
            seen_BS = own_S <= self.own_B[:, None]
            if window is not None:
                seen_BP &= past_P > now_B1 - window
                seen_BS &= own_S + self.past_B[:, None] > now_B1 - window
            seen_BQ = torch.cat([seen_BP, seen_BS], dim=1)
            mask_BQ = torch.zeros(seen_BQ.shape, dtype=like.dtype, device=like.device).masked_fill_(
                ~seen_BQ, -torch.inf
            )
            self.masks[window] = mask_BQ[:, None, None, :]
        return self.masks[window]

    def piece_mask(self, index: int, window: int | None, device: torch.device) -> Tensor | None:
        """Return which of its past (and itself) each token of a piece sees, (T, past + T); None means plain causal."""
        key = (index, window)
        if key not in self.piece_masks:
            piece = self.pieces[index]
            past = piece.prefix_tokens + piece.start
            if past == 0 and window is None:
                self.piece_masks[key] = None
            else:
                now_T1 = torch.arange(past, past + piece.tokens, device=device)[:, None]
                keys_Q = torch.arange(past + piece.tokens, device=device)
                seen_TQ = keys_Q <= now_T1
                self.piece_masks[key] = seen_TQ if window is None else seen_TQ & (keys_Q > now_T1 - window)
        return self.piece_masks[key]


def cached_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    burnish_step: StepLayout,
    **_: object,
) -> tuple[Tensor, None]:
    """Store the step's keys and values, and attend; returns (1, N, H, D). See transformers' AttentionInterface."""
    if s_aux is not None:
        raise BaseModelError("this base has attention sinks, which cached decoding does not compute. Use another base.")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    index: int = module.layer_idx  # pyright: ignore[reportAssignmentType]
    seen = attend(burnish_step, index, query[0], key[0], value[0], scale=scale, window=sliding_window, softcap=softcap)
    return seen[None], None


def attend(
    step: StepLayout,
    index: int,
    query_HND: Tensor,
    key_KND: Tensor,
    value_KND: Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None = None,
) -> Tensor:
    """Store the keys and values of a step's tokens in layer `index`, and return what their queries read (N, H, D).

    softcap: scores become softcap tanh(score / softcap), where a base says so (Gemma 2).
    """
    step.layers_seen += 1
    rows = step.cache.layer(index, key_KND)
    decoding = step.own_B.shape[0]
    outputs: list[Tensor] = []
    if decoding:
        key_BKD, value_BKD = key_KND[:, :decoding].transpose(0, 1), value_KND[:, :decoding].transpose(0, 1)
        rows.write(step.row_B, step.own_in_order_B, key_BKD, value_BKD)
        query_BHD = query_HND[:, :decoding].transpose(0, 1)
        if step.token_B is None:
            outputs.append(_decode(step, index, rows, query_BHD, scale, window, softcap))
        else:
            in_rows = _decode(step, index, rows, query_BHD.index_select(0, step.token_B), scale, window, softcap)
            outputs.append(in_rows.index_select(0, step.row_B))
    for number, piece in enumerate(step.pieces):
        here = slice(piece.first, piece.first + piece.tokens)
        keys_KQD, values_KQD = _store_piece(piece, index, rows, key_KND[:, here], value_KND[:, here])
        mask = step.piece_mask(number, window, query_HND.device)
        if softcap is not None:
            outputs.append(_capped(query_HND[:, here] * scale, keys_KQD, values_KQD, mask, softcap))
            continue
        output = scaled_dot_product_attention(
            query_HND[None, :, here], keys_KQD[None], values_KQD[None],
            attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True,
        )  # fmt: skip
        outputs.append(output[0].transpose(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _capped(query_HTD: Tensor, keys_KQD: Tensor, values_KQD: Tensor, mask_TQ: Tensor | None, softcap: float) -> Tensor:
    """Return what the (scaled) queries of a piece read (T, H, D) where scores are capped, which no kernel of torch does."""
    heads, tokens, size = query_HTD.shape
    query_KRTD = query_HTD.reshape(keys_KQD.shape[0], -1, tokens, size)
    scores_KRTQ = _cap(query_KRTD @ keys_KQD[:, None].transpose(-1, -2), softcap)
    if mask_TQ is None:
        mask_TQ = torch.ones(scores_KRTQ.shape[-2:], dtype=torch.bool, device=scores_KRTQ.device).tril_()
    weights = torch.softmax(scores_KRTQ.masked_fill_(~mask_TQ, -torch.inf).float(), dim=-1).to(values_KQD.dtype)
    return (weights @ values_KQD[:, None]).reshape(heads, tokens, size).transpose(0, 1)


def _cap(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else scores.div_(softcap).tanh_().mul_(softcap)


def _store_piece(
    piece: Piece, index: int, rows: LayerRows, key_KTD: Tensor, value_KTD: Tensor
) -> tuple[Tensor, Tensor]:
    """Keep a piece's keys and values, and return all those it may see, oldest first."""
    end = piece.start + piece.tokens
    if isinstance(piece.target, Prefix):
        keys, values = piece.target.layer(index, key_KTD)
    else:
        keys, values = rows.keys[piece.target], rows.values[piece.target]
    keys[:, piece.start : end] = key_KTD
    values[:, piece.start : end] = value_KTD
    if piece.prefix is None:
        return keys[:, :end], values[:, :end]
    past_keys, past_values = piece.prefix.layer(index, key_KTD)
    tokens = piece.prefix_tokens
    return (
        torch.cat([past_keys[:, :tokens], keys[:, :end]], dim=1),
        torch.cat([past_values[:, :tokens], values[:, :end]], dim=1),
    )


def _decode(
    step: StepLayout,
    index: int,
    rows: LayerRows,
    query_BHD: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Attend with one query per decoding sequence; returns (B, H, D)."""
    batch, heads, size = query_BHD.shape
    groups = rows.keys.shape[1]
    past, own = step.past_tokens, step.own_tokens
    query_BKRD = query_BHD.reshape(batch, groups, heads // groups, size)
    keys_BKSD, values_BKSD = rows.keys[:batch, :, :own], rows.values[:batch, :, :own]
    if not past and softcap is None:
        # Every past lies in the rows: one fused kernel, and no mask where nothing is hidden.
        mask = None if batch == 1 and window is None and not step.rounded else step.decode_mask(window, query_BKRD)
        output = scaled_dot_product_attention(query_BKRD, keys_BKSD, values_BKSD, attn_mask=mask, scale=scale)
        return output.reshape(batch, heads, size)
    query_BKRD = query_BKRD * scale
    scores = query_BKRD.new_zeros(batch, groups, heads // groups, past + own)
    scores[..., past:] = query_BKRD @ keys_BKSD.transpose(-1, -2)
    for reader in step.readers:
        keys_KPD = reader.prefix.layers[index][0][:, : reader.prefix_tokens]
        together = _by_head(query_BKRD[reader.rows]) @ keys_KPD.transpose(-1, -2)
        scores[reader.rows, :, :, : reader.prefix_tokens] = _by_sequence(together, heads // groups)
    weights = torch.softmax(_cap(scores, softcap).add_(step.decode_mask(window, scores)), dim=-1)
    output_BKRD = weights[..., past:] @ values_BKSD
    for reader in step.readers:
        values_KPD = reader.prefix.layers[index][1][:, : reader.prefix_tokens]
        together = _by_head(weights[reader.rows, :, :, : reader.prefix_tokens]) @ values_KPD
        output_BKRD[reader.rows] += _by_sequence(together, heads // groups)
    return output_BKRD.reshape(batch, heads, size)


def _by_head(values_BKRX: Tensor) -> Tensor:
    """(B, K, R, X) -> (K, B*R, X): all sequences' rows of one key/value head together."""
    return values_BKRX.transpose(0, 1).flatten(1, 2)


def _by_sequence(values_KBRX: Tensor, per_group: int) -> Tensor:
    """(K, B*R, X) -> (B, K, R, X): undo `_by_head`."""
    return values_KBRX.unflatten(1, (-1, per_group)).transpose(0, 1)


AttentionInterface.register(NAME, cached_attention)


@contextmanager
def cached_attention_on(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend through the cache inside the block; afterwards as before."""
    before = model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    assert before is not None, "transformers sets it when a model is made"
    if before == NAME:
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
