"""Signs say where personal data may be: each is held against the pattern it stands for, on any text."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from burnish.data.private.keys import providers
from burnish.data.private.signs import Signs, before, beginnings, places

TEXT = st.one_of(st.text(max_size=60), st.text("0123456789 .-()/+:@abcdefABZ_°é\u00a0\u2011\U0001f600\n", max_size=80))
RUN = re.compile(r"\d[\d .\-()/\u00a0\u2010\u2011\u2013]{4,}\d", re.ASCII)
LONG_WORD = re.compile(r"[A-Za-z0-9_-]{16,}", re.ASCII)
MAC = re.compile(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2}){4}|[0-9a-fA-F]{4}(?:\.[0-9a-fA-F]{4}){2}")


@given(TEXT)
def test_runs_are_those_of_the_pattern(text: str) -> None:
    assert Signs(text).runs() == [match.span() for match in RUN.finditer(text)]


@given(st.one_of(TEXT, st.text("abc_-09. é", max_size=80)))
def test_long_words_are_those_of_the_pattern(text: str) -> None:
    assert Signs(text).long_words() == [match.span() for match in LONG_WORD.finditer(text)]


@given(TEXT)
def test_digits_after_letters_are_those_of_the_patterns(text: str) -> None:
    after, capitals = Signs(text).after_letters()
    assert after == [match.start() + 2 for match in re.finditer(r"(?=[A-Za-z]{2}[0-9]{2})", text)]
    wanted = re.finditer(r"(?<=[A-Z])(?=[0-9]{2})|(?<=[A-Z][ -])(?=[0-9]{2})", text)
    assert sorted(capitals) == [match.start() for match in wanted]


@given(TEXT)
def test_decimals_and_digits_are_those_of_the_text(text: str) -> None:
    signs = Signs(text)
    assert signs.digits == bool(re.search(r"[0-9]", text))
    assert {m.start() for m in re.finditer(r"[0-9](?=\.[0-9]{3})", text)} <= set(signs.decimals())


@given(st.one_of(TEXT, st.from_regex(MAC, fullmatch=True), st.ip_addresses(v=6).map(str)), TEXT)
def test_no_address_of_a_machine_goes_unsigned(address: str, around: str) -> None:
    version_6, card = Signs(f"{around} {address}").machines()
    assert card or not MAC.search(address)
    assert version_6 or address.count(":") < 6 or not re.fullmatch(r"[0-9a-f:.]+", address)


@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=3))
def test_places_are_all_places_overlaps_too(text: str, wanted: str) -> None:
    assert list(places(text, wanted)) == [at for at in range(len(text)) if text.startswith(wanted, at)]


def test_words_before_a_number_are_known_by_their_beginnings() -> None:
    known = beginnings(["call", "tel", r"steuer\w*", "c[ée]dula", "social security", "id"])
    for said in ("call me at ", "tel: ", "steuernummer ", "cedula ", "cédula ", "the social security no ", "id="):
        assert not known.isdisjoint(before(said, len(said))), said
    assert known.isdisjoint(before("the answer is identical: ", 25))


def test_a_key_is_noticed_only_by_what_its_entry_says() -> None:
    known = providers()
    for provider in known.all:
        ways = [provider.prefix, provider.inside, provider.anywhere, provider.near]
        assert sum(bool(way) for way in ways) == 1, provider.name
