"""Bases whose numbers a plan can tell, and which `burnish run` refuses all the same: a plan says so before anything is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from burnish.plan.bases import stored_quantised

ATTENTION = "its attention does not keep the samples of a packed row apart"
BY_TYPE: Mapping[str, str] = {
    "falcon": ATTENTION,
    "gpt_oss": ATTENTION,
    "stablelm": ATTENTION,
    "nemotron": ATTENTION,
    "deepseek_v3": "its values are of another size than its queries, which packed attention does not compute",
}
"""Found by a run of a tiny base of each type (tests/test_families_run.py)."""


def why_refused(config: Mapping[str, Any]) -> str | None:
    """Return why a run refuses the base of this config.json; None where it does not, as far as the file tells."""
    stored = stored_quantised(config)
    if stored is not None:
        return (
            f"its files hold the weights quantised ({stored}); the 16-bit model that they were made from can be trained"
        )
    inner, reason = config.get("text_config"), BY_TYPE.get(str(config.get("model_type")))
    if reason is None and isinstance(inner, dict):
        return why_refused(cast("dict[str, Any]", inner))
    return reason
