"""Every token is accounted once, or the account is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from burnish.data.accounting import SourceTokens, TokenAccount, TokenBook, packing, suggest_limit
from burnish.data.histogram import histogram

ROW = st.tuples(
    st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.sampled_from(["", "x", "y"])
)


def test_an_account_by_hand() -> None:
    book = TokenBook()
    book.keep("a", trained=[2], masked=[3], truncated=[5])
    book.drop("a", 7, "duplicate")
    book.drop("b", 4, "over max_tokens")
    account = book.account({"a": 17, "b": 4}, {"a": 2, "b": 1})
    a = account.sources["a"]
    assert (a.rows_kept, a.trained, a.masked, a.truncated, a.dropped) == (1, 2, 3, 5, {"duplicate": 7})
    assert account.total.tokens_in == 21
    assert account.total.dropped_rows == {"duplicate": 1, "over max_tokens": 1}
    assert TokenAccount.model_validate_json(account.model_dump_json()) == account
    assert json.loads(account.model_dump_json())["lengths"]["counts"] == [1]


@given(st.lists(ROW, min_size=1))
def test_accounts_balance_whatever_comes(rows: list[tuple[str, int, int, int, str]]) -> None:
    book = TokenBook()
    tokens = {name: 0 for name, *_ in rows}
    count = dict(tokens)
    for name, trained, masked, truncated, reason in rows:
        tokens[name] += trained + masked + truncated
        count[name] += 1
        if reason:
            book.drop(name, trained + masked + truncated, reason)
        else:
            book.keep(name, trained=[trained], masked=[masked], truncated=[truncated])
    total = book.account(tokens, count).total
    assert total.tokens_in == sum(sum(row[1:4]) for row in rows)
    assert total.trained == sum(row[1] for row in rows if not row[4])
    lost = {**tokens, rows[0][0]: tokens[rows[0][0]] + 1}
    with pytest.raises(ValueError, match="does not balance"):
        book.account(lost, count)
    with pytest.raises(ValueError, match="does not balance"):
        book.account(tokens, {**count, rows[0][0]: count[rows[0][0]] + 1})


def test_a_source_that_got_lost_is_an_error() -> None:
    book = TokenBook()
    book.keep("a", trained=[1], masked=[0], truncated=[0])
    with pytest.raises(ValueError, match="sources differ"):
        book.account({"a": 1, "b": 5}, {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="-1 truncated"):
        book.keep("a", trained=[1, 2], masked=[1, 1], truncated=[0, -1])


def test_a_total_that_is_not_the_sum_is_refused() -> None:
    one = SourceTokens(
        rows_in=1, rows_kept=1, tokens_in=3, trained=1, masked=2, truncated=0, dropped={}, dropped_rows={}
    )
    with pytest.raises(ValidationError, match="do not add up"):
        TokenAccount(sources={"a": one, "b": one}, total=one, lengths=histogram([3]))


def test_packing_by_hand() -> None:
    # Prefix of 4 shared by tails of 3 and 2: one row of 4 + 3 + 2 = 9; a row of its own for 8. 17 of 20 are used.
    found = packing([("s", 4, 3), ("s", 4, 2), ("t", 0, 8)], row_tokens=10)
    assert (found.packed_rows, found.computed, found.room, found.saved) == (2, 17, 20, 4)
    assert found.efficiency == 0.85
    with pytest.raises(ValueError, match="Raise row_tokens"):
        packing([("s", 4, 8)], row_tokens=10)


def test_a_few_long_rows_do_not_set_the_limit() -> None:
    # 999 rows of 100 and one of 200: a limit of 128 cuts 72 of 100,100 tokens, which is less than 1 in 1000.
    advice = suggest_limit([100] * 999 + [200], context=512)
    assert advice.limit == 128
    assert advice.because == "1 of 1000 rows and 72 of 100100 tokens are over it; the longest row has 200"
    assert [(o.limit, o.rows_over, o.tokens_over) for o in advice.options] == [
        (64, 1000, 36 * 999 + 136),
        (128, 1, 72),
        (256, 0, 0),
    ]
    assert suggest_limit([100] * 999 + [200], context=512, lose=0).limit == 256
    cut = suggest_limit([5000], context=1000)
    assert cut.limit == 1000
    assert "reads 1000 at most" in cut.because


@given(lengths=st.lists(st.integers(1, 5000), min_size=1), context=st.integers(1, 4096), lose=st.floats(0, 0.2))
def test_the_limit_is_the_least_that_loses_no_more(lengths: list[int], context: int, lose: float) -> None:
    advice = suggest_limit(np.array(lengths), context, lose=lose)

    def over(limit: int) -> int:
        return sum(max(0, length - limit) for length in lengths)

    assert advice.limit <= context
    assert over(advice.limit) <= lose * sum(lengths) or advice.limit == context
    if advice.limit > 64:
        assert over((advice.limit - 1) // 64 * 64) > lose * sum(lengths)
    assert all(option.tokens_over == over(option.limit) for option in advice.options)


def test_no_values_give_no_bins() -> None:
    assert histogram([]).counts == ()
