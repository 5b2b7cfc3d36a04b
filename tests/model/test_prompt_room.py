"""Short prompts do not wait for long ones, and long ones end within twice the steps of first come, first served."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from burnish.model.prompt_room import divide_room


def test_shares_by_hand() -> None:
    assert divide_room([], 8) == []
    assert divide_room([5000], 256) == [256]
    assert divide_room([5000, 20], 256) == [236, 20]
    assert divide_room([5000, 300, 20], 256) == [128, 108, 20]
    assert divide_room([5000, 300, 200], 256) == [128, 0, 128]
    assert divide_room([60, 100, 500, 90], 256) == [60, 100, 6, 90]
    assert divide_room([100, 100, 100], 256) == [100, 100, 56], "of equals, the first that came"
    assert divide_room([3, 2], 1) == [1, 0], "a room of one token is for whoever came first"


@given(st.lists(st.integers(0, 700), max_size=20), st.integers(1, 600))
def test_the_room_is_used_and_never_exceeded(unread: list[int], room: int) -> None:
    given_tokens = divide_room(unread, room)
    assert sum(given_tokens) == min(room, sum(unread))
    assert all(0 <= each <= left for each, left in zip(given_tokens, unread, strict=True))


@given(st.lists(st.integers(1, 700), min_size=1, max_size=20), st.integers(2, 600))
def test_the_prompt_with_the_least_left_is_read_at_once_if_half_the_room_holds_it(unread: list[int], room: int) -> None:
    least = min(unread)
    if least <= room // 2:
        assert divide_room(unread, room)[unread.index(least)] == least


@given(
    arrivals=st.lists(st.lists(st.integers(1, 400), max_size=3), min_size=1, max_size=40),
    room=st.integers(1, 100),
)
def test_whoever_comes_later_no_prompt_takes_more_than_twice_the_steps_of_first_come_first_served(
    arrivals: list[list[int]], room: int
) -> None:
    unread: list[int] = []
    begun: list[int] = []
    bound: list[int] = []
    ended: dict[int, int] = {}
    step = 0
    while step < len(arrivals) or any(unread):
        for length in arrivals[step] if step < len(arrivals) else []:
            unread.append(length)
            begun.append(step)
            bound.append(2 * -(-sum(unread) // room))  # all that was left of those before it, and itself
        for place, tokens in enumerate(divide_room(unread, room)):
            unread[place] -= tokens
            if not unread[place]:
                ended.setdefault(place, step)
        step += 1
    assert len(ended) == len(unread)
    for place, last in ended.items():
        assert last - begun[place] + 1 <= bound[place]
