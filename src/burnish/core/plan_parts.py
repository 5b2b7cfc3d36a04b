"""What a Plan says of memory, of the method and of the training loop: every number resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from burnish.core.mix import MixPlan
from burnish.core.records import Count, Record


class Memory(Record):
    """Bytes. `weights_bytes` is the base as loaded; `peak_bytes` the most at once; `components` what it is made of.

    `peak_band`: by what share of it the peak may be off, either way; None in plans that were made before it was told.

    `limit_bytes`: how much of what is available training may fill before more layers are computed again. `host_bytes`: pinned
    memory of the host, where a GPU leaves some there. `by_device`: the peak of each of several GPUs, of which `peak_bytes` and
    `components` are those of the fullest.
    """

    weights_bytes: Count
    peak_bytes: Count
    components: dict[str, Count]
    available_bytes: Count | None = None
    limit_bytes: Count | None = None
    host_bytes: Count | None = None
    by_device: tuple[Count, ...] | None = None
    peak_band: float | None = None


def unmeasured_bytes(components: Mapping[str, int], device: str) -> int:
    """Return the bytes of a peak that no run measures: on a GPU what CUDA itself takes, and the holes of torch's allocator."""
    return components["context"] + components["allocator"] if device == "cuda" else 0


class MethodPlan(Record):
    """The method with every number resolved. `plain`: every fast path of training is off. "full" has no adapter: rank 0.

    `base_dtype`: set where training multiplies frozen weights in float8, backward alone
    ("fp8") or both ways ("fp8_all"); `rslora`: the scale is alpha / sqrt(rank); `bias`: the biases that train, of adapted layers
    or all; `dora`: each row of an adapted weight has a length of its own, which trains.
    """

    WHEN_SET: ClassVar[frozenset[str]] = frozenset({"plain", "base_dtype", "rslora", "bias", "dora"})
    kind: Literal["lora", "qlora", "full"]
    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    quantisation: Literal["none", "nf4"]
    double_quantisation: bool
    plain: Literal[True] | None = None
    base_dtype: Literal["fp8", "fp8_all"] | None = None
    rslora: Literal[True] | None = None
    bias: Literal["all", "lora_only"] | None = None
    dora: Literal[True] | None = None

    @property
    def scale(self) -> float:
        """What the low-rank product is multiplied by: alpha / rank, or alpha / sqrt(rank) with rsLoRA (arXiv:2312.03732)."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


class PreferencePlan(Record):
    """What is learned from preference pairs; see `model/preference_loss.py`."""

    kind: Literal["dpo"]
    beta: float
    loss: Literal["sigmoid", "ipo", "hinge"]
    label_smoothing: float


class TrainPlan(Record):
    """The loop with every number resolved. Token counts are those without padding; one row is one packed sequence.

    `mix`: how rows are drawn from several sources, or in which stages; None for every row once an epoch, in any order.
    `preference`: set where a row is a pair; None for the answers of conversations. `optimizer`: None for AdamW.
    `checkpointed_layers` are computed again in backward; `feed_forward_again`: so many after them, but for their attention.
    `offloaded_layers`: what so many of them keep until then waits in the host's memory. `piece_tokens`: so many tokens of a row are
    in the feed-forward half of such a layer at once. `streamed_layers`: so many have their frozen weights in the host's memory.
    `layers_by_device`: so many are on each of several GPUs, in order.
    """

    WHEN_SET: ClassVar[frozenset[str]] = frozenset({
        "mix", "preference", "optimizer", "optimizer_in_backward", "feed_forward_again", "offloaded_layers", "piece_tokens",
        "streamed_layers", "layers_by_device",
    })  # fmt: skip
    seed: int
    epochs: float
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    steps: int
    tokens_per_step: int
    row_tokens: int
    rows_per_step: int
    weight_decay: float
    betas: tuple[float, float]
    epsilon: float
    max_gradient_norm: float
    checkpoint_every: int
    checkpointed_layers: int
    device: Literal["cpu", "cuda"]
    compute_dtype: Literal["float32", "bfloat16", "float16"]
    threads: int
    mix: MixPlan | None = None
    preference: PreferencePlan | None = None
    optimizer: Literal["adamw_8bit", "paged_adamw_8bit", "muon", "adafactor"] | None = None
    optimizer_in_backward: Literal[True] | None = None
    feed_forward_again: int | None = None
    offloaded_layers: int | None = None
    piece_tokens: int | None = None
    streamed_layers: int | None = None
    layers_by_device: tuple[int, ...] | None = None
