"""What is computed again: the least time, to less than a layer, of all that keeps to the limit; against every combination."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from burnish.core.artifacts import MethodPlan, Plan
from burnish.plan.architecture import Architecture, read_architecture
from burnish.plan.bases import find_config
from burnish.plan.memory import Workload, training_components
from burnish.plan.recompute import choose_again, half_share

GIB = 2**30
LORA = MethodPlan(
    kind="lora", rank=16, alpha=32.0, dropout=0.0, targets=("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj",
    "v_proj"), quantisation="none", double_quantisation=False,
)  # fmt: skip


@pytest.fixture
def llama() -> Architecture:
    return read_architecture(find_config("llama-3.1-8b-instruct"))


def components_of(
    architecture: Architecture, work: Workload, method: MethodPlan = LORA
) -> Callable[[int, int], dict[str, int]]:
    def components(whole: int, halves: int) -> dict[str, int]:
        return training_components(
            architecture,
            method,
            device="cuda",
            dtype="bfloat16",
            work=work,
            checkpointed_layers=whole,
            feed_forward_again=halves,
        )

    return components


def test_with_room_nothing_is_computed_again(llama: Architecture) -> None:
    work = Workload(8192, 4 * 2048**2, 8188)
    for limit in (None, 80 * GIB):
        again = choose_again(llama, LORA, work, components_of(llama, work), limit)
        assert (again.whole, again.feed_forward, again.layers) == (0, 0, 0.0)


@pytest.mark.parametrize("gib", [17, 20, 24, 28, 33, 38])
@pytest.mark.parametrize("attended", [4 * 2048**2, 8192**2 // 2])
def test_the_choice_is_the_fastest_of_all_that_fit(llama: Architecture, gib: int, attended: int) -> None:
    work = Workload(8192, attended, 8188)
    components = components_of(llama, work)
    half = half_share(llama, LORA, work)
    assert half is not None
    assert 0.3 < half < 0.8
    fitting = [
        (whole + halves * half, whole, halves)
        for whole in range(33)
        for halves in range(33 - whole)
        if sum(components(whole, halves).values()) <= gib * GIB
    ]
    again = choose_again(llama, LORA, work, components, gib * GIB)
    if not fitting:
        assert (again.whole, again.feed_forward) == (32, 0)
        return
    assert again.layers == pytest.approx(min(fitting)[0], abs=0.7)
    assert sum(components(again.whole, again.feed_forward).values()) <= gib * GIB


def test_long_rows_keep_attention(llama: Architecture) -> None:
    """Its time grows with the square of the length, what it keeps with the length alone."""
    work = Workload(32768, 32768**2 // 2, 32767)
    again = choose_again(llama, LORA, work, components_of(llama, work), 72 * GIB)
    assert again.feed_forward > again.whole


def test_where_layers_are_not_fused_they_are_computed_again_whole() -> None:
    phi = read_architecture(find_config("phi-3.5-mini-instruct"))
    work = Workload(8192, 4 * 2048**2, 8188)
    method = LORA.model_copy(update={"targets": ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")})
    components = components_of(phi, work, method)
    limit = sum(components(0, 0).values()) // 2
    again = choose_again(phi, method, work, components, limit)
    assert again.feed_forward == 0
    assert sum(components(again.whole, 0).values()) <= limit < sum(components(again.whole - 1, 0).values())


def test_a_plan_fills_the_share_that_the_recipe_says(plan_of: Callable[..., Plan], machines: dict) -> None:
    machine = machines["h100"]
    recipe = {"method": "lora", "train": {"memory_share": 0.3, "row_tokens": 8192}}
    plan = plan_of("llama-3.1-8b-instruct", machine, recipe=recipe)
    limit = int(0.3 * machine.gpu_bytes)
    assert plan.memory.limit_bytes == limit
    assert plan.memory.peak_bytes <= limit
    assert plan.train.checkpointed_layers + (plan.train.feed_forward_again or 0) > 0
    assert "within 30% of the memory" in plan.because["train.checkpointed_layers"]
