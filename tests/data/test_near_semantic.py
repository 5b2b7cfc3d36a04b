"""Semantic duplicates follow the rules of near ones: exact search, equal answers, no chains, reversible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.errors import DataError
from burnish.data.near import semantic
from burnish.data.near.rows import REQUESTS, Row
from burnish.data.near.semantic import F32, Embed, details, find_semantic

LETTERS = "abcdefgh"


def by_letters(texts: Sequence[str]) -> F32:
    """An embedding that can be checked by hand: how often each of eight letters occurs, scaled to length 1."""
    counts = np.array([[text.count(letter) + 0.01 for letter in LETTERS] for text in texts], np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def rows_of(*texts: str, answer: str = "yes") -> list[Row]:
    return [Row(10 * number, text, answer) for number, text in enumerate(texts)]


def gone(rows: Sequence[Row], threshold: float, embed: Embed = by_letters) -> dict[int, int]:
    return {each.row: each.kept for each in find_semantic(rows, embed, REQUESTS, threshold=threshold).removals}


def brute_force(rows: Sequence[Row], threshold: float) -> dict[int, int]:
    if not rows:
        return {}
    vectors = by_letters([row.text for row in rows]).astype(np.float64)
    stay: list[int] = []
    found: dict[int, int] = {}
    for new, row in enumerate(rows):
        for old in stay:
            same = rows[old].answer == row.answer and details(rows[old].text) == details(row.text)
            if same and float(np.sum(vectors[old] * vectors[new])) >= threshold:
                found[row.number] = rows[old].number
                break
        else:
            stay.append(new)
    return found


def test_a_row_goes_against_the_first_kept_row_that_says_the_same() -> None:
    found = find_semantic(rows_of("aab", "hh", "aba", "hg"), by_letters, REQUESTS, threshold=0.99)
    (removal,) = found.removals
    assert (removal.row, removal.kept, removal.kind) == (20, 0, "semantic duplicate")
    assert removal.score == pytest.approx(1.0)


def test_nothing_is_removed_through_a_chain() -> None:
    # Angles from the first: 0, 27 and 45 degrees. Neighbours have cosines of 0.89 and 0.95, the ends 0.71.
    assert gone(rows_of("aa", "aab", "aabb"), 0.85) == {10: 0}


def test_rows_with_other_answers_numbers_or_negations_are_never_duplicates() -> None:
    assert gone([*rows_of("ab"), *(row._replace(number=5) for row in rows_of("ab", answer="no"))], 0.5) == {}
    assert gone(rows_of("ab 300", "ab 400", "ab not", "ab don't", "ab 300 not"), 0.5) == {30: 20}
    assert details("from 3 to 10, not more") == details("not from 10 to 3")


def test_fixed_rows_stay_and_lower_ranks_stay_rather() -> None:
    first, second = rows_of("ab", "ba")
    assert gone([first, second._replace(rank=-1)], 0.9) == {0: 10}
    assert gone([first, second._replace(fixed=True)], 0.9) == {0: 10}
    assert gone([first._replace(fixed=True), second._replace(fixed=True)], 0.9) == {}


def test_only_rows_that_could_be_duplicates_are_embedded() -> None:
    seen: list[str] = []

    def embed(texts: Sequence[str]) -> F32:
        seen.extend(texts)
        return by_letters(texts)

    rows = [*rows_of("a", "b"), Row(99, "c", "another answer")]
    assert find_semantic(rows, embed, REQUESTS, threshold=0.9).embedded == 2
    assert seen == ["a", "b"]
    assert find_semantic([], embed, REQUESTS).rows == 0


@settings(deadline=None)
@given(
    texts=st.lists(st.text(LETTERS + "1 ", min_size=1, max_size=6), max_size=40),
    threshold=st.sampled_from([0.5, 0.8, 0.9, 0.99]),
    block=st.sampled_from([1, 3, 8]),
)
def test_blocks_find_what_comparing_every_pair_finds(texts: list[str], threshold: float, block: int) -> None:
    rows = [row._replace(answer="xy"[number % 2]) for number, row in enumerate(rows_of(*texts))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic, "BLOCK", block)
        patch.setattr(semantic, "TILE", 2 * block)
        patch.setattr(semantic, "EMBED_AT_ONCE", 5)
        assert gone(rows, threshold) == brute_force(rows, threshold)


def test_an_embedder_that_returns_something_else_is_told() -> None:
    rows = rows_of("ab", "ba")
    with pytest.raises(DataError, match="length 2"):
        gone(rows, 0.9, lambda texts: 2 * by_letters(texts))
    with pytest.raises(DataError, match="float64"):
        gone(rows, 0.9, lambda texts: cast(F32, by_letters(texts).astype(np.float64)))
    with pytest.raises(DataError, match="for 2 texts"):
        gone(rows, 0.9, lambda texts: by_letters(texts[:1]))


def test_more_rows_than_can_be_compared_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "MOST_ROWS", 3)
    with pytest.raises(DataError, match="4 rows have the same answer"):
        gone(rows_of("a", "b", "c", "d"), 0.9)


def test_the_brake_fires_for_semantic_duplicates_too() -> None:
    how = replace(REQUESTS, stop_rows=4)
    found = find_semantic(rows_of("ab", "ba", "aabb", "bbaa"), by_letters, how, threshold=0.9)
    assert found.losses[0].stop
    assert [pair.kept_text for pair in found.losses[0].pairs] == ["ab", "ab", "ab"]
