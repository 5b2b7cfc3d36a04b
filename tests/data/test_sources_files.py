"""Folders, globs, archives and compressed files; bombs, pipes, circles and files that change."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.errors import DataError
from burnish.data.sources.compression import Limits
from burnish.data.sources.read import read, stored_bytes, stored_files
from burnish.data.sources.refusal import REASONS
from burnish.data.sources.spec import SourceSpec, shown

ROW = b'{"a": 1}\n'


def zstd(raw: bytes) -> bytes:
    return bytes(pa.compress(raw, codec="zstd", asbytes=True))


PRESS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


@pytest.mark.parametrize("suffix", PRESS)
def test_a_compressed_file_is_read_as_what_is_in_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(PRESS[suffix](ROW * 3) + PRESS[suffix](b'{"a": 2}\n'))
    assert [row.value for row in read(str(path))] == [{"a": 1}] * 3 + [{"a": 2}]


@pytest.mark.parametrize("suffix", PRESS)
def test_a_truncated_file_gives_its_beginning_and_a_reason(tmp_path: Path, suffix: str) -> None:
    raw = PRESS[suffix](b"".join(b'{"a": "%x"}\n' % (n * 7919**3) for n in range(100_000)))
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(raw[: len(raw) - 40])
    found = list(read(str(path)))
    assert found[-1].reason == "damaged file"
    assert found[-1].origin.line == len(found)


def test_parquet_in_gzip_and_in_zip_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
    raw = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(raw))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as made:
        made.write(tmp_path / "a.parquet", "x/a.parquet")
    assert [row.value for row in read(str(tmp_path))] == [{"a": 1}, {"a": 2}] * 3


def test_a_json_array_in_gzip_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"data": [{"a": 1}]}'))
    assert [row.value for row in read(str(tmp_path / "a.json.gz"))] == [{"a": 1}]


@pytest.mark.parametrize("suffix", PRESS)
def test_a_bomb_is_a_reason(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(PRESS[suffix](b"\n" * 600_000))
    found = list(read(str(tmp_path / f"a.jsonl.{suffix}"), limits=Limits(ratio=250, free=100_000)))
    assert found[-1].reason == "expands too far"
    assert len(found) <= 400_000


def test_members_of_an_archive_count_together(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for number in range(5):
            made.writestr(f"{number}.jsonl", ROW * 100_000)
    found = list(read(str(tmp_path / "a.zip"), limits=Limits(total=2_000_000)))
    assert [row.reason for row in found if row.reason] == ["expands too far"] * 3


def test_members_have_names_and_unsafe_ones_are_reasons(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for name in ("b/x.jsonl", "a.jsonl.gz", "../evil.jsonl", "/etc/x.jsonl", "deep.zip", "x.foo", ".hidden.jsonl"):
            made.writestr(name, gzip.compress(ROW) if name.endswith("gz") else ROW)
    found = {row.origin.file.removeprefix(f"{tmp_path}/"): row.reason for row in read(str(tmp_path / "a.zip"))}
    assert found == {
        "a.zip/../evil.jsonl": "unsafe name in an archive",
        "a.zip//etc/x.jsonl": "unsafe name in an archive",
        "a.zip/a.jsonl.gz": None,
        "a.zip/b/x.jsonl": None,
        "a.zip/deep.zip": "archive within an archive",
        "a.zip/x.foo": "unknown kind of file",
    }


def test_a_kind_that_is_given_is_that_of_the_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("rows.dat", ROW)
    assert [row.value for row in read(SourceSpec(str(tmp_path / "a.zip"), kind="jsonl"))] == [{"a": 1}]


def test_what_is_no_archive_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    assert [row.reason for row in read(str(tmp_path / "a.zip"))] == ["damaged file"]


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.jsonl", ".hidden.jsonl", ".git/x.jsonl", "note.foo"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(ROW)
    found = list(read(str(tmp_path)))
    names = [str(Path(row.origin.file).relative_to(tmp_path)) for row in found]
    assert names == ["a/z.jsonl", "b.jsonl", "note.foo"]
    assert [row.reason for row in found] == [None, None, "unknown kind of file"]
    assert {row.origin.source for row in found} == {str(tmp_path)}
    assert [path.name for path in stored_files(str(tmp_path))] == ["z.jsonl", "b.jsonl", "note.foo"]


def test_a_glob_finds_files(tmp_path: Path) -> None:
    for name in ("a1.jsonl", "a2.jsonl", "b.jsonl", "sub/a3.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(ROW)
    assert len(list(read(f"{tmp_path}/a*.jsonl"))) == 2
    assert len(list(read(f"{tmp_path}/**/a*.jsonl"))) == 3
    with pytest.raises(DataError, match="matches no file"):
        read(f"{tmp_path}/c*.jsonl")


def test_a_folder_without_usable_files_says_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.foo").write_bytes(b"x")
    with pytest.raises(DataError, match=r"has 1 files .*a\.foo.*\.jsonl"):
        read(str(tmp_path))


def test_pipes_empty_files_broken_links_and_circles_in_a_folder_are_reasons(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/loop").symlink_to(tmp_path)
    (tmp_path / "self.jsonl").symlink_to(tmp_path / "self.jsonl")
    (tmp_path / "ok.jsonl").write_bytes(ROW)
    found = {Path(row.origin.file).name: row.reason for row in read(str(tmp_path))}
    assert found == {
        "pipe.jsonl": "not a regular file",
        "empty.jsonl": "empty file",
        "gone.jsonl": "cannot be read",
        "self.jsonl": "cannot be read",
        "loop": "link that leads back",
        "ok.jsonl": None,
    }


def test_a_pipe_by_itself_is_an_error_and_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="not a regular file"):
        read(str(tmp_path / "pipe.jsonl"))


def test_a_file_that_grows_is_read_to_its_old_end_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(ROW * 5)
    rows = read(str(path))
    first = next(rows)
    with path.open("ab") as file:
        file.write(ROW * 5)
    found = [first, *rows]
    assert [row.reason for row in found] == [None] * 5 + ["changed while it was read"]


def test_a_file_that_shrinks_or_vanishes_is_told(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(ROW * 100_000)
    rows = read(str(tmp_path))
    next(rows)
    os.truncate(tmp_path / "a.jsonl", 5)
    (tmp_path / "b.jsonl").unlink()
    found = {Path(row.origin.file).name: row.reason for row in rows}
    assert found == {"a.jsonl": "changed while it was read", "b.jsonl": "cannot be read"}


def test_progress_counts_the_stored_bytes_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROW * 100)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(ROW * 100))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "c.parquet")
    heard: list[int] = []
    list(read(str(tmp_path), at=heard.append))
    assert heard == sorted(heard)
    assert heard[-1] == stored_bytes(str(tmp_path))


def test_a_name_that_says_nothing_is_read_as_rows_when_it_begins_like_one(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(ROW)
    assert [row.value for row in read(str(tmp_path / "rows"))] == [{"a": 1}]
    (tmp_path / "rows.foo").write_bytes(ROW)
    with pytest.raises(DataError, match="is of no kind that burnish can read"):
        read(str(tmp_path / "rows.foo"))
    assert [row.value for row in read(SourceSpec(str(tmp_path / "rows.foo"), kind="jsonl"))] == [{"a": 1}]


def test_a_missing_library_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    code = (
        "import sys; sys.modules['pypdfium2'] = None\n"
        "from burnish.core.errors import DataError\nfrom burnish.data.sources.read import read\n"
        f"try: read({str(tmp_path / 'a.pdf')!r})\nexcept DataError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("pip install 'burnish[readers]'")


def test_reading_rows_imports_nothing_heavy() -> None:
    heavy = "{'openpyxl', 'trafilatura', 'pypdfium2', 'docx', 'datasets', 'sqlalchemy', 'psycopg', 'fsspec', 'pyarrow'}"
    code = f"import sys, burnish.data.sources.read; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_line_of_50_mebibytes_and_a_bomb_leave_the_memory_small(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROW + b'{"a": "' + b"x" * (50 * 2**20) + b'"}\n' + ROW)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"x" * (150 * 2**20), 9))
    (tmp_path / "c.json").write_bytes(b'[{"a": "' + b"x" * (50 * 2**20) + b'"}, {"a": 1}]')
    (tmp_path / "d.csv").write_bytes(b'a,b\n1,"' + b"x" * (50 * 2**20) + b"\n1,2\n")
    code = (
        "import resource\nfrom burnish.data.sources.read import read\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"for row in read({str(tmp_path)!r}): print(row.reason)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *reasons, grown = done.stdout.split("\n")[:-1]
    too_long = "line over 16.0 MiB"
    assert reasons == ["None", too_long, "None", "expands too far", too_long, "None", too_long, "None"]
    assert int(grown) < 250 * 1024, grown


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("s3://key:secret@bucket/a.jsonl", "s3://bucket/a.jsonl"),
        ("https://h/a.jsonl?X-Amz-Signature=secret#secret", "https://h/a.jsonl"),
        (
            "sql:postgresql://me:sec/ret@p@host/base?password=secret SELECT '?' AS q",
            "sql:postgresql://host/base SELECT '?' AS q",
        ),
        ("sql:$URL SELECT 'a://b'", "sql:$URL SELECT 'a://b'"),
        ("data/rows.jsonl", "data/rows.jsonl"),
    ],
)
def test_a_name_is_shown_without_what_is_secret(url: str, seen: str) -> None:
    assert shown(url) == seen


@settings(max_examples=120, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=300),
    suffix=st.sampled_from(["jsonl.gz", "csv.bz2", "json.xz", "txt.zst", "zip", "parquet.gz"]),
    front=st.sampled_from(
        [b"", b"\x1f\x8b\x08\0\0\0\0\0\0\3", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"]
    ),
)
def test_any_bytes_give_rows_or_reasons(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str, front: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / f"a.{suffix}"
    path.write_bytes(front + content)
    found = list(read(str(path)))
    assert found
    assert {row.reason for row in found if row.reason} <= REASONS
