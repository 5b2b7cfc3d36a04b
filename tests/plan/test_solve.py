"""Limits are kept to with the fewest changes; what cannot be kept to is said with how much is missing."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from burnish.core.artifacts import Manifest
from burnish.core.errors import ResourceError
from burnish.core.recipe_file import parse_recipe
from burnish.plan.bases import find_config, known_models, reference
from burnish.plan.gpus import get_gpu
from burnish.plan.hardware import Hardware, rented
from burnish.plan.largest import largest_context, largest_model
from burnish.plan.prices import read_prices
from burnish.plan.refused import why_refused
from burnish.plan.solve import Inputs, Limits, compare_gpus, machine_for, require, solve

H100 = rented(get_gpu("h100"))
GIB = 2**30


def inputs(
    base: str, method: Any = "lora", *, data_bytes: int = 20_000_000, manifest: Manifest | None = None, **train: Any
) -> Inputs:
    recipe = parse_recipe({"name": "a", "base": base, "data": "x", "method": method, "train": train}, source="test")
    config = find_config(base)
    return Inputs(recipe, reference(base, config), config, manifest, data_bytes, today=date(2026, 11, 24))


def test_a_recipe_that_keeps_to_the_limits_stays_as_it_is() -> None:
    found = solve(inputs("llama-3.1-8b-instruct"), H100, Limits(seconds=7200, usd=20))
    assert found.option is not None
    assert found.option.changes == {}
    assert not found.binding
    assert "AdamW" in found.because["train.optimizer"]


def test_what_does_not_fit_is_quantised_and_recomputed_and_says_why() -> None:
    asked = inputs("llama-3.1-8b-instruct")
    found = solve(asked, H100, Limits(memory_bytes=12 * 10**9))
    assert found.option is not None
    plan = found.option.plan
    assert found.option.changes["method.kind"] == "qlora"
    assert plan.fits
    assert plan.memory.peak_bytes <= 12 * 10**9
    assert "because as the recipe is it needs" in found.because["method.kind"]
    assert require(found, "x") is found.option


def test_where_every_weight_trains_other_optimizers_are_tried() -> None:
    asked = inputs("llama-3.2-3b-instruct", "full")
    usual = solve(asked, H100, Limits())
    assert usual.option is not None
    assert usual.option.changes == {}
    small = solve(asked, H100, Limits(memory_bytes=round(0.8 * usual.option.plan.memory.peak_bytes)))
    assert small.option is not None
    assert small.option.changes["train.optimizer"] == "adamw_8bit"
    assert small.option.plan.train.optimizer == "adamw_8bit"
    assert "because as the recipe is it needs" in small.because["train.optimizer"]
    assert "of the peak" in small.because["train.optimizer"]
    with_a_rate = solve(inputs("llama-3.2-3b-instruct", "full", learning_rate=1e-5), H100, Limits())
    assert (usual.tried, with_a_rate.tried) == (24, 16), (
        "Adafactor's rate is a share, so a rate that is given rules it out"
    )


def test_a_step_keeps_its_tokens_when_rows_get_shorter() -> None:
    asked = inputs("llama-3.1-8b-instruct", "qlora", tokens_per_step=8192, row_tokens=8192)
    found = solve(asked, H100, Limits(memory_bytes=9 * 10**9))
    assert found.option is not None
    train = found.option.plan.train
    assert "train.row_tokens" in found.option.changes
    assert train.row_tokens < 8192
    assert train.row_tokens * train.rows_per_step == 8192


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        (Limits(memory_bytes=4 * GIB), ["memory"]),
        (Limits(seconds=60), ["deadline"]),
        (Limits(usd=0.01), ["budget"]),
        (Limits(seconds=60, usd=0.01), ["deadline", "budget"]),
        (Limits(memory_bytes=4 * GIB, seconds=60), ["memory", "deadline"]),
    ],
)
def test_what_is_impossible_names_the_limit_and_by_how_much(limits: Limits, names: list[str]) -> None:
    found = solve(inputs("llama-3.1-8b-instruct"), H100, limits)
    assert found.option is None
    assert [binding.limit for binding in found.binding] == names
    for binding in found.binding:
        assert binding.needed > binding.allowed > 0
        assert "over" in binding.text or "too long" in binding.text
    with pytest.raises(ResourceError, match="cannot keep to the limits"):
        require(found, "recipe a")


def test_limits_that_hold_one_by_one_but_not_together_say_so() -> None:
    asked = inputs("llama-3.1-8b-instruct")
    alone = solve(asked, H100, Limits(memory_bytes=8 * GIB))
    assert alone.option is not None
    slow = alone.option.plan.time.total.mid
    unlimited = solve(asked, H100, Limits()).option
    assert unlimited is not None
    fast = unlimited.plan.time.total.mid
    assert fast < slow
    found = solve(asked, H100, Limits(memory_bytes=8 * GIB, seconds=(fast + slow) / 2))
    assert found.option is None
    assert "deadline" in {binding.limit for binding in found.binding}


def test_a_budget_on_a_gpu_without_a_price_cannot_be_judged() -> None:
    found = solve(inputs("llama-3.1-8b-instruct"), rented(get_gpu("v100")), Limits(usd=100))
    assert found.option is None
    assert "has no price" in found.binding[0].text


def test_several_gpus_are_compared_each_with_its_own_settings() -> None:
    rows = compare_gpus(inputs("qwen3-14b"), [get_gpu(name) for name in ("t4", "l40s", "a100", "h100")], Limits())
    assert [row.gpu.name for row in rows] == ["T4", "L40S", "A100", "H100 SXM"]
    assert all(row.solution.option is not None and row.plan.fits for row in rows)
    assert rows[0].solution.option is not None
    assert rows[0].solution.option.changes["method.kind"] == "qlora"
    seconds = [row.plan.time.total.mid for row in rows]
    assert seconds == sorted(seconds, reverse=True)
    assert all(row.plan.cost is not None and row.plan.cost.usd is not None for row in rows)


def test_a_gpu_that_keeps_no_limit_is_shown_as_it_would_be_within_the_memory() -> None:
    [row] = compare_gpus(inputs("qwen3-14b", "qlora"), [get_gpu("l40s")], Limits(memory_bytes=20 * GIB, seconds=1))
    assert row.solution.option is None
    assert [binding.limit for binding in row.solution.binding] == ["deadline"]
    assert row.plan.memory.available_bytes == 20 * GIB
    assert row.plan.memory.peak_bytes <= 20 * GIB


def test_a_memory_that_holds_no_row_is_said_so() -> None:
    asked = inputs("llama-3.1-70b-instruct")
    machine = rented(get_gpu("t4"))
    found = largest_context(asked, asked.plan(machine), machine)
    assert found is not None
    assert found[0] == 0
    assert "hold no row at all" in found[1]


def test_the_longest_context_fits_and_a_little_more_does_not() -> None:
    asked = inputs("llama-3.1-8b-instruct", "qlora")
    machine = rented(get_gpu("t4"))
    plan = asked.plan(machine)
    found = largest_context(asked, plan, machine)
    assert found is not None
    tokens, why = found
    assert 4096 < tokens < 131_072
    assert "every layer recomputed, what they keep in the host's memory" in why
    small = inputs("smollm2-135m-instruct", "qlora")
    assert largest_context(small, small.plan(H100), H100) == (
        8192,
        "the model's own context; it fits with every layer recomputed",
    )
    two_cores = Hardware(cores=2)
    assert largest_context(small, small.plan(two_cores), two_cores) is None


def test_the_host_lengthens_the_context_where_it_may_and_has_the_room() -> None:
    machine = rented(get_gpu("l4"))
    found: dict[str, int] = {}
    for name, offload, ram in (("auto", "auto", None), ("never", "never", None), ("small host", "auto", GIB)):
        asked = inputs("llama-3.1-8b-instruct", "qlora")
        train = asked.recipe.train.model_copy(update={"activation_offload": offload})
        asked = replace(asked, recipe=asked.recipe.model_copy(update={"train": train}))
        here = replace(machine, ram_bytes=ram)
        longest = largest_context(asked, asked.plan(here), here)
        assert longest is not None
        found[name] = longest[0]
    assert found["auto"] > 1.3 * found["never"]
    assert found["small host"] == found["never"]


def test_the_largest_model_grows_with_the_memory() -> None:
    asked = inputs("smollm2-135m-instruct", "qlora")
    sizes: list[int] = []
    for gpu in ("t4", "l40s", "h100"):
        plan = asked.plan(rented(get_gpu(gpu)))
        found = largest_model(plan, plan.memory.available_bytes)
        assert found is not None
        sizes.append(found[0].parameters)
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[2] > 60e9
    assert largest_model(asked.plan(H100), 10**8) is None
    assert largest_model(asked.plan(H100), None) is None


def test_a_memory_alone_means_a_gpu_that_has_it() -> None:
    prices = read_prices()
    assert machine_for(40 * 10**9, prices).name == "L40S", "an A100 of 40 GB is nearer, and has no price"
    assert machine_for(24 * 10**9, prices).name in ("A10G", "L4")
    assert machine_for(80 * 10**9, prices).name in ("A100", "H100 SXM")
    assert machine_for(10**12, prices).name == "B200"


def test_a_limit_above_what_the_gpu_has_allows_no_more_than_it_has() -> None:
    found = solve(inputs("llama-3.1-8b-instruct"), rented(get_gpu("t4")), Limits(memory_bytes=24 * 10**9))
    assert found.option is not None
    assert found.option.plan.memory.available_bytes == get_gpu("t4").memory_mib * 2**20
    assert found.option.changes["method.kind"] == "qlora", "LoRA of 8 B parameters takes more than a T4 has"


def test_the_largest_model_is_one_that_can_be_trained() -> None:
    plan = inputs("llama-3.1-8b-instruct", "qlora").plan(H100)
    found = [largest_model(plan, gib * GIB) for gib in range(6, 120, 2)]
    assert all(each is not None and why_refused(each[0].config) is None for each in found)
    falcon = next(model for model in known_models() if model.name == "falcon-40b")
    assert why_refused(falcon.config) is not None
    sizes = [each[0].parameters for each in found if each is not None]
    assert min(sizes) < falcon.parameters < max(sizes), "it would be the answer somewhere between"


def test_the_largest_model_is_that_of_qlora_whatever_the_recipe_trains() -> None:
    plans = [
        inputs("smollm2-135m-instruct", method).plan(H100)
        for method in ("full", "qlora", {"kind": "lora", "dora": True})
    ]
    found = [largest_model(plan, plan.memory.available_bytes) for plan in plans]
    assert found[0] == found[1] == found[2]
    assert found[0] is not None
    assert "rank 16" in found[0][1]


def test_the_longest_context_counts_the_optimizer_of_the_recipe() -> None:
    found: list[int] = []
    machine = rented(get_gpu("l4"))
    for optimizer in ("adamw", "adafactor"):
        asked = inputs("llama-3.2-1b-instruct", "full", optimizer=optimizer, activation_offload="never")
        longest = largest_context(asked, asked.plan(machine), machine)
        assert longest is not None
        found.append(longest[0])
    assert found[0] < found[1]


def test_a_table_of_gpus_for_a_70b_model_takes_less_than_a_second() -> None:
    asked = inputs("llama-3.1-70b-instruct", "qlora")
    chosen = [get_gpu(name) for name in ("t4", "l40s", "a100", "h100")]
    began = time.process_time()
    rows = compare_gpus(asked, chosen, Limits(seconds=24 * 3600, usd=200))
    assert time.process_time() - began < 1.0
    assert len(rows) == 4


def test_a_70b_plan_from_the_command_line_takes_less_than_a_second_of_work_and_no_torch(tmp_path: Any) -> None:
    """Processor time of the whole process, imports included; what would take it is named, as a slow machine hides it."""
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 100, encoding="utf-8")
    recipe = "name: big\nbase: llama-3.1-70b-instruct\ndata: x.jsonl\nmethod: qlora\n"
    (tmp_path / "big.yaml").write_text(recipe, encoding="utf-8")
    heavy = {
        "torch",
        "transformers",
        "numpy",
        "pyarrow",
        "huggingface_hub",
        "jinja2",
        "asyncio",
        "burnish.data.prepare",
    }
    code = (
        "import sys, time; from burnish.cli import main; code = main(['plan', 'big.yaml', '--json', '--gpu', 'h100']); "
        f"print(time.process_time(), code, sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    seconds, status, loaded = done.stderr.split(maxsplit=2)
    assert loaded.strip() == "[]"
    assert status == "0"
    assert float(seconds) < 1.0
