"""The system prompt says the same day the same way everywhere."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.text.messages import Message
from burnish.text.system import CALENDAR_DAYS, needs_day, render_system, with_system

DAY = datetime.date(2025, 7, 8)
USER = Message(role="user", content="hi")
SYSTEM = Message(role="system", content="own")


def test_date_and_weekday_are_filled_in() -> None:
    assert render_system("Today is {weekday} {date}.", DAY) == "Today is Tuesday 2025-07-08."


def test_doubled_braces_are_text() -> None:
    assert render_system('Answer {{"day": "{date}"}}', DAY) == 'Answer {"day": "2025-07-08"}'


def test_the_calendar_lists_the_coming_days_from_tomorrow_on() -> None:
    lines = render_system("{calendar}", DAY).splitlines()
    assert len(lines) == CALENDAR_DAYS == 14
    assert lines[0] == "Wednesday 2025-07-09"
    assert lines[-1] == "Tuesday 2025-07-22"


@given(st.dates())
def test_every_day_of_the_calendar_has_the_weekday_that_it_has(day: datetime.date) -> None:
    names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    for line in render_system("{weekday} {date}\n{calendar}", day).splitlines():
        weekday, _, date = line.partition(" ")
        assert names[datetime.date.fromisoformat(date).weekday()] == weekday


def test_the_calendar_ends_where_the_calendar_ends() -> None:
    assert render_system("{calendar}", datetime.date(9999, 12, 30)) == "Friday 9999-12-31"


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown field \{time\}"):
        render_system("It is {time}", DAY)


def test_a_prompt_needs_a_day_only_if_it_has_a_field() -> None:
    assert needs_day("Today is {date}")
    assert not needs_day("You are {{helpful}}")
    assert not needs_day(None)


def test_the_prompt_comes_first_and_the_given_messages_stay_as_they_are() -> None:
    messages = [USER]
    assert with_system(messages, "On {date}", DAY) == [Message(role="system", content="On 2025-07-08"), USER]
    assert messages == [USER]


def test_messages_with_their_own_system_prompt_keep_it() -> None:
    assert with_system([SYSTEM, USER], "On {date}", DAY) == [SYSTEM, USER]


def test_without_a_template_nothing_is_added() -> None:
    assert with_system([USER], None, DAY) == [USER]
