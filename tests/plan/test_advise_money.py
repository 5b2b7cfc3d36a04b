"""Prices and break-even: by hand, against brute force, and what must never turn the wrong way."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.plan.advise.advice import advise
from burnish.plan.advise.money import DAYS, Band, break_even, fits, prices, request_seconds, weights_of
from burnish.plan.advise.situation import NEEDS, read_situation
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config
from burnish.plan.constants import constant
from burnish.plan.gpus import get_gpu
from burnish.plan.prices import Prices, read_prices

LLAMA = read_architecture(find_config("llama-3.1-8b-instruct"))
BASES = ("smollm2-135m-instruct", "llama-3.2-1b-instruct", "llama-3.1-8b-instruct", "llama-3.1-70b-instruct")
PRICED = {"gpu_usd_low": 1.0, "gpu_usd_high": 2.0, "api_input_usd": 2.5, "api_output_usd": 10.0}


def asked(**values: Any) -> Any:
    return read_situation({"needs": "format", "prompt": "falls-short", "rows": 2000, **PRICED, **values})


def test_training_hours_by_hand() -> None:
    found = prices(LLAMA, asked(rows=1000, tokens_per_row=1000, epochs=1), get_gpu("A100"), Band(1.0, 2.0))["lora"]
    assert weights_of(LLAMA) == 6_979_321_856 + 525_336_576
    rate = 312e12 * constant("cuda_train_share")
    once = 4 * weights_of(LLAMA) * 1e6 / rate / 3600
    assert found.gpu_hours.low == pytest.approx(2 * once / constant("band_high"))
    assert found.gpu_hours.high == pytest.approx(10 * once / constant("band_low"))
    assert found.usd is not None
    assert found.usd.low == pytest.approx(40 * 60 + found.gpu_hours.low * 1.0)
    assert found.usd.high == pytest.approx(160 * 60 + found.gpu_hours.high * 2.0)


def test_without_a_gpu_price_hours_are_said_and_dollars_are_not() -> None:
    unpriced = read_situation({"needs": "format", "rows": 2000})
    found = advise(unpriced, Prices((), {}))
    by_option = {option["option"]: option["price"] for option in found["options"]}
    assert by_option["lora"]["usd"] is None
    assert "gpu_usd_low" in by_option["lora"]["because"]
    assert by_option["prompt"]["usd"] == {"low": 8 * 60, "high": 40 * 60}
    assert found["gpu"]["usd_per_hour"] is None
    assert found["build_or_buy"]["answer"] is None


def test_prices_come_from_the_dated_table_unless_they_are_said() -> None:
    table, day = read_prices(), date(2026, 11, 24)
    expected = table.per_hour("A100", day)
    assert expected is not None
    found = advise(read_situation({"needs": "format"}), table, day)["gpu"]
    assert found["usd_per_hour"] == {"low": expected[0].low, "high": expected[0].high}
    assert found["because"] == expected[1]
    older = advise(read_situation({"needs": "format"}), table, date(2027, 11, 24))["gpu"]["usd_per_hour"]
    assert older["low"] < expected[0].low
    assert older["high"] > expected[0].high
    assert advise(asked(), table, day)["gpu"]["usd_per_hour"] == {"low": 1.0, "high": 2.0}


def test_memory_of_8b() -> None:
    assert fits(LLAMA, asked(), get_gpu("RTX 4090")) == {"lora": True, "qlora": True, "full": False}
    assert fits(LLAMA, asked(), get_gpu("T4")) == {"lora": False, "qlora": True, "full": False}
    assert 16 * LLAMA.parameters == 128_484_179_968
    assert fits(LLAMA, asked(gpus=2), get_gpu("A100"))["full"] is True
    assert fits(LLAMA, asked(gpus=1), get_gpu("A100"))["full"] is False


def test_break_even_by_hand() -> None:
    # 0.01 dollars a request, a GPU at 730 a month that serves 10,000 a day, 100 a month besides: 830 / (0.01 * 30.4375)
    assert break_even(0.01, 730.0, 10_000, 100.0) == pytest.approx(830 / 0.304375)
    assert break_even(0.0, 730.0, 10_000, 100.0) is None
    assert break_even(0.0001, 730.0, 10_000, 100.0) is None, "a GPU costs more than all it can serve at the API"
    assert break_even(0.01, 730.0, 10_000, -5000.0) == 0.0


@settings(max_examples=60)
@given(
    st.floats(1e-4, 0.1), st.floats(10, 5000), st.integers(10, 50_000), st.floats(-500, 20_000)
)  # dollars a request, a GPU a month, requests a day of a GPU, dollars a month besides
def test_break_even_is_the_first_traffic_at_which_own_costs_no_more(
    api: float, gpu: float, capacity: int, fixed: float
) -> None:
    found = break_even(api, gpu, capacity, fixed)

    def own_less(requests: float) -> bool:
        return fixed + gpu * max(1, math.ceil(requests / capacity)) <= api * DAYS * requests * (1 + 1e-9) + 1e-9

    grid = [capacity * step / 7 for step in range(7 * 30)]
    if found is None:
        assert not any(own_less(requests) for requests in grid)
    else:
        assert own_less(found * (1 + 1e-9)) or own_less(found + 1e-6)
        assert not any(own_less(requests) for requests in grid if requests < found * (1 - 1e-6) - 1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 10**6),
    st.sampled_from(BASES),
    st.sampled_from(["T4", "L40S", "A100", "H100"]),
)
def test_more_rows_never_cost_less_nor_block_tuning(rows: int, more: int, base: str, gpu: str) -> None:
    few, many = (advise(asked(rows=n, base=base, gpu=gpu)) for n in (rows, rows + more))
    for a, b in zip(few["options"], many["options"], strict=True):
        assert a["price"]["gpu_hours"]["low"] <= b["price"]["gpu_hours"]["low"]
        assert a["price"]["gpu_hours"]["high"] <= b["price"]["gpu_hours"]["high"]
    if few["verdict"] == "fine-tune":
        assert many["verdict"] == "fine-tune"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(BASES), st.integers(1, 64), st.integers(0, 64))
def test_memory_is_monotonic(base: str, gpus: int, more: int) -> None:
    architecture = read_architecture(find_config(base))
    cards = sorted((get_gpu(name) for name in ("T4", "L40S", "A100", "H200")), key=lambda gpu: gpu.memory_mib)
    before: dict[str, bool] | None = None
    for card in cards:
        found = fits(architecture, asked(gpus=gpus), card)
        assert found["qlora"] or not found["lora"], "what fits in 16 bits fits in 4"
        assert fits(architecture, asked(gpus=gpus + more), card)["full"] or not found["full"]
        if before is not None:
            assert all(found[name] or not before[name] for name in found)
        before = found


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 50), st.floats(1, 10), st.floats(1, 10**7), st.floats(0, 1))
def test_a_dearer_api_never_turns_building_into_a_loss(
    price: float, dearer: float, traffic: float, saved: float
) -> None:
    common = {
        "requests_per_day": traffic,
        "prompt_tokens": 1000,
        "prompt_tokens_saved": int(1000 * saved),
        "needs": "cheaper",
        "prompt": "works",
    }
    cheap = advise(asked(**common, api_input_usd=price, api_output_usd=4 * price))
    dear = advise(asked(**common, api_input_usd=price * dearer, api_output_usd=4 * price * dearer))
    if cheap["economics"]["pays_back"]:
        assert dear["economics"]["pays_back"]
    if cheap["verdict"] == "fine-tune":
        assert dear["verdict"] == "fine-tune"
    for end in ("low", "mid", "high"):
        a, b = (each["economics"]["break_even_requests_per_day"][end] for each in (cheap, dear))
        if a is not None:
            assert b is not None
            assert b <= a * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 10**6), st.floats(0, 10**6))
def test_more_budget_never_forbids_what_less_allowed(budget: float, more: float) -> None:
    small, large = (advise(asked(budget_usd=sum_)) for sum_ in (budget, budget + more))
    if small["verdict"] == "fine-tune":
        assert large["verdict"] == "fine-tune"


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 10**6), st.floats(1, 10**6), st.floats(0, 10**4), st.integers(0, 1000))
def test_hours_and_shorter_prompts_only_help(requests: float, hours: float, more: float, saved: int) -> None:
    common = {"requests_per_day": requests, "prompt_tokens": 1000}
    a = advise(asked(**common, hours_saved_per_month=hours))["economics"]["return"]
    b = advise(asked(**common, hours_saved_per_month=hours + more))["economics"]["return"]
    for end in ("low", "high"):
        assert a["net_usd"][end] <= b["net_usd"][end] + 1e-6
    short = asked(**common, prompt_tokens_saved=saved)
    assert request_seconds(LLAMA, short, get_gpu("A100")) <= request_seconds(LLAMA, asked(**common), get_gpu("A100"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(NEEDS)), min_size=1, max_size=4, unique=True),
    st.sampled_from(["untried", "works", "falls-short"]),
    st.integers(0, 10**5),
    st.integers(0, 10**5),
    st.sampled_from(["none", "some", "experts"]),
    st.sampled_from(["untried", "fall-short"]),
    st.integers(1, 16),
    st.booleans(),
)  # fmt: skip
def test_every_situation_gets_a_way_whose_bands_are_bands(
    needs: list[str], prompt: str, rows: int, pairs: int, team: str, adapters: str, gpus: int, leave: bool
) -> None:
    found = advise(
        asked(
            needs=needs,
            prompt=prompt,
            rows=rows,
            pairs=pairs,
            team=team,
            adapters=adapters,
            gpus=gpus,
            data_may_leave=leave,
        )
    )
    options = [stage["option"] for stage in found["stages"]]
    assert options
    assert len({"qlora", "lora", "full"} & set(options)) <= 1
    assert len({"dpo", "rlhf"} & set(options)) <= 1
    order = ["prompt", "rag", "qlora", "lora", "full", "dpo", "rlhf"]
    assert options == sorted(options, key=order.index)
    for option in found["options"]:
        for name in ("gpu_hours", "work_hours", "usd"):
            assert option["price"][name]["low"] <= option["price"][name]["high"]
    if "rlhf" in options:
        assert team == "experts"
    if prompt == "works" and "cheaper" not in needs:
        assert found["verdict"] == "do not fine-tune"
    if not leave:
        assert found["economics"]["api_usd_per_month"] is None
        assert found["build_or_buy"]["answer"] == "build"


def test_all_stages_have_a_price_together_and_the_budget_is_held_against_it() -> None:
    values = {"needs": "facts,style,preferences", "pairs": 2000, "document_tokens": 10**6, "requests_per_day": 1000}
    found = advise(asked(**values, budget_usd=12_000))
    parts = [stage["price"]["usd"] for stage in found["stages"]]
    assert len(parts) == 3
    assert found["price"]["usd"]["low"] == pytest.approx(sum(part["low"] for part in parts))
    assert found["price"]["usd"]["high"] == pytest.approx(sum(part["high"] for part in parts))
    (risk,) = [risk for risk in found["risks"] if risk["rule"] == "stages-over-budget"]
    assert "12,000" in risk["risk"]
    trained = [stage["price"]["usd"] for stage in found["stages"] if stage["stage"] in ("tune", "align")]
    assert found["economics"]["build_usd"]["low"] == pytest.approx(sum(part["low"] for part in trained))
    assert found["economics"]["rag_usd_per_month_at_api"] == pytest.approx(1000 * DAYS * 1500 * 2.5 / 1e6)
