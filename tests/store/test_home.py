"""The home keeps whole files, finds artifacts again, and lets one process at a time work on a key."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from burnish.core.artifacts import BaseRef, GateVerdict, Manifest, Release
from burnish.core.errors import StoreError, UsageError
from burnish.store.files import file_ref, write_bytes, write_json
from burnish.store.home import Home


def release(name: str = "a") -> Release:
    gate = GateVerdict(passed=True, thresholds={}, reasons=())
    base = BaseRef(name="b", digest="d")
    return Release(name=name, alias=name, adapter="1", report="2", plan="3", manifest="4", base=base, gate=gate)


def test_what_is_saved_is_found_by_id_by_its_beginning_and_as_latest(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    first, second = release("a"), release("b")
    for item in (first, second):
        home.save(item)
    assert home.find(first.id) == first
    assert home.find(first.id[:12]) == first
    assert home.find("latest") == second
    assert home.all(Release) == [first, second]


@pytest.mark.parametrize("reference", ["latest", "abc", "../../etc", "zzzzzzzz", "0123456789"])
def test_a_reference_to_nothing_says_what_to_do(tmp_path: Path, reference: str) -> None:
    with pytest.raises(UsageError):
        Home(tmp_path).find(reference)


def test_a_changed_artifact_is_noticed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    identifier = home.save(release())
    path = tmp_path / "artifacts" / "release" / f"{identifier}.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"alias": "evil"}))
    with pytest.raises(StoreError, match="does not match its id"):
        home.load(Release, identifier)
    path.write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        home.load(Release, identifier)


def test_done_work_is_recalled_until_one_of_its_files_is_gone(tmp_path: Path) -> None:
    from burnish.core.artifacts import Histogram, Ledger, Split, TextFingerprint

    home = Home(tmp_path)
    paths = [home.folder("prepare", "k" * 64) / name for name in ("rows", "tokens", "rejected")]
    for path in paths:
        write_bytes(path, b"x")
    refs = [file_ref(path, home.root) for path in paths]
    split = Split(
        rows=1,
        tokens=1,
        unique_tokens=1,
        trained_tokens=1,
        longest_tokens=1,
        longest_answer_tokens=1,
        lengths=Histogram(edges=(0, 1), counts=(1,)),
        file=refs[0],
        token_file=refs[1],
    )
    manifest = Manifest(
        sources=(),
        fingerprint=TextFingerprint(tokenizer_sha256="1", template_sha256="2", system=None),
        ledger=Ledger(rows_in=0, rows_kept=0, rejected={}),
        splits={"train": split},
        personal_data={},
        leakage={},
        rejected_file=refs[2],
        settings={},
    )
    home.remember("prepare", "k" * 64, manifest)
    assert home.recall("prepare", "k" * 64, Manifest) == manifest
    assert home.recall("prepare", "j" * 64, Manifest) is None
    paths[1].unlink()
    assert home.recall("prepare", "k" * 64, Manifest) is None


def _hold(root: Path, ready: multiprocessing.Event, done: multiprocessing.Event) -> None:  # type: ignore[valid-type]
    with Home(root).working("train", "k" * 64):
        ready.set()
        done.wait(30)


def test_a_second_process_on_the_same_work_is_told_who_has_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, done))
    process.start()
    try:
        assert ready.wait(60)
        home = Home(tmp_path)
        with pytest.raises(StoreError, match=f"process {process.pid}"), home.working("train", "k" * 64):
            pass
        with home.working("train", "j" * 64):
            pass
    finally:
        done.set()
        process.join(30)
    with home.working("train", "k" * 64):
        pass


def test_an_unwritable_home_is_a_store_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(StoreError, match="--home"):
        Home(blocked / "home")


def test_a_write_leaves_the_old_bytes_or_the_new_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"ä": 1})
    write_json(path, {"ä": 2})
    assert path.read_text(encoding="utf-8") == '{\n  "ä": 2\n}\n'
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_says_so() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    from burnish.core.errors import ResourceError
    from burnish.store.files import unwritable

    with pytest.raises(OSError, match="No space") as caught, Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")
    assert isinstance(unwritable(Path("x"), caught.value), ResourceError)
