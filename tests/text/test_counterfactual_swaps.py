"""Texts about somebody else: gendered words and names swapped, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.text.counterfactual import name_pairs, swapped


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("He said that his wife is a waitress.", "She said that her husband is a waiter."),
        ("Ask her about her brother.", "Ask him about his sister."),
        ("I saw him. The coat is his.", "I saw her. The coat is hers."),
        ("The coat is hers, give it to her", "The coat is his, give it to him"),
        ("Is her here?", "Is him here?"),
        ("MR SMITH and Mrs. Jones", "MS SMITH and Mr. Jones"),
        ("The mother of the bride", "The father of the groom"),
        ("Write to her@example.com", "Write to her@example.com"),
        ("There is the theme of this hermit", "There is the theme of this hermit"),
        ("", ""),
    ],
)
def test_gendered_words_are_swapped_with_their_case(text: str, other: str) -> None:
    assert swapped(text, "gender") == other


def test_names_are_swapped_in_pairs() -> None:
    assert swapped("Emily wrote to Jamal, and jay sings.", "names") == "Kenya wrote to Geoffrey, and jay sings."


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("abehirs .,\nHS'"), max_size=60))
def test_texts_without_a_word_of_the_lists_stay_as_they_are(text: str) -> None:
    words = set("".join(c if c.isalpha() else " " for c in text.lower()).split())
    if not words & {"he", "she", "her", "his", "hers", "sir"}:
        assert swapped(text, "gender") == text


@settings(deadline=None)
@given(st.lists(st.sampled_from([name for pair in name_pairs() for name in pair] + ["and", "the", "42"]), max_size=12))
def test_swapping_names_twice_gives_the_text_back(words: list[str]) -> None:
    text = " ".join(words)
    assert swapped(swapped(text, "names"), "names") == text
