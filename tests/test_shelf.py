"""Files are named by their content and end where the rows say, so that versions share what they have in common."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.cli import main
from burnish.core.errors import DataError
from burnish.core.ids import file_sha256
from burnish.data import shelf
from burnish.data.chunk import Rendering, Row
from burnish.data.rows import SplitWriter, read_messages, read_token_rows, rows_path, tokens_path
from burnish.data.shelf import cuts, indexed, unnamed
from burnish.data.tables import tables

DVC = os.environ.get("DVC") or shutil.which("dvc")


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "CUT_ROWS", 8)


def row(number: int) -> Row:
    rendering = Rendering(np.array([number, 7], np.uint16), np.array([0, 1], np.uint8), 0, 1)
    return Row(
        number, 0, 0, "rows.jsonl", f"id{number}", f'[{{"role":"user","content":"{number}"}}]', None, None, "messages",
        None, None, None, (rendering,), 2, 2,
    )  # fmt: skip


def write(folder: Path, numbers: list[int], batch: int, shared: Path) -> list[str]:
    writer = SplitWriter(folder, "train", shared)
    for start in range(0, len(numbers), batch):
        writer.add(tables([row(number) for number in numbers[start : start + batch]]))
    writer.close()
    for path, read in ((rows_path, read_messages), (tokens_path, read_token_rows)):
        found = read(path(folder, "train"))
        assert [each.row_id for each in found] == [f"id{number}" for number in numbers]
        assert all(file.stem == file_sha256(file) for file in indexed(path(folder, "train")))
    return [file.sha256 for pair in writer.files for file in pair]


@settings(deadline=None, max_examples=30)
@given(
    numbers=st.lists(st.integers(0, 400), unique=True, min_size=1, max_size=120),
    batches=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_the_files_follow_from_the_rows_and_not_from_how_they_came(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], batches: tuple[int, int]
) -> None:
    folder = tmp_path_factory.mktemp("shelf")
    first, second = (write(folder / str(n), numbers, batch, folder / "all") for n, batch in enumerate(batches))
    assert first == second
    assert {path.stem for path in (folder / "all").iterdir()} == set(first), "nothing half-written is left"


def test_a_version_with_one_row_more_shares_all_other_files(tmp_path: Path) -> None:
    numbers = list(range(300))
    before = write(tmp_path / "a", numbers, 64, tmp_path / "all")
    after = write(tmp_path / "b", [*numbers[:150], 999, *numbers[150:]], 64, tmp_path / "all")
    assert len(before) > 40
    assert len(set(before) - set(after)) <= 2, "the rows and the tokens of one place"
    assert len(list((tmp_path / "all").iterdir())) == len(set(before) | set(after))


def test_a_file_ends_before_it_outgrows_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("burnish.data.rows.MOST_BYTES", 2000)
    monkeypatch.setattr(shelf, "CUT_ROWS", 1 << 40)
    assert cuts(["id1", "id2"]) == []
    assert len(write(tmp_path / "a", list(range(200)), 10, tmp_path / "all")) > 10


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "{}", '{"shelf": "..", "files": [{"sha256": "../../etc/passwd"}]}', '{"shelf": 3, "files": []}',
        '{"shelf": ".", "files": 7}', '{"files": []}',
    ],
)  # fmt: skip
def test_a_damaged_index_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.rows.json").write_text(content)
    with pytest.raises(DataError, match="Make it again"):
        read_messages(tmp_path / "train.rows.json")


def test_only_old_files_that_nobody_names_go(tmp_path: Path) -> None:
    shared = tmp_path / shelf.SHELF
    names = write(tmp_path / "a", list(range(40)), 40, shared)
    (shared / ".writing-x").write_text("half")
    (shared / "notes.txt").write_text("mine")
    assert unnamed(tmp_path, names[:1]) == [], "they are young"
    for path in shared.iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    gone = {path.name for path in unnamed(tmp_path, names[:1])}
    assert gone == {".writing-x", *(f"{name}.parquet" for name in set(names) - {names[0]})}


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*arguments, "--json", "-q", "--home", "home"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    recipe = {"name": "desk", "base": str(tiny_base), "data": "rows.jsonl", "method": "lora"}
    Path("desk.yaml").write_text(yaml.safe_dump(recipe))
    write_rows(120)
    return tmp_path


def write_rows(count: int) -> None:
    rows = [
        {"instruction": f"order {n} of {n * 31}", "response": f"it is {n}", "split": "test" if n % 10 == 0 else "train"}
        for n in range(count)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))


def test_datasets_of_a_home_share_files_and_prune_keeps_what_is_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "prepare", "desk.yaml")[0] == 0
    _, first = said(capsys, "data", "show")
    before = set(Path("home/shards").iterdir())
    write_rows(125)
    assert said(capsys, "prepare", "desk.yaml")[0] == 0
    _, second = said(capsys, "data", "show")
    after = set(Path("home/shards").iterdir())
    assert len(before) > 20
    assert len(after - before) <= 6, "train's and test's last files, rows and tokens"
    for path in after:
        os.utime(path, (time.time() - 7200,) * 2)
    assert said(capsys, "data", "prune") == (0, {"files": 0, "bytes": 0})
    shutil.rmtree(Path("home", first["splits"]["train"]["file"]["path"]).parent)
    _, gone = said(capsys, "data", "prune")
    assert 0 < gone["files"] <= 6
    _, rows = said(capsys, "data", "rows", "--limit", "1000")
    assert len(rows) == second["splits"]["train"]["rows"]
    next(iter(set(Path("home/shards").iterdir()))).unlink()
    code, told = said(capsys, "data", "show", second["id"][:12])
    assert (code, "Make it again" in told["error"]["message"]) == (2, True)
    assert said(capsys, "prepare", "desk.yaml")[0] == 0, "what is missing is made again"
    assert said(capsys, "data", "show", second["id"][:12])[0] == 0


def test_an_export_is_brought_up_to_date_in_its_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "prepare", "desk.yaml")
    assert said(capsys, "data", "export", "latest", "out")[0] == 0
    before = {path.name: path.stat().st_mtime_ns for path in Path("out").rglob("*.parquet")}
    write_rows(125)
    said(capsys, "prepare", "desk.yaml")
    assert said(capsys, "data", "export", "latest", "out")[0] == 0
    after = {path.name: path.stat().st_mtime_ns for path in Path("out").rglob("*.parquet")}
    assert len(set(after) - set(before)) <= 3
    assert all(before[name] == after[name] for name in set(before) & set(after))
    loaded = pytest.importorskip("datasets").load_dataset("out", cache_dir="cache")
    _, shown = said(capsys, "data", "show")
    assert {name: split.num_rows for name, split in loaded.items()} == {
        name: split["rows"] for name, split in shown["splits"].items()
    }
    _, rows = said(capsys, "data", "rows", "--limit", "1000")
    assert loaded["train"]["id"] == [each["row_id"] for each in rows], "in the order of the dataset"


@pytest.mark.skipif(not DVC, reason="no dvc; name its program in $DVC")
def test_dvc_stores_only_what_changed_between_two_versions(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str) -> str:
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout

    def held() -> set[str]:
        return {path.name for path in Path(".dvc/cache").rglob("*") if path.is_file()}

    call("git", "init", "-q")
    call(str(DVC), "init", "-q")
    said(capsys, "prepare", "desk.yaml")
    code, done = said(capsys, "data", "export", "latest", "out", "--to", "dvc")
    assert (code, done["written"]) == (0, ["out", "out.dvc"])
    pointer = Path("out.dvc").read_text()
    call(str(DVC), "commit", "--force", "-q", "out.dvc")
    assert Path("out.dvc").read_text() == pointer, "DVC writes the pointer as burnish did"
    assert "up to date" in call(str(DVC), "status")
    before = held()
    write_rows(125)
    said(capsys, "prepare", "desk.yaml")
    assert said(capsys, "data", "export", "latest", "out", "--to", "dvc")[0] == 0
    call(str(DVC), "commit", "--force", "-q", "out.dvc")
    assert len(held() - before) <= 7, "three files of rows, the card, the manifest, the list of files"
    shutil.rmtree("out")
    call(str(DVC), "checkout", "-q", "out.dvc")
    assert "up to date" in call(str(DVC), "status")
