"""Documents become text with a title and a place; what has no text says why."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.data.record import RawRow
from burnish.data.sources.read import read
from burnish.data.sources.refusal import REASONS


def rows(path: Path, content: bytes | str) -> list[RawRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read(str(path)))


def pdf(pages: list[str], trailer: str = "") -> bytes:
    """A PDF written by hand: one font, one line of text a page."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, words in enumerate(pages):
        draw = f"BT /F1 12 Tf 50 700 Td ({words}) Tj ET" if words else ""
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] {font} /Contents {5 + 2 * number} 0 R >>")
        objects.append(f"<< /Length {len(draw)} >>\nstream\n{draw}\nendstream")
    out, places = b"%PDF-1.4\n", list[int]()
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(places) + 1} /Root 1 0 R {trailer} >>\n"
    return out + f"{end}startxref\n{len(out)}\n%%EOF\n".encode()


def test_a_text_is_one_row_with_its_span(tmp_path: Path) -> None:
    (row,) = rows(tmp_path / "note.txt", "Hello\n\nworld é\n")
    assert row.value == {"text": "Hello\n\nworld é", "title": "note"}
    assert (row.origin.line, row.origin.start, row.origin.end) == (1, 0, 16)


def test_a_long_text_is_cut_and_nothing_is_lost(tmp_path: Path) -> None:
    text = "".join(f"paragraph {n} é\n\n" for n in range(120_000))
    found = rows(tmp_path / "note.txt", text)
    raw = text.encode()
    assert len(found) >= 2
    assert b"".join(raw[row.origin.start : row.origin.end] for row in found) == raw
    assert max(row.origin.end - row.origin.start for row in found) <= 2**20


def test_one_endless_line_is_cut_between_characters(tmp_path: Path) -> None:
    found = rows(tmp_path / "note.txt", "é" * (3 * 2**19))
    assert {row.reason for row in found} == {None}
    assert "".join(row.value["text"] for row in found if row.value) == "é" * (3 * 2**19)


@pytest.mark.parametrize(("raw", "reason"), [(b"caf\xe9", "not UTF-8"), (b"a\0b", "NUL byte"), (b" \n ", "blank line")])
def test_a_text_that_cannot_be_read_has_a_reason(tmp_path: Path, raw: bytes, reason: str) -> None:
    assert [row.reason for row in rows(tmp_path / "a.txt", raw)] == [reason]


def test_utf16_is_told_by_its_mark(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.txt", "héllo".encode("utf-16"))[0].value == {"text": "héllo", "title": "a"}


def test_markdown_gives_a_row_for_each_section_with_the_path_of_headings(tmp_path: Path) -> None:
    text = "intro\n\n# One\ntext\n```\n# no heading\n```\n## Two ##\nmore\n# Three\n"
    found = rows(tmp_path / "guide.md", text)
    assert [row.value and row.value["title"] for row in found] == ["guide", "One", "One > Two", "Three"]
    assert [row.origin.line for row in found] == [1, 3, 8, 10]
    assert [text[row.origin.start : row.origin.end] for row in found][2] == "## Two ##\nmore\n"


def test_front_matter_of_markdown_is_what_its_sections_say_and_no_section(tmp_path: Path) -> None:
    front = "---\ntitle: Manual\ndate: 2024-03-05\nlang: de\ntags: [a, b]\nnested: {x: 1}\n---\n"
    text = f"{front}intro\n\n# One\ntext\n"
    found = rows(tmp_path / "guide.md", text)
    said = {"date": "2024-03-05", "language": "de", "front_matter": {"tags": ["a", "b"]}}
    assert [row.value for row in found] == [
        {"text": "intro", "title": "Manual", **said},
        {"text": "# One\ntext", "title": "One", **said},
    ]
    assert [row.origin.line for row in found] == [8, 10]
    assert [text[row.origin.start : row.origin.end] for row in found] == ["intro\n\n", "# One\ntext\n"]
    toml = rows(tmp_path / "b.md", '+++\ntitle = "Hugo"\ndate = 2024-03-05\n+++\nwords')
    assert [row.value for row in toml] == [{"text": "words", "title": "Hugo", "date": "2024-03-05"}]


@pytest.mark.parametrize(
    "text",
    [
        "---\n\nA rule, then words.\n",
        "---\nwords between rules\n---\nmore",
        "---\nkey: [broken\n---\nmore",
        "---\ntitle: it does not end",
        "words\n---\ntitle: not at the top\n---\n",
        "---\n" + "a: 1\n" * 20_000 + "---\nfar too long",
        "---\n" + "[" * 5000 + "]" * 5000 + "\n---\nwords",
        "+++\nno = toml = here\n+++\nmore",
    ],
)
def test_what_only_looks_like_front_matter_is_text(tmp_path: Path, text: str) -> None:
    (row,) = rows(tmp_path / "a.md", text)
    assert row.value == {"text": text.strip(), "title": "a"}


PARAGRAPHS = "".join(
    f"<p>Paragraph {n} tells at length what the shop sells to people in the city.</p>" for n in range(9)
)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<h1>Returns</h1><p>Thirty days.</p>", "# Returns\n\nThirty days."),
        ("<div><h1>Returns</h1></div><article><h2>When</h2><p>Within thirty days.</p></article>",
         "# Returns\n\n## When\n\nWithin thirty days."),
        ("<nav><a href=/>Home</a></nav><main><h1>Use</h1><p>Run <code>pip install a_b</code>.</p><h2>Linux</h2>"
         "<ul><li>apt</li></ul></main><footer>2020</footer>", "# Use\n\nRun `pip install a_b`.\n\n## Linux\n\n- apt"),
        ("<h1>Prices</h1><table><tr><th>Article</th><th>Price</th></tr><tr><td>Chair</td><td>20</td></tr></table>",
         "# Prices\n\n| Article | Price | \n|---|---|\n| Chair | 20 |"),
        ("<h1>Code</h1><pre><code>x = 1\n# no heading</code></pre><p>A *star*, a_b [1].</p>",
         "# Code\n\n```\nx = 1\n# no heading\n```\nA *star*, a_b [1]."),
        ("<header><h1>The shop</h1></header><main><h1>Returns</h1><p>Thirty days, and forty for members.</p></main>",
         "# Returns\n\nThirty days, and forty for members."),
    ],
)  # fmt: skip
def test_headings_of_small_pages_are_kept_as_markdown(tmp_path: Path, body: str, text: str) -> None:
    (row,) = rows(tmp_path / "a.html", f"<html><body>{body}</body></html>")
    assert row.value is not None
    assert row.value["text"] == text
    assert "date" not in row.value


def test_a_heading_apart_from_the_text_of_a_long_page_is_put_back(tmp_path: Path) -> None:
    more = PARAGRAPHS.replace("city", "village")
    page = f"<div class=hero><h1>Returns</h1></div><div>{PARAGRAPHS}<div><h2>Refunds</h2></div>{more}</div>"
    (row,) = rows(tmp_path / "a.html", f"<html><body>{page}</body></html>")
    assert row.value is not None
    lines = row.value["text"].split("\n")
    assert lines[0] == "# Returns"
    assert lines[lines.index("## Refunds") - 2 :][:3:2] == [
        "Paragraph 8 tells at length what the shop sells to people in the city.",
        "## Refunds",
    ]


def test_html_gives_its_text_without_navigation(tmp_path: Path) -> None:
    words = "<p>" + "The return policy allows thirty days for every article. " * 5 + "</p>"
    page = "<html><head><title>Returns</title></head><body>"
    page += f"<nav><a href=x>Home</a></nav><article><h1>Returns</h1>{words}</article></body></html>"
    (row,) = rows(tmp_path / "a.html", page)
    assert row.value is not None
    assert row.value["title"] == "Returns"
    assert "thirty days" in row.value["text"]
    assert "Home" not in row.value["text"]


def test_html_without_text_is_a_reason(tmp_path: Path) -> None:
    assert [row.reason for row in rows(tmp_path / "a.html", "<html><body></body></html>")] == ["no text"]


def test_a_pdf_gives_its_pages_and_a_scan_says_that_it_is_one(tmp_path: Path) -> None:
    found = rows(tmp_path / "manual.pdf", pdf(["Hello page one", "", "Page three"]))
    assert [row.value for row in found] == [
        {"text": "Hello page one", "title": "manual", "page": 1},
        None,
        {"text": "Page three", "title": "manual", "page": 3},
    ]
    assert found[1].reason == "no text"
    assert (found[2].origin.start, found[2].origin.end) == (14, 24)


def test_an_encrypted_pdf_is_a_reason(tmp_path: Path) -> None:
    locked = (
        "/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <" + "41" * 32 + "> /U <" + "42" * 32 + "> >> /ID [<01> <01>]"
    )
    assert [row.reason for row in rows(tmp_path / "a.pdf", pdf(["secret"], locked))] == ["encrypted"]


def test_a_word_document_gives_its_sections_with_tables(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    document.add_heading("Refunds", 1)
    document.add_paragraph("Within 30 days.")
    table = document.add_table(2, 2)
    for number, cell in enumerate(cell for row in table.rows for cell in row.cells):
        cell.text = f"c{number}"
    document.add_heading("Who", 2)
    document.add_paragraph("Everyone.")
    document.save(str(tmp_path / "a.docx"))
    found = list(read(str(tmp_path / "a.docx")))
    assert [row.value for row in found] == [
        {"text": "Refunds\n\nWithin 30 days.\n\n| c0 | c1 |\n| --- | --- |\n| c2 | c3 |", "title": "Refunds"},
        {"text": "Who\n\nEveryone.", "title": "Refunds > Who"},
    ]
    assert [row.origin.line for row in found] == [1, 4]


def test_a_document_that_is_a_zip_bomb_is_a_reason(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("word/document.xml", b"\0" * (80 * 2**20))
    assert [row.reason for row in read(str(tmp_path / "a.docx"))] == ["expands too far"]


@settings(max_examples=120, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=300),
    kind=st.sampled_from(["txt", "md", "html", "pdf", "docx"]),
    front=st.sampled_from([b"", b"%PDF-1.4\n", b"PK\x03\x04", b"<html><body><p>", b"\xff\xfe"]),
)
def test_any_bytes_give_rows_or_reasons(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str, front: bytes
) -> None:
    found = rows(tmp_path_factory.mktemp("any") / f"a.{kind}", front + content)
    assert found
    assert {row.reason for row in found if row.reason} <= REASONS
