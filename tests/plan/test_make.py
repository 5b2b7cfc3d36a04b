"""A plan resolves every number, gives the reason of each, and does not depend on what it only estimates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.core.artifacts import Manifest, Plan
from burnish.core.errors import BaseModelError, DataError, RecipeError
from burnish.core.packing import Length, count_steps, pack
from burnish.core.recipe_file import parse_recipe
from burnish.plan.evaluation import longest_answer
from burnish.plan.hardware import Hardware

GOLDEN = Path(__file__).parents[1] / "golden"
MakePlan = Callable[..., Plan]
SAID_BY_THE_RECIPE = {
    "optimizer",
    "optimizer_in_backward",
    "feed_forward_again",  # told with checkpointed_layers
    "offloaded_layers",  # told where there are any
    "piece_tokens",
    "streamed_layers",  # told where there are any
    "layers_by_device",
    "seed",
    "epochs",
    "preference",
    "schedule",
    "weight_decay",
    "max_gradient_norm",
    "betas",
    "epsilon",
    "mix",
}


@pytest.mark.parametrize("machine", ["laptop", "h100"])
@pytest.mark.parametrize("base", ["smollm2-135m-instruct", "llama-3.1-8b-instruct", "gemma-2-9b-it"])
def test_the_plan_is_the_golden_file(
    base: str, machine: str, plan_of: MakePlan, manifest: Manifest, lengths: list[Length], machines: dict[str, Hardware]
) -> None:
    plan = plan_of(base, machines[machine], manifest=manifest, token_lengths=lengths)
    text = json.dumps(plan.model_dump(mode="json"), indent=2) + "\n"
    path = GOLDEN / f"plan_{base}_{machine}.json"
    if os.environ.get("BURNISH_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), (
        "if the change is wanted: BURNISH_WRITE_GOLDEN=1, then read the diff"
    )


def test_every_derived_number_has_a_reason(plan_of: MakePlan) -> None:
    plan = plan_of()
    derived = {f"train.{field}" for field in type(plan.train).model_fields if field not in SAID_BY_THE_RECIPE}
    derived |= {
        "parameters.total",
        "parameters.trainable",
        "memory.weights_bytes",
        "memory.peak_bytes",
        "tokens.total",
        "fits",
    }
    derived |= {"time.train", "time.evaluate", "time.total", "cost.usd", "method.targets", "method.quantisation"}
    assert derived == set(plan.because)
    assert all(len(why) > 10 for why in plan.because.values())


def test_steps_are_exactly_those_of_the_packing(plan_of: MakePlan, manifest: Manifest, lengths: list[Length]) -> None:
    plan = plan_of(manifest=manifest, token_lengths=lengths, recipe={"seed": 3, "train": {"epochs": 1.5}})
    packed = len(pack(lengths, plan.train.row_tokens, 3))
    assert plan.train.steps == count_steps(packed, 1.5, plan.train.rows_per_step)
    assert plan.tokens.exact
    assert plan.tokens.trained == 24_000
    assert plan.manifest == manifest.id
    assert plan.parents == (manifest.id,)


def test_without_a_dataset_tokens_are_estimated_and_said_to_be(plan_of: MakePlan) -> None:
    plan = plan_of()
    assert not plan.tokens.exact
    assert "estimated" in plan.because["tokens.total"]
    assert plan.manifest is None


def test_a_manifest_without_lengths_counts_tokens_and_estimates_packing(plan_of: MakePlan, manifest: Manifest) -> None:
    plan = plan_of(manifest=manifest)
    assert plan.tokens.per_epoch == manifest.splits["train"].unique_tokens
    assert not plan.tokens.exact


def test_the_id_does_not_depend_on_memory_speed_or_reasons(plan_of: MakePlan, machines: dict[str, Hardware]) -> None:
    laptop = machines["laptop"]
    same = plan_of(hardware=replace(laptop, ram_bytes=64 * 2**30, gemm_gflops=20.0, cpu_name="other"))
    assert same.id == plan_of().id
    assert plan_of(hardware=replace(laptop, cores=4)).id != same.id


def test_layers_are_recomputed_only_when_memory_is_short_and_no_more_than_needed(
    plan_of: MakePlan, machines: dict[str, Hardware]
) -> None:
    roomy = plan_of()
    assert roomy.train.checkpointed_layers == 0
    wanted = roomy.memory.peak_bytes - 100 * 2**20
    tight = plan_of(hardware=replace(machines["laptop"], ram_bytes=round(wanted / 0.9)))
    again = tight.train.checkpointed_layers + (tight.train.feed_forward_again or 0)
    assert 0 < again < 30
    assert tight.fits
    assert wanted - 50 * 2**20 < tight.memory.peak_bytes <= wanted + 1
    assert tight.id != roomy.id


def test_what_does_not_fit_is_said_with_what_is_missing(plan_of: MakePlan, machines: dict[str, Hardware]) -> None:
    plan = plan_of("llama-3.1-8b-instruct", recipe={"method": "lora"})
    assert plan.fits is False
    assert "less than the peak" in plan.because["fits"]
    assert plan_of(hardware=replace(machines["laptop"], ram_bytes=None)).fits is None


@pytest.mark.parametrize(
    ("capability", "dtype"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16"), (None, "bfloat16")]
)
def test_a_gpu_computes_in_the_half_precision_it_has(
    capability: tuple[int, int] | None, dtype: str, plan_of: MakePlan, machines: dict[str, Hardware]
) -> None:
    plan = plan_of(hardware=replace(machines["h100"], gpu_capability=capability))
    assert (plan.train.device, plan.train.compute_dtype) == ("cuda", dtype)


@pytest.mark.parametrize(("cpu_bf16", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_computes_in_bfloat16_where_it_has_units_for_it(
    cpu_bf16: bool, dtype: str, plan_of: MakePlan, machines: dict[str, Hardware]
) -> None:
    plan = plan_of(hardware=replace(machines["laptop"], cpu_bf16=cpu_bf16))
    assert (plan.train.device, plan.train.compute_dtype) == ("cpu", dtype)
    assert "bfloat16" in plan.because["train.compute_dtype"]


def test_a_cpu_is_used_when_asked_for_and_a_missing_gpu_is_refused(
    plan_of: MakePlan, machines: dict[str, Hardware]
) -> None:
    assert plan_of(hardware=machines["h100"], recipe={"train": {"device": "cpu"}}).train.compute_dtype == "float32"
    with pytest.raises(RecipeError, match="no GPU"):
        plan_of(recipe={"train": {"device": "cuda"}})


def test_lora_and_qlora_differ_in_how_weights_are_stored(plan_of: MakePlan) -> None:
    lora, qlora = plan_of(recipe={"method": "lora"}), plan_of()
    assert (lora.method.quantisation, lora.method.double_quantisation) == ("none", False)
    assert (qlora.method.quantisation, qlora.method.double_quantisation) == ("nf4", True)
    assert lora.memory.weights_bytes == 4 * 134_515_008 + 256
    assert qlora.memory.weights_bytes < lora.memory.weights_bytes / 3


def test_trained_biases_and_lengths_are_told_and_counted(plan_of: MakePlan) -> None:
    qwen = "qwen2.5-0.5b-instruct"
    lora = {"kind": "lora"}
    plain = plan_of(qwen, recipe={"method": lora})
    biased = plan_of(qwen, recipe={"method": lora | {"bias": "lora_only"}})
    assert biased.parameters.trainable - plain.parameters.trainable == 24 * (896 + 128 + 128)
    assert "biases of adapted layers train too" in biased.because["method.bias"]
    assert "serves low-rank products alone" in biased.because["method.bias"]
    dora = plan_of(qwen, recipe={"method": lora | {"dora": True}})
    assert dora.parameters.trainable - plain.parameters.trainable == 24 * (2 * 896 + 2 * 128 + 2 * 4864 + 896)
    assert "plain path" in dora.because["method.dora"]
    assert dora.memory.components["activations"] > plain.memory.components["activations"]
    assert dora.memory.components["row_lengths"] == 8 * 896 * 4864


def test_biases_that_a_base_does_not_have_are_refused(plan_of: MakePlan) -> None:
    with pytest.raises(RecipeError, match="none of its adapted linear layers has a bias"):
        plan_of(recipe={"method": {"kind": "lora", "bias": "lora_only"}})
    with pytest.raises(RecipeError, match="it has no biases, so there is nothing to train"):
        plan_of(recipe={"method": {"kind": "lora", "bias": "all"}})


def test_where_every_weight_trains_checkpoints_are_as_many_tokens_apart_as_make_them_cheap(
    plan_of: MakePlan, machines: dict[str, Hardware], manifest: Manifest, lengths: list[Length]
) -> None:
    full = {"method": "full", "train": {"tokens_per_step": 1000}}
    short = plan_of(recipe=full, manifest=manifest, token_lengths=lengths)
    tokens = short.train.rows_per_step * short.train.row_tokens
    assert short.train.checkpoint_every == max(-(-short.train.steps // 10), -(-5_000 // tokens))
    long = plan_of(
        recipe=full | {"train": {"tokens_per_step": 1000, "epochs": 50}}, manifest=manifest, token_lengths=lengths
    )
    assert long.train.checkpoint_every == -(-long.train.steps // 10) > short.train.checkpoint_every
    card = plan_of(hardware=machines["h100"], recipe=full, manifest=manifest, token_lengths=lengths)
    assert card.train.checkpoint_every * card.train.rows_per_step * card.train.row_tokens >= 5_000_000
    assert "over a tenth of the time" in card.because["train.checkpoint_every"]
    asked = plan_of(recipe={"method": "full", "train": {"checkpoint_every": 7}})
    assert asked.train.checkpoint_every == 7
    assert plan_of().because["train.checkpoint_every"].startswith("about 10 checkpoints")


def test_a_70b_model_is_planned_within_a_second(plan_of: MakePlan, machines: dict[str, Hardware]) -> None:
    plan_of()
    began = time.process_time()
    plan = plan_of("llama-3.1-70b-instruct", machines["h100"])
    assert time.process_time() - began < 1.0
    assert plan.parameters.total == 70_553_706_496


def test_planning_loads_no_tensors_and_no_tokenizer() -> None:
    rooms = ", ".join(f"burnish.plan.{name}" for name in ("make", "bases", "compare", "table", "hardware"))
    heavy = "{'torch', 'transformers', 'tokenizers', 'bitsandbytes', 'pyarrow'}"
    code = f"import sys, {rooms}; burnish.plan.hardware.detect(); print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"


def test_bad_input_is_refused_with_its_own_error(plan_of: MakePlan, manifest: Manifest) -> None:
    with pytest.raises(RecipeError, match=r"method.targets = query"):
        plan_of(recipe={"method": {"kind": "lora", "targets": ["query"]}})
    with pytest.raises(BaseModelError, match="model_type"):
        plan_of(config={"model_type": "mamba"})
    with pytest.raises(DataError, match="no row to train on"):
        plan_of(manifest=manifest.model_copy(update={"splits": {"test": manifest.splits["test"]}}))
    with pytest.raises(DataError, match="400 training rows, and lengths of 1"):
        plan_of(manifest=manifest, token_lengths=[("a", 0, 10)])


@pytest.mark.parametrize(("asked", "tokens"), [({}, 68), ({"max_new_tokens": 20}, 20)])
def test_an_answer_may_be_a_quarter_longer_than_any_trained_one(
    asked: dict[str, Any], tokens: int, manifest: Manifest
) -> None:
    recipe = parse_recipe({"name": "a", "base": "b", "data": "c", "method": "lora", "evaluate": asked}, source="test")
    assert longest_answer(recipe, manifest) == tokens
