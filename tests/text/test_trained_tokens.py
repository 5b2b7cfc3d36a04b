"""Rows that would train nothing, everything, or no end are errors; a shortened row keeps whole answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from chat_templates import CHATML, MakeFolder
from families import ONE, TWO, turn
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import DataError
from burnish.text.check import Totals, answer_spans, check_dataset, check_row, shorten
from burnish.text.render import Rendered, control_token_in, render_example, render_prompt
from burnish.text.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(make_folder: MakeFolder) -> Tokenizer:
    return load_tokenizer(make_folder(CHATML))


@pytest.fixture(scope="module")
def row(tokenizer: Tokenizer) -> Rendered:
    return render_example(tokenizer, TWO)


def test_what_was_rendered_passes(tokenizer: Tokenizer, row: Rendered) -> None:
    check_row(tokenizer, row)
    totals = check_dataset([row, row])
    assert totals == Totals(2, 2 * len(row.ids), 2 * sum(row.mask), len(row.ids))
    assert totals.trained_share == sum(row.mask) / len(row.ids)


def test_a_row_without_a_trained_token_is_an_error(tokenizer: Tokenizer, row: Rendered) -> None:
    with pytest.raises(DataError, match=rf"none of the row's {len(row.ids)} tokens has loss"):
        check_row(tokenizer, replace(row, mask=[0] * len(row.ids)))


def test_a_row_of_trained_tokens_alone_is_an_error(tokenizer: Tokenizer, row: Rendered) -> None:
    with pytest.raises(DataError, match="nothing is asked before the answer"):
        check_row(tokenizer, replace(row, mask=[1] * len(row.ids)))


def test_a_template_that_shows_no_request_is_an_error(make_folder: MakeFolder) -> None:
    blind = "{% for m in messages if m.role == 'assistant' %}{{ m.content + '<|im_end|>' }}{% endfor %}"
    with pytest.raises(DataError, match="every token of the row has loss"):
        render_example(load_tokenizer(make_folder(blind)), ONE)


def test_an_answer_whose_stop_token_has_no_loss_is_an_error(tokenizer: Tokenizer, row: Rendered) -> None:
    mask = list(row.mask)
    stop = answer_spans(mask)[0][1] - 1
    mask[stop] = 0
    with pytest.raises(DataError, match=r"no stop token in its loss.*allowed is <\|im_end\|>"):
        check_row(tokenizer, replace(row, mask=mask))


def test_a_row_that_begins_twice_is_an_error(tokenizer: Tokenizer, row: Rendered) -> None:
    bos = tokenizer.bos_id
    assert bos is not None
    check_row(tokenizer, replace(row, ids=[bos, *row.ids], mask=[0, *row.mask]))
    with pytest.raises(DataError, match="begins with <s> twice"):
        check_row(tokenizer, replace(row, ids=[bos, bos, *row.ids], mask=[0, 0, *row.mask]))


def test_a_mask_of_another_length_is_an_error(tokenizer: Tokenizer, row: Rendered) -> None:
    with pytest.raises(DataError, match="both must be equally long"):
        check_row(tokenizer, replace(row, mask=row.mask[:-1]))


@pytest.mark.parametrize(("value", "said"), [(0, "None of the"), (1, "All of the")])
def test_a_dataset_with_nothing_or_everything_trained_is_an_error(row: Rendered, value: int, said: str) -> None:
    rows = [replace(row, mask=[value] * len(row.ids))] * 3
    with pytest.raises(DataError, match=rf"{said} {3 * len(row.ids)} tokens of the train split \(3 rows\) have loss"):
        check_dataset(rows)


def test_a_dataset_without_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="the test split has no rows"):
        check_dataset([], "the test split")
    assert Totals(0, 0, 0, 0).trained_share == 0.0


def test_a_row_is_shortened_to_whole_answers(tokenizer: Tokenizer, row: Rendered) -> None:
    first, second = answer_spans(row.mask)
    assert shorten(row, len(row.ids)) is row
    for limit in range(first[1], second[1]):
        short = shorten(row, limit)
        check_row(tokenizer, short)
        assert short.ids == row.ids[: first[1]]
        assert short.ids[: short.prompt] == render_prompt(tokenizer, TWO[:1])
    assert shorten(row, second[1]).prompt == row.prompt


def test_a_limit_that_cuts_every_trained_token_is_an_error_with_the_length_needed(row: Rendered) -> None:
    need = answer_spans(row.mask)[0][1]
    for limit in (0, 5, need - 1):
        with pytest.raises(DataError, match=rf"cut to {limit} tokens.*prepare.max_tokens to {need} or more"):
            shorten(row, limit)


@given(mask=st.lists(st.integers(0, 1), max_size=30))
def test_spans_are_where_the_mask_is_one(mask: list[int]) -> None:
    spans = answer_spans(mask)
    assert [any(start <= at < end for start, end in spans) for at in range(len(mask))] == [bool(m) for m in mask]
    assert all(one[1] < other[0] for one, other in pairwise(spans))


def test_a_control_token_is_found_in_every_text_of_a_message(tokenizer: Tokenizer) -> None:
    bad = "a<|im_end|>"
    calls = [{"type": "function", "function": {"name": "f", "arguments": f'{{"a": "{bad}"}}'}}]
    messages = [turn("user", bad), turn("assistant", "", tool_calls=calls), turn("tool", "x", name=bad)]
    assert [control_token_in(tokenizer, message) for message in messages] == ["<|im_end|>"] * 3
    assert control_token_in(tokenizer, turn("assistant", "", tool_calls=[])) is None
