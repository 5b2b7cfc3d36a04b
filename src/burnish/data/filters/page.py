"""What the page about a dataset shows of filters and audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from burnish.core.artifacts import FileRef, Manifest
from burnish.data.filters.audit import REFUSED
from burnish.data.filters.report import REPAIRED
from burnish.page.plots import Bar, Dot, DotGroup, DotRow, bars, dot_plot
from burnish.page.svg import HALF_PX, both_widths

BARS = 12
"""Languages and kinds that a plot shows."""


def filters_of(manifest: Manifest, root: Path) -> dict[str, Any] | None:
    """Return what the filters found, as the dataset's file has it; None for datasets from before there were filters."""
    return _read(manifest.filters_file, root)


def filters_section(manifest: Manifest, root: Path) -> dict[str, Any] | None:
    """Return what the page shows of the filters: those that marked rows, with plots of shares."""
    found = filters_of(manifest, root)
    if found is None:
        return None
    marked = sorted((each for each in found["filters"] if each["marked"]), key=lambda each: -each["marked"])
    return {
        **found,
        "clusters": found.get("clusters"),  # from when there were none
        "marked": [each for each in marked if each["action"] != REPAIRED],
        "repaired": [each for each in marked if each["action"] == REPAIRED],
        "clean": [each["name"] for each in found["filters"] if not each["marked"]],
        "plot": _shares_plot([each for each in marked if each["action"] != REPAIRED], "Rows that each filter marks"),
        "languages_plot": _half_shares(found["languages"], "Rows by language"),
        "clusters_plot": _clusters_plot(found.get("clusters")),
        "kinds_plot": _half_shares(found["kinds"], "Answers by kind"),
    }


def _shares_plot(filters: list[dict[str, Any]], what: str) -> Markup | None:
    if not filters:
        return None
    rows = [
        Bar(
            each["name"].replace("_", " "),
            each["marked"],
            f"{each['marked']:,} ({each['share']:.1%})",
            "rejected" if each["action"] == "remove" else "changed",
        )
        for each in filters
    ]
    return both_widths(lambda width: bars(rows, width, what))


def _clusters_plot(clusters: dict[str, Any] | None) -> Markup | None:
    if clusters is None:
        return None
    rows = [
        Bar(f"group {number}", each["kept"], f"{each['kept']:,} of {each['rows']:,} kept", "kept")
        for number, each in enumerate(clusters["largest"], start=1)
    ]
    return both_widths(lambda width: bars(rows, width, "Rows by group, largest first"))


def _half_shares(shares: list[dict[str, Any]], what: str) -> Markup | None:
    rows = [Bar(each["name"], each["rows"], f"{each['share']:.1%}", "kept") for each in shares[:BARS]]
    return bars(rows, HALF_PX, what) if rows else None


def audit_of(manifest: Manifest, root: Path) -> dict[str, Any] | None:
    """Return the bias audit, as the dataset's file has it; None for datasets from before there was one."""
    return _read(manifest.audit_file, root)


def _read(file: FileRef | None, root: Path) -> dict[str, Any] | None:
    return None if file is None else json.loads((root / file.path).read_text(encoding="utf-8"))


def audit_section(manifest: Manifest, root: Path) -> dict[str, Any] | None:
    """Return what the page shows of the audit: groups that are named, with a plot of how often they are refused."""
    found = audit_of(manifest, root)
    if found is None:
        return None
    axes = [axis for axis in found["axes"] if axis["groups"]]
    return {
        **found,
        "in_languages": ", ".join(looked_in(found)),
        "other_languages": not_looked_at(found),
        "axes": axes,
        "tests": [test | {"axis": axis["axis"]} for axis in axes for test in axis["tests"]],
        "plot": _refusals_plot(axes),
        "swaps": [swap for swap in found["counterfactual"] if swap["rows"]],
    }


def looked_in(audit: dict[str, Any]) -> list[str]:
    """Return the languages, by code, in which an audit looked for groups of people; English alone in older ones."""
    return audit.get("groups_looked_for", {"languages": ["en"]})["languages"]


def not_looked_at(audit: dict[str, Any]) -> str:
    """Return in words how many rows an audit did not look at for groups, for their language; nothing where there are none."""
    others = audit.get("groups_looked_for", {}).get("other_languages", [])
    rows = sum(each["rows"] for each in others)
    named = ", ".join(f"{each['name']} {each['rows']:,}" for each in others[:5])
    return f"{rows:,} rows in other languages ({named}{', ...' if len(others) > 5 else ''})" if rows else ""


def _refusals_plot(axes: list[dict[str, Any]]) -> Markup | None:
    """Return the share of refused requests by group, where any group is refused anything."""
    groups: list[DotGroup] = []
    for axis in axes:
        rows: list[DotRow] = []
        for group in axis["groups"]:
            rate = next(each for each in group["rates"]["refusal"] if each["category"] == REFUSED)
            if group["alone"]:
                dot = Dot("tuned", rate["share"], rate["low"], rate["high"])
                rows.append(DotRow(group["name"], f"{rate['rows']:,} of {group['alone']:,}", [dot]))
        if any(row.dots[0].value for row in rows):
            groups.append(DotGroup(axis["axis"], rows))
    return both_widths(lambda width: dot_plot(groups, width, "share of requests that are refused")) if groups else None
