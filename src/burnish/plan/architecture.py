"""The shape of a decoder from its config.json: every linear layer by name, and exact parameter counts.

What differs between model types stands in families.py. Counts equal those of transformers on the meta device, family by
family (tests/plan/test_architecture.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["attention norm", "attention", "mlp norm", "mlp product", "query latent", "key-value latent"]
"""What a linear reads: linears with the same source read the same tensor."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: weight (outputs, inputs), and a bias of `outputs` numbers where there is one."""

    name: str
    reads: Source
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Numbers in the weight matrix."""
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Numbers in the weight matrix and the bias."""
        return self.weights + (self.outputs if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Experts:
    """Feed-forward layers of which each token uses `active` of `count`. `linears` are those of one expert.

    transformers keeps each of them as one tensor (count, ...) and not as linear layers, so neither NF4 nor all-linear
    reaches them.
    """

    count: int
    active: int
    linears: tuple[Linear, ...]

    @property
    def parameters(self) -> int:
        """Numbers of all experts."""
        return self.count * sum(linear.parameters for linear in self.linears)

    @property
    def active_weights(self) -> int:
        """Numbers in the weight matrices that one token is multiplied with."""
        return self.active * sum(linear.weights for linear in self.linears)


@dataclass(frozen=True, slots=True)
class Block:
    """`count` equal layers. `linears` are those of one layer, in the order of the forward pass.

    `other`: numbers of a layer outside its linears and experts (norms, router). `width`: numbers that a token has between
    the two halves of the feed-forward layer, over all experts that it uses.
    """

    count: int
    linears: tuple[Linear, ...]
    other: int
    width: int
    experts: Experts | None = None

    @property
    def parameters(self) -> int:
        """Numbers of one layer."""
        experts = 0 if self.experts is None else self.experts.parameters
        return sum(linear.parameters for linear in self.linears) + experts + self.other

    @property
    def linear_weights(self) -> int:
        """Numbers in the weight matrices of one layer's linears."""
        return sum(linear.weights for linear in self.linears)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder: its layers as blocks of equal ones, and what stands outside them.

    A layer has `hidden_norms` norms over the hidden size and, with `head_norms`, others over queries and keys. `gated`:
    the feed-forward layer multiplies two projections. `rms_norms`: norms have no bias. Of the whole model: `outside`
    counts numbers beside layers, token embedding and head's weight (the last norm, learned positions, the head's bias);
    `buffer_bytes` are rotary frequencies, always float32; `scalar_buffers` are numbers in the dtype of the weights.
    `part_of`: the model type of a model that sees or hears as well, of which this is the decoder.
    `fused`: training replaces the layers by ones that keep less for backward (model/fused/).
    """

    model_type: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    context: int
    tied_head: bool
    blocks: tuple[Block, ...]
    hidden_norms: int
    head_norms: bool
    gated: bool
    rms_norms: bool
    outside: int
    buffer_bytes: int
    scalar_buffers: int
    fused: bool
    part_of: str | None = None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linears of a layer; of layers of several kinds, each name and shape once."""
        return tuple(dict.fromkeys(linear for block in self.blocks for linear in block.linears))

    @property
    def embedding_parameters(self) -> int:
        """Numbers of the token embedding, which a tied head uses again."""
        return self.vocabulary * self.hidden

    @property
    def head_parameters(self) -> int:
        """Numbers of the output head's weight beyond the embedding: none when it is tied."""
        return 0 if self.tied_head else self.vocabulary * self.hidden

    @property
    def linear_weights(self) -> int:
        """Numbers in the weight matrices of all layers' linears: what NF4 and INT8 quantise."""
        return sum(block.count * block.linear_weights for block in self.blocks)

    @property
    def computed_weights(self) -> int:
        """Numbers in the weight matrices that one token is multiplied with, in all layers."""
        active = sum(block.count * block.experts.active_weights for block in self.blocks if block.experts is not None)
        return self.linear_weights + active

    @property
    def parameters(self) -> int:
        """Numbers of the whole model."""
        layers = sum(block.count * block.parameters for block in self.blocks)
        return self.embedding_parameters + layers + self.outside + self.head_parameters

    @property
    def active_parameters(self) -> int:
        """Numbers that one token uses: all but the experts it is not sent to."""
        idle = 0
        for block in self.blocks:
            if block.experts is not None:
                each = sum(linear.parameters for linear in block.experts.linears)
                idle += block.count * (block.experts.count - block.experts.active) * each
        return self.parameters - idle

    @property
    def query_size(self) -> int:
        """Numbers of all query heads of one token."""
        return self.heads * self.head_size

    @property
    def key_value_size(self) -> int:
        """Numbers of all key heads (or all value heads) of one token."""
        return self.key_value_heads * self.head_size


def read_architecture(config: Mapping[str, Any], *, source: str = "config.json") -> Architecture:
    """Return the architecture that a config.json describes.

    Raises BaseModelError naming `source` when the model type is not known, or a field is missing or not a whole number.
    """
    from burnish.plan.families import build  # the families are written in the words of this file

    return build(config, source)
