"""What `check` and `doctor` found, as tables."""

from __future__ import annotations

from typing import Any

from burnish.terminal import line, table


def print_check(found: dict[str, Any]) -> None:
    """Print what `check` looked at."""
    table("check", ("what", "found"), [(key, str(value)) for key, value in found.items()])


def print_doctor(findings: dict[str, Any]) -> None:
    """Print what `doctor` found on this machine."""
    table(
        "doctor",
        ("what", "found", "verdict"),
        [(item["what"], item["found"], item["verdict"]) for item in findings["items"]],
    )
    line("all good" if findings["ok"] else "see the verdicts that are not ok")
