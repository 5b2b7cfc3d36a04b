"""Advice in the terminal: the way, its reasons, prices, both ways over the horizon, risks."""

from __future__ import annotations

from typing import Any

from burnish.terminal import line, paragraph, table


def print_advice(advice: dict[str, Any]) -> None:
    """Print an advice."""
    paragraph(f"{advice['verdict'].upper()}: " + ", then ".join(stage["called"] for stage in advice["stages"]))
    for number, stage in enumerate(advice["stages"], start=1):
        line(f"\n{number}. {stage['called']}")
        for reason in stage["reasons"]:
            paragraph(f"{reason['says']}  [{reason['source']}]", mark="   - ")
    for stage in advice["not_now"]:
        line(f"\nnot now: {stage['stage']}")
        for reason in stage["reasons"]:
            paragraph(f"{reason['says']}  [{reason['source']}]", mark="   - ")
    line("")
    table(
        f"options, for {advice['base']['name']} on {advice['gpu']['name']}",
        ("option", "verdict", "GPU hours", "people's hours", "dollars to build", "because"),
        [
            (
                option["called"],
                option["verdict"],
                _band(option["price"]["gpu_hours"]),
                _band(option["price"]["work_hours"]),
                _band(option["price"]["usd"]),
                next((reason["says"] for reason in option["reasons"]), ""),
            )
            for option in advice["options"]
        ],
    )
    _money(advice)
    if advice["risks"]:
        line("\nrisks")
    for risk in advice["risks"]:
        paragraph(f"{risk['risk']}  [{risk['source']}]", mark="   - ")


def _money(advice: dict[str, Any]) -> None:
    money, choice = advice["economics"], advice["build_or_buy"]
    even = money["break_even_requests_per_day"]
    rows = [
        (
            f"an hour of {advice['gpu']['name']}, dollars",
            _band(advice["gpu"]["usd_per_hour"]),
            advice["gpu"]["because"],
        ),
        ("hosted API, dollars a month", _band(money["api_usd_per_month"]), money["because"].get("api.month", "")),
        ("own GPUs, dollars a month", _band(money["own_usd_per_month"]), money["because"]["own.gpus"]),
        ("to build, dollars", _band(money["build_usd"]), "people's hours and all runs of what is trained"),
    ]
    if money["rag_usd_per_month_at_api"] and any(stage["stage"] == "rag" for stage in advice["stages"]):
        rows.append(
            (
                "passages in the prompt, dollars a month",
                f"{money['rag_usd_per_month_at_api']:,.0f}",
                money["because"]["rag.month"],
            )
        )
    if even is not None:
        says = ", ".join(f"{name} {'never' if value is None else f'{value:,.0f}'}" for name, value in even.items())
        rows.append(
            (
                "own is cheaper from, requests a day",
                says,
                "by the ends and middles of the bands, the building spread over the horizon",
            )
        )
    if money["payback_months"] is not None:
        rows.append(("pays back in, months", f"{money['payback_months']:.1f}", "middles of the bands"))
    if money["return"] is not None:
        gain = money["return"]
        inputs = gain["inputs"]
        api = inputs["api_usd_per_month_spared"]
        at_api = "" if api is None else f"{_band(api)} dollars a month at the API and "
        rows.append(
            (
                f"gain over {inputs['horizon_months']:g} months, dollars",
                _band(gain["net_usd"]),
                f"{at_api}{inputs['work_usd_per_month_spared']:,.0f} dollars of work a month spared, "
                f"{inputs['prompt_tokens_per_month_spared']:,.0f} prompt tokens a month",
            )
        )
    table("money", ("what", "how much", "because"), rows)
    paragraph(f"build or buy: {choice['answer'] or 'cannot be said'}: {choice['why']}")


def _band(band: dict[str, float] | None) -> str:
    if band is None:
        return "?"
    low, high = band["low"], band["high"]
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == 0 else f"{value:.2g}"
