"""A row can be looked at: every character is there, what is trained is told without colour, and nothing in it acts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from chat_templates import CHATML, INSIDE, TRIMS, MakeFolder
from families import ONE, TWO, turn
from hypothesis import given
from hypothesis import strategies as st

from burnish.text.preview import FOLD_CHARACTERS, STYLE, html, runs, summary, terminal, visible
from burnish.text.render import render_example
from burnish.text.tokenizer import Tokenizer, load_tokenizer

SYSTEM = [turn("system", "Be <kind>."), *TWO]


@pytest.fixture(scope="module")
def tokenizer(make_folder: MakeFolder) -> Tokenizer:
    return load_tokenizer(make_folder(CHATML))


def test_runs_say_what_each_part_is(tokenizer: Tokenizer) -> None:
    found = runs(tokenizer, render_example(tokenizer, [turn("system", "Be kind."), *ONE]))
    assert [(run.text, run.trained, run.kind) for run in found] == [
        ("<|im_start|>", False, "special"),
        ("system\nBe kind.", False, "system"),
        ("<|im_end|>", False, "special"),
        ("\n", False, "system"),
        ("<|im_start|>", False, "special"),
        ("user\nFind me flights.", False, "prompt"),
        ("<|im_end|>", False, "special"),
        ("\n", False, "prompt"),
        ("<|im_start|>", False, "special"),
        ("assistant\n", False, "prompt"),
        ("Where to?", True, "answer"),
        ("<|im_end|>", True, "special"),
        ("\n", False, "prompt"),
    ]


@pytest.mark.parametrize(("template", "backend"), [(CHATML, "byte level"), (TRIMS, "gpt2"), (INSIDE, "byte fallback")])
def test_the_runs_together_are_the_row(make_folder: MakeFolder, template: str, backend: str) -> None:
    tokenizer = load_tokenizer(make_folder(template, backend=backend))
    rendered = render_example(tokenizer, SYSTEM)
    found = runs(tokenizer, rendered)
    assert "".join(run.text for run in found) == tokenizer.backend.decode(rendered.ids, skip_special_tokens=False)
    assert sum(run.tokens for run in found) == len(rendered.ids)
    assert sum(run.tokens for run in found if run.trained) == sum(rendered.mask)


def test_a_terminal_without_colour_marks_what_is_trained(tokenizer: Tokenizer) -> None:
    shown = terminal(runs(tokenizer, render_example(tokenizer, TWO)), colour=False)
    assert re.findall("⟦(.*?)⟧", shown.split("\n", 1)[1]) == ["Where to?<|im_end|>", "New York<|im_end|>"]
    assert "\x1b" not in shown


def test_colours_add_only_colours(tokenizer: Tokenizer) -> None:
    found = runs(tokenizer, render_example(tokenizer, SYSTEM))
    coloured = terminal(found, colour=True)
    assert "\x1b[32;1;4m" in coloured
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == terminal(found, colour=False)


def test_no_row_can_drive_the_terminal_or_turn_its_text_around(tokenizer: Tokenizer) -> None:
    attack = "\x1b[2J\x07\x9b31m\u202eevil\rback"
    shown = terminal(
        runs(tokenizer, render_example(tokenizer, [turn("user", attack), turn("assistant", "ok")])), colour=False
    )
    assert r"\x1b[2J\x07\x9b31m\u202eevil\x0dback" in shown
    assert visible("a\tb\nc") == "a\tb\nc"


def test_long_rows_are_folded(tokenizer: Tokenizer) -> None:
    long = "begin " + "flights " * 500 + "end"
    found = runs(tokenizer, render_example(tokenizer, [turn("user", long), turn("assistant", "ok")]))
    shown = terminal(found, colour=False)
    assert len(shown) < FOLD_CHARACTERS + 400
    assert re.search(r"\[… 3,4\d\d characters …\]", shown)
    page = html(found)
    assert re.search(r"<details><summary>3,4\d\d more characters</summary>", page)
    assert re.sub(r"[\d,]+ more characters", "", words(page)).count("flights") == 500


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def words(page: str) -> str:
    return "".join(read(page).text)


@given(text=st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=40).filter(str.strip))
def test_any_text_is_escaped_and_whole(tokenizer: Tokenizer, text: str) -> None:
    if tokenizer.control_token_in(text):
        return
    page = html(runs(tokenizer, render_example(tokenizer, [turn("user", text), turn("assistant", "ok")])))
    assert set(read(page).tags) == {"style", "figure", "figcaption", "div", "mark", "span"}
    assert visible(text) in words(page)


def test_a_page_acts_nowhere_and_fetches_nothing(tokenizer: Tokenizer) -> None:
    said = [turn("user", "<script>alert(1)</script><img src=x onerror=y>"), turn("assistant", '"><b>')]
    page = html(runs(tokenizer, render_example(tokenizer, said)))
    assert "<script" not in page
    assert "<img" not in page
    assert not re.search(r"https?:|url\(|@import", page)


def test_a_screen_reader_hears_what_is_trained(tokenizer: Tokenizer) -> None:
    page = html(runs(tokenizer, render_example(tokenizer, TWO)), style=False)
    assert "(trained: Where to?<|im_end|>, end of trained)" in words(page)
    assert page.count("<mark>") == page.count("</mark>") == 2
    assert STYLE not in page
    assert "text-decoration:underline" in STYLE


def test_the_share_of_trained_tokens_is_said(tokenizer: Tokenizer) -> None:
    rendered = render_example(tokenizer, ONE)
    share = sum(rendered.mask) / len(rendered.ids)
    assert (
        summary(runs(tokenizer, rendered))
        == f"{sum(rendered.mask)} of {len(rendered.ids)} tokens are trained ({share:.0%})"
    )
    assert summary([]) == "0 of 0 tokens are trained (0%)"
