"""What a recipe says about how the base model is adapted, and about the training loop."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from burnish.core.errors import Problem
from burnish.core.recipe_data import Mix, Order, order_section
from burnish.core.section import Section

OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "muon", "adafactor"]
OF_ADAPTERS = ("rank", "alpha", "dropout", "targets", "double_quantisation", "rslora", "bias", "dora", "base_dtype")
"""Keys of a method that say something about an adapter or a frozen base."""
OF_FULL = ("muon", "adafactor")
"""Optimizers whose rates mean another thing for low-rank matrices, one of which begins as zero."""


class Method(Section):
    """How the base model is adapted. `method: qlora` is short for `method: {kind: qlora}`."""

    kind: Literal["lora", "qlora", "full"] = Field(
        description="`lora` trains low-rank matrices beside frozen weights; `qlora` stores those weights as 4-bit NF4; `full` "
        "trains every weight, and the keys of adapters below say nothing (docs/methods/full.md)."
    )
    rank: int = Field(16, ge=1, le=1024, description="Rank of the LoRA matrices. Typical: 8 to 64.")
    alpha: float = Field(32.0, gt=0, description="Scale: the adapter's output is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Share of the adapter's inputs dropped in training.")
    targets: tuple[str, ...] = Field(
        ("all-linear",),
        min_length=1,
        description="Names of the linear layers that get an adapter, or `all-linear` (each but the output head).",
    )
    double_quantisation: bool = Field(True, description="With qlora: store the block constants as 8 bits too.")

    rslora: bool = Field(
        False, description="Multiply the adapter's output by alpha / sqrt(rank) instead (rsLoRA), for high ranks."
    )
    bias: Literal["none", "lora_only", "all"] = Field(
        "none",
        description="Biases of the base that train too: those of adapted layers (`lora_only`) or of all, as in PEFT. Such an "
        "adapter is evaluated, and PEFT loads it; it is not served.",
    )
    dora: bool = Field(
        False,
        description="Train the length of each row of an adapted weight by itself (DoRA). Takes the plain path; the adapter is "
        "evaluated, and PEFT loads it; it is not served.",
    )
    base_dtype: Literal["auto", "fp8", "fp8_all"] = Field(
        "auto",
        description="With lora on Ada, Hopper or newer cards: `fp8` multiplies gradients with the frozen weights in 8 bits, so "
        "that losses stay exact; `fp8_all` multiplies both ways, faster and less exact. The adapter, and the base it is served on, "
        "stay what they are.",
    )
    plain: bool = Field(
        False, description="Train without the fast paths: each layer as transformers and the LoRA equation write it."
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _one_target_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Train(Section):
    """The training loop. What is not said is derived by the plan."""

    epochs: float = Field(1.0, gt=0.0, le=100.0, description="Times each row is seen.")
    learning_rate: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Peak learning rate. Default: 1e-3, and 5e-5 with dpo; with full 2e-5 and 5e-7, with adafactor 1e-3.",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="Shape after the warm-up.")
    warmup_share: float = Field(0.05, ge=0.0, le=1.0, description="Share of the steps in which the rate rises from 0.")
    tokens_per_step: int | None = Field(
        None, ge=1, description="Tokens of one optimizer step. Default: by dataset size."
    )
    row_tokens: int | None = Field(None, ge=8, description="Tokens of one packed row. Default: by memory and length.")
    weight_decay: float = Field(
        0.0, ge=0.0, description="Decoupled weight decay of all trained matrices; norms and biases have none."
    )
    max_gradient_norm: float = Field(1.0, gt=0.0, description="Gradients are clipped to this global norm.")
    optimizer: OptimizerName = Field(
        "adamw",
        description="`adamw`; `adamw_8bit` with states of 8 bits, and `paged_adamw_8bit` that the host's memory takes in where "
        "a GPU's is short; `muon` for matrices of layers, with AdamW for the rest; `adafactor` with one for each row and column.",
    )
    optimizer_in_backward: bool = Field(
        False,
        description="With full: update each weight as soon as its gradient is there, so that no two gradients are held at once. "
        "One packed row a step; gradients are clipped tensor by tensor.",
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="Steps between checkpoints. Default: ten in a run; with full fewer."
    )
    memory_share: float = Field(
        0.9,
        gt=0.0,
        le=1.0,
        description="Share of the memory that is there which training may fill: layers are computed again in backward until it "
        "keeps to that, in the plan, and once more where the longest row holds more than planned.",
    )
    activation_offload: Literal["auto", "always", "never"] = Field(
        "auto",
        description="On a GPU: let what layers keep for backward wait in the host's pinned memory. `auto` where a row does not fit "
        "without, or where that is faster than computing again; `always` for every layer that is computed again.",
    )
    streamed_layers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="On a GPU, with lora and qlora: so many decoder layers have their frozen weights in the host's pinned memory "
        "and are copied to the device as they are needed. `auto`: none where the base fits, else as few as make it fit.",
    )
    devices: int = Field(
        1,
        ge=1,
        le=16,
        description="Over how many GPUs the layers of the base are placed, in order. One computes at a time: what is gained is "
        "memory, not speed.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to train.")
    mix: Mix = Field(default_factory=lambda: Mix.model_validate({}), description="How much of each source is drawn.")
    order: Order | None = Field(
        None,
        description="A staged order: `length`, `difficulty`, `source`, or a mapping. Default: mixed, drawn by the seed.",
    )

    @field_validator("order", mode="before")
    @classmethod
    def _order_alone(cls, value: Any) -> Any:
        return order_section(value)


def method_problems(method: Method, train: Train) -> list[Problem]:
    """Return what does not go together in the keys about the method: each key may be right by itself."""
    if method.kind == "full":
        values = method.model_dump()
        of_adapters = "belongs to adapters, and method full has none. Leave it out."
        return [
            Problem(f"method.{key}", str(values[key]), of_adapters)
            for key in OF_ADAPTERS
            if key in method.model_fields_set
        ]
    problems: list[Problem] = []
    if train.optimizer in OF_FULL:
        says = f"is for every weight, not for {method.kind}. Use adamw or adamw_8bit, or set method.kind to full."
        problems.append(Problem("train.optimizer", train.optimizer, says))
    if train.optimizer_in_backward:
        says = f"gains nothing for the small gradients of {method.kind}. Leave it out, or set method.kind to full."
        problems.append(Problem("train.optimizer_in_backward", "true", says))
    return problems
