"""Bases whose numbers a plan can tell, and which `burnish run` refuses all the same: a plan says so before anything is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from burnish.plan.bases import stored_quantised

ATTENTION = "its attention does not keep the samples of a packed row apart"
SCALED = "its logits are scaled after the output head, which the loss in chunks does not do"
BY_TYPE: Mapping[str, str] = {
    "falcon": ATTENTION,
    "gpt_oss": ATTENTION,
    "stablelm": ATTENTION,
    "nemotron": ATTENTION,
    "deepseek_v3": "its values are of another size than its queries, which packed attention does not compute",
}
"""Found by a run of a tiny base of each type (tests/test_families_run.py)."""
SCALES: Mapping[str, tuple[str, float]] = {
    "cohere": ("logit_scale", 0.0625),
    "cohere2": ("logit_scale", 0.0625),
    "granite": ("logits_scaling", 1.0),
    "granitemoe": ("logits_scaling", 1.0),
}
"""The field by which logits are scaled, and transformers' value for a file that lacks it; 1 changes nothing."""


def why_refused(config: Mapping[str, Any]) -> str | None:
    """Return why a run refuses the base of this config.json; None where it does not, as far as the file tells."""
    stored = stored_quantised(config)
    if stored is not None:
        return (
            f"its files hold the weights quantised ({stored}); the 16-bit model that they were made from can be trained"
        )
    inner = config.get("text_config")
    model_type = str(config.get("model_type"))
    if isinstance(inner, dict) and model_type not in BY_TYPE and model_type not in SCALES:
        return why_refused(cast("dict[str, Any]", inner))
    field, usual = SCALES.get(model_type, ("", 1.0))
    said = config.get(field)
    if (usual if said is None else said) != 1:
        return SCALED
    return BY_TYPE.get(model_type)
