"""Bytes of a training run by component, and the peak.

Exact where it is arithmetic: weights, NF4 blocks, adapters, gradients, optimizer states. Activations are counted in activations.py.
What no arithmetic gives (the process itself, the allocator) is measured and stands in constants.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from burnish.core.artifacts import MethodPlan
from burnish.plan.activations import (
    ITEM_BYTES,
    Device,
    Dtype,
    Workload,
    feed_forward_layer_bytes,
    is_full,
    is_fused,
    layer_activation_bytes,
    layer_gradient_bytes,
    moved_bytes,
    piece_layer_bytes,
    piece_tokens,
)
from burnish.plan.adapters import adapted
from burnish.plan.architecture import Architecture, Block, Linear
from burnish.plan.constants import constant
from burnish.plan.optimizers import (
    Optimizer,
    Tensors,
    all_tensors,
    bias_tensors,
    gradient_bytes,
    length_tensors,
    lora_tensors,
    state_bytes,
)

NF4_BLOCK = 64
"""Weights that share one scale (Dettmers et al. 2023, QLoRA, section 3)."""
NF4_NESTED_BLOCK = 256
"""Scales that share one scale of scales, with double quantisation."""
NF4_TABLE_BYTES = 64
"""The 16 float32 values of NF4, kept by each layer."""
NF4_NESTED_TABLE_BYTES = 1024 + 4
"""The 256 float32 values of the scales' 8-bit code and their offset, kept by each layer with double quantisation."""
BUFFERS = 2
"""Layers on the device at once (model/stream.py): the one that is computed, and the next."""
TRAINED_BYTES = 4
"""What is trained is float32, and so are gradients. Full fine-tuning in fewer bits computes with a copy of the weights."""
CHECKPOINT_BYTES = 16
"""A trained number in a checkpoint being written: itself and two states as serialised bytes, and a copy of itself."""
CHECKPOINT_PIECE_BYTES = 2 * 512 * 2**20
"""The most at once: a file of them (train/checkpoint.py), and the same as bytes."""
PRODUCTS_KEPT = 1024
"""Products that oneDNN keeps prepared (its `primitive cache`, ONEDNN_PRIMITIVE_CACHE_CAPACITY)."""
ATTENTION_PRODUCTS = 6
LOSS_CHUNK = 128
"""Positions whose logits exist at once on a CPU (model/losses.py)."""
LOGIT_COPIES = 2
"""Chunks of logits alive at once: the logits, and what becomes of them in float32."""
GPU_LOGIT_BYTES = 256 * 2**20
"""Logits that exist at once on a GPU, in the dtype of the computation (model/fused/paths.py)."""

COMPONENTS: dict[str, str] = {
    "process": "Python with torch, transformers and bitsandbytes, before any weight",
    "prepared": "what reading and cleaning the data leaves in the process that trains after it",
    "rows": "token ids and masks of all rows, which training holds",
    "context": "what CUDA takes on the device before the first tensor",
    "workspace": "buffers of cuBLAS",
    "weights": "the base model as loaded",
    "quantisation_constants": "scales and tables of NF4, which the footprint of the weights does not count",
    "stream_buffers": "frozen weights of the layer that is computed and of the next one, copied from the host's memory",
    "rounded_weights": "frozen weights a second time in float8, which gradients are multiplied with",
    "master_weights": "every weight in float32, where full fine-tuning computes in fewer bits",
    "adapter": "A and B of each target, float32, and on a GPU their copy in the dtype of the computation",
    "reference": "the adapter that training goes on from, frozen, which preferences are held against",
    "gradients": "one number for each trained one; with the optimizer in backward those of one layer",
    "optimizer": "the optimizer's states, of AdamW two for each trained number; paged ones live in the host's memory",
    "activations": "what autograd keeps of the fullest packed row, all layers",
    "recomputed_layer": "the activations of one layer while it is computed a second time",
    "layer_gradients": "gradients of a layer's activations in its backward, beyond what the loss held before",
    "offload_buffers": "activations on their way to the host's memory, and back one layer ahead of backward",
    "loss": "logits of a chunk of positions, hidden states with their gradients, and the head's gradient where it is trained",
    "dequantised_weight": "the largest NF4 weight, unpacked for its product",
    "row_lengths": "the largest weight with its adapter in float32, and its square, while the lengths of its rows are taken (DoRA)",
    "products": "what a CPU keeps of every product in bfloat16 that it has prepared, one for each shape (oneDNN)",
    "allocator": "holes that the allocator keeps between blocks",
    "checkpoint": "a checkpoint being written, beyond the loss, which it follows",
    "calibration": "by how much more earlier runs on this device took than the formulas say",
    "probe": "by how much more a probe on this machine held than the formulas say",
    "loading": "by how much reading and quantising the weights takes more than training",
}
"""What each component of the peak is."""


def weight_bytes(architecture: Architecture, quantisation: Literal["none", "nf4"], dtype: Dtype) -> int:
    """Bytes of the base as loaded: what transformers' `get_memory_footprint` counts, rotary buffers included.

    NF4 packs two weights of a layer's linears into a byte; embeddings, head, norms and biases stay in `dtype`.
    """
    item = ITEM_BYTES[dtype]
    if quantisation == "none":
        return (architecture.parameters + architecture.scalar_buffers) * item + architecture.buffer_bytes
    packed = sum(
        block.count * sum(math.ceil(linear.weights / 2) for linear in block.linears) for block in architecture.blocks
    )
    return (
        packed
        + (architecture.parameters - architecture.linear_weights + architecture.scalar_buffers) * item
        + architecture.buffer_bytes
    )


def quantisation_constant_bytes(architecture: Architecture, *, double_quantisation: bool) -> int:
    """Bytes of NF4's scales and tables, which the footprint does not count."""
    return sum(
        block.count * sum(_nf4_constants(linear, double=double_quantisation) for linear in block.linears)
        for block in architecture.blocks
    )


@dataclass(frozen=True, slots=True)
class Streamed:
    """Bytes of frozen weights, and of their NF4 scales, that so many layers leave to the host, and of the largest such layer.

    `pinned`: what that takes of the host's memory; torch rounds each layer up to a power of two.
    """

    layers: int
    weights: int
    scales: int
    largest: int
    pinned: int

    @property
    def bytes(self) -> int:
        """All that is copied for one pass over the layers."""
        return self.weights + self.scales

    @property
    def buffers(self) -> int:
        """Bytes on the device in their place."""
        return min(BUFFERS, self.layers) * self.largest


def streamed(architecture: Architecture, method: MethodPlan, dtype: Dtype, count: int) -> Streamed:
    """Return what `count` layers leave to the host, spread evenly over all."""
    every = [block for block in architecture.blocks for _ in range(block.count)]
    chosen = [_layer(every[number * len(every) // count], method, dtype) for number in range(count)]
    return Streamed(
        layers=count,
        weights=sum(weights for weights, _ in chosen),
        scales=sum(scales for _, scales in chosen),
        largest=max((weights + scales for weights, scales in chosen), default=0),
        pinned=sum(1 << (weights + scales - 1).bit_length() for weights, scales in chosen),
    )


def _layer(block: Block, method: MethodPlan, dtype: Dtype) -> tuple[int, int]:
    """Bytes of a layer's linear weights, and of their NF4 scales."""
    if method.quantisation == "none":
        return ITEM_BYTES[dtype] * block.linear_weights, 0
    scales = sum(_nf4_scales(linear, double=method.double_quantisation) for linear in block.linears)
    return sum(math.ceil(linear.weights / 2) for linear in block.linears), scales


def _nf4_constants(linear: Linear, *, double: bool) -> int:
    tables = NF4_TABLE_BYTES + NF4_NESTED_TABLE_BYTES if double else 0
    return _nf4_scales(linear, double=double) + tables


def _nf4_scales(linear: Linear, *, double: bool) -> int:
    blocks = math.ceil(linear.weights / NF4_BLOCK)
    return blocks + 4 * math.ceil(blocks / NF4_NESTED_BLOCK) if double else 4 * blocks


def trained_tensors(architecture: Architecture, method: MethodPlan) -> tuple[Tensors, ...]:
    """Return what a method trains, tensor by tensor."""
    if is_full(method):
        return all_tensors(architecture)
    found = lora_tensors(architecture, method.targets, method.rank)
    found += () if method.bias is None else bias_tensors(architecture, method.targets, method.bias)
    return found + (length_tensors(architecture, method.targets) if method.dora else ())


def training_components(
    architecture: Architecture,
    method: MethodPlan,
    *,
    device: Device,
    dtype: Dtype,
    work: Workload,
    checkpointed_layers: int,
    feed_forward_again: int = 0,
    offloaded_layers: int = 0,
    streamed_layers: int = 0,
    reference_copy: bool = False,
    optimizer: Optimizer = "adamw",
    optimizer_in_backward: bool = False,
) -> dict[str, int]:
    """Bytes by component at the peak: the end of the forward pass. Their sum is the peak.

    On the CPU it is the resident memory of the process. `allocator`: what the allocator holds beyond what is asked for.
    `checkpoint`: by how much more is held while a checkpoint is written than for the loss, which it follows.
    `loading`: by how much more is held while the weights are read and quantised than at that peak, else 0.
    reference_copy: the adapter is kept a second time, frozen. The reference itself keeps no activations.
    feed_forward_again: so many fused layers after the checkpointed ones compute their feed-forward half again.
    offloaded_layers: so many of both keep nothing on the device; streamed_layers: so many of all have no frozen weights there.
    Where the gradients of a fused layer's activations are larger than what the loss holds, the peak is in backward.
    """
    item, nf4 = ITEM_BYTES[dtype], method.quantisation == "nf4"
    full, tensors = is_full(method), trained_tensors(architecture, method)
    trained = sum(each.count * each.numbers for each in tensors)
    adapters = 0 if full else trained
    layer = layer_activation_bytes(architecture, method, device, dtype, work)
    half = feed_forward_layer_bytes(architecture, method, dtype, work) if feed_forward_again else 0
    inputs = item * architecture.hidden * work.row_tokens * checkpointed_layers
    again = checkpointed_layers + feed_forward_again
    scales = quantisation_constant_bytes(architecture, double_quantisation=method.double_quantisation) if nf4 else 0
    components = {
        "process" if device == "cpu" else "context": round(constant(f"{device}_process_bytes")),
        **({"workspace": round(constant("cuda_workspace_bytes"))} if device == "cuda" else {}),
        "weights": weight_bytes(architecture, method.quantisation, dtype),
        "quantisation_constants": scales,
        **({"rounded_weights": _rounded_bytes(architecture)} if method.base_dtype == "fp8" else {}),
        **({"master_weights": TRAINED_BYTES * trained} if full and item < TRAINED_BYTES else {}),
        "adapter": (4 + (item if device == "cuda" and is_fused(architecture, method) else 0)) * adapters,
        **({"reference": 4 * trained} if reference_copy else {}),
        "gradients": gradient_bytes(
            tensors, TRAINED_BYTES, layers=architecture.layers, in_backward=optimizer_in_backward
        ),
        "optimizer": state_bytes(optimizer, tensors, TRAINED_BYTES, pages=device == "cuda").device,
        "activations": layer * (architecture.layers - checkpointed_layers) + inputs - half * feed_forward_again,
        "recomputed_layer": _again_bytes(architecture, device, layer if checkpointed_layers else half, again),
        "loss": _loss_bytes(architecture, method, device, dtype, work),
        "dequantised_weight": _dequantised_bytes(architecture, method, device, item) if nf4 else 0,
        **({"row_lengths": 2 * 4 * max(linear.weights for linear in architecture.linears)} if method.dora else {}),
    }
    if device == "cuda":
        layers = checkpointed_layers, feed_forward_again, offloaded_layers
        components |= _given_way(architecture, method, dtype, work, components, layers)
        components |= _without_streamed(components, streamed(architecture, method, dtype, streamed_layers))
        asked = sum(components.values()) - components["context"]
        return components | {"allocator": round(constant("cuda_allocator_share") * asked), "loading": 0}
    holes = constant("cpu_allocator_share") * components["activations"]
    holes += constant("cpu_recompute_share") * (layer * checkpointed_layers + half * feed_forward_again)
    left = constant("cpu_quantise_share") * ITEM_BYTES["float32"] * architecture.linear_weights if nf4 else 0
    components["allocator"] = round(max(holes, left))
    if dtype == "bfloat16":
        kept = min(PRODUCTS_KEPT, product_shapes(architecture, method, work))
        components["products"] = round(constant("cpu_bf16_product_bytes")) * kept
    components["checkpoint"] = max(0, min(CHECKPOINT_BYTES * trained, CHECKPOINT_PIECE_BYTES) - components["loss"])
    load = components["process"] + weight_bytes(architecture, "none", dtype)
    load += components["weights"] + round(left) if nf4 else 0
    return components | {"loading": max(0, load - sum(components.values()))}


def _given_way(
    architecture: Architecture, method: MethodPlan, dtype: Dtype, work: Workload, components: Mapping[str, int],
    layers: tuple[int, int, int],
) -> dict[str, int]:  # fmt: skip
    """Return the components that change where a GPU's layers leave activations on the host, are computed in pieces, or are fused.

    layers: computed again whole, by their feed-forward half, and of both those on the host.
    """
    whole, halves, offloaded = layers
    item, changed = ITEM_BYTES[dtype], dict[str, int]()
    if offloaded:  # one is on its way while another is used; what halves keep is not part of what is made again
        moved, most = moved_bytes(architecture, dtype, work, whole=whole, halves=halves, offloaded=offloaded)
        changed["activations"] = components["activations"] - moved
        changed["offload_buffers"] = (2 if most > item * architecture.hidden * work.row_tokens else 1) * most
    piece = piece_tokens(architecture, method, "cuda", work) if whole + halves else None
    if piece is not None:
        part = piece_layer_bytes(architecture, method, item, work, piece, whole=whole > 0)
        changed["recomputed_layer"] = _again_bytes(architecture, "cuda", part, whole + halves)
    if is_fused(architecture, method) and not is_full(method):
        kept = whole + halves < architecture.layers  # the last layer, whose backward comes first, is not made in pieces
        gradients = layer_gradient_bytes(architecture, item, work, None if kept else piece)
        if piece is not None or gradients > components["loss"]:
            changed["layer_gradients"] = max(0, gradients - components["loss"])
    return changed


def _without_streamed(components: Mapping[str, int], gone: Streamed) -> dict[str, int]:
    """Return the components that change where frozen weights are copied from the host layer by layer."""
    if not gone.layers:
        return {}
    return {
        "weights": components["weights"] - gone.weights,
        "quantisation_constants": components["quantisation_constants"] - gone.scales,
        "stream_buffers": gone.buffers,
    }


def _rounded_bytes(architecture: Architecture) -> int:
    """Bytes of the float8 copies (model/fused/frozen.py) of all but what reads attention's result.

    A byte a weight, and a float32 scale for each input, which weights that read the same share.
    """
    found = 0
    for block in architecture.blocks:
        linears = [linear for linear in block.linears if linear.reads != "attention"]
        scales = {linear.reads: linear.inputs for linear in linears}
        found += block.count * (sum(linear.weights for linear in linears) + 4 * sum(scales.values()))
    return found


def product_shapes(architecture: Architecture, method: MethodPlan, work: Workload) -> int:
    """Return how many different matrix products a run makes on a CPU.

    Of each length of a packed row: every linear forward and backward; the adapters' A and B forward, backward, and for their own
    gradients. Of each segment attention's two products forward and four backward. Those of the loss are a few more.
    """
    linears = {(linear.inputs, linear.outputs) for linear in architecture.linears}
    chosen = architecture.linears if is_full(method) else adapted(architecture.linears, method.targets)
    inputs, outputs = {linear.inputs for linear in chosen}, {linear.outputs for linear in chosen}
    own = len(linears) if is_full(method) else 3 * (len(inputs) + len(outputs))
    return work.row_shapes * (2 * len(linears) + own) + ATTENTION_PRODUCTS * work.segment_shapes


def _again_bytes(architecture: Architecture, device: Device, part: int, again: int) -> int:
    """Bytes of the part of a layer that is computed again while the others' are held."""
    return part if _holds_one_again(architecture, device, again) else 0


def _holds_one_again(architecture: Architecture, device: Device, checkpointed_layers: int) -> bool:
    """Whether a layer is there twice at the peak. On a GPU only when all are recomputed: else the peak has passed by then."""
    return checkpointed_layers == architecture.layers if device == "cuda" else checkpointed_layers > 0


def _dequantised_bytes(architecture: Architecture, method: MethodPlan, device: Device, item: int) -> int:
    """The largest NF4 weight unpacked; fused layers on a GPU unpack those that read one input, a CPU's product holds one twice."""
    if device == "cuda" and is_fused(architecture, method):
        together: dict[str, int] = {}
        for linear in architecture.blocks[0].linears:
            together[linear.reads] = together.get(linear.reads, 0) + linear.weights
        return item * max(together.values())
    return (1 if device == "cuda" else 2) * item * max(linear.weights for linear in architecture.linears)


def _loss_bytes(architecture: Architecture, method: MethodPlan, device: Device, dtype: Dtype, work: Workload) -> int:
    """A chunk of logits, and the gradient of the hidden states, made in forward."""
    item = ITEM_BYTES[dtype]
    gradient = 2 * item * architecture.hidden * work.row_tokens
    if is_full(method):  # the head's, in float32; a GPU makes a chunk's share beside it
        gradient += (2 if device == "cuda" and item < 4 else 1) * 4 * architecture.embedding_parameters
    if device == "cuda" and not method.plain:
        most = GPU_LOGIT_BYTES // (2 * architecture.vocabulary) // LOSS_CHUNK * LOSS_CHUNK
        chunk = min(max(LOSS_CHUNK, most), max(1, work.trained_tokens))
        return item * chunk * (architecture.vocabulary + 2 * architecture.hidden) + gradient
    chunk = min(LOSS_CHUNK, max(1, work.trained_tokens))
    return LOGIT_COPIES * 4 * chunk * architecture.vocabulary + gradient
