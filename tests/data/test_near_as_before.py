"""The same rows go as with the index in memory that came before, for the same reasons. Goes with `burnish.data.duplicates`."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from burnish.data.duplicates import KeptRows, shingle_frequency, sign, without_template
from burnish.data.near.find import find
from burnish.data.near.rows import REQUESTS, Row, conversation
from burnish.text.messages import Message


def conversations(seed: int, count: int = 600) -> list[list[Message]]:
    chance = random.Random(seed)
    words = [f"word{number}" for number in range(80)]
    opening = "please find me the very best offer there is for"
    asked = [chance.choices(words, k=chance.randrange(3, 40)) for _ in range(80)]
    rows: list[list[Message]] = []
    for _ in range(count):
        request = list(chance.choice(asked))
        for _ in range(chance.choice([0, 0, 1, 1, 2, 4])):
            request[chance.randrange(len(request))] = chance.choice(words)
        text = " ".join([opening, *request]) + chance.choice(["", " ", "!", "?"])
        answer = chance.choice(['{"a": 1, "b": 2}', '{"b":2,"a":1}', '{"a": 2}', "Yes.", "yes"])
        rows.append([Message(role="user", content=text.upper() if chance.random() < 0.1 else text),
                     Message(role="assistant", content=answer)])  # fmt: skip
    return rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85])
def test_the_same_rows_go_for_the_same_reason(threshold: float, seed: int) -> None:
    rows = conversations(seed)
    signatures = [sign(messages) for messages in rows]
    index = KeptRows(threshold, shingle_frequency(signatures))
    before: dict[int, tuple[int, str]] = {}
    for number, signature in enumerate(signatures):
        twin = index.duplicate_of(signature)
        if twin is None:
            index.add(number, signature)
        else:
            before[number] = twin
    found = find(
        (Row(number, *conversation(messages)) for number, messages in enumerate(rows)),
        replace(REQUESTS, threshold=threshold, template_share=1.0),
    )
    assert {each.row: (each.kept, each.kind) for each in found.removals} == before
    assert len(before) > 50


def test_the_same_rows_go_when_a_template_is_left_out() -> None:
    rows = [messages for number, messages in enumerate(conversations(9)) if number % 3 == 0]
    distinct: dict[str, list[Message]] = {}
    for messages in rows:
        distinct.setdefault(sign(messages).key, messages)
    signatures = without_template([sign(messages) for messages in distinct.values()])
    index = KeptRows(0.6, shingle_frequency(signatures))
    before: dict[int, int] = {}
    for number, signature in enumerate(signatures):
        twin = index.duplicate_of(signature)
        if twin is None:
            index.add(number, signature)
        else:
            before[number] = twin[0]
    found = find(
        (Row(number, *conversation(messages)) for number, messages in enumerate(distinct.values())),
        replace(REQUESTS, threshold=0.6),
    )
    assert {each.row: each.kept for each in found.removals} == before
    assert before
