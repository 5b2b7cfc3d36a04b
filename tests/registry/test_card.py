"""The card says what was measured, and a change to it is a diff that a person reads."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from burnish.core.artifacts import Release
from burnish.registry.card import model_card
from burnish.registry.gate import decide

GOLDEN = Path(__file__).parents[1] / "golden" / "card.md"


def released(family: dict[str, Any]) -> Release:
    return Release(
        name="flight-search",
        alias="champion",
        adapter=family["adapter"].id,
        report=family["report"].id,
        plan=family["plan"].id,
        manifest=family["manifest"].id,
        base=family["adapter"].base,
        gate=decide(family["report"], {"exact_match": 0.65}),
        version=3,
        created_at=datetime(2026, 11, 22, tzinfo=UTC).isoformat(),
    )


def test_the_card_is_the_golden_file(family: dict[str, Any]) -> None:
    card = model_card(release=released(family), **family, base_licence="Apache-2.0")
    if os.environ.get("BURNISH_WRITE_GOLDEN"):
        GOLDEN.write_text(card, encoding="utf-8")
    assert card == GOLDEN.read_text(encoding="utf-8"), (
        "if the change is wanted: BURNISH_WRITE_GOLDEN=1, then read the diff"
    )


def test_an_unknown_licence_is_not_made_up(family: dict[str, Any]) -> None:
    card = model_card(release=released(family), **family, base_licence=None)
    assert "license:" not in card
    assert "not known here" in card


def test_text_from_the_data_cannot_break_a_table(family: dict[str, Any]) -> None:
    ledger = family["manifest"].ledger.model_copy(update={"rejected": {"a | b\nc": 120}})
    manifest = family["manifest"].model_copy(update={"ledger": ledger})
    card = model_card(release=released(family), **(family | {"manifest": manifest}), base_licence=None)
    assert "| rejected | a \\| b c | 120 |" in card
