"""A row is held out by what it is, not by what is around it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from burnish.data.split import is_test


def test_about_the_asked_share_is_held_out() -> None:
    held = sum(is_test(f"row {number}", 0.15) for number in range(10_000))
    assert 1_350 <= held <= 1_650  # 1500, give or take four standard deviations of 36


@given(key=st.text(), share=st.floats(0, 1))
def test_a_row_held_out_for_a_share_is_held_out_for_every_larger_one(key: str, share: float) -> None:
    assert not is_test(key, 0.0)
    assert is_test(key, 1.0)
    if is_test(key, share):
        assert is_test(key, min(1.0, share * 1.1))


def test_where_a_row_goes_never_changes() -> None:
    # By hand: `printf b | sha256sum` begins with 3e, which is below 80, so b is in the lower half; a begins with ca.
    assert [key for key in "abcdefghij" if is_test(key, 0.5)] == ["b", "c", "d", "e", "f", "j"]
