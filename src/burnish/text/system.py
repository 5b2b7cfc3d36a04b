"""The system prompt of a recipe, rendered for one day: the same in training, evaluation, chat and API."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from string import Formatter
from typing import Any

from burnish.core.recipe import check_system_template
from burnish.text.messages import Message

CALENDAR_DAYS = 14
"""Days that {calendar} lists, the first one being tomorrow."""

CALENDAR_LINE = "{weekday} {date}"
"""How {calendar} writes one day; days are joined by newlines. A small model does not count days, but it can look one
up. Whoever changes this changes what trained adapters have seen, so both constants count for the text fingerprint."""

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Not strftime("%A"): that follows the machine's locale.


def render_system(template: str, day: datetime.date) -> str:
    """Fill {date} (ISO), {weekday} (English) and {calendar} of a system prompt for `day`.

    Raises ValueError when the template uses another field (recipes are checked for that when they are read).
    """
    check_system_template(template)
    return template.format(date=day.isoformat(), weekday=_WEEKDAYS[day.weekday()], calendar=_calendar(day))


def needs_day(template: str | None) -> bool:
    """Return whether the rendered prompt depends on the day."""
    return template is not None and any(name is not None for _, name, _, _ in Formatter().parse(template))


def with_system(messages: Sequence[Message], template: str | None, day: datetime.date) -> list[Message]:
    """Return the messages with the rendered prompt first, unless there is no template or they bring their own."""
    if template is None or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [Message(role="system", content=render_system(template, day)), *messages]


def system_format() -> dict[str, Any]:
    """Return what decides how a system prompt's fields are written, for fingerprints."""
    return {"calendar_days": CALENDAR_DAYS, "calendar_line": CALENDAR_LINE}


def _calendar(day: datetime.date) -> str:
    last = min(day.toordinal() + CALENDAR_DAYS, datetime.date.max.toordinal())
    days = (datetime.date.fromordinal(ordinal) for ordinal in range(day.toordinal() + 1, last + 1))
    return "\n".join(CALENDAR_LINE.format(weekday=_WEEKDAYS[d.weekday()], date=d.isoformat()) for d in days)
