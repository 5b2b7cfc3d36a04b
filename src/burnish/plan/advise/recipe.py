"""The recipe that an advice ends in: what burnish can do of it, and in comments what comes before and after."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from burnish.core.errors import UsageError
from burnish.plan.bases import published_id

RANKS = {"labels": 8, "style": 8, "format": 16, "skill": 16, "cheaper": 16, "domain": 64, "language": 64}
"""Rank by need; the largest that is asked for counts. Course: begin with 8 and double while it helps."""
SMALL = 1_000
FEW_ROWS_EPOCHS = 3


def recipe_text(advice: dict[str, Any], name: str, data: str, *, bundled: Collection[str] = ()) -> str:
    """Return the recipe of an advice. bundled: bases that are here by their short name; of others the Hub id is written.

    Raises UsageError when the advice is not to tune.
    """
    tuned = [stage for stage in advice["stages"] if stage["stage"] == "tune"]
    if not tuned:
        held = [reason["says"] for stage in advice["not_now"] for reason in stage["reasons"]]
        held += [
            reason["says"]
            for option in advice["options"]
            for reason in option["reasons"]
            if option["verdict"] == "ruled out"
        ]
        raise UsageError(f"there is no recipe to write: {held[0] if held else 'nothing asks for training'}.")
    option = tuned[0]["option"]
    asked = advice["situation"]
    base = asked["base"] if asked["base"] in bundled else published_id(asked["base"])
    needs: list[str] = asked["needs"]
    rank = max((RANKS.get(need, 16) for need in needs), default=16)
    lines = [f"# {line}" for line in _story(advice)]
    lines += [
        f"name: {name}",
        f"base: {json.dumps(base)}",
        f"data: {json.dumps(data)}",
        "method: full" if option == "full" else f"method: {{kind: {option}, rank: {rank}, alpha: {2 * rank}}}",
    ]
    if "format" in needs:
        lines.append("gate: {json_valid: 0.95}          # if the form is JSON; else exact_match")
    elif "labels" in needs:
        lines.append("gate: {exact_match: 0.8}          # well above the share of the largest class")
    else:
        lines.append("gate: {}                          # say what must hold, from what the prompt alone reached")
    if "labels" in needs:
        lines.append("prepare: {stratify: true}")
    epochs = asked["epochs"] if asked["rows"] >= SMALL else max(FEW_ROWS_EPOCHS, asked["epochs"])
    rate = 0.0002 if advice["base"]["parameters"] > 3e9 else 0.001
    usual = "" if option == "full" else f", learning_rate: {rate:g}"
    lines.append(f"train: {{epochs: {epochs:g}{usual}}}")
    return "\n".join(lines) + "\n"


def _story(advice: dict[str, Any]) -> list[str]:
    way = ", then ".join(stage["called"] for stage in advice["stages"])
    lines = [f"burnish advise: {advice['verdict']}. {way[:1].upper()}{way[1:]}."]
    for stage in advice["stages"]:
        if stage["stage"] in ("prompt", "rag"):
            lines.append(f"Before: {stage['called']}: {stage['reasons'][0]['says'] if stage['reasons'] else ''}.")
        if stage["stage"] == "align":
            lines.append(f"After: {stage['called']}, from the adapter of this recipe.")
    return [*lines, *(f"Risk: {risk['risk']}." for risk in advice["risks"])]
