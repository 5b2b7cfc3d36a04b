"""Near duplicates are those that comparing every pair would find, and nothing else is removed."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.data.duplicates import (
    KeptRows,
    Signature,
    exact_key,
    jaccard,
    shingle_frequency,
    shingles,
    sign,
    without_template,
)
from burnish.text.messages import Message


def row(request: str, answer: str = "yes", system: str | None = None) -> Signature:
    turns = [Message(role="user", content=request), Message(role="assistant", content=answer)]
    return sign([Message(role="system", content=system), *turns] if system else turns)


def kept(rows: list[Signature], threshold: float) -> list[int]:
    """Numbers of the rows that stay when they come one after the other."""
    index = KeptRows(threshold, shingle_frequency(rows))
    stay: list[int] = []
    for number, signature in enumerate(rows):
        if index.duplicate_of(signature) is None:
            index.add(number, signature)
            stay.append(number)
    return stay


def kept_by_brute_force(rows: list[Signature], threshold: float) -> list[int]:
    """The same by the definition: compared with every kept row."""
    stay: list[int] = []
    for number, new in enumerate(rows):
        same = (
            rows[old].key == new.key
            or (rows[old].answer == new.answer and jaccard(rows[old].shingles, new.shingles) >= threshold)
            for old in stay
        )
        if not any(same):
            stay.append(number)
    return stay


def test_shingles_are_three_words_in_lower_case_without_punctuation() -> None:
    assert shingles("Fly to Rome, please!") == {"fly to rome", "to rome please"}
    assert shingles("Rome") == {"rome"}
    assert shingles("Ｒｏｍｅ  ROME") == {"rome rome"}


def test_jaccard_by_hand() -> None:
    # {fly to rome, to rome now} and {fly to rome, to rome today}: one of three is shared.
    assert jaccard(shingles("fly to Rome now"), shingles("fly to Rome today")) == 1 / 3
    assert jaccard(frozenset(), frozenset()) == 0.0


def test_rows_that_differ_in_case_space_and_key_order_are_exact_duplicates() -> None:
    first = row("Fly to  ROME", '{"a": 1, "b": [2]}')
    second = row("fly to rome\n", '{ "b":[2], "a":1 }')
    assert first.key == second.key


def test_the_key_can_be_had_without_the_shingles() -> None:
    turns = [Message(role="user", content="To Rome!"), Message(role="assistant", content='{"b": 1, "a": 2}')]
    assert exact_key(turns) == sign(turns).key


def test_rows_that_differ_in_punctuation_or_a_word_are_near_duplicates() -> None:
    request = "I would like to fly from Paris to Rome next Tuesday in the morning with two bags and a dog"
    index = KeptRows(0.7, shingle_frequency([]))
    index.add(0, row(request))
    assert index.duplicate_of(row(request + " !")) == (0, "near duplicate")
    assert index.duplicate_of(row(request.replace("dog", "cat"))) == (0, "near duplicate")
    assert index.duplicate_of(row(request.upper())) == (0, "duplicate")


@pytest.mark.parametrize(("one", "other"), [("Rome", "Oslo"), ("Tuesday", "Friday"), ("300", "400")])
def test_requests_that_differ_only_in_a_city_a_day_or_a_price_are_not_duplicates(one: str, other: str) -> None:
    request = f"please find me the cheapest flight from Paris to {one} for two people and one dog next week thank you"
    index = KeptRows(0.5, shingle_frequency([]))
    index.add(0, row(request, f'{{"to": "{one}"}}'))
    different = row(request.replace(one, other), f'{{"to": "{other}"}}')
    assert jaccard(row(request).shingles, different.shingles) > 0.5
    assert index.duplicate_of(different) is None


def test_another_phrasing_with_the_same_answer_stays() -> None:
    index = KeptRows(0.85, shingle_frequency([]))
    index.add(0, row("Fly me to Rome tomorrow", '{"to": "FCO"}'))
    assert index.duplicate_of(row("I need a ticket to Rome, leaving tomorrow", '{"to": "FCO"}')) is None


def test_nothing_is_removed_through_a_chain() -> None:
    words = [f"w{number}" for number in range(40)]
    chain = [row(" ".join(words[start : start + 20])) for start in range(0, 20, 2)]
    neighbours = [jaccard(a.shingles, b.shingles) for a, b in pairwise(chain)]
    assert min(neighbours) >= 0.8
    assert jaccard(chain[0].shingles, chain[2].shingles) < 0.8
    assert kept(chain, 0.8) == [0, 2, 4, 6, 8]


def test_all_user_turns_of_a_conversation_count_and_all_answers_must_be_equal() -> None:
    def conversation(*contents: str) -> Signature:
        roles = ("user", "assistant")
        return sign([Message(role=roles[at % 2], content=content) for at, content in enumerate(contents)])

    index = KeptRows(0.85, shingle_frequency([]))
    index.add(0, conversation("to Rome", "when?", "tomorrow", "done"))
    assert index.duplicate_of(conversation("to Rome", "when?", "tomorrow", "done!")) == (0, "duplicate")
    assert index.duplicate_of(conversation("to Rome", "how many?", "tomorrow", "done")) is None
    assert index.duplicate_of(conversation("to Rome", "when?", "on Friday", "done")) is None


def test_the_same_request_is_found_under_the_same_system_prompt_only() -> None:
    index = KeptRows(0.85, shingle_frequency([]))
    index.add(3, row("next Tuesday", "2025-07-15", system="Today is 2025-07-08"))
    assert index.same_request(row("Next  tuesday", "2025-07-22", system="Today is 2025-07-08")) == (3, "same request")
    assert index.same_request(row("next Tuesday", "2025-07-15", system="Today is 2025-07-09")) is None


def test_a_template_that_many_rows_share_makes_no_duplicates() -> None:
    instruction = "Classify the mood of the following review as good or bad and answer with one word only please: "
    reviews = [row(f"{instruction} number{n} was word{n} thing{n}", "bad") for n in range(60)]
    assert len(kept(reviews, 0.6)) < 60
    assert len(kept(without_template(reviews), 0.6)) == 60
    twins = [*reviews, row(f"{instruction} number7 was word7 thing7!", "bad")]
    assert len(kept(without_template(twins), 0.6)) == 60


def test_few_rows_have_no_template() -> None:
    rows = [row(f"the same long request said once more number {n}") for n in range(20)]
    assert without_template(rows) == rows


requests = st.lists(st.sampled_from(list("abcde")), min_size=1, max_size=9).map(" ".join)


@given(
    rows=st.lists(st.builds(row, requests, st.sampled_from(["x", "y"])), max_size=30),
    threshold=st.sampled_from([0.2, 1 / 3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0]),
)
def test_the_join_finds_what_comparing_every_pair_finds(rows: list[Signature], threshold: float) -> None:
    assert kept(rows, threshold) == kept_by_brute_force(rows, threshold)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85])
def test_the_join_finds_what_comparing_every_pair_finds_in_edited_sentences(threshold: float) -> None:
    chance = random.Random(11)
    words = [f"word{number}" for number in range(60)]
    sentences = [chance.choices(words, k=chance.randrange(5, 25)) for _ in range(60)]
    rows: list[Signature] = []
    for _ in range(500):
        sentence = list(chance.choice(sentences))
        for _ in range(chance.randrange(4)):
            sentence[chance.randrange(len(sentence))] = chance.choice(words)
        rows.append(row(" ".join(sentence), chance.choice(["yes", "no"])))
    found = kept(rows, threshold)
    assert found == kept_by_brute_force(rows, threshold)
    assert len(found) < 480
