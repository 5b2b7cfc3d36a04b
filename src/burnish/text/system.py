"""The system prompt of a recipe, rendered for one day: the same in training, evaluation, chat and API."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Sequence
from string import Formatter
from typing import Any

from burnish.core.recipe_template import check_system_template
from burnish.text.messages import Message

CALENDAR_DAYS = (0, 1, 2, 3, 4, 5, 6, 7)
"""Days that {calendar} lists, by their distance from the day of the request."""

CALENDAR_LINE = '{name} {weekday}":"{date}"'
"""How {calendar} writes one day, a line each.

A small model does not count days, but it can learn to look one up, and how fast depends on the form (docs/log.md has
the measurements). What helps: the name directly before the date; one line for each name; the whole ISO date; and the
marks between them that an answer has too ("departure_date":"2025-07-15"), so that what precedes a date is the same there
and here. Whoever changes this changes what trained adapters have seen, so all of it counts for the text fingerprint."""

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Not strftime("%A"): that follows the machine's locale.


@functools.lru_cache(maxsize=4096)
def render_system(template: str, day: datetime.date) -> str:
    """Fill {date} (ISO), {weekday} (English) and {calendar} of a system prompt for `day`.

    Raises ValueError when the template uses another field (recipes are checked for that when they are read).
    """
    check_system_template(template)
    return template.format(date=day.isoformat(), weekday=_WEEKDAYS[day.weekday()], calendar=_calendar(day))


@functools.lru_cache(maxsize=64)
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
    names = [_distance_name(days) for days in CALENDAR_DAYS]
    return {"calendar_days": list(CALENDAR_DAYS), "calendar_line": CALENDAR_LINE, "calendar_names": names}


def _calendar(day: datetime.date) -> str:
    """One line a day; days after 9999-12-31 are left out."""
    lines: list[str] = []
    for days in CALENDAR_DAYS:
        if day.toordinal() + days <= datetime.date.max.toordinal():
            date = day + datetime.timedelta(days=days)
            name, weekday = _distance_name(days), _WEEKDAYS[date.weekday()]
            lines.append(CALENDAR_LINE.format(name=name, weekday=weekday, date=date.isoformat()))
    return "\n".join(lines)


def _distance_name(days: int) -> str:
    return {0: "today", 1: "tomorrow"}.get(days, f"{days} days")
