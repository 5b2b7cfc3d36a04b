"""A file is read to its end whatever is in it, and every line is either an object or has a reason."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import DataError
from burnish.data.record import RawRow
from burnish.data.sources import refusal
from burnish.data.sources.lines import read_jsonl
from burnish.data.sources.read import read
from burnish.data.sources.spec import SourceSpec

REASONS = {
    "blank line", "NUL byte", "not UTF-8", "broken JSON", "half a surrogate pair", "not a JSON object",
    "line over 16.0 MiB",
}  # fmt: skip


def lines(path: Path, content: bytes) -> list[RawRow]:
    file = path / "rows.jsonl"
    file.write_bytes(content)
    return list(read(str(file)))


def short_lines(content: bytes, longest: int) -> list[RawRow]:
    return list(read_jsonl(io.BytesIO(content), SourceSpec("rows"), "rows", longest=longest))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "blank line"),
        (b" \t\r", "blank line"),
        (b'{"a": "\x00"}', "NUL byte"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ("ünï".encode("utf-16"), "NUL byte"),
        (b"\x1f\x8b\x08gzip", "not UTF-8"),
        (b'{"a": 1', "broken JSON"),
        (b"plain words", "broken JSON"),
        (b'{"a": NaN}', "broken JSON"),
        (b'{"a": -Infinity}', "broken JSON"),
        (b'{"a": 1, "a": 2}', "broken JSON"),
        (b'{"a": {"b": 1, "b": 2}}', "broken JSON"),
        (b'{"a": 1} {"b": 2}', "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "broken JSON"),
        (b'{"a": [1e999]}', "broken JSON"),
        (b'{"a": -1E+400}', "broken JSON"),
        (b'{"a": ' + b"9" * 400 + b".5}", "broken JSON"),
        (b'{"a": "\\ud83d"}', "half a surrogate pair"),
        (b'{"\\udc00": 1}', "half a surrogate pair"),
        (b'["a"]', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"text"', "not a JSON object"),
    ],
)
def test_a_line_that_is_no_row_has_a_reason_and_the_next_line_is_read(tmp_path: Path, raw: bytes, reason: str) -> None:
    first, second = lines(tmp_path, raw + b"\n" + b'{"ok": 1}\n')
    assert (first.value, first.reason) == (None, reason)
    assert (second.value, second.reason, second.origin.line) == ({"ok": 1}, None, 2)
    assert reason in REASONS


def test_a_byte_order_mark_and_carriage_returns_do_no_harm(tmp_path: Path) -> None:
    assert [line.value for line in lines(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n{"b": 2}\r\n')] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_lines_as_windows_writes_them_are_read_with_their_line_numbers(tmp_path: Path, encoding: str) -> None:
    found = lines(tmp_path, '{"a": "Zoë 東"}\r\nbroken\r\n{"b": "\U0001f6eb"}'.encode(encoding))
    assert [line.value for line in found] == [{"a": "Zoë 東"}, None, {"b": "\U0001f6eb"}]
    assert [(line.origin.line, line.reason) for line in found][1] == (2, "broken JSON")


def test_a_byte_order_mark_in_the_middle_is_a_reason(tmp_path: Path) -> None:
    assert lines(tmp_path, b'{"a": 1}\n\xef\xbb\xbf{"b": 2}\n')[1].reason == "broken JSON"


def test_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    assert [line.value for line in lines(tmp_path, b'{"a": 1}\n{"b": 2}')] == [{"a": 1}, {"b": 2}]


def test_a_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    assert lines(tmp_path, b'{"a": "\\ud83d\\udeec"}')[0].value == {"a": "🛬"}


@pytest.mark.parametrize("length", [31, 32, 33, 64, 65, 1000])
def test_a_line_over_the_limit_is_skipped_as_one_line(length: int) -> None:
    found = short_lines(b"x" * length + b'\n{"ok": 1}\n', 32)
    assert len(found) == 2
    assert found[0].reason == ("line over 16.0 MiB" if length > 32 else "broken JSON")
    assert found[1].value == {"ok": 1}


def test_the_limit_of_a_line_is_16_mebibytes(tmp_path: Path) -> None:
    longest = b'{"a": "' + b"x" * (refusal.LONGEST_ROW_BYTES - 9) + b'"}'
    found = lines(tmp_path, longest + b"\n" + b'{"a": "' + b"x" * refusal.LONGEST_ROW_BYTES + b'"}\n{"b": 1}')
    assert [line.reason for line in found] == [None, "line over 16.0 MiB", None]
    assert len(found[1].text) < 20_000


def test_a_line_knows_its_file_and_its_number(tmp_path: Path) -> None:
    found = lines(tmp_path, b'{"a": 1}\n\n{"b": 1}\n')
    assert [line.origin.line for line in found] == [1, 2, 3]
    assert {line.origin.file for line in found} == {str(tmp_path / "rows.jsonl")}


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    heard: list[int] = []
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n' + b"y" * 100 + b"\n{}")
    list(read(str(file), at=heard.append))
    assert heard == sorted(heard)
    assert heard[-1] == file.stat().st_size


def test_a_missing_file_is_an_error_that_says_where_was_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"gone.jsonl does not exist .looked in {tmp_path}"):
        read("gone.jsonl")


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        lines(tmp_path, b"")


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no file"):
        read(str(tmp_path))


def test_a_device_is_an_error() -> None:
    with pytest.raises(DataError, match="not a regular file"):
        read("/dev/null")


def test_a_relative_path_is_read_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n')
    monkeypatch.chdir(tmp_path / "sub")
    assert [line.value for line in read("../rows.jsonl")] == [{"a": 1}]


def test_two_thousand_random_lines_each_give_an_object_or_a_reason(tmp_path: Path) -> None:
    chance = random.Random(7)
    seeds = [
        b'{"instruction": "hi", "response": "yo"}',
        b'{"messages": [{"role": "user", "content": "\xc3\xa9"}]}',
        b"[1]",
    ]

    def line() -> bytes:
        raw = bytearray(chance.choice([*seeds, chance.randbytes(chance.randrange(60))]))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(raw) + 1)
            raw[at:at] = (
                chance.randbytes(1) if chance.random() < 0.5 else chance.choice([b'"', b"{", b"\\", b"}", b"\\u00"])
            )
        return bytes(raw).replace(b"\n", b" ")

    raw = [line() for _ in range(2000)]
    found = lines(tmp_path, b"\n".join(raw) + b"\n")
    assert len(found) == 2000
    assert all((line.value is None) == (line.reason is not None) for line in found)
    assert {line.reason for line in found if line.reason} <= REASONS
    assert len({line.reason for line in found}) >= 5


@given(content=st.binary(min_size=1, max_size=200))
def test_the_number_of_lines_is_the_number_of_lines(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("any") / "rows.jsonl"
    file.write_bytes(content)
    assert len(list(read(str(file)))) == content.count(b"\n") + (not content.endswith(b"\n"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(), json_values, max_size=4))
def test_any_object_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]
) -> None:
    found = lines(tmp_path_factory.mktemp("any"), json.dumps(value, ensure_ascii=False).encode() + b"\n")
    assert found[0].value == value
