"""The system prompt says the same day the same way everywhere."""

from __future__ import annotations

import datetime
import json
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


def test_the_calendar_is_one_json_object_from_the_names_of_a_day_to_its_date() -> None:
    assert json.loads(render_system("{calendar}", DAY)) == {
        "today": "2025-07-08",
        "tomorrow Wednesday": "2025-07-09",
        "2 days Thursday": "2025-07-10",
        "3 days Friday": "2025-07-11",
        "4 days Saturday": "2025-07-12",
        "5 days Sunday": "2025-07-13",
        "6 days Monday": "2025-07-14",
        "7 days Tuesday": "2025-07-15",
        "10 days": "2025-07-18",
        "14 days": "2025-07-22",
    }


def test_the_calendar_has_no_space_beside_its_marks() -> None:
    assert render_system("{calendar}", DAY).startswith('{"today":"2025-07-08","tomorrow Wednesday":"2025-07-09",')


@given(st.dates(max_value=datetime.date(9999, 12, 1)))
def test_every_day_has_its_own_distance_and_weekday_and_no_weekday_is_there_twice(day: datetime.date) -> None:
    named: list[str] = []
    for names, date in json.loads(render_system("{calendar}", day)).items():
        found = re.fullmatch(r"(today|tomorrow|\d+ days)(?: (\w+))?", names)
        assert found
        distance = {"today": 0, "tomorrow": 1}.get(found[1])
        distance = int(found[1].split()[0]) if distance is None else distance
        meant = datetime.date.fromisoformat(date)
        assert (meant - day).days == distance
        if found[2]:
            assert WEEKDAYS[meant.weekday()] == found[2]
            named.append(found[2])
    assert sorted(named) == sorted(WEEKDAYS)


@given(st.dates())
def test_the_weekday_is_that_of_the_day(day: datetime.date) -> None:
    assert render_system("{weekday}", day) == WEEKDAYS[day.weekday()]


def test_the_calendar_ends_where_the_calendar_ends() -> None:
    last = render_system("{calendar}", datetime.date(9999, 12, 30))
    assert last == '{"today":"9999-12-30","tomorrow Friday":"9999-12-31"}'


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
