"""Bytes that autograd keeps of a decoder layer between forward and backward, tensor by tensor, and who keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from burnish.core.artifacts import MethodPlan
from burnish.plan.adapters import adapted
from burnish.plan.architecture import Architecture, Block

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]
ITEM_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
COPIED_RESULT = frozenset({"phi3"})
"""Families whose attention on a GPU gives a result that the output projection must copy: their rotary code joins a head from
two parts, and the result has the layout of the queries (seen in what autograd keeps on an H100, torch 2.11, cuDNN)."""
CAPPED = frozenset({"gemma2"})
"""Families that cap their attention scores: a CPU keeps tanh of the scores beside their weights."""
FEED_FORWARD = frozenset({"mlp norm", "mlp product"})
"""What the linears of a layer's feed-forward half read."""
PIECE_TOKENS = 8192
"""Tokens of a long row in a layer's feed-forward half at once: products at full speed, and little of the whole row's memory."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The fullest packed row: tokens computed at once, (query, key) pairs that attend, tokens predicted with loss.

    `row_shapes`, `segment_shapes`: different lengths of rows, and of (own, attended) tokens, in the run.
    """

    row_tokens: int
    attended_pairs: int
    trained_tokens: int
    row_shapes: int = 1
    segment_shapes: int = 1


def layer_activation_bytes(
    architecture: Architecture, method: MethodPlan, device: Device, dtype: Dtype, work: Workload
) -> int:
    """Bytes that autograd keeps of one decoder layer between forward and backward; of layers of several kinds, the most."""
    return max(
        block_activation_bytes(architecture, block, method, device, dtype, work) for block in architecture.blocks
    )


def block_activation_bytes(
    architecture: Architecture, block: Block, method: MethodPlan, device: Device, dtype: Dtype, work: Workload
) -> int:
    """Bytes that autograd keeps of one layer of this block: of a fused layer (model/fused/), or of transformers' own.

    Its own norms keep their input in float32 and its inverse root; attention its rotated queries, keys and values, and the
    weight of each pair and head (a GPU its result and a sum for each head instead); values that are a part of a fused projection
    keep all of it; the MLP gate, up and silu(gate), or, without a gate, what its activation reads. LoRA keeps what its linears
    read, once for those that read the same, and A x. With dropout each keeps what is left of its input, and the mask, instead.
    """
    item = ITEM_BYTES[dtype]
    if is_fused(architecture, method):
        return _fused_bytes(architecture, block, method, device, item, work)
    queries, keys = architecture.query_size, architecture.key_value_size
    norms = architecture.hidden_norms * (ITEM_BYTES["float32"] * architecture.hidden + 4)
    if architecture.head_norms:
        norms += ITEM_BYTES["float32"] * (queries + keys) + 4 * (architecture.heads + architecture.key_value_heads)
    fused = sum(linear.reads == "attention norm" for linear in block.linears) == 1
    attention = item * (queries + 2 * keys + (queries + keys if fused else 0))
    mlp = item * (3 if architecture.gated else 1) * block.width
    if is_full(method):
        kept = norms + attention + mlp + _read_bytes(architecture, block, device, item)
        return work.row_tokens * kept + _pair_bytes(architecture, device, item, work)
    if device == "cuda":
        attention += 4 * architecture.heads
        if architecture.model_type in COPIED_RESULT or "o_proj" not in method.targets:
            attention += item * queries
    per_token = norms + attention + mlp + _lora_bytes(architecture, block, method, device, item)
    return work.row_tokens * per_token + _pair_bytes(architecture, device, item, work)


def is_fused(architecture: Architecture, method: MethodPlan) -> bool:
    """Return whether training computes the layers of this architecture with those of model/fused/."""
    if method.plain or method.dora:
        return False
    beside = method.bias == "all" and any(
        each.bias and each.name not in method.targets for each in architecture.linears
    )
    return architecture.fused and not beside


def is_full(method: MethodPlan) -> bool:
    """Return whether every weight is trained: there is no adapter then."""
    return method.rank == 0


def _read_bytes(architecture: Architecture, block: Block, device: Device, item: int) -> int:
    """Bytes that linears whose weights train keep of a token: what they read, once for those that read the same.

    A norm whose weight trains keeps its result before the weight too. A GPU's attention keeps a float32 for each head.
    """
    normed = architecture.hidden_norms * architecture.hidden
    if architecture.head_norms:
        normed += architecture.query_size + architecture.key_value_size
    norms = item * normed if architecture.rms_norms else 0
    sums = 4 * architecture.heads if device == "cuda" else 0
    return norms + sums + item * sum({linear.reads: linear.inputs for linear in block.linears}.values())


def _pair_bytes(architecture: Architecture, device: Device, item: int, work: Workload) -> int:
    """A CPU keeps the weight of each pair and head; a GPU makes it again."""
    return item * architecture.heads * work.attended_pairs if device == "cpu" else 0


def _fused_bytes(
    architecture: Architecture, block: Block, method: MethodPlan, device: Device, item: int, work: Workload
) -> int:
    """Bytes that a fused layer keeps: the residual stream at each norm, q, k, v, the result of attention, gate and up, A x.

    Queries and keys are kept before their own norms too. Dropout keeps a mask for each adapted linear.
    """
    return _attention_half_bytes(architecture, block, method, device, item, work) + _feed_forward_bytes(
        architecture, block, method, item, work
    )


def feed_forward_layer_bytes(architecture: Architecture, method: MethodPlan, dtype: Dtype, work: Workload) -> int:
    """Bytes by which a fused layer keeps less where its feed-forward half is made again; what attention gave is kept instead."""
    item = ITEM_BYTES[dtype]
    given = item * architecture.hidden * work.row_tokens
    return min(_feed_forward_bytes(architecture, block, method, item, work) - given for block in architecture.blocks)


def piece_tokens(architecture: Architecture, method: MethodPlan, device: Device, work: Workload) -> int | None:
    """Return how many tokens of a long row are in a feed-forward half at once where it is computed again; None for all.

    Fused layers with adapters do so, where nothing is dropped.
    """
    able = is_fused(architecture, method) and not is_full(method) and method.dropout == 0.0
    return PIECE_TOKENS if able and device == "cuda" and work.row_tokens >= 2 * PIECE_TOKENS else None


def moved_bytes(
    architecture: Architecture, dtype: Dtype, work: Workload, *, whole: int, halves: int, offloaded: int
) -> tuple[int, int]:
    """Bytes that layers computed again leave on the host: of all together, and of the one that leaves the most.

    The first `whole` leave their input; `halves` after them what attention keeps, and what it gives. Sums of rows and products of
    adapters are small, and stay.
    """
    token = ITEM_BYTES[dtype] * work.row_tokens
    queries, keys = architecture.query_size, architecture.key_value_size
    norms = architecture.hidden_norms - architecture.hidden_norms // 2
    half = token * ((norms + 1) * architecture.hidden + 2 * queries + 2 * keys)
    half += token * (queries + 2 * keys) if architecture.head_norms else 0
    inputs = token * architecture.hidden
    of_halves = max(0, min(offloaded - whole, halves))
    return inputs * min(offloaded, whole) + half * of_halves, half if of_halves else inputs if offloaded else 0


def _feed_forward_bytes(architecture: Architecture, block: Block, method: MethodPlan, item: int, work: Workload) -> int:
    """Bytes that the feed-forward half of a fused layer keeps: half of the norms' inputs, gate and up, A x, masks of dropout."""
    linears = [linear for linear in adapted(block.linears, method.targets) if linear.reads in FEED_FORWARD]
    token = architecture.hidden_norms // 2 * (item * architecture.hidden + 4)
    token += item * (2 * block.width + method.rank * len(linears))
    if method.dropout > 0:
        token += item * sum(linear.inputs for linear in linears)
    return work.row_tokens * token


def _attention_half_bytes(
    architecture: Architecture, block: Block, method: MethodPlan, device: Device, item: int, work: Workload
) -> int:
    queries, keys = architecture.query_size, architecture.key_value_size
    norms = architecture.hidden_norms - architecture.hidden_norms // 2
    token = norms * (item * architecture.hidden + 4) + item * (queries + 2 * keys)
    if architecture.head_norms:
        token += item * (queries + 2 * keys) + 4 * (architecture.heads + architecture.key_value_heads)
    linears = [linear for linear in adapted(block.linears, method.targets) if linear.reads not in FEED_FORWARD]
    if device == "cuda":
        token += item * queries + 4 * architecture.heads
    elif is_full(method) or any(linear.name == "o_proj" for linear in linears):
        token += item * queries
    token += item * method.rank * len(linears)
    if method.dropout > 0:
        token += item * sum(linear.inputs for linear in linears)
    capped = 2 if architecture.model_type in CAPPED else 1
    return work.row_tokens * token + capped * _pair_bytes(architecture, device, item, work)


def _lora_bytes(architecture: Architecture, block: Block, method: MethodPlan, device: Device, item: int) -> int:
    """Bytes that the adapters of a layer keep of a token. CUDA's dropout mask takes a byte, a CPU's a number."""
    linears = adapted(block.linears, method.targets)
    low_rank = item * method.rank * len(linears)
    if method.dora:  # the result before its rows are scaled; with dropout that of the base beside it
        low_rank += (1 if method.dropout == 0 else 2) * item * sum(linear.outputs for linear in linears)
    if method.dropout > 0:
        mask = 1 if device == "cuda" else item
        return low_rank + (item + mask) * sum(linear.inputs for linear in linears)
    return low_rank + item * sum({linear.reads: linear.inputs for linear in linears}.values())


def piece_layer_bytes(
    architecture: Architecture, method: MethodPlan, item: int, work: Workload, piece: int, *, whole: bool
) -> int:
    """Bytes of a layer computed again whose feed-forward half is there for `piece` tokens at a time, or of that half alone."""
    part = Workload(piece, 0, piece)
    found = max(_feed_forward_bytes(architecture, block, method, item, part) for block in architecture.blocks)
    if not whole:
        return found
    given = item * architecture.hidden * work.row_tokens
    halves = (_attention_half_bytes(architecture, b, method, "cuda", item, work) for b in architecture.blocks)
    return found + given + max(halves)


def layer_gradient_bytes(architecture: Architecture, item: int, work: Workload, piece: int | None) -> int:
    """Bytes of gradients in a fused layer's backward: of attention for the whole row, or of the feed-forward half for a piece.

    FlashAttention sums those of queries in float32, and makes those of keys and values for every query head (Dao 2023,
    arXiv:2307.08691, section 3.1, and its code). piece None: the half is there for the whole row, and the gradients of its product,
    gate and up are more than what attention's take beside what that half has given back by then.
    """
    hidden, queries, keys = architecture.hidden, architecture.query_size, architecture.key_value_size
    width = max(block.width for block in architecture.blocks)
    if piece is None:
        return item * (3 * width + hidden) * work.row_tokens
    attention = item * (hidden + 4 * queries + 2 * keys) + ITEM_BYTES["float32"] * queries
    return max(attention * work.row_tokens, item * (2 * hidden * work.row_tokens + (width + 2 * hidden) * piece))
