"""The page about a dataset shows what the dataset holds, without personal data, and loads nothing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from preparing import Prepare

from burnish.data.report import data_report, told_apart
from burnish.text.tokenizer import Tokenizer
from devtools import Browser

EVIL = "</pre></title><script>alert(1)</script> {{ 7 * 7 }}"
LONG = "please find me a flight from Paris to Rome on the first of May for two people and one small dog"
ROWS: list[dict[str, Any] | bytes] = [
    {"instruction": f"write to ann@example.com about {EVIL}", "response": "done"},
    {"prompt": LONG, "completion": "x"},
    {"prompt": f"{LONG} thanks", "completion": "x"},
    {"prompt": "something else", "completion": "y", "split": "test"},
    b"broken",
]


class Words(HTMLParser):
    """Every text of a page, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize("personal", ["placeholder", "keep"])
def test_the_page_shows_samples_duplicates_and_reasons(
    run_prepare: Prepare, tokenizer: Tokenizer, with_mask: bool, personal: str
) -> None:
    done = run_prepare(ROWS, prepare={"personal_data": personal, "near_duplicate": 0.7})
    given = tokenizer if with_mask else None
    page = data_report(done.manifest, done.folder.parent, name="desk <b>", tokenizer=given)
    found = Words(page)
    assert "5 rows in = 3 kept + 2 rejected" in found.text
    assert "desk <b>" in found.text
    assert "something else" in found.text
    assert re.search(r"near duplicate, similarity 0\.9\d", found.text)
    assert "rows.jsonl:3" in found.text
    assert "broken JSON: 1" in found.text
    assert "Nothing that is tested was found" in found.text
    assert "ann@example.com" not in page
    assert "script" not in found.tags
    assert "{{ 7 * 7 }}" in found.text
    assert not re.search(r'(src|href)="(?!#|data:,)', page), "the page loads nothing"
    assert ("tokens are trained" in found.text) == with_mask


def test_repairs_and_personal_data_are_shown_before_and_after(run_prepare: Prepare) -> None:
    rows = [
        {"instruction": f"Write to ann{number}@shop.org about {word}", "response": f"The cafÃ© sent {word}"}
        for number, word in enumerate(["chairs", "lamps", "tables", "books", "plates", "shelves"])
    ]
    rows[-1]["split"] = "test"
    done = run_prepare(rows)
    page = data_report(done.manifest, done.folder.parent, name="x")
    assert "<pre>Write to xxx0@xxxx.xxx about chairs</pre>" in page
    assert "<pre>Write to [EMAIL] about chairs</pre>" in page
    assert "<pre>The cafÃ© sent chairs</pre>" in page
    assert "<pre>The café sent chairs</pre>" in page
    assert "6 values found" in Words(page).text


def test_words_that_differ_between_duplicates_are_marked(run_prepare: Prepare) -> None:
    rows = [{"prompt": LONG, "completion": "x"}, {"prompt": f"{LONG} thanks", "completion": "x"}]
    done = run_prepare([*rows, {"prompt": "else", "completion": "y", "split": "test"}], prepare={"near_duplicate": 0.7})
    page = data_report(done.manifest, done.folder.parent, name="x")
    assert page.count('<span class="extra"> thanks</span>') == 1


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_of_the_page_is_wider_than_the_screen(
    run_prepare: Prepare, tokenizer: Tokenizer, browser: Browser, tmp_path: Path, width: int
) -> None:
    long = "unbroken" * 15
    rows = [
        *ROWS,
        {"prompt": f"mail ann@shop.org about {long}", "completion": f"naÃ¯ve {long}"},
        *({"prompt": f"{LONG} number {n}", "completion": long} for n in range(3)),
        {"prompt": "مرحبا بالعالم", "completion": "您的订单已经发货"},
        *(json.dumps({long: n}).encode() for n in range(3)),
    ]
    done = run_prepare(rows, prepare={"near_duplicate": 0.7})
    text = data_report(done.manifest, done.folder.parent, name="desk", tokenizer=tokenizer)
    (tmp_path / "page.html").write_text(text.replace("<details>", "<details open>"), encoding="utf-8")
    page = browser.open((tmp_path / "page.html").as_uri())
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    page.wait(f"innerWidth === {width}")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.problems == []
    page.close()


def test_what_leaked_is_named(run_prepare: Prepare, tokenizer: Tokenizer) -> None:
    words = [f"w{number}" for number in range(30)]
    rows = [
        {"prompt": " ".join(words), "completion": "a"},
        {"prompt": " ".join(words[:25]), "completion": "b", "split": "test"},
    ]
    done = run_prepare(rows)
    page = Words(data_report(done.manifest, done.folder.parent, name="x")).text
    assert "Tested rows were found in what is trained on" in page
    assert re.search(r"13-gram 0\.93: \S*rows.jsonl:2 ~ \S*rows.jsonl:1", page)


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    files = ["a/x/rows.jsonl", "b/x/rows.jsonl", "a/other.jsonl", "rows.jsonl", "/rows.jsonl"]
    assert told_apart(files) == {
        "a/x/rows.jsonl": "a/x/rows.jsonl",
        "b/x/rows.jsonl": "b/x/rows.jsonl",
        "a/other.jsonl": "other.jsonl",
        "rows.jsonl": "rows.jsonl",
        "/rows.jsonl": "/rows.jsonl",
    }
