"""A tiny model with an adapter, token rows with shared prefixes, and the plan that trains them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from burnish.core.artifacts import (
    BaseRef,
    Interval,
    Memory,
    MethodPlan,
    Parameters,
    Plan,
    TimePlan,
    TokenPlan,
    TrainPlan,
)
from burnish.core.packing import count_steps, pack
from burnish.core.rows import TokenRow
from burnish.model.lora import attach_lora, lora_parameters
from burnish.model.offload import HostBlocks
from burnish.model.recompute import Recomputation
from burnish.train.pack import lengths_of

SIZES = {
    "vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 2,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=6),
    "gemma2": lambda: Gemma2Config(**SIZES, sliding_window=6, query_pre_attn_scalar=16),
    "qwen2": lambda: Qwen2Config(**{key: value for key, value in SIZES.items() if key != "head_dim"}),
    "qwen3": lambda: Qwen3Config(**SIZES),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, sliding_window=6, query_pre_attn_scalar=16),
}


def plan_method(**changes: object) -> MethodPlan:
    values: dict[str, object] = {
        "kind": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": ("all-linear",),
        "quantisation": "none", "double_quantisation": True,
    }  # fmt: skip
    return MethodPlan.model_validate({**values, **changes})


def frozen(architecture: str = "llama", *, seed: int = 0) -> PreTrainedModel:
    """Return a tiny frozen model; biases, where it has some, are not zero."""
    torch.manual_seed(seed)
    attention = "eager" if architecture == "gemma2" else "sdpa"  # torch's own has no cap of scores
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture](), attn_implementation=attention).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(std=0.1)
    return model.eval().requires_grad_(False)


def adapted(architecture: str = "llama", *, seed: int = 0, **method: object) -> PreTrainedModel:
    """Return a tiny frozen model with an adapter whose B is random, so that both of its matrices get gradients."""
    model = frozen(architecture, seed=seed)
    attach_lora(model, plan_method(**method), seed=seed)
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            if name.endswith("lora_B"):
                parameter.normal_(std=0.05)
    return model


def random_rows(count: int, *, seed: int = 0, prefixes: Sequence[int] = (9, 5, 0)) -> list[TokenRow]:
    """Return rows in turn with each of some prefixes (by length, 0 for none), a prompt and an answer with loss."""
    draw = random.Random(seed)
    systems = [tuple(draw.randrange(3, 131) for _ in range(length)) for length in prefixes]
    rows = []
    for index in range(count):
        system = systems[index % len(systems)]
        prompt = tuple(draw.randrange(3, 131) for _ in range(draw.randrange(1, 8)))
        answer = tuple(draw.randrange(3, 131) for _ in range(draw.randrange(1, 12)))
        mask = (0,) * (len(system) + len(prompt)) + (1,) * len(answer)
        rows.append(TokenRow(f"row-{index}", system + prompt + answer, mask, len(system), len(system) + len(prompt)))
    return rows


def plan_for(rows: Sequence[TokenRow], *, method: MethodPlan | None = None, **changes: object) -> Plan:
    """Return a plan whose steps fit the rows."""
    numbers: dict[str, object] = {
        "seed": 0, "epochs": 1.0, "learning_rate": 1e-2, "schedule": "cosine", "warmup_steps": 2, "tokens_per_step": 64,
        "row_tokens": 48, "rows_per_step": 2, "weight_decay": 0.0, "betas": (0.9, 0.999), "epsilon": 1e-8,
        "max_gradient_norm": 1.0, "checkpoint_every": 3, "checkpointed_layers": 0, "device": "cpu",
        "compute_dtype": "float32", "threads": 1, **changes,
    }  # fmt: skip
    if "steps" not in numbers:
        packed = pack(lengths_of(rows), int(str(numbers["row_tokens"])), int(str(numbers["seed"])))
        numbers["steps"] = count_steps(len(packed), float(str(numbers["epochs"])), int(str(numbers["rows_per_step"])))
    nothing = Interval(low=0, mid=0, high=0)
    return Plan(
        name="tiny", base=BaseRef(name="tiny", digest="0" * 64), manifest=None, method=method or plan_method(),
        train=TrainPlan.model_validate(numbers), parameters=Parameters(total=1, trainable=1),
        memory=Memory(weights_bytes=1, peak_bytes=1, components={}),
        tokens=TokenPlan(per_epoch=1, total=1, trained=1, exact=True),
        time=TimePlan(train=nothing, evaluate=nothing, total=nothing), fits=None, because={},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def blocks_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is offloaded goes to the host however small it is, and fills a list with the blocks of 1,000 bytes that it takes."""
    defaults, taken, take = Recomputation.__init__.__kwdefaults__, list[int](), HostBlocks.take
    assert defaults is not None
    monkeypatch.setitem(defaults, "least", 0)
    monkeypatch.setitem(defaults, "block", 1000)

    def counted(blocks: HostBlocks, count: int) -> list[torch.Tensor]:
        taken.append(count)
        return take(blocks, count)

    monkeypatch.setattr(HostBlocks, "take", counted)
    return taken


@pytest.fixture
def make_adapted() -> Callable[..., PreTrainedModel]:
    return adapted


@pytest.fixture
def make_frozen() -> Callable[..., PreTrainedModel]:
    return frozen


@pytest.fixture
def make_rows() -> Callable[..., list[TokenRow]]:
    return random_rows


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    return plan_for


@pytest.fixture
def make_method() -> Callable[..., MethodPlan]:
    return plan_method


@pytest.fixture
def make_configs() -> dict[str, Callable]:
    return CONFIGS
