"""The fixed general texts, and the rows made of them."""

from __future__ import annotations

import re

from flight_desk import encode

from burnish.evaluate.forgetting import general_rows, general_texts


def test_there_are_200_texts_and_no_two_are_alike() -> None:
    texts = general_texts()
    assert len(texts) == 200
    assert len({re.sub(r"\W+", " ", text.lower()) for text in texts}) == 200
    assert all(text == text.strip() and text.isascii() for text in texts)


def test_no_two_texts_share_more_than_a_phrase() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for text in general_texts():
        words = re.findall(r"\w+", text.lower())
        for five in zip(*(words[start:] for start in range(5)), strict=False):
            assert seen.setdefault(five, text) == text, five


def test_texts_are_a_line_or_two_long_and_about_six_thousand_words_in_all() -> None:
    sizes = [len(text.split()) for text in general_texts()]
    assert min(sizes) >= 20
    assert max(sizes) <= 40
    assert 5_000 <= sum(sizes) <= 6_500


def test_no_text_is_about_the_demos_own_subject() -> None:
    subject = re.compile(r"\b(flights?|airports?|airlines?|aeroplanes?|airplanes?|booking)\b")
    assert [text for text in general_texts() if subject.search(text.lower())] == []


def test_every_token_but_the_first_has_loss() -> None:
    rows = general_rows(encode)
    assert [row.row_id for row in rows[:2]] == ["general-001", "general-002"]
    assert len({row.row_id for row in rows}) == 200
    for row, text in zip(rows, general_texts(), strict=True):
        assert row.ids == tuple(text.encode())
        assert row.mask == (0,) + (1,) * (len(row.ids) - 1)
        assert (row.prefix, row.prompt) == (0, 0)
