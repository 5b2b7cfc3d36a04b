"""Broken text is made whole, and whole text is left alone."""

from __future__ import annotations

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.data.repair import repair


@pytest.mark.parametrize(
    ("broken", "whole", "change"),
    [
        ("ZÃ¼rich", "Zürich", "mojibake"),
        ("SÃ£o Paulo â€“ â‚¬500", "São Paulo – €500", "mojibake"),
        ("MontrÃƒÂ©al", "Montréal", "mojibake"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree", "line ends"),
        ("a\x00b\x07c\x7f", "abc", "control characters"),
        ("\ufeffhello", "hello", "control characters"),
        ("\x1b[31mred\x1b[0m", "red", "control characters"),
        ("Zu\u0308rich", "Zürich", "composition"),
        ("ship\u00adping and pass\u200bword", "shipping and password", "invisible characters"),
        ("open\u202e txt.exe\u202c", "open txt.exe", "invisible characters"),
        ("Hello\U000e0069\U000e0067\U000e006e\U000e006f\U000e0072\U000e0065", "Hello", "invisible characters"),
    ],
)
def test_what_is_broken_is_repaired_and_named(broken: str, whole: str, change: str) -> None:
    repaired = repair(broken)
    assert repaired.text == whole
    assert change in repaired.changes


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "Zürich São Paulo 東京 Москва 🛬",
        "“quotes” and ‘these’ – ﬁne ﬂight",
        "&amp; &lt;b&gt; stay",
        "ｆｕｌｌ　ｗｉｄｔｈ",
        "tab\tand\nnewline",
        "line\u2028separator",
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f is Scotland's flag",
        "👩\u200d🚀 and می\u200cخواهم",
        "\u202bשלום hello\u202c",
        "ภาษา\u200bไทย",
        '{"city": "S\\u00e3o Paulo", "note": "a\\r\\nb"}',
        "SÃO PAULO, MÜNCHEN, PÃO",
    ],
)
def test_whole_text_is_left_alone(text: str) -> None:
    repaired = repair(text)
    assert repaired.text == text
    assert repaired.changes == frozenset()


@given(st.text(max_size=80))
def test_repairing_twice_changes_nothing_more(text: str) -> None:
    once = repair(text)
    assert repair(once.text).text == once.text
    assert bool(once.changes) == (once.text != text)


@pytest.mark.parametrize(
    "word", ["Zürich", "São Paulo", "Málaga", "Kraków", "€500", "déjà vu", "Reykjavík", "“quoted”", "日本"]
)
def test_words_read_as_windows_1252_come_back(word: str) -> None:
    broken = word.encode("utf-8").decode("cp1252", "replace")
    if "\ufffd" in broken:  # five bytes have no character there; most programs then show the C1 control instead
        broken = word.encode("utf-8").decode("latin-1")
    assert broken != word
    assert repair(f"to {broken} please").text == f"to {word} please"


_PIECES = st.sampled_from([
    "plain words here, ", "Zürich ", "“so” ", "ZÃ¼", "â€“", " Â ", "Ã ", "Â\xa0", "ÂÃ", "°", "€", "–", "Ã©", "вЂ",
    "ГўВЂВ.a", "√±", "à²", "a Ã b", "\n", "東", "Œ", "х", "┤", "½", "'",
])  # fmt: skip


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_what_ftfy_would_change_in_a_whole_text_is_seen_around_characters_beyond_ascii(text: str) -> None:
    changed = ftfy.fix_encoding(text) != text
    assert ("mojibake" in repair(text).changes) >= changed  # a later repair may uncover more
