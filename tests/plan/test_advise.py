"""The advisor over many situations: each row is what a person says and the way that the sources' rules lead to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.core.errors import BaseModelError, UsageError
from burnish.core.recipe_file import load_recipe
from burnish.plan.advise.advice import advise
from burnish.plan.advise.recipe import recipe_text
from burnish.plan.advise.rules import OPTIONS, STAGES, TECHNIQUES, rules, weigh
from burnish.plan.advise.situation import NEEDS, Situation, SituationError, read_situation

PRICED = {"gpu_usd_low": 1.2, "gpu_usd_high": 2.0, "api_input_usd": 2.5, "api_output_usd": 10.0}
TUNED = {"prompt": "falls-short", "rows": 3000}
TUNED_PAIRS = {**TUNED, "pairs": 5000}
CLUSTER = {
    "prompt": "falls-short",
    "rows": 200_000,
    "gpus": 8,
    "adapters": "fall-short",
    "stakes": "high",
    "team": "experts",
}
REINFORCED = {**TUNED_PAIRS, "dpo": "falls-short", "team": "experts", "reward": True}
BUSY = {**PRICED, "requests_per_day": 200_000, "prompt_tokens": 1500, "prompt_tokens_saved": 1200}

WAYS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("a prompt that works", {"needs": "format", "prompt": "works", "rows": 5000}, ["prompt"]),
    ("a prompt that works, in a certain tone", {"needs": "style", "prompt": "works", "rows": 5000}, ["prompt"]),
    ("nothing tried, no rows", {"needs": "skill"}, ["prompt"]),
    ("nothing tried, rows are there", {"needs": "skill", "rows": 2000}, ["prompt", "lora"]),
    ("facts from documents", {"needs": "facts", "prompt": "falls-short", "document_tokens": 2_000_000}, ["rag"]),
    ("facts that change", {"needs": "fresh-facts", "prompt": "falls-short", "document_tokens": 2_000_000}, ["rag"]),
    ("few facts fit the prompt", {"needs": "facts", "prompt": "falls-short", "document_tokens": 5000}, ["prompt"]),
    ("facts and a prompt that works", {"needs": "fresh-facts", "prompt": "works", "document_tokens": 10**6}, ["prompt", "rag"]),
    ("facts and a form", {"needs": "facts,format", **TUNED, "document_tokens": 10**6}, ["rag", "lora"]),
    ("support: facts, tone, taste", {"needs": "facts,style,preferences", **TUNED_PAIRS, "document_tokens": 10**6},
     ["rag", "lora", "dpo"]),
    ("JSON from texts", {"needs": "format", **TUNED}, ["lora"]),
    ("SQL on a small card", {"needs": "format", **TUNED, "gpu": "T4"}, ["qlora"]),
    ("classes on a 4090", {"needs": "labels", **TUNED, "gpu": "RTX 4090"}, ["lora"]),
    ("classes with a 14B base on a 4090", {"needs": "labels", **TUNED, "gpu": "RTX 4090", "base": "qwen3-14b"}, ["qlora"]),
    ("70B on one A100", {"needs": "skill", **TUNED, "base": "llama-3.1-70b-instruct"}, ["qlora"]),
    ("70B on one T4 does not fit", {"needs": "skill", **TUNED, "base": "llama-3.1-70b-instruct", "gpu": "T4"}, ["prompt"]),
    ("a brand's voice, too few rows", {"needs": "style", "prompt": "falls-short", "rows": 20}, ["prompt"]),
    ("a brand's voice, 50 rows", {"needs": "style", "prompt": "falls-short", "rows": 50}, ["lora"]),
    ("taste with pairs", {"needs": "preferences", **TUNED, "pairs": 5000}, ["lora", "dpo"]),
    ("taste with pairs and no rows", {"needs": "preferences", "prompt": "falls-short", "pairs": 5000}, ["dpo"]),
    ("taste without pairs", {"needs": "preferences", "prompt": "falls-short", "pairs": 50}, ["prompt"]),
    ("safety with pairs", {"needs": "safety", **TUNED, "pairs": 1000}, ["lora", "dpo"]),
    ("DPO fell short, no experts", {"needs": "preferences", **TUNED, "pairs": 5000, "dpo": "falls-short"}, ["lora", "dpo"]),
    (
        "DPO fell short, experts, money, a reward",
        {"needs": "preferences", **REINFORCED, "budget_usd": 500_000},
        ["lora", "rlhf"],
    ),
    (
        "the same with a small budget",
        {"needs": "preferences", **REINFORCED, "budget_usd": 50_000},
        ["lora", "dpo"],
    ),
    ("far domain, adapters untried", {"needs": "domain", "prompt": "falls-short", "rows": 200_000, "gpus": 8}, ["lora"]),
    (
        "far domain, adapters fell short, cluster",
        {"needs": "domain", **CLUSTER},
        ["full"],
    ),
    (
        "the same on one GPU",
        {"needs": "domain", **CLUSTER, "gpus": 1},
        ["lora"],
    ),
    (
        "the same with nobody to run it",
        {"needs": "domain", **CLUSTER, "team": "none"},
        ["lora"],
    ),
    ("many customers", {"needs": "style", **TUNED, "tasks": 40, "adapters": "fall-short", "gpus": 8}, ["lora"]),
    ("cheaper, much traffic", {"needs": "cheaper", "prompt": "works", "rows": 3000, **BUSY}, ["lora"]),
    ("cheaper, little traffic", {"needs": "cheaper", "prompt": "works", "rows": 3000, **BUSY, "requests_per_day": 50}, ["prompt"]),
    ("cheaper, no prices", {"needs": "cheaper", "prompt": "works", "rows": 3000}, ["prompt"]),
    ("cheaper, few rows", {"needs": "cheaper", "prompt": "works", "rows": 10, **BUSY}, ["prompt"]),
    ("a form with no money", {"needs": "format", **TUNED, **PRICED, "budget_usd": 100}, ["prompt"]),
    ("a form with enough money", {"needs": "format", **TUNED, **PRICED, "budget_usd": 20_000}, ["lora"]),
    ("a rare language", {"needs": "language", "prompt": "falls-short", "rows": 20_000}, ["lora"]),
    ("facts, and no document was named", {"needs": "facts", "prompt": "falls-short"}, ["rag"]),
    ("requests must not leave", {"needs": "format", **TUNED, "data_may_leave": False}, ["lora"]),
    ("taste, few pairs", {"needs": "preferences", **TUNED, "pairs": 300}, ["lora", "dpo"]),
    ("many tasks on a small budget", {"needs": "style", **TUNED, **PRICED, "tasks": 3, "gpus": 8, "budget_usd": 9_000},
     ["lora"]),
    ("all weights within a middling budget",
     {"needs": "domain", "prompt": "falls-short", "rows": 50_000, "gpus": 8, "team": "experts",
      "adapters": "fall-short", "stakes": "high", **PRICED, "budget_usd": 60_000}, ["full"]),
    ("all weights above the budget", {"needs": "domain", "prompt": "falls-short", "rows": 10**8, "gpus": 8, "team": "experts",
      "adapters": "fall-short", "stakes": "high", **PRICED, "budget_usd": 20_000}, ["lora"]),
    ("a tiny base", {"needs": "format", **TUNED, "base": "smollm2-135m-instruct", "gpu": "T4"}, ["lora"]),
]  # fmt: skip


@pytest.mark.parametrize(("about", "values", "way"), WAYS, ids=[row[0] for row in WAYS])
def test_the_way(about: str, values: dict[str, Any], way: list[str]) -> None:
    found = advise(read_situation(values))
    assert [stage["option"] for stage in found["stages"]] == way
    trains = bool({"lora", "qlora", "full", "dpo", "rlhf"} & set(way))
    assert found["verdict"] == ("fine-tune" if trains else "do not fine-tune")
    assert json.loads(json.dumps(found)) == found, "advice is plain JSON"
    assert {option["option"] for option in found["options"]} == set(OPTIONS)
    chosen = [option["option"] for option in found["options"] if option["verdict"] == "chosen"]
    assert set(chosen) == set(way)
    assert all(option["reasons"] for option in found["options"] if option["verdict"] in ("ruled out",))
    for stage in found["not_now"]:
        assert stage["reasons"], "what is not done now says why"


@pytest.mark.parametrize(("about", "values", "way"), WAYS, ids=[row[0] for row in WAYS])
def test_the_recipe_at_the_end_is_read_by_burnish(
    about: str, values: dict[str, Any], way: list[str], tmp_path: Path
) -> None:
    found = advise(read_situation(values))
    if not {"lora", "qlora", "full"} & set(way):
        with pytest.raises(UsageError, match=r"no recipe"):
            recipe_text(found, "mine", "mine.jsonl")
        return
    path = tmp_path / "mine.yaml"
    path.write_text(recipe_text(found, "mine", "mine: rows #1.jsonl", bundled=("smollm2-135m-instruct",)))
    recipe = load_recipe(path)
    assert (recipe.name, recipe.data) == ("mine", "mine: rows #1.jsonl")
    assert recipe.method.kind == next(option for option in way if option in ("lora", "qlora", "full"))
    assert recipe.method.alpha == 2 * recipe.method.rank
    assert (recipe.train.learning_rate is None) == (recipe.method.kind == "full"), "the plan knows the usual one"
    assert recipe.base == "smollm2-135m-instruct" or "/" in recipe.base, "what `run` can open: bundled, or a Hub id"


def test_every_rule_has_a_source_speaks_of_what_exists_and_can_hold() -> None:
    names = {*STAGES, *OPTIONS}
    seen: set[str] = set()
    for _, values, _ in WAYS:
        found = advise(read_situation(values))
        for part in (*found["stages"], *found["options"], *found["not_now"]):
            seen |= {reason["rule"] for reason in part["reasons"]}
        seen |= {risk["rule"] for risk in found["risks"]}
    assert len({rule.id for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule.says
        assert rule.source
        assert {*rule.wants, *rule.blocks, *rule.warns_for} <= names, rule.id
        assert {*rule.favours, *rule.against} <= set(OPTIONS), rule.id
        assert rule.id in seen, f"no situation of this file brings up the rule {rule.id}"


def test_a_rule_about_a_fact_that_nobody_gives_is_an_error() -> None:
    with pytest.raises(KeyError):
        weigh({"needs": ("style",)})
    assert set(TECHNIQUES) <= set(STAGES)


def test_what_is_ruled_out_names_the_number_that_rules_it_out() -> None:
    found = advise(read_situation({"needs": "style", "prompt": "falls-short", "rows": 20}))
    (held,) = found["not_now"]
    assert held["stage"] == "tune"
    assert held["reasons"][0]["rule"] == "too-few-rows"


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({}, ["needs", "facts"]),
        ({"needs": ""}, ["needs"]),
        ({"needs": "fcts"}, ['Did you mean "facts"?']),
        ({"needs": "style", "rows": -1, "team": "expert"}, ["rows", 'Did you mean "experts"?']),
        ({"needs": "style", "rowz": 3}, ['Did you mean "rows"?']),
        ({"needs": "style", "epochs": 0}, ["epochs"]),
        ({"needs": "style", "gpu_usd_low": 3, "gpu_usd_high": 1}, ["must not be above gpu_usd_high"]),
        ({"needs": "style", "prompt_tokens": 10, "prompt_tokens_saved": 11}, ["must not be above prompt_tokens"]),
        ({"needs": "style", "gpu_usd_low": "free"}, ["gpu_usd_low"]),
        ({"needs": "style", "requests_per_day": float("nan")}, ["requests_per_day"]),
        ({"needs": "style", "api_input_usd": float("inf")}, ["api_input_usd"]),
    ],
)
def test_situations_that_cannot_be_are_refused_with_every_problem(values: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(SituationError) as caught:
        read_situation(values)
    for part in parts:
        assert part in str(caught.value)


def test_a_prompt_that_remains_since_all_else_is_forbidden_says_why() -> None:
    advice = advise(read_situation({"needs": "skill", "prompt": "falls-short", "rows": 30}))
    [stage] = advice["stages"]
    assert stage["option"] == "prompt"
    assert [reason["rule"] for reason in stage["reasons"]] == ["too-few-rows"]


def test_a_return_is_not_told_where_nobody_said_what_is_spared() -> None:
    situation = {"needs": "skill", "prompt": "falls-short", "rows": 3000}
    assert advise(read_situation(situation))["economics"]["return"] is None
    told = advise(read_situation({**situation, "hours_saved_per_month": 100}))["economics"]["return"]
    assert told["inputs"]["work_usd_per_month_spared"] == 6000


def test_a_wrong_need_is_told_once() -> None:
    with pytest.raises(SituationError) as caught:
        read_situation({"needs": "formats, skill"})
    [problem] = caught.value.problems
    assert problem.found == "'formats'"


def test_an_unknown_gpu_or_base_names_the_nearest() -> None:
    with pytest.raises(UsageError, match='Did you mean "a100"'):
        advise(read_situation({"needs": "style", "gpu": "a1000"}))
    with pytest.raises(BaseModelError, match="qwen3-8b"):
        advise(read_situation({"needs": "style", "base": "qwen3-8c"}))


def test_every_need_has_words_and_every_question_a_description() -> None:
    assert all(NEEDS.values())
    assert all(field.description for field in Situation.model_fields.values())
