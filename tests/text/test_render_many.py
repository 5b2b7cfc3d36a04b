"""Rendering many rows at once gives what rendering one by one gives, and what the slow way gave."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
import slow_render
from chat_templates import CHATML, TEMPLATES, TRIMS, MakeFolder
from families import CALLS, FAMILIES, SYSTEM, TOOLS, turn, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

from burnish.core.errors import DataError
from burnish.text.borders import clean_borders, encode_pieces
from burnish.text.messages import Message
from burnish.text.pieces import Conversation
from burnish.text.render import Rendered, render_answers, render_many, render_prompt
from burnish.text.tokenizer import Tokenizer, load_tokenizer

BACKENDS = ("byte level", "gpt2", "byte fallback")
CASES = [(name, backend) for name in TEMPLATES for backend in BACKENDS]
LETTERS = st.sampled_from(
    ["a", "nswer", " ", "\n", "\n\n", "Find me", " A", "é", "🛫", "東", "<", "|", "<|im_", "end|>", "<s", "▁", "0"]
)
contents = st.lists(LETTERS, min_size=1, max_size=8).map("".join).filter(str.strip)


@pytest.fixture(scope="module")
def tokenizers(make_folder: MakeFolder) -> dict[tuple[str, str], Tokenizer]:
    return {(name, backend): load_tokenizer(make_folder(TEMPLATES[name], backend=backend)) for name, backend in CASES}


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    turns = draw(st.integers(1, 3))
    messages = [turn(role, draw(contents)) for _ in range(turns) for role in ("user", "assistant")]
    if draw(st.booleans()):
        messages.insert(0, turn("system", draw(st.sampled_from(["Be kind.", "Today is Tuesday.", draw(contents)]))))
    return Conversation(messages, (), draw(st.sampled_from([None, datetime.date(1999, 1, 2)])))


def one_by_one(tokenizer: Tokenizer, row: Conversation) -> list[Rendered] | str:
    try:
        return render_answers(tokenizer, row.messages, tools=row.tools, day=row.day)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("case", CASES, ids="-".join)
@given(rows=st.lists(conversations(), max_size=6), batch_rows=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_many_rows_are_what_each_is_alone_and_what_the_slow_way_gives(
    tokenizers: dict[tuple[str, str], Tokenizer], case: tuple[str, str], rows: list[Conversation], batch_rows: int
) -> None:
    tokenizer = tokenizers[case]
    found = [str(f) if isinstance(f, DataError) else f for f in render_many(tokenizer, rows, batch_rows=batch_rows)]
    assert found == [one_by_one(tokenizer, row) for row in rows]
    for row, rendered in zip(rows, found, strict=True):
        if isinstance(rendered, list):
            assert rendered == [slow_render.render_example(tokenizer, row.messages, day=row.day)]
            prompt = render_prompt(tokenizer, row.messages[:-1], day=row.day)
            assert prompt == slow_render.render_prompt(tokenizer, row.messages[:-1], day=row.day)


@given(
    pieces=st.lists(
        st.lists(
            st.sampled_from(["<|im_start|>", "<|im_end|>", "<s>", "a", " nswer", "\n", "A", "<|"]), max_size=5
        ).map("".join),
        max_size=5,
    )
)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=100, deadline=None)
def test_pieces_are_encoded_as_the_slow_way_does(
    tokenizers: dict[tuple[str, str], Tokenizer], backend: str, pieces: list[str]
) -> None:
    tokenizer = tokenizers["chatml", backend]
    slow: list[int] = []
    ends: list[int] = []
    for number, piece in enumerate(pieces, 1):
        slow = slow_render._extend(tokenizer, slow, "".join(pieces[:number]), piece)  # pyright: ignore[reportPrivateUsage]
        ends.append(len(slow))
    assert encode_pieces(tokenizer, [pieces], {}) == [(slow, ends)]


@given(
    pieces=st.lists(
        st.lists(st.sampled_from(["<|im_start|>", "<|end|>", "<s>", " ", "f", " N", "\n", "li"]), max_size=5).map(
            "".join
        ),
        max_size=5,
    )
)
@settings(max_examples=100, deadline=None)
def test_pieces_with_marks_before_each_part_and_tokens_that_eat_white_space(
    make_folder: MakeFolder, pieces: list[str]
) -> None:
    tokenizer = load_tokenizer(make_folder(CHATML, backend="byte fallback"))
    backend = tokenizer.backend
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.add_special_tokens([AddedToken("<|end|>", rstrip=True)])
    slow: list[int] = []
    for number, piece in enumerate(pieces, 1):
        slow = slow_render._extend(tokenizer, slow, "".join(pieces[:number]), piece)  # pyright: ignore[reportPrivateUsage]
    assert encode_pieces(replace(tokenizer, borders=clean_borders(backend)), [pieces], {})[0][0] == slow


def test_only_tokens_that_nothing_before_them_can_change_are_borders(make_folder: MakeFolder) -> None:
    backend = load_tokenizer(make_folder(CHATML)).backend
    backend.add_special_tokens(
        [
            AddedToken("<eats>", lstrip=True),
            AddedToken("<word>", single_word=True),
            AddedToken("<normal>", normalized=True),
            AddedToken("<longer>more"),
            AddedToken("<longer>"),
            AddedToken("hides<over"),
            AddedToken("<over>"),
            AddedToken(" space"),
        ]
    )
    found = clean_borders(backend)
    assert found is not None
    assert all(found.fullmatch(token) for token in ("<|im_start|>", "<s>", "<longer>more", "<normal>"))
    assert not any(found.match(token) for token in ("<eats>", "<word>", "<longer>!", "<over>", " space"))


def test_a_row_that_cannot_be_rendered_does_not_stop_the_others(make_folder: MakeFolder) -> None:
    tokenizer = load_tokenizer(make_folder(CHATML))
    good = Conversation([turn("user", "a"), turn("assistant", "b")])
    bad = [
        Conversation([turn("user", "a")]),
        Conversation([turn("user", "a"), turn("assistant", "b<|im_end|>c")]),
    ]
    found = list(render_many(tokenizer, iter([good, *bad, good])))
    assert [isinstance(f, DataError) for f in found] == [False, True, True, False]
    assert found[0] == found[3]
    assert list(render_many(tokenizer, [])) == []


@pytest.mark.parametrize("name", ["qwen3", "mistral-late-system"])
def test_rows_with_several_renderings_and_tools_are_what_each_is_alone(tmp_path: Path, name: str) -> None:
    tokenizer = load_tokenizer(write_folder(tmp_path, FAMILIES[name]))
    rows = [Conversation(SYSTEM), Conversation(CALLS, TOOLS), Conversation(SYSTEM), Conversation(SYSTEM, TOOLS)]
    found = list(render_many(tokenizer, rows))
    assert found == [one_by_one(tokenizer, row) for row in rows]
    assert found[0] == found[2] != found[3]


def test_the_last_border_may_merge(make_folder: MakeFolder) -> None:
    tokenizer = load_tokenizer(make_folder(TRIMS, backend="gpt2"))
    messages: list[Message] = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
    assert render_answers(tokenizer, messages) == [slow_render.render_example(tokenizer, messages)]
