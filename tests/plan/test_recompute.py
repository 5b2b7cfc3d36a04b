"""What is computed again: the least time, to less than a layer, of all that keeps to the limit; against every combination."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest

from burnish.core.artifacts import Manifest, MethodPlan, Plan
from burnish.plan.activations import Workload, moved_bytes
from burnish.plan.architecture import Architecture, read_architecture
from burnish.plan.bases import find_config
from burnish.plan.host import Host, choose_offloaded
from burnish.plan.memory import training_components
from burnish.plan.recompute import Again, choose_again, half_share

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


QLORA = LORA.model_copy(update={"kind": "qlora", "rank": 32, "quantisation": "nf4", "double_quantisation": True})
FAST = Host(bytes=None, bytes_per_second=50e9, operations_per_second=400e12)


def offloaded(
    architecture: Architecture,
    work: Workload,
    limit: float,
    host: Host = FAST,
    asked: Literal["auto", "always", "never"] = "auto",
) -> Again:
    def components(whole: int, halves: int, moved: int) -> dict[str, int]:
        return training_components(
            architecture, QLORA, device="cuda", dtype="bfloat16", work=work, checkpointed_layers=whole,
            feed_forward_again=halves, offloaded_layers=moved,
        )  # fmt: skip

    again = choose_offloaded(architecture, QLORA, work, components, int(limit), host, "bfloat16", asked)
    if limit < 1e12 and again.offloaded:
        assert sum(components(again.whole, again.feed_forward, again.offloaded).values()) <= limit
    return again


def row(tokens: int) -> Workload:
    return Workload(tokens, tokens**2, tokens - 1)


@pytest.mark.parametrize(("gigabytes", "tokens"), [(24, 78_475), (48, 191_728), (80, 342_733)])
def test_rows_that_fit_no_other_way_leave_what_they_keep_to_the_host(
    llama: Architecture, gigabytes: int, tokens: int
) -> None:
    limit = 0.95 * gigabytes * 1e9
    assert offloaded(llama, row(tokens), limit, asked="never").offloaded == 0
    again = offloaded(llama, row(tokens), limit)
    assert again.offloaded > 0
    assert again.whole + again.feed_forward >= again.offloaded
    assert again.host_bytes >= 8192 * tokens * min(again.offloaded, again.whole)
    assert again.exposed_seconds == 0.0, "attention over so long a row takes far longer than the copy"


def test_where_a_row_fits_the_host_is_asked_only_if_that_saves_time(llama: Architecture) -> None:
    assert offloaded(llama, row(8192), 80e9).offloaded == 0
    slow = Host(bytes=None, bytes_per_second=1e9, operations_per_second=400e12)
    assert offloaded(llama, row(8192), 14e9, slow).offloaded == 0
    assert offloaded(llama, row(8192), 80e9, asked="always").offloaded == 0, "nothing is computed again"
    assert offloaded(llama, row(8192), 20e9, asked="always").offloaded > 0


def test_a_host_with_little_memory_takes_inputs_alone_or_nothing(llama: Architecture) -> None:
    little = Host(bytes=int(60e9), bytes_per_second=50e9, operations_per_second=400e12)
    again = offloaded(llama, row(191_728), 45e9, little)
    assert again.feed_forward == 0
    assert 0 < again.host_bytes <= 60e9
    none = Host(bytes=int(1e9), bytes_per_second=50e9, operations_per_second=400e12)
    assert offloaded(llama, row(191_728), 45e9, none).offloaded == 0


def test_copies_that_are_slower_than_a_layer_are_waited_for(llama: Architecture) -> None:
    slow = Host(bytes=None, bytes_per_second=2e9, operations_per_second=400e12)
    again = offloaded(llama, row(20_000), 14e9, slow, asked="always")
    assert again.exposed_seconds > 0


def test_bytes_on_the_host_are_those_of_inputs_or_of_attention(llama: Architecture) -> None:
    work, hidden, keys = row(20_000), 4096, 1024
    token = 2 * 20_000
    assert moved_bytes(llama, "bfloat16", work, whole=4, halves=3, offloaded=2) == (2 * token * hidden, token * hidden)
    half = token * (2 * hidden + 2 * hidden + 2 * keys)
    found = moved_bytes(llama, "bfloat16", work, whole=4, halves=3, offloaded=6)
    assert found == (4 * token * hidden + 2 * half, half)


def test_the_plan_of_a_long_row_says_what_the_host_holds(
    plan_of: Callable[..., Plan], machines: dict, manifest: Manifest
) -> None:
    recipe = {"method": {"kind": "qlora", "rank": 32}, "train": {"row_tokens": 100_000, "memory_share": 0.3}}
    config = find_config("llama-3.1-8b-instruct")
    plan = plan_of(
        "llama-3.1-8b-instruct",
        machines["h100"],
        recipe=recipe,
        manifest=manifest,
        token_lengths=[("", 0, 100_000)] * 400,
    )
    assert config["max_position_embeddings"] >= 100_000
    assert plan.train.offloaded_layers
    assert plan.train.piece_tokens == 8192
    assert plan.memory.host_bytes
    assert plan.memory.host_bytes < 0.8 * machines["h100"].ram_bytes
    assert "waits in the host's memory" in plan.because["train.offloaded_layers"]
    never = {"method": recipe["method"], "train": recipe["train"] | {"activation_offload": "never"}}
    without = plan_of(
        "llama-3.1-8b-instruct",
        machines["h100"],
        recipe=never,
        manifest=manifest,
        token_lengths=[("", 0, 100_000)] * 400,
    )
    assert without.train.offloaded_layers is None
    assert without.memory.host_bytes is None
