"""Text comes out whole characters at a time, and nothing from a stop string on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from burnish.serve.text_stream import TextStream
from burnish.text.tokenizer import Tokenizer


def stream(tokenizer: Tokenizer, text: str, stops: list[str]) -> tuple[list[str], bool]:
    out = TextStream(tokenizer, stops)
    pieces = [out.add(token) for token in tokenizer.encode(text)]
    pieces.append(out.finish())
    return pieces, out.stopped


def test_an_emoji_of_four_tokens_comes_as_one_piece(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("🛫")) == 4
    pieces, _ = stream(tokenizer, "a🛫b", [])
    assert [piece for piece in pieces if piece] == ["a", "🛫", "b"]


def test_what_may_begin_a_stop_string_waits_until_it_is_decided(tokenizer: Tokenizer) -> None:
    out = TextStream(tokenizer, ["###"])
    pieces = [out.add(token) for token in tokenizer.encode("x##y")]
    assert pieces[1:3] == ["", ""], "the two marks may begin the stop string"
    assert "".join(pieces) + out.finish() == "x##y"


def test_a_stop_string_over_several_tokens_ends_the_text_before_it(tokenizer: Tokenizer) -> None:
    pieces, stopped = stream(tokenizer, "One. END and more", ["END", "zzz"])
    assert "".join(pieces) == "One. "
    assert stopped


def test_the_first_of_several_stop_strings_counts(tokenizer: Tokenizer) -> None:
    pieces, _ = stream(tokenizer, "a;b|c", ["|", ";"])
    assert "".join(pieces) == "a"


def test_what_was_held_back_comes_at_the_end(tokenizer: Tokenizer) -> None:
    pieces, stopped = stream(tokenizer, "ends with ##", ["###"])
    assert "".join(pieces) == "ends with ##"
    assert not stopped


@given(
    text=st.text(alphabet="ab#é🛫\n", max_size=30),
    stops=st.lists(st.text(alphabet="ab#🛫", min_size=1, max_size=4), max_size=3),
)
def test_the_pieces_are_the_text_up_to_the_earliest_complete_stop(
    tokenizer: Tokenizer, text: str, stops: list[str]
) -> None:
    pieces, stopped = stream(tokenizer, text, stops)
    got = "".join(pieces)
    assert text.startswith(got)
    assert stopped == any(stop in text for stop in stops)
    assert not any(stop in got for stop in stops)
    if not stopped:
        assert got == text
    else:
        assert any(text[len(got) :].startswith(stop) for stop in stops)
