"""The rules as data: each says when it holds, what it speaks for or against, in which words, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

STAGES = ("prompt", "rag", "tune", "align")
"""Stages of a way, in their order."""
TECHNIQUES: Mapping[str, tuple[str, ...]] = {"tune": ("qlora", "lora", "full"), "align": ("dpo", "rlhf")}
"""Ways to do a stage; between equals the first is taken."""
OPTIONS = ("prompt", "rag", *TECHNIQUES["tune"], *TECHNIQUES["align"])


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `when` holds a comparison for each fact; all must hold. `warns_for`: risks of a stage or technique."""

    id: str
    when: Mapping[str, tuple[str, Any]]
    says: str
    source: str
    wants: Sequence[str] = ()
    blocks: Sequence[str] = ()
    favours: Sequence[str] = ()
    against: Sequence[str] = ()
    warns: Sequence[str] = ()
    warns_for: Mapping[str, str] = field(default_factory=dict[str, str])

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Return whether every comparison holds. Raises KeyError for a fact that nobody gives."""
        return all(_compare(facts[name], how, wanted) for name, (how, wanted) in self.when.items())


@cache
def rules() -> tuple[Rule, ...]:
    """Return the rules of rules.json."""
    table: list[dict[str, Any]] = json.loads(
        resources.files("burnish.plan.advise").joinpath("rules.json").read_text(encoding="utf-8")
    )
    return tuple(Rule(**row) for row in table)


@cache
def priors() -> dict[str, Any]:
    """Return the numbers of priors.json."""
    return json.loads(resources.files("burnish.plan.advise").joinpath("priors.json").read_text(encoding="utf-8"))


def _compare(found: Any, how: str, wanted: Any) -> bool:
    """Compare a fact. A number that nobody gave is neither below nor above any."""
    if how == "==":
        return found == wanted
    if how == "!=":
        return found != wanted
    if how == "has":
        return bool(set(wanted) & set(found))
    if how == "lacks":
        return not set(wanted) & set(found)
    if found is None:
        return False
    if how == "<":
        return found < wanted
    if how == ">=":
        return found >= wanted
    if how == "between":
        return wanted[0] <= found <= wanted[1]
    raise ValueError(f'no comparison is called "{how}". Known: ==, !=, <, >=, between, has, lacks.')


@dataclass
class Weighed:
    """What the rules that hold say together."""

    wanted: dict[str, list[Rule]] = field(default_factory=dict[str, list[Rule]])
    blocked: dict[str, list[Rule]] = field(default_factory=dict[str, list[Rule]])
    score: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OPTIONS, 0))
    reasons: dict[str, list[Rule]] = field(default_factory=dict[str, list[Rule]])
    warnings: list[tuple[str, Rule]] = field(default_factory=list[tuple[str, Rule]])
    warnings_for: dict[str, list[tuple[str, Rule]]] = field(default_factory=dict[str, list[tuple[str, Rule]]])

    def technique(self, stage: str) -> str | None:
        """Return the best technique that nothing blocks; None when all are blocked, the stage itself without techniques."""
        if stage in self.blocked:
            return None
        if stage not in TECHNIQUES:
            return stage
        left = [name for name in TECHNIQUES[stage] if name not in self.blocked]
        return max(left, key=lambda name: self.score[name]) if left else None


def weigh(facts: Mapping[str, Any], all_rules: Iterable[Rule] | None = None) -> Weighed:
    """Return what all rules that hold say."""
    found = Weighed()
    for rule in rules() if all_rules is None else all_rules:
        if not rule.holds(facts):
            continue
        for stage in rule.wants:
            found.wanted.setdefault(stage, []).append(rule)
        for name in rule.blocks:
            found.blocked.setdefault(name, []).append(rule)
        for names, step in ((rule.favours, 1), (rule.against, -1)):
            for name in names:
                found.score[name] += step
        for name in dict.fromkeys((*rule.favours, *rule.against)):
            found.reasons.setdefault(name, []).append(rule)
        found.warnings += [(text, rule) for text in rule.warns]
        for name, text in rule.warns_for.items():
            found.warnings_for.setdefault(name, []).append((text, rule))
    return found
