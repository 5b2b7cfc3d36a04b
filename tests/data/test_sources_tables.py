"""Files of rows: JSON, CSV, Parquet, Arrow, Excel. What does not fit is a row with a reason, and reading goes on."""

from __future__ import annotations

import datetime
import io
import json
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.data.record import RawRow
from burnish.data.sources import json_files
from burnish.data.sources.read import read
from burnish.data.sources.refusal import REASONS
from burnish.data.sources.spec import SourceSpec


def rows(path: Path, content: bytes | str, **options: Any) -> list[RawRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read(SourceSpec(str(path), **options)))


def values(found: list[RawRow]) -> list[Any]:
    return [row.value for row in found]


def reasons(found: list[RawRow]) -> list[str | None]:
    return [row.reason for row in found]


# JSON


def test_an_array_gives_its_elements_with_their_places(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf [ {"a": "x, ]"} ,\n {"b": [1, {"c": 2}]},3 ]\n'
    found = rows(tmp_path / "a.json", content)
    assert values(found) == [{"a": "x, ]"}, {"b": [1, {"c": 2}]}, None]
    assert found[2].reason == "not a JSON object"
    assert [row.origin.line for row in found] == [1, 2, 3]
    assert [content[row.origin.start : row.origin.end] for row in found] == [
        b'{"a": "x, ]"}', b'{"b": [1, {"c": 2}]}', b"3",
    ]  # fmt: skip


def test_an_object_with_one_list_gives_its_elements_and_their_places(tmp_path: Path) -> None:
    content = b'{"version": "1, [", "data" : [{"a": 1}, {"a": 2}], "n": 2}'
    found = rows(tmp_path / "a.json", content)
    assert values(found) == [{"a": 1}, {"a": 2}]
    assert content[found[1].origin.start : found[1].origin.end] == b'{"a": 2}'


def test_an_object_that_is_a_chat_is_one_row(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    assert values(rows(tmp_path / "a.json", json.dumps(chat, indent=1))) == [chat]


def test_two_lists_need_a_name(tmp_path: Path) -> None:
    content = '{"a": [{"x": 1}], "b": [{"y": 2}]}'
    assert rows(tmp_path / "a.json", content)[0].detail == "2 lists (a, b); name one with `key`"
    assert values(rows(tmp_path / "a.json", content, key="b")) == [{"y": 2}]
    assert "no list 'c'" in rows(tmp_path / "a.json", content, key="c")[0].detail


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_as_windows_writes_it_is_read(tmp_path: Path, encoding: str, indent: int | None) -> None:
    items = [{"a": "Zoë 東"}, {"a": "\U0001f6eb" * 3000}, {"a": 'quote " and \\'}]
    mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"
    for content in (items, {"data": items}):
        raw = (mark + json.dumps(content, indent=indent, ensure_ascii=False)).encode(encoding)
        assert values(rows(tmp_path / "a.json", raw)) == items
    lines = (mark + "\r\n".join(json.dumps(item) for item in items)).encode(encoding)
    assert values(rows(tmp_path / "a.json", lines)) == items


def test_what_is_broken_in_utf16_costs_its_own_row_alone(tmp_path: Path) -> None:
    half = '[{"a": "x"}, {"a": "\ud83d"}, {"a": "y"}]'.encode("utf-16", "surrogatepass")
    assert reasons(rows(tmp_path / "a.json", half)) == [None, "not UTF-8", None]
    cut = '{"a": "x"}\n{"a": "y"}'.encode("utf-16")[:-1]
    assert reasons(rows(tmp_path / "a.jsonl", cut)) == [None, "not UTF-8"]
    no_characters = "[".encode("utf-32") + b"\xff" * 8
    assert reasons(rows(tmp_path / "a.json", no_characters)) == ["not UTF-8"]


def test_json_lines_under_the_name_json_are_read_as_lines(tmp_path: Path) -> None:
    assert values(rows(tmp_path / "a.json", '{"a": 1}\n{"a": 2}\n')) == [{"a": 1}, {"a": 2}]


def test_a_broken_element_costs_only_itself(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.json", '[{"a": 1}, {"a": nope}, {"a": 1, "a": 2}, , {"a": 4}]')
    assert reasons(found) == [None, "broken JSON", "broken JSON", "broken JSON", None]


@pytest.mark.parametrize("content", ['[{"a": 1}, {"b"', '[{"a": 1}', '[{"a": 1}, "x'])
def test_a_list_that_does_not_end_keeps_what_was_whole(tmp_path: Path, content: str) -> None:
    found = rows(tmp_path / "a.json", content)
    assert found[-1].reason == "broken JSON"
    assert found[-1].detail == "the list does not end"
    assert found[0].value == {"a": 1}


def test_an_empty_list_has_no_rows(tmp_path: Path) -> None:
    assert reasons(rows(tmp_path / "a.json", "[ ]")) == ["no rows"]


def test_an_element_over_the_limit_is_one_row(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.json", b'[{"a": 1}, {"a": "' + b"x" * (17 * 2**20) + b'"}, {"a": 3}]')
    assert reasons(found) == [None, "line over 16.0 MiB", None]


@settings(max_examples=150)
@given(
    items=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=30) | st.lists(st.integers())), min_size=1),
    block=st.integers(1, 40),
)
def test_any_array_is_cut_where_its_elements_end(items: list[dict[str, Any]], block: int) -> None:
    kept = json_files.BLOCK_BYTES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "BLOCK_BYTES", block)
        found = list(json_files.read_json(io.BytesIO(json.dumps(items).encode()), SourceSpec("x"), "x"))
    assert kept == json_files.BLOCK_BYTES
    assert values(found) == items


# CSV


def test_csv_finds_delimiter_and_header_and_counts_lines(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", '\ufeffquestion;answer\n"a;\n""b""";c\nd;e\n')
    assert values(found) == [{"question": 'a;\n"b"', "answer": "c"}, {"question": "d", "answer": "e"}]
    assert [row.origin.line for row in found] == [2, 4]


def test_a_table_without_a_header_gets_numbered_columns(tmp_path: Path) -> None:
    assert values(rows(tmp_path / "a.csv", "1,2\n3,4\n"))[0] == {"column_1": "1", "column_2": "2"}
    assert len(rows(tmp_path / "a.csv", "a,b\n3,4\n", header=False)) == 2


def test_rows_that_do_not_fit_are_rows_with_reasons(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", b"a,b\n1\n1,2,3\n\n1,\xff\n1,\x00\n1,2\n")
    assert reasons(found) == ["wrong number of columns"] * 2 + ["blank line", "not UTF-8", "NUL byte", None]
    assert found[1].detail == "found 3, the header has 2"


def test_a_quote_that_never_ends_swallows_nothing(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", 'a,b\n1,2\n"oops,2\n3,4\n5,"6\n7"\n8,9\n')
    good = [row.value for row in found if row.value]
    assert {"a": "3", "b": "4"} in good
    assert {"a": "8", "b": "9"} in good
    assert {"a": "5", "b": "6\n7"} in good
    assert "broken CSV" in reasons(found)


def test_a_column_named_twice_is_a_reason(tmp_path: Path) -> None:
    assert reasons(rows(tmp_path / "a.csv", "a,a\n1,2\n")) == ["unusable header"]


def test_a_huge_cell_is_bounded(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", "a,b\n1," + "x" * 200_000 + "\n1," + "y" * (17 * 2**20) + "\n3,4\n")
    assert reasons(found) == [None, "line over 16.0 MiB", None]
    assert len(found[1].text) < 20_000


def test_utf16_is_told_by_its_mark(tmp_path: Path) -> None:
    assert values(rows(tmp_path / "a.tsv", "a\tb\né\t2\n".encode("utf-16"))) == [{"a": "é", "b": "2"}]


# Parquet and Arrow


def test_parquet_gives_rows_as_json_has_them(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["a", None],
            "day": [datetime.date(2026, 1, 2)] * 2,
            "n": [Decimal("1.50"), Decimal("2.00")],
            "x": [float("nan"), 0.5],
            "m": [[{"role": "user"}], []],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = list(read(str(tmp_path / "a.parquet")))
    assert values(found) == [
        {"text": "a", "day": "2026-01-02", "n": 1.5, "x": None, "m": [{"role": "user"}]},
        {"text": None, "day": "2026-01-02", "n": 2, "x": 0.5, "m": []},
    ]
    assert values(list(read(SourceSpec(str(tmp_path / "a.parquet"), columns=("text",)))))[0] == {"text": "a"}


def test_bytes_in_a_table_are_a_reason(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"\xff\xd8", b"ok"]}), tmp_path / "a.parquet")
    assert reasons(list(read(str(tmp_path / "a.parquet")))) == ["binary value", None]


def test_damaged_parquet_is_one_reason(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(1000))}), tmp_path / "a.parquet")
    raw = (tmp_path / "a.parquet").read_bytes()
    assert reasons(rows(tmp_path / "b.parquet", raw[: len(raw) // 2])) == ["damaged file"]


# Excel


def book(path: Path, sheets: dict[str, list[list[Any]]]) -> Path:
    import openpyxl

    made = openpyxl.Workbook()
    made.remove(made.worksheets[0])
    for name, cells in sheets.items():
        sheet = made.create_sheet(name)
        for line in cells:
            sheet.append(line)
    made.save(path)
    return path


def test_each_sheet_has_its_header_and_its_rows(tmp_path: Path) -> None:
    path = book(
        tmp_path / "a.xlsx",
        {"one": [["q", "a"], ["x", 1], [], ["y", datetime.datetime(2026, 1, 2)]], "two": [["t"], ["z"]]},
    )
    found = list(read(str(path)))
    assert values(found) == [{"q": "x", "a": 1}, None, {"q": "y", "a": "2026-01-02T00:00:00"}, {"t": "z"}]
    assert reasons(found)[1] == "blank line"
    assert [row.origin.file.rpartition("#")[2] for row in found] == ["one", "one", "one", "two"]
    assert [row.origin.line for row in found] == [2, 3, 4, 2]
    assert values(list(read(SourceSpec(str(path), sheet="two")))) == [{"t": "z"}]


def with_sheet(path: Path, change: Callable[[str], str]) -> Path:
    """Change the XML of a workbook's first sheet."""
    with zipfile.ZipFile(path) as parts:
        inside = {name: parts.read(name) for name in parts.namelist()}
    name = "xl/worksheets/sheet1.xml"
    inside[name] = change(inside[name].decode()).encode()
    with zipfile.ZipFile(path, "w") as parts:
        for name, raw in inside.items():
            parts.writestr(name, raw)
    return path


def test_of_formulas_the_computed_values_are_read_and_what_was_never_computed_is_told(tmp_path: Path) -> None:
    lines = [["q", "a"], ["x", '=A2&"!"'], ["y", "=A3"], ["z", "=1/0"], ["w", "#N/A"]]
    path = book(tmp_path / "a.xlsx", {"one": lines})

    def computed(sheet: str) -> str:  # as Excel saves it
        sheet = sheet.replace(
            '<c r="B2"><f>A2&amp;"!"</f><v></v></c>', '<c r="B2" t="str"><f>A2&amp;"!"</f><v>x!</v></c>'
        )
        return sheet.replace('<c r="B4"><f>1/0</f><v></v></c>', '<c r="B4" t="e"><f>1/0</f><v>#DIV/0!</v></c>')

    found = list(read(str(with_sheet(path, computed))))
    assert values(found) == [{"q": "x", "a": "x!"}, None, None, None]
    assert reasons(found) == [None, *["formula without a value"] * 3]
    assert [row.detail.partition(" ")[0] for row in found[1:]] == ["B3", "B4", "B5"]
    assert "never computed; open the file" in found[1].detail
    assert found[2].detail == "B4 is #DIV/0!"


def test_rows_beyond_the_size_that_a_sheet_claims_are_read(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", {"one": [["q", "a"], ["x", "1"], ["y", "2"]]})
    found = list(read(str(with_sheet(path, lambda sheet: sheet.replace('ref="A1:B3"', 'ref="A1:A2"')))))
    assert values(found) == [{"q": "x", "a": "1"}, {"q": "y", "a": "2"}]


def test_a_locked_workbook_is_a_reason(tmp_path: Path) -> None:
    assert reasons(rows(tmp_path / "a.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600)) == ["encrypted"]


def test_what_is_no_workbook_is_a_reason(tmp_path: Path) -> None:
    assert reasons(rows(tmp_path / "a.xlsx", b"PK\x03\x04 nothing")) == ["damaged file"]


@settings(max_examples=120, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=300),
    kind=st.sampled_from(["json", "csv", "tsv", "parquet", "arrow", "xlsx", "jsonl"]),
)
def test_any_bytes_give_rows_or_reasons(tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str) -> None:
    found = rows(tmp_path_factory.mktemp("any") / f"a.{kind}", content)
    assert found
    assert all((row.value is None) == (row.reason is not None) for row in found)
    assert {row.reason for row in found if row.reason} <= REASONS


@settings(max_examples=150, deadline=None)
@given(
    content=st.text(alphabet='[]{}",:\\a1 \n', max_size=60),
    kind=st.sampled_from(["json", "csv"]),
    front=st.sampled_from(["[", "{", ""]),
)
def test_any_structure_gives_rows_or_reasons(
    tmp_path_factory: pytest.TempPathFactory, content: str, kind: str, front: str
) -> None:
    found = rows(tmp_path_factory.mktemp("any") / f"a.{kind}", front + content + " ")
    assert {row.reason for row in found if row.reason} <= REASONS


def test_a_string_that_never_ends_is_told_with_its_place(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.jsonl", b'{"broken\n')[0].detail == "Unterminated string starting at character 1"
