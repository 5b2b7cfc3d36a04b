"""The same rows give the same shards; differences and deletions are told row by row; others can read what leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preparing import Prepare

from burnish.core.artifacts import Adapter, BaseRef, FileRef, Manifest, MethodPlan, TextFingerprint
from burnish.core.errors import DataError, UsageError
from burnish.core.ids import content_id, file_sha256
from burnish.data.versions import shards
from burnish.data.versions.diff import diff, rejected_rows
from burnish.data.versions.export import dvc_pointer, export_datasets
from burnish.data.versions.forget import forget, without
from burnish.data.versions.shards import Span, Version, held, row_id, write_shards
from burnish.store.home import Home

Row = tuple[str, Span, dict[str, Any]]


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def row(number: int, answer: str = "yes", split: str = "train", file: str = "in/a.jsonl") -> Row:
    return split, Span("main", file, number), chat(f"question {number}?", answer)


def version(root: Path, rows: list[Row], rejected: list[dict[str, Any]] | None = None) -> Version:
    written = write_shards(rows, root / "shards", root, expected_rows=len(rows))
    ledger = None
    if rejected is not None:
        text = "".join(json.dumps(record) + "\n" for record in rejected)
        path = root / f"{content_id(rejected)}.jsonl"
        path.write_text(text)
        ledger = FileRef(path=path.name, sha256=file_sha256(path), size_bytes=path.stat().st_size)
    return Version(parents=(), shards=written, rejected=ledger, settings={})


def refused(line: int, reason: str, file: str = "in/a.jsonl") -> dict[str, Any]:
    return {"file": file, "line": line, "reason": reason, "detail": "", "row": "..."}


def test_rows_come_back_under_the_hash_of_their_content(tmp_path: Path) -> None:
    rows = [row(1), row(2, split="test"), ("train", Span("docs", "é.pdf", 3, 10, 90), {"text": "Zürich 🛬\n\0"})]
    found = list(held(version(tmp_path, rows), tmp_path))
    assert {(r.row_id, r.split, r.span) for r in found} == {(content_id(c), split, span) for split, span, c in rows}
    assert {r.content for r in found} == {shards.canonical(content) for _, _, content in rows}


def test_a_file_name_that_is_no_text_does_not_stop_a_version(tmp_path: Path) -> None:
    made = version(tmp_path, [("train", Span("main", "b\udcffd.txt", 1), {"text": "a"})])
    assert [r.span.file for r in held(made, tmp_path)] == ["b?d.txt"]


def test_shards_are_named_by_their_bytes_and_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [row(number, split="test" if number % 4 == 0 else "train") for number in range(50)]
    a = version(tmp_path / "a", rows)
    b = version(tmp_path / "b", rows[::-1])
    assert a == b
    assert a.id == b.id
    assert a.rows() == {"train": 37, "test": 13}
    for shard in a.shards:
        path = tmp_path / "a" / shard.file.path
        assert path.stem == file_sha256(path) == shard.file.sha256
        assert path.read_bytes() == (tmp_path / "b" / shard.file.path).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a" / "shards").iterdir()) == sorted(
        Path(shard.file.path).name for shard in a.shards
    )


def test_one_more_row_changes_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 16)
    rows = [row(number) for number in range(100)]
    a = version(tmp_path, rows)
    b = version(tmp_path, [*rows, row(100)])
    assert len(a.shards) == len(b.shards) == 8
    assert len({s.file.sha256 for s in a.shards} & {s.file.sha256 for s in b.shards}) == 7


def test_what_json_cannot_say_is_an_error() -> None:
    for value in (2**60, float("nan"), "\ud800"):
        with pytest.raises(DataError, match="canonical JSON"):
            row_id({"x": value})


def test_a_difference_by_hand(tmp_path: Path) -> None:
    a = version(
        tmp_path,
        [row(1), row(2), row(3), row(4), row(5), row(6, file="b.jsonl")],
        [refused(7, "near duplicate")],
    )
    b = version(
        tmp_path,
        [row(1), row(2, "no"), row(3, split="test"), row(7), row(8), row(9, file="c.jsonl")],
        [refused(4, "duplicate")],
    )
    found = diff(a, b, tmp_path)
    ids = {number: row_id(row(number)[2]) for number in range(1, 10)}
    assert found.same == 1
    assert {(c.row_id, c.reason) for c in found.added} == {
        (ids[7], "was rejected: near duplicate"),
        (ids[8], "new in the file"),
        (ids[9], "new file"),
    }
    assert {(c.row_id, c.reason) for c in found.removed} == {
        (ids[4], "duplicate"),
        (ids[5], "no longer in the file"),
        (ids[6], "file left out"),
    }
    assert [(c.before, c.after) for c in found.changed] == [(ids[2], row_id(row(2, "no")[2]))]
    assert [(m.row_id, m.before, m.after) for m in found.moved] == [(ids[3], "train", "test")]
    assert found.reasons()["removed"] == {"duplicate": 1, "no longer in the file": 1, "file left out": 1}
    assert json.loads(json.dumps(found.as_json()))["a"] == a.id


VERSION = st.dictionaries(st.integers(0, 8), st.tuples(st.integers(0, 2), st.sampled_from(["train", "test"])))


@given(before=VERSION, after=VERSION)
@settings(max_examples=60, deadline=None)
def test_differences_are_those_of_sets(
    tmp_path_factory: pytest.TempPathFactory,
    before: dict[int, tuple[int, str]],
    after: dict[int, tuple[int, str]],
) -> None:
    root = tmp_path_factory.mktemp("diff")
    a, b = (version(root, [row(n, str(x), s) for n, (x, s) in rows.items()]) for rows in (before, after))
    found = diff(a, b, root)
    assert {c.span.line for c in found.added} == after.keys() - before.keys()
    assert {c.span.line for c in found.removed} == before.keys() - after.keys()
    both = before.keys() & after.keys()
    assert {c.span.line for c in found.changed} == {n for n in both if before[n][0] != after[n][0]}
    assert len(found.moved) == sum(before[n][0] == after[n][0] and before[n][1] != after[n][1] for n in both)
    assert found.same == sum(before[n] == after[n] for n in both)
    back = diff(b, a, root)
    assert {c.row_id for c in back.added} == {c.row_id for c in found.removed}


def test_rejected_rows_are_listed_by_reason(tmp_path: Path) -> None:
    a = version(tmp_path, [row(1)], [refused(2, "not JSON"), refused(3, "duplicate")])
    assert [record["line"] for record in rejected_rows(a, tmp_path, "duplicate")] == [3]
    assert len(list(rejected_rows(a, tmp_path))) == 2
    with pytest.raises(DataError, match=r'"not JSON" \(1\), "duplicate" \(1\)'):
        list(rejected_rows(a, tmp_path, "dupe"))


def conversations(count: int, person: str) -> list[dict[str, Any]]:
    places = ["Oslo", "Rome", "Lima", "Kyiv", "Bern", "Cairo", "Delhi", "Tunis", "Accra", "Quito"]
    return [
        chat(f"{person if number == 3 else 'Someone'} flies to {places[number]} on day {number}", f"answer {number}")
        for number in range(count)
    ]


def test_manifests_of_prepare_are_compared_and_searched(run_prepare: Prepare, tmp_path: Path) -> None:
    rows = conversations(10, "Ada  Lovelace")
    first = run_prepare(rows, folder="one", prepare={"test_share": 0.3})
    second = run_prepare([*rows[:5], b"{broken", *rows[6:]], folder="two", prepare={"test_share": 0.3})
    found = diff(first.manifest, second.manifest, tmp_path)
    assert [change.reason for change in found.removed] == [record["reason"] for record in second.rejected()]
    assert (found.added, found.changed, found.moved, found.same) == ((), (), (), 9)
    assert [record["line"] for record in rejected_rows(second.manifest, tmp_path)] == [6]

    home = Home(tmp_path)
    for prepared in (first, second):
        home.save(prepared.manifest)
    one, two = (adapter(prepared.manifest) for prepared in (first, second))
    home.save(one)
    gone = forget(home, text="ada lovelace")
    assert set(gone.versions) == {first.manifest.id, second.manifest.id}
    assert [finding.span.line for finding in gone.versions[first.manifest.id]] == [4]
    assert set(gone.adapters) == {one.id}
    home.save(two)
    assert set(forget(home, document=str(tmp_path / "rows.jsonl:6")).adapters) == {one.id}  # the second's is broken
    assert forget(home, document="other.jsonl").leave_out == ()
    assert forget(home, text="Ada").leave_out == gone.leave_out
    assert forget(home, row=gone.leave_out[0][:12]).versions == gone.versions
    assert forget(home, text="da Lovelace").leave_out == ()  # no whole word
    (first.folder / "train.rows.json").unlink()
    assert forget(home, text="Ada").unread == (first.manifest.id,)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        (
            "Ada Lovelace",
            ["ADA LOVELACE's", "Ada\nLovelace", "Ada-Lovelace", "ada.lovelace", "Lovelace, Ada", "ada_lovelace"],
        ),
        ("Ada Byron Lovelace", ["Lovelace, Ada Byron", "Ada  Byron   Lovelace"]),
        ("Zoë Müller", ["Zoe Muller", "ZOE\u0308 MÜLLER"]),
        ("José", ["jose"]),
        ("+1 212-555-0123", ["1 (212) 555 0123", "12125550123", "+1.212.555.0123"]),
        ("ada@example.org", ["<Ada@Example.org>"]),
    ],
)
def test_a_person_is_found_however_the_name_or_number_is_spelled(
    run_prepare: Prepare, tmp_path: Path, text: str, spelled: list[str]
) -> None:
    rows = [chat(f"{name} flies on day {number}", f"answer {number}") for number, name in enumerate(spelled)]
    others = ["Adam Lovelace", "Ada of Lovelace", "Zoé Mullers", "12125550123456", "x1212555012"]
    rows += [chat(f"{name} flies to {number}", f"other {number}") for number, name in enumerate(others)]
    home = Home(tmp_path)
    home.save(run_prepare(rows, prepare={"personal_data": {"action": "keep"}, "test_share": 0.3}).manifest)
    found = [finding.span.line for rows in forget(home, text=text).versions.values() for finding in rows]
    assert sorted(found) == list(range(1, len(spelled) + 1))


def adapter(manifest: Manifest) -> Adapter:
    file = FileRef(path="x", sha256="f" * 64, size_bytes=1)
    return Adapter(
        name="test",
        base=BaseRef(name="tiny", digest="b" * 64),
        plan="c" * 64,
        manifest=manifest.id,
        method=MethodPlan(
            kind="lora",
            rank=1,
            alpha=1.0,
            dropout=0.0,
            targets=("q_proj",),
            quantisation="none",
            double_quantisation=False,
        ),
        fingerprint=TextFingerprint(tokenizer_sha256="1", template_sha256="2", system=None),
        weights_file=file,
        config_file=file,
    )


def test_a_version_without_a_person_holds_none_of_their_rows(tmp_path: Path) -> None:
    home = Home(tmp_path)
    rows = [("train", Span("main", "a.jsonl", n), content) for n, content in enumerate(conversations(10, "Ada"), 1)]
    before = version(tmp_path, rows)
    gone = forget(home, text="ADA", versions=[before])
    kept = list(without(held(before, tmp_path), gone.leave_out))
    after = version(tmp_path, kept)
    assert after.rows() == {"train": 9}
    assert forget(home, text="ADA", versions=[after]).leave_out == ()
    assert [change.row_id for change in diff(before, after, tmp_path).removed] == list(gone.leave_out)


@pytest.mark.parametrize(
    "arguments", [{}, {"text": "a", "document": "b"}, {"text": " - "}, {"document": ""}, {"row": "abc"}]
)
def test_a_subject_that_is_none_is_an_error(tmp_path: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        forget(Home(tmp_path), **arguments)


def test_datasets_reads_what_was_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    rows = [row(n, split="task: odd" if n % 3 == 0 else "train") for n in range(1, 10)]
    rows.append(("train", Span("main", "b.jsonl", 1), {**chat("x", "y"), "tools": [{"a": 1}, {"a": "one"}]}))
    made = version(tmp_path, [(split.replace(": ", "_"), span, content) for split, span, content in rows])
    assert export_datasets(made, tmp_path, tmp_path / "out") == {"task_odd": 3, "train": 7}
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == {"task_odd": 3, "train": 7}
    for split, span, content in rows:
        name = split.replace(": ", "_")
        found = next(r for r in loaded[name] if (r["file"], r["line"]) == (span.file, span.line))
        assert found["messages"] == content["messages"]
        assert found["id"] == row_id(content)
    assert json.loads(next(r for r in loaded["train"] if r["tools"])["tools"]) == [{"a": 1}, {"a": "one"}]
    plain = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out/data/train/*.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert plain["train"].num_rows == 7


# Written by `dvc add data one.bin` of DVC 3.67.1.
DVC_FOLDER = """outs:
- md5: f5b9ffc24da725edccd06b685903b8cb.dir
  size: 7
  nfiles: 2
  hash: md5
  path: data
"""
DVC_FILE = """outs:
- md5: b1946ac92492d2347c6235b4d2611184
  size: 6
  hash: md5
  path: one.bin
"""


def test_pointers_are_those_that_dvc_wrote(tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "b.txt").write_bytes(b"hello\n")
    (tmp_path / "data" / "a.txt").write_bytes(b"x")
    (tmp_path / "one.bin").write_bytes(b"hello\n")
    assert dvc_pointer(tmp_path / "data").read_text() == DVC_FOLDER
    assert dvc_pointer(tmp_path / "one.bin").read_text() == DVC_FILE
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "missing"):
        with pytest.raises(DataError, match="nothing for DVC"):
            dvc_pointer(tmp_path / nothing)


@pytest.mark.skipif(not (os.environ.get("DVC") or shutil.which("dvc")), reason="no dvc; name its program in $DVC")
def test_dvc_itself_finds_nothing_to_change_in_a_pointer(tmp_path: Path) -> None:
    dvc = os.environ.get("DVC") or "dvc"

    def call(*arguments: str) -> str:
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    for name in ("a-b/x", "a/x", "a.b", "Z", "é", "a b"):
        path = tmp_path / "my data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    call("git", "init", "-q")
    call(dvc, "init", "-q")
    pointer = dvc_pointer(tmp_path / "my data")
    ours = pointer.read_text()
    call(dvc, "commit", "--force", "-q", pointer.name)
    assert pointer.read_text() == ours
    assert "up to date" in call(dvc, "status")
    pointer.unlink()
    call(dvc, "add", "-q", "my data")
    assert pointer.read_text() == ours
