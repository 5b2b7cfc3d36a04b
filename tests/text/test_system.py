"""The system prompt says the same day the same way everywhere."""

from __future__ import annotations

import datetime
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.text.messages import Message
from burnish.text.system import needs_day, render_system, with_system

DAY = datetime.date(2025, 7, 8)
USER = Message(role="user", content="hi")
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
SYSTEM = Message(role="system", content="own")


def test_date_and_weekday_are_filled_in() -> None:
    assert render_system("Today is {weekday} {date}.", DAY) == "Today is Tuesday 2025-07-08."


def test_doubled_braces_are_text() -> None:
    assert render_system('Answer {{"day": "{date}"}}', DAY) == 'Answer {"day": "2025-07-08"}'


def test_the_calendar_is_one_line_a_day_from_its_names_to_its_date() -> None:
    assert render_system("{calendar}", DAY).splitlines() == [
        'today Tuesday":"2025-07-08"',
        'tomorrow Wednesday":"2025-07-09"',
        '2 days Thursday":"2025-07-10"',
        '3 days Friday":"2025-07-11"',
        '4 days Saturday":"2025-07-12"',
        '5 days Sunday":"2025-07-13"',
        '6 days Monday":"2025-07-14"',
        '7 days Tuesday":"2025-07-15"',
    ]


@given(st.dates(max_value=datetime.date(9999, 12, 1)))
def test_every_day_has_its_own_distance_and_weekday_and_each_weekday_comes_once_after_today(day: datetime.date) -> None:
    named: list[str] = []
    for number, line in enumerate(render_system("{calendar}", day).splitlines()):
        found = re.fullmatch(r'(today|tomorrow|\d+ days) (\w+)":"([\d-]+)"', line)
        assert found
        assert found[1] == {0: "today", 1: "tomorrow"}.get(number, f"{number} days")
        meant = datetime.date.fromisoformat(found[3])
        assert (meant - day).days == number
        assert WEEKDAYS[meant.weekday()] == found[2]
        named.append(found[2])
    assert sorted(named[1:]) == sorted(WEEKDAYS)


@given(st.dates())
def test_the_weekday_is_that_of_the_day(day: datetime.date) -> None:
    assert render_system("{weekday}", day) == WEEKDAYS[day.weekday()]


def test_the_calendar_ends_where_the_calendar_ends() -> None:
    last = render_system("{calendar}", datetime.date(9999, 12, 30))
    assert last == 'today Thursday":"9999-12-30"\ntomorrow Friday":"9999-12-31"'


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
