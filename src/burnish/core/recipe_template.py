"""What a recipe may say to chat templates and system prompts: names of variables, fields in braces."""

from __future__ import annotations

import re
import string
from typing import Any

TEMPLATE_OWN = (
    "messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception", "bos_token", "eos_token",
    "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
"""Variables of chat templates that burnish gives itself."""


def variable_problem(name: str, value: Any) -> str | None:
    """Return what is wrong with a variable of the chat template, or None."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
        return f'"{name[:70]}" is no name of a variable'
    if name in TEMPLATE_OWN:
        return f"{name} is what burnish gives the template itself"
    small = abs(value) <= 2**53 if isinstance(value, int | float) else isinstance(value, str) and len(value) <= 10_000
    return (
        None if small else f"{name} must be true, false, a number up to 2**53, or a text of 10,000 characters at most"
    )


SYSTEM_FIELDS = ("date", "weekday", "calendar")


def check_system_template(template: str) -> None:
    """Raise ValueError unless every `{field}` of a system prompt is known."""
    try:
        fields = [
            (name, spec, conversion)
            for _, name, spec, conversion in string.Formatter().parse(template)
            if name is not None
        ]
    except ValueError as error:
        raise ValueError(f"{error}. Write {{{{ and }}}} for braces that are text.") from error
    for name, spec, conversion in fields:
        if name not in SYSTEM_FIELDS or spec or conversion:
            allowed = ", ".join(f"{{{field}}}" for field in SYSTEM_FIELDS)
            raise ValueError(
                f"unknown field {{{name}}}. Known: {allowed}. Write {{{{ and }}}} for braces that are text."
            )
