"""Differences and deletions are told row by row; others can read what leaves, with all that is known of a row."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preparing import Prepare, write_rows

from burnish.core.artifacts import Adapter, BaseRef, FileRef, Manifest, MethodPlan, TextFingerprint
from burnish.core.errors import DataError, UsageError
from burnish.core.recipe_file import parse_recipe
from burnish.data.prepare import prepare
from burnish.data.rows import iterate_messages
from burnish.data.versions.diff import diff, rejected_rows
from burnish.data.versions.export import dvc_pointer, export_datasets, export_lines
from burnish.data.versions.forget import forget
from burnish.data.versions.forgotten import row_hash
from burnish.data.versions.held import Span, held
from burnish.store.home import Home
from burnish.text.tokenizer import Tokenizer, load_tokenizer

PLACES = ("Oslo", "Rome", "Lima", "Kyiv", "Bern", "Cairo", "Delhi", "Tunis", "Accra", "Quito")


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def row(number: int, answer: str = "yes", split: str = "train", **more: Any) -> dict[str, Any]:
    words = " ".join(f"w{number}x{place}" for place in range(6))
    return chat(f"explain {words}", f"{answer} {number}", split=split, **more)


CALL = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"to": "Rome"}'}}
TOOL = {
    "type": "function",
    "function": {"name": "find", "parameters": {"type": "object", "properties": {"to": {"type": "string"}}}},
}


WITH_TOOLS = (
    "{% if tools %}{{'<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n'}}{% endif %}"
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']}}"
    "{% if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def calling(tokenizer: Tokenizer, tmp_path: Path) -> Tokenizer:
    """A tokenizer whose template writes tools and calls."""
    folder = shutil.copytree(tokenizer.folder, tmp_path / "calling")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": WITH_TOOLS}))
    return load_tokenizer(folder)


def test_rows_come_back_with_where_they_are_from_and_all_that_they_say(
    run_prepare: Prepare, tmp_path: Path, calling: Tokenizer
) -> None:
    turns = [
        {"role": "user", "content": "Z\u00fcrich \U0001f6ec"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
    ]
    done = run_prepare(
        [row(1), {"messages": turns, "tools": [TOOL], "split": "train"}, row(3, split="test")], tokenizer=calling
    )
    found = list(held(done.manifest, tmp_path))
    assert [(r.split, r.span) for r in found] == [
        ("train", Span("", "rows.jsonl", 1)), ("train", Span("", "rows.jsonl", 2)), ("test", Span("", "rows.jsonl", 3)),
    ]  # fmt: skip
    assert json.loads(found[1].content) == {"messages": turns, "tools": [TOOL]}
    assert [r.row_id for r in found] == [r.row_id for split in ("train", "test") for r in done.rows(split)]


def test_a_difference_by_hand(run_prepare: Prepare, tmp_path: Path, tokenizer: Tokenizer) -> None:
    def made(folder: str, one: list[Any], other: list[Any], name: str) -> Manifest:
        files = {"main": write_rows(tmp_path / "a.jsonl", one), "more": write_rows(tmp_path / name, other)}
        raw = {"name": "t", "base": "b", "data": {key: str(path) for key, path in files.items()}, "method": "lora"}
        return prepare(
            parse_recipe(raw, source="t"),
            tokenizer=tokenizer,
            folder=tmp_path / folder,
            root=tmp_path,
            emit=lambda _: None,
        )

    test = row(100, split="test")
    a = made("one", [row(1), row(2), row(3), row(4), row(5), row(3), test], [row(60)], "b.jsonl")
    b = made("two", [row(1), row(2, "no"), row(3, split="test"), row(1), b"{", row(9), test], [row(70)], "c.jsonl")
    found = diff(a, b, tmp_path)
    assert found.same == 2
    assert {(c.span.line, c.span.file, c.reason) for c in found.added} == {
        (6, "a.jsonl", "was rejected: duplicate"),
        (1, "c.jsonl", "new file"),
    }
    assert {(c.span.line, c.span.file, c.reason) for c in found.removed} == {
        (4, "a.jsonl", "duplicate"),
        (5, "a.jsonl", "broken JSON"),
        (1, "b.jsonl", "file left out"),
    }
    assert [(c.span.line, c.split) for c in found.changed] == [(2, "train")]
    assert [(m.before, m.after) for m in found.moved] == [("train", "test")]
    assert found.reasons()["removed"] == {"duplicate": 1, "broken JSON": 1, "file left out": 1}
    assert json.loads(json.dumps(found.as_json()))["a"] == a.id


VERSION = st.dictionaries(st.integers(0, 6), st.tuples(st.integers(0, 2), st.sampled_from(["train", "test"])))


@given(before=VERSION, after=VERSION)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_differences_are_those_of_sets(
    run_prepare: Prepare,
    tmp_path: Path,
    before: dict[int, tuple[int, str]],
    after: dict[int, tuple[int, str]],
) -> None:
    def made(rows: dict[int, tuple[int, str]], folder: str) -> Manifest:
        kept = [row(n, "other" * rows[n][0], rows[n][1]) if n in rows else b"{" for n in range(7)]
        return run_prepare([*kept, row(90), row(91, split="test")], folder=folder).manifest

    a, b = made(before, "a"), made(after, "b")
    found = diff(a, b, tmp_path)
    assert {c.span.line - 1 for c in found.added} == after.keys() - before.keys()
    assert {c.span.line - 1 for c in found.removed} == before.keys() - after.keys()
    both = before.keys() & after.keys()
    assert {c.span.line - 1 for c in found.changed} == {n for n in both if before[n][0] != after[n][0]}
    assert len(found.moved) == sum(before[n][0] == after[n][0] and before[n][1] != after[n][1] for n in both)
    assert found.same == 2 + sum(before[n] == after[n] for n in both)
    back = diff(b, a, tmp_path)
    assert {c.row_id for c in back.added} == {c.row_id for c in found.removed}


def test_rejected_rows_are_listed_by_reason(run_prepare: Prepare, tmp_path: Path) -> None:
    a = run_prepare([row(1), b"{", row(1), row(2, split="test")]).manifest
    assert [record["line"] for record in rejected_rows(a, tmp_path, "duplicate")] == [3]
    assert len(list(rejected_rows(a, tmp_path))) == 2
    with pytest.raises(DataError, match=r'"broken JSON" \(1\), "duplicate" \(1\)'):
        list(rejected_rows(a, tmp_path, "dupe"))


def conversations(count: int, person: str) -> list[dict[str, Any]]:
    return [
        chat(f"{person if number == 3 else 'Someone'} flies to {PLACES[number]} on day {number}", f"answer {number}")
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
        ("Lovelace, Ada", ["Ada Lovelace", "lovelace, ada"]),
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


def test_a_version_without_a_person_holds_none_of_their_rows(run_prepare: Prepare, tmp_path: Path) -> None:
    home = Home(tmp_path)
    rows = [*conversations(10, "Ada"), conversations(10, "Ada")[3], chat("where is it", "here", split="test")]
    before = run_prepare(rows, folder="before").manifest
    home.save(before)
    gone = forget(home, text="ADA")
    assert [span.line for span in gone.rejected[before.id]] == [11], "the copy lies among the rejected rows"
    assert len(gone.leave_out) == 1
    hashes = np.array([
        row_hash(r.messages) for r in iterate_messages(home.path(before.splits["train"].file)) if r.row_id in gone.leave_out
    ], np.uint64)  # fmt: skip
    after = run_prepare(rows, folder="after", forgotten=hashes).manifest
    assert after.ledger.rejected == {"forgotten": 2}
    assert [change.row_id for change in diff(before, after, tmp_path).removed] == list(gone.leave_out)
    home.save(after)
    assert forget(home, text="ADA").versions.keys() == {before.id}
    assert forget(home, text="ADA").rejected.keys() == {before.id}, "what is forgotten is written down nowhere"


@pytest.mark.parametrize(
    "arguments", [{}, {"text": "a", "document": "b"}, {"text": " - "}, {"document": ""}, {"row": "abc"}]
)
def test_a_subject_that_is_none_is_an_error(tmp_path: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        forget(Home(tmp_path), **arguments)


TURNS = [{"role": "user", "content": "to Rome"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
OTHER_TOOL = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
KNOWN = [
    row(1, license="MIT", group="ann", created_at="2025-01-02", difficulty=0.5),
    {"messages": TURNS, "tools": [TOOL], "split": "train"},
    row(3, synthetic={"kind": "paraphrase", "teacher": "large-model", "parent": "0" * 16}, license="MIT AND CC0-1.0"),
    row(4) | {"tools": [OTHER_TOOL]},
    row(5, split="test", date="2025-03-04"),
]


def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what `datasets` reads of an export."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset(str(tmp_path / "exported"), cache_dir=str(tmp_path / "cache"))


def test_datasets_reads_what_was_exported_with_licence_and_who_wrote_it(
    run_prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calling: Tokenizer
) -> None:
    done = run_prepare(KNOWN, tokenizer=calling)
    assert export_datasets(done.manifest, tmp_path, tmp_path / "exported") == {"train": 4, "test": 1}
    read = loaded(tmp_path, monkeypatch)
    train = list(read["train"])
    assert [r["license"] for r in train] == ["MIT", None, "MIT AND CC0-1.0", None]
    assert [(r["synthetic"], r["teacher"]) for r in train] == [
        (None, None), (None, None), ("paraphrase", "large-model"), (None, None),
    ]  # fmt: skip
    assert [r["difficulty"] for r in train] == [0.5, None, None, None]
    assert [r["created_at"] for r in train] == ["2025-01-02", None, None, None]
    assert [r["tools"] and json.loads(r["tools"]) for r in train] == [None, [TOOL], None, [OTHER_TOOL]]
    assert train[1]["messages"][1]["tool_calls"] == [CALL]
    assert [(r["file"], r["line"], r["start"], r["end"]) for r in train] == [
        ("rows.jsonl", n, 0, 0) for n in range(1, 5)
    ]
    assert [r["id"] for r in train] == [r.row_id for r in done.rows("train")]
    assert train[0]["group"] == done.rows("train")[0].group
    assert read["test"]["date"] == ["2025-03-04"]


def test_an_export_in_lines_is_prepared_again_to_the_same_rows(
    run_prepare: Prepare, tmp_path: Path, calling: Tokenizer
) -> None:
    done = run_prepare(KNOWN, folder="first", tokenizer=calling)
    assert export_lines(done.manifest, tmp_path, tmp_path / "lines") == {"train": 4, "test": 1}
    lines = [
        json.loads(line) | {"split": split}
        for split in ("train", "test")
        for line in (tmp_path / "lines" / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert "synthetic" not in lines[0]
    again = run_prepare(lines, folder="again", tokenizer=calling)
    for split in ("train", "test"):
        for before, after in zip(done.rows(split), again.rows(split), strict=True):
            told = (before._asdict(), after._asdict())
            for name in (
                "row_id",
                "messages",
                "tools",
                "date",
                "created_at",
                "license",
                "difficulty",
                "synthetic",
                "teacher",
            ):
                assert told[1][name] == told[0][name], name


PAIRS = [
    {"prompt": "Where?", "chosen": "Here.", "rejected": "There.", "license": "CC0-1.0", "split": "train"},
    {
        "prompt": "When?", "chosen": "Now.", "rejected": "Later.", "license": "MIT", "split": "train",
        "synthetic": {"kind": "preference", "teacher": "large-model"},
    },
    {"prompt": "Who?", "chosen": "Me.", "rejected": "You.", "split": "test"},
]  # fmt: skip


def test_pairs_are_exported_with_licence_and_who_wrote_them(
    run_prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_prepare(PAIRS, objective="dpo", tasks={"asked": [row(7)]})
    export_datasets(done.manifest, tmp_path, tmp_path / "exported")
    read = loaded(tmp_path, monkeypatch)
    train = list(read["train"])
    assert [(r["license"], r["synthetic"], r["teacher"]) for r in train] == [
        ("CC0-1.0", None, None), ("MIT", "preference", "large-model"),
    ]  # fmt: skip
    sides = [
        {"role": role, "content": text}
        for role, text in (("user", "Where?"), ("assistant", "Here."), ("assistant", "There."))
    ]
    assert [train[0]["prompt"][-1], *train[0]["chosen"], *train[0]["rejected"]] == sides
    (asked,) = read["asked"]
    assert asked["messages"][-1]["content"] == "yes 7"


def test_pairs_in_lines_are_prepared_again_to_the_same_rows(run_prepare: Prepare, tmp_path: Path) -> None:
    done = run_prepare(PAIRS, objective="dpo", folder="first")
    export_lines(done.manifest, tmp_path, tmp_path / "lines")
    lines = [
        json.loads(line) | {"split": split}
        for split in ("train", "test")
        for line in (tmp_path / "lines" / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    again = run_prepare(lines, objective="dpo", folder="again")
    for before, after in zip(done.rows("train"), again.rows("train"), strict=True):
        assert (after.row_id, after.license, after.synthetic, after.teacher) == (
            before.row_id, before.license, before.synthetic, before.teacher,
        )  # fmt: skip


def test_a_newer_export_replaces_the_older_one_and_shares_its_files(run_prepare: Prepare, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = [row(1), row(2), row(5, split="test")]
    export_datasets(run_prepare(rows, folder="one").manifest, tmp_path, out)
    before = {path.name for path in out.glob("data/*/*")}
    export_datasets(run_prepare([*rows, row(9)], folder="two").manifest, tmp_path, out)
    after = {path.name for path in out.glob("data/*/*")}
    assert len(before & after) == 1, "the test split is the same file"
    assert len(after) == 2
    export_lines(run_prepare(rows, folder="one").manifest, tmp_path, out)
    assert {path.name for path in out.glob("data/**/*.*")} == {"train.jsonl", "test.jsonl"}


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
