"""From a situation to a way: stages with reasons and prices, what was decided against and why, risks, break-even, return."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from burnish.plan.advise.money import Economics, Price, economics, fits, gpu_price, prices, together, weights_of
from burnish.plan.advise.rules import OPTIONS, STAGES, TECHNIQUES, Rule, Weighed, weigh
from burnish.plan.advise.situation import Situation
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import find_config
from burnish.plan.gpus import get_gpu
from burnish.plan.prices import Prices, read_prices

CALLED = {
    "prompt": "a prompt with examples",
    "rag": "retrieval (RAG)",
    "qlora": "instruction tuning with QLoRA",
    "lora": "instruction tuning with LoRA",
    "full": "full fine-tuning",
    "dpo": "preference alignment with DPO",
    "rlhf": "RLHF",
}
"""What each option is called."""
TUNE, DO_NOT = "fine-tune", "do not fine-tune"


def advise(asked: Situation, table: Prices | None = None, today: date | None = None) -> dict[str, Any]:
    """Return the advice for a situation, as plain values: verdict, stages, options, risks, economics.

    table, today: prices of GPUs (default: the bundled ones), and the day by which their age is told.
    Raises BaseModelError for an unknown base, UsageError for an unknown GPU.
    """
    architecture, gpu = read_architecture(find_config(asked.base), source=asked.base), get_gpu(asked.gpu)
    an_hour, told = gpu_price(asked, gpu, table or read_prices(), today or datetime.now(UTC).date())
    cost, room = prices(architecture, asked, gpu, an_hour), fits(architecture, asked, gpu)
    cheapest = next((cost[name] for name in ("lora", "qlora", "full") if room[name]), cost["qlora"])
    money = economics(architecture, asked, gpu, cheapest, an_hour)
    facts = _facts(asked, cost, room, money)
    weighed = weigh(facts)
    stages = _stages(weighed)
    trained = [cost[option] for stage, option in stages if stage in TECHNIQUES]
    if trained:  # a prompt and retrieval are needed with a hosted API as well
        money = economics(architecture, asked, gpu, together(trained), an_hour)
    trains = bool(trained)
    whole = together([cost[option] for _, option in stages])
    return {
        "verdict": TUNE if trains else DO_NOT,
        "stages": [_stage(stage, option, weighed, cost[option]) for stage, option in stages],
        "options": [_option(option, [chosen for _, chosen in stages], weighed, cost[option]) for option in OPTIONS],
        "not_now": _not_now(weighed, stages),
        "price": whole.as_json(),
        "risks": _risks(weighed, stages) + _over_budget(asked, whole),
        "economics": _money_json(money),
        "build_or_buy": _build_or_buy(asked, money),
        "base": {
            "name": asked.base,
            "parameters": architecture.parameters,
            "weights_per_token": weights_of(architecture),
        },
        "gpu": {
            "name": gpu.name,
            "memory_bytes": gpu.memory_mib * 2**20,
            "fits": room,
            "usd_per_hour": None if an_hour is None else an_hour.as_json(),
            "because": told,
        },
        "situation": asked.model_dump(mode="json"),
    }


def _facts(asked: Situation, cost: dict[str, Price], room: dict[str, bool], money: Economics) -> dict[str, Any]:
    """Return what the rules ask about: the situation, and what arithmetic says of it."""
    cheaper = "cheaper" in asked.needs
    tune = [cost[name].usd for name in TECHNIQUES["tune"] if room[name]]
    lowest = min((usd.low for usd in tune if usd is not None), default=None)
    full = cost["full"].usd
    budget = asked.budget_usd
    return {
        **asked.model_dump(),
        **{f"{name}_fits": value for name, value in room.items()},
        "only_cheaper": cheaper and (len(asked.needs) == 1 or asked.prompt == "works"),
        "pays_back": money.pays_back,
        "tune_over_budget": budget is not None and lowest is not None and lowest > budget,
        "full_over_budget": budget is not None and full is not None and full.low > budget,
    }


def _stages(weighed: Weighed) -> list[tuple[str, str]]:
    """Return (stage, option) in order. Without anything left to do, a prompt is what remains."""
    found: list[tuple[str, str]] = []
    for stage in STAGES:
        option = weighed.technique(stage) if stage in weighed.wanted else None
        if option is not None:
            found.append((stage, option))
    return found or [("prompt", "prompt")]


def _said(rule: Rule) -> dict[str, str]:
    return {"rule": rule.id, "says": rule.says, "source": rule.source}


def _stage(stage: str, option: str, weighed: Weighed, price: Price) -> dict[str, Any]:
    rules = [*weighed.wanted.get(stage, []), *(r for r in weighed.reasons.get(option, []) if option in r.favours)]
    if not rules:  # what remains since all that was asked for is forbidden
        rules = [rule for wanted in STAGES if wanted in weighed.wanted for rule in _forbidding(wanted, weighed)]
    return {
        "stage": stage,
        "option": option,
        "called": CALLED[option],
        "reasons": [_said(rule) for rule in _unique(rules)],
        "price": price.as_json(),
    }


def _unique(rules: list[Rule]) -> list[Rule]:
    return list({rule.id: rule for rule in rules}.values())


def _option(option: str, chosen: list[str], weighed: Weighed, price: Price) -> dict[str, Any]:
    stage = next((name for name, options in TECHNIQUES.items() if option in options), option)
    blocking = _unique([*weighed.blocked.get(option, []), *weighed.blocked.get(stage, [])])
    if option in chosen:
        verdict, rules = "chosen", _unique([*weighed.wanted.get(stage, []), *weighed.reasons.get(option, [])])
    elif blocking:
        verdict, rules = "ruled out", blocking
    elif stage not in weighed.wanted:
        verdict, rules = "not needed", []
    else:
        verdict, rules = "second choice", weighed.reasons.get(option, [])
    return {
        "option": option,
        "called": CALLED[option],
        "verdict": verdict,
        "score": weighed.score[option],
        "reasons": [_said(rule) for rule in rules],
        "price": price.as_json(),
    }


def _not_now(weighed: Weighed, stages: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the stages that something asks for and something else forbids, with what forbids them."""
    taken = {stage for stage, _ in stages}
    found: list[dict[str, Any]] = []
    for stage in STAGES:
        if stage in weighed.wanted and stage not in taken:
            found.append({"stage": stage, "reasons": [_said(rule) for rule in _unique(_forbidding(stage, weighed))]})
    return found


def _forbidding(stage: str, weighed: Weighed) -> list[Rule]:
    return weighed.blocked.get(stage) or [
        rule for option in TECHNIQUES.get(stage, ()) for rule in weighed.blocked.get(option, [])
    ]


def _risks(weighed: Weighed, stages: list[tuple[str, str]]) -> list[dict[str, str]]:
    named = {name for pair in stages for name in pair}
    found = [*weighed.warnings]
    for name, warnings in weighed.warnings_for.items():
        found += warnings if name in named else []
    return [{"risk": text, "rule": rule.id, "source": rule.source} for text, rule in found]


def _over_budget(asked: Situation, whole: Price) -> list[dict[str, str]]:
    """Return the risk that the stages together cost more than the budget."""
    if asked.budget_usd is None or whole.usd is None or whole.usd.high <= asked.budget_usd:
        return []
    sure = "at least" if whole.usd.low > asked.budget_usd else "up to"
    most = whole.usd.low if whole.usd.low > asked.budget_usd else whole.usd.high
    text = f"all stages together cost {sure} {most:,.0f} dollars, and the budget is {asked.budget_usd:,.0f}: take the first alone"
    return [{"risk": text, "rule": "stages-over-budget", "source": "arithmetic of the prices"}]


def _money_json(money: Economics) -> dict[str, Any]:
    return {
        "api_usd_per_request": money.api_per_request,
        "api_usd_per_month": None if money.api_month is None else money.api_month.as_json(),
        "own_usd_per_month": None if money.own_month is None else money.own_month.as_json(),
        "rag_usd_per_month_at_api": money.rag_month,
        "own_gpus": {"low": money.gpus[0], "high": money.gpus[1]},
        "build_usd": None if money.build is None else money.build.as_json(),
        "break_even_requests_per_day": money.break_even_requests_per_day,
        "payback_months": money.payback_months,
        "pays_back": money.pays_back,
        "return": money.return_on_build,
        "because": money.because,
    }


def _build_or_buy(asked: Situation, money: Economics) -> dict[str, Any]:
    """Return both ways over the horizon, and which is better and why."""
    own, api, build = money.own_month, money.api_month, money.build
    totals: dict[str, Any] = {
        "build": None if own is None or build is None else (own.times(asked.horizon_months) + build).as_json(),
        "buy": None if api is None else api.times(asked.horizon_months).as_json(),
    }
    if not asked.data_may_leave:
        answer, why = "build", "requests must not leave your machines"
    elif totals["build"] is None or totals["buy"] is None:
        answer, why = None, "prices are missing: gpu_usd_low or gpu_usd_high, api_input_usd and api_output_usd"
    elif totals["build"]["high"] <= totals["buy"]["low"]:
        answer, why = "build", f"cheaper over {asked.horizon_months:g} months, even at the high end"
    elif totals["buy"]["high"] <= totals["build"]["low"]:
        answer, why = "buy", f"cheaper over {asked.horizon_months:g} months, even against the low end"
    else:
        cheaper = "build" if money.pays_back else "buy"
        answer, why = cheaper, "the bands overlap; the middles say so, and traffic or prices can turn it"
    return {"answer": answer, "why": why, "usd_over_horizon": totals}
