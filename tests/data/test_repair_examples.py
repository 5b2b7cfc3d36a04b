"""Before and after a change: what is shown of it, and that no personal data is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preparing import Prepare

from burnish.data.examples import MOST, Examples, changed_part, shape
from burnish.data.private.cleaner import Treatment, make_writer
from burnish.data.record import Origin


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("one\r\ntwo", "one\ntwo", ("one\\r\\n\ntwo", "one\\n\ntwo")),
        ("a cafe\u0301 here", "a café here", ("a cafe\\u0301 here", "a café here")),
        ("naÃ¯ve", "naïve", ("naÃ¯ve", "naïve")),
        ("a\x07b", "ab", ("a\\x07b", "ab")),
        ("pass\u200bword", "password", ("pass\\u200bword", "password")),
        ("aaa", "aa", ("aaa", "aa")),
        ("नमस्ते X", "नमस्ते", ("नमस्ते X", "नमस्ते")),
        ("x" * 100 + "1" + "y" * 100, "x" * 100 + "2" + "y" * 100,
         (f"...{'x' * 30}1{'y' * 30}...", f"...{'x' * 30}2{'y' * 30}...")),
        ("same", "same", None),
    ],
)  # fmt: skip
def test_the_part_that_changed_is_shown(before: str, after: str, shown: tuple[str, str] | None) -> None:
    assert changed_part(before, after) == shown


@given(before=st.text(max_size=80), after=st.text(max_size=80))
def test_any_two_texts_that_differ_are_shown_as_two_short_texts_that_differ(before: str, after: str) -> None:
    shown = changed_part(before, after)
    assert (shown is None) == (before == after)
    if shown is not None:
        assert max(map(len, shown)) <= 1000
        assert not {"\x00", "\x07", "\u200b", "\u202e"} & set("".join(shown))


def test_a_value_is_shown_as_its_shape() -> None:
    assert make_writer(Treatment(), shape)("Write to Ann.B@shop.org.").text == "Write to xxx.x@xxxx.xxx."


def test_a_text_in_which_repair_uncovers_personal_data_is_not_shown() -> None:
    examples = Examples(make_writer(Treatment(), shape))
    place = Origin("rows", "rows", 1)
    hidden, whole = "Write to ann@sh\u200bop.org now", "Write to ann@shop.org now"
    examples.add("invisible characters", place, hidden, whole, whole)
    examples.add("invisible characters", place, "Write to an\u200bn@shop.org now", whole, whole)
    assert examples.found == {}
    examples.add("control characters", place, "Write to ann@shop.org\x07 now", whole, whole)
    assert [(e.before, e.after) for e in examples.found["control characters"]] == [
        ("Write to xxx@xxxx.xxx\\x07 now", "Write to xxx@xxxx.xxx now")
    ]


def test_so_many_are_kept_and_one_of_a_chunk_far_into_a_file() -> None:
    examples = Examples(make_writer(Treatment(), shape))
    for line in (*range(1, 50), 20_000):
        examples.add("line ends", Origin("r", "r", line), "a\r", "a\n")
    assert len(examples.found["line ends"]) == MOST
    later = Examples(make_writer(Treatment(), shape))
    for line in (20_000, 20_001):
        later.add("line ends", Origin("r", "r", line), "a\r", "a\n")
    assert [each.line for each in later.found["line ends"]] == [20_000]


def rows() -> list[dict[str, Any]]:
    said = [
        ("What does café cost ?", "It costs naÃ¯vely 3 euro"),
        ("Line one\r\nline two of the request", "Yes"),
        ("Write to ann.smith@shop.org please", "I wrote to ann.smith@shop.org"),
        ("Ring a\x07 bell", "Done, and well"),
        ("hidden a\u200bnn@shop.org in here", "Seen"),
    ]
    return [{"instruction": asked, "response": answer} for asked, answer in said]


def test_prepare_tells_repairs_before_and_after(run_prepare: Prepare, tmp_path: Path) -> None:
    done = run_prepare(rows(), prepare={"test_share": 0.2})
    told = {each["name"]: each for each in json.loads((done.folder / "filters.json").read_text())["filters"]}
    shown = {
        name: [(e["file"], e["line"], e["before"], e["after"]) for e in told[name]["examples"]]
        for name in ("mojibake", "line ends", "control characters", "personal data", "invisible characters")
    }
    assert shown["mojibake"] == [("rows.jsonl", 1, "It costs naÃ¯vely 3 euro", "It costs naïvely 3 euro")]
    assert shown["line ends"] == [
        ("rows.jsonl", 2, "Line one\\r\\n\nline two of the request", "Line one\\n\nline two of the request")
    ]
    assert shown["control characters"] == [("rows.jsonl", 4, "Ring a\\x07 bell", "Ring a bell")]
    assert shown["personal data"][:1] == [
        ("rows.jsonl", 3, "Write to xxx.xxxxx@xxxx.xxx please", "Write to [EMAIL] please"),
    ]
    assert shown["invisible characters"] == []
    assert "ann" not in json.dumps(told)


def test_what_is_kept_by_the_recipe_is_not_shown_either(run_prepare: Prepare) -> None:
    things = ["chairs", "lamps", "tables", "books", "plates", "shelves"]
    texts = [
        {"instruction": f"Ask ann@shop.org from 10.20.30.40 about {t}", "response": f"The {t} came"} for t in things
    ]
    done = run_prepare(texts, prepare={"test_share": 0.3, "personal_data": {"kinds": {"email": "keep"}}})
    assert "ann@shop.org" in (done.requests("train") + done.requests("test"))[0]
    told = (done.folder / "filters.json").read_text()
    assert "Ask xxx@xxxx.xxx from 00.00.00.00" in told
    assert "Ask [EMAIL] from [IP]" in told
    assert "ann@" not in told
