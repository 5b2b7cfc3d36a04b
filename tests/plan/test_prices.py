"""Prices are dated, their band grows with age, and a file of the user's comes first."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from burnish.core.artifacts import Interval
from burnish.core.errors import RecipeError, UsageError
from burnish.plan.cost import Spending, cost_of, spot_factor
from burnish.plan.gpus import find_gpu, get_gpu, gpus
from burnish.plan.hardware import Hardware, rented
from burnish.plan.prices import RATES, read_prices

TODAY = date(2026, 11, 24)
HOUR = Spending(Interval(low=1800, mid=3600, high=7200), checkpoint_seconds=600, disk_bytes=0, kept_bytes=0)


def own(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_the_seeds_table_is_in_it_and_every_row_has_a_source_and_a_day() -> None:
    prices = read_prices()
    seeds = {row.gpu: (row.low, row.high) for row in prices.rows if row.provider == "seeds' table"}
    assert seeds == {"T4": (0.18, 0.81), "L40S": (0.98, 3.51), "A100": (1.18, 5.04)}
    assert all(row.source and row.date <= TODAY and 0 < row.low <= row.high for row in prices.rows)
    assert set(prices.rates) == set(RATES)
    assert {row.gpu for row in prices.rows} <= {gpu.name for gpu in gpus()}


def test_the_band_is_that_of_the_providers_and_widens_with_age() -> None:
    prices = read_prices()
    fresh = prices.per_hour("T4", date(2026, 5, 7))
    assert fresh is not None
    rate, source = fresh
    assert rate == Interval(low=0.18, mid=0.5904, high=0.81)
    assert "3 providers" in source
    assert "old" not in source
    later = prices.per_hour("T4", date(2027, 11, 22))
    assert later is not None
    assert later[0].high == pytest.approx(0.81 * (1 + 0.1 * 564 / 91))
    assert "days old and widen the band" in later[1]
    assert prices.per_hour("V100", TODAY) is None


def test_a_rented_gpu_costs_its_hours_and_its_disk() -> None:
    spending = replace(HOUR, disk_bytes=720 * 10**9, kept_bytes=10**9)
    cost, because = cost_of(spending, rented(get_gpu("h100")), "cuda", read_prices(), date(2026, 5, 22))
    assert cost.usd is not None
    assert cost.usd_per_hour is not None
    # an hour of 720 GB is a GB-month; another GB is kept for a month
    assert cost.usd.mid == pytest.approx(cost.usd_per_hour.mid + 2 * 0.08)
    assert cost.usd.low < cost.usd.mid < cost.usd.high
    assert cost.parts == pytest.approx({"compute": cost.usd_per_hour.mid, "storage": 0.16})
    assert cost.energy_kwh.mid == pytest.approx((700 + 8 * 8) / 1000)
    assert "H100 SXM at 2.69 to 5.49 USD an hour" in because


def test_spot_is_cheaper_by_the_hour_and_longer_by_what_interruptions_lose() -> None:
    prices = read_prices()
    assert spot_factor(600, prices) == pytest.approx(1 + 0.05 * (300 + 300) / 3600)
    cost, _ = cost_of(HOUR, rented(get_gpu("l4")), "cuda", prices, date(2026, 3, 10))
    assert cost.spot_usd is not None
    assert cost.spot_usd.mid == pytest.approx(0.44 * spot_factor(600, prices))


def test_a_machine_of_ones_own_costs_its_electricity() -> None:
    machine = Hardware(cores=4)
    cost, because = cost_of(HOUR, machine, "cpu", read_prices(), TODAY)
    assert cost.usd is not None
    assert cost.usd.mid == pytest.approx(4 * 8 / 1000 * 0.17)
    assert cost.spot_usd is None
    assert "a machine of your own" in because


def test_a_gpu_without_a_price_has_no_cost_and_says_so() -> None:
    cost, because = cost_of(HOUR, rented(get_gpu("v100")), "cuda", read_prices(), TODAY)
    assert cost.usd is None
    assert "give one with --prices" in because


def test_a_file_of_ones_own_replaces_what_it_names(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        {
            "usd_per_kwh": 0.3,
            "gpus": [
                {"gpu": "v100", "provider": "cellar", "usd_per_hour": 0.5, "date": "2026-11-01"},
                {"gpu": "h100", "usd_per_hour": [3, 2], "date": "2026-11-01"},
            ],
        },
    )
    prices = read_prices(path)
    assert [(row.provider, row.low, row.high) for row in prices.of("H100 SXM", spot=False)] == [("your file", 2, 3)]
    assert prices.of("H100 SXM", spot=True), "spot prices were not named"
    assert prices.of("T4", spot=False)
    assert prices.rates["usd_per_kwh"] == 0.3
    assert prices.rates["usd_per_gb_month"] == 0.08
    found = prices.per_hour("V100", TODAY)
    assert found is not None
    assert found[0].mid == 0.5


def test_every_mistake_of_such_a_file_is_said_at_once(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        {
            "usd_per_kwhs": 1,
            "usd_per_gb_month": -1,
            "gpus": [
                {"gpu": "Frobnicator", "usd_per_hour": 1, "date": "2026-11-01"},
                {"gpu": "t4", "usd_per_hour": "cheap", "date": "2026-11-01"},
                {"gpu": "t4", "usd_per_hour": [1, 2, 3], "date": "soon"},
                "t4",
            ],
        },
    )
    with pytest.raises(RecipeError) as caught:
        read_prices(path)
    keys = [problem.key for problem in caught.value.problems]
    assert keys == [
        "usd_per_gb_month", "usd_per_kwhs", "gpus[0].gpu", "gpus[1].usd_per_hour", "gpus[2].usd_per_hour", "gpus[2].date",
        "gpus[3]",
    ]  # fmt: skip
    assert 'Did you mean "usd_per_kwh"' in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"usd_per_hour": float("inf")}, "gpus[0].usd_per_hour"),
        ({"usd_per_hour": float("nan")}, "gpus[0].usd_per_hour"),
        ({"usd_per_hour": 10**400}, "gpus[0].usd_per_hour"),
        ({"usd_per_hour": [1, -1]}, "gpus[0].usd_per_hour"),
        ({"spot": "false"}, "gpus[0].spot"),
        ({"pruvider": "x"}, "gpus[0].pruvider"),
    ],
)
def test_a_row_that_means_something_else_than_it_says_is_refused(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    row = {"gpu": "h100", "usd_per_hour": 2, "date": "2026-11-01"} | changes
    with pytest.raises(RecipeError, match=r"Read: docs/plan\.md") as caught:
        read_prices(own(tmp_path, {"gpus": [row]}))
    assert [problem.key for problem in caught.value.problems] == [key]


def test_one_price_is_told_as_one(tmp_path: Path) -> None:
    row = {"gpu": "v100", "provider": "cellar", "usd_per_hour": 0.5, "date": "2026-11-01"}
    found = read_prices(own(tmp_path, {"gpus": [row]})).per_hour("V100", TODAY)
    assert found is not None
    assert found[1] == "0.5 USD an hour at cellar of 2026-11-01"


@pytest.mark.parametrize("text", [None, "{", "[]", "[" * 100_000])
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "prices.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="prices"):
        read_prices(path)


def test_gpus_are_found_by_the_names_people_use() -> None:
    assert [get_gpu(name).name for name in ("h100", "H100 SXM", "rtx4090", "RTX-3090", "l40s", "a10")] == [
        "H100 SXM", "H100 SXM", "RTX 4090", "RTX 3090", "L40S", "A10G",
    ]  # fmt: skip
    memory = {"A100-80GB": "A100", "a100 40gb": "A100 40GB", "H100-PCIe": "H100 PCIe", "h100sxm": "H100 SXM",
              "NVIDIA A100-SXM4-40GB": "A100 40GB", "6000-ada": "RTX 6000 Ada",
              "L40S-48GB": "L40S", "h200-141gb": "H200"}  # fmt: skip
    assert {name: get_gpu(name).name for name in memory} == memory
    for name in ("A100-60GB", "V100-16GB", "gb200", "4090 D", "H100 foo", ""):
        with pytest.raises(UsageError, match="is known"):
            get_gpu(name)
    with pytest.raises(UsageError, match=r'no GPU "h1000" is known.*Did you mean "h100"'):
        get_gpu("h1000")


def test_names_of_nvidia_smi_tell_the_kind() -> None:
    smi = {"NVIDIA H100 80GB HBM3": "H100 SXM", "NVIDIA H100 PCIe": "H100 PCIe", "NVIDIA A100 80GB PCIe": "A100",
           "NVIDIA A100-SXM4-40GB": "A100 40GB", "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada", "NVIDIA RTX A6000": "RTX A6000",
           "Tesla V100-SXM2-32GB": "V100", "NVIDIA GeForce RTX 5090": "RTX 5090", "NVIDIA B200": "B200"}  # fmt: skip
    assert {name: find_gpu(name).name for name in smi} == smi
    assert find_gpu("Quadro RTX 6000").source.startswith("not in the table")


def test_prices_age_from_their_day() -> None:
    prices = read_prices()
    day = max(row.date for row in prices.of("L4", spot=True))
    now, then = (prices.per_hour("L4", day + timedelta(days=days), spot=True) for days in (0, 91))
    assert now is not None
    assert then is not None
    assert then[0].high == pytest.approx(1.1 * now[0].high)
    assert then[0].mid == now[0].mid
