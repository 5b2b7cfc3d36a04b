"""How the prompt tokens of a step are divided among the prompts that are being read.

First come, first served lets a short prompt wait for every token of a long one before it (vLLM and SGLang read one prompt in part
at a time unless told otherwise), shortest first lets a long one starve, and equal shares end all of them late. So one half of a
step is for whoever came first, the other for whoever needs the least.
"""

from __future__ import annotations

from collections.abc import Sequence


def divide_room(unread: Sequence[int], room: int) -> list[int]:
    """Return how many tokens of each prompt are read in a step of `room` tokens; `unread` are left, in order of arrival.

    Half of the room (the larger one) is given in order of arrival, the rest to the prompts with the fewest tokens left. So nothing
    that comes later makes a prompt wait for more than twice the steps of first come, first served: each step reads half its room
    or more of what came before it and of itself. And one that has the fewest tokens left, up to half the room, is read at once.
    """
    given = [0] * len(unread)
    shortest = sorted(range(len(unread)), key=lambda place: unread[place])  # stable: of equals the first that came
    left = room
    for order, keep in ((range(len(unread)), room // 2), (shortest, 0)):
        for place in order:
            more = min(unread[place] - given[place], left - keep)
            if more > 0:
                given[place] += more
                left -= more
    return given


def divide_told(given: Sequence[int], told: Sequence[bool], room: int) -> list[int]:
    """Return what is given of each prompt when those that are told may have `room` tokens together: divided among them alike."""
    left = list(given)
    places = [place for place, each in enumerate(told) if each]
    for place, tokens in zip(places, divide_room([given[place] for place in places], room), strict=True):
        left[place] = tokens
    return left
