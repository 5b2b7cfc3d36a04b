"""Synthetic rows as terminal tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish.terminal import line, table


def print_synthesized(report: dict[str, Any]) -> None:
    """Print what was made, what was not used and why, and what it cost."""
    kinds: dict[str, dict[str, Any]] = report["kinds"]
    table(
        "made",
        ("kind", "wanted", "kept", "replies", "ended"),
        [
            (name, *(f"{kind[key]:,}" for key in ("wanted", "kept", "replies")), kind["ended"])
            for name, kind in kinds.items()
        ],
    )
    refused = [
        (name, f"{count:,}", reason, (kind["examples"].get(reason) or [""])[0][:80])
        for name, kind in kinds.items()
        for reason, count in kind["refused"].items()
    ]
    if refused:
        table("not used", ("kind", "how many", "why", "for example"), refused)
    requests, spent, budget = report["requests"], report["spent"], report["budget"]
    line(
        f"asked {requests['asked']:,}: {requests['answered']:,} answered, {requests['from_the_cache']:,} from the cache, "
        f"{requests['failed']:,} failed"
    )
    most = [f"{budget['tokens']:,} tokens"] if budget["tokens"] is not None else []
    most += [f"{budget['dollars']:g} dollars"] if budget["dollars"] is not None else []
    line(
        f"spent {spent['tokens']:,} tokens ({spent['tokens_in_this_run']:,} now), {spent['dollars']:.4f} dollars, "
        f"of at most {' and '.join(most)}"
    )
    if report["stopped"] is not None:
        line(f"stopped: {report['stopped']}. Raise synthesize.budget and run the same command to go on.")
    personal = report["personal_data_replaced_before_sending"]
    if personal:
        line(
            "personal data replaced before sending: " + ", ".join(f"{kind} {count}" for kind, count in personal.items())
        )
    clean = "clean" if report["leakage"]["clean"] else "NOT clean"
    line(f"against what is tested: {clean}, {report['leakage']['file']}")
    line(f"{report['rows']:,} rows in {Path(report['folder']) / 'rows.jsonl'}")
    if report["pairs"]:
        line(f"{report['pairs']:,} preference pairs in {Path(report['folder']) / 'pairs.jsonl'}")
    if report["waiting_for_review"]:
        line(f"{report['waiting_for_review']:,} rows wait for a review: burnish data review RECIPE")
