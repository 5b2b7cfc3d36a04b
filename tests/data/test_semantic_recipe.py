"""Semantic duplicates as the recipe asks for them: reversible, through no chain, and in the leakage proof."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preparing import Prepare, Prepared

from burnish.core.errors import DataError
from burnish.data.alike import Remembered

LETTERS = "abcdefgh"


def by_letters(texts: Sequence[str]) -> np.ndarray:
    counts = np.array([[text.count(letter) + 0.01 for letter in LETTERS] for text in texts], np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def row(text: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"instruction": text, "response": answer, **more}


def proof(done: Prepared) -> dict[str, Any]:
    return json.loads((done.folder / "leakage.json").read_text())


ROWS = [
    row("aab x", split="test"),
    row("aab y", split="test"),  # 2: as line 1, in other words
    row("aba z"),  # 3: as line 1, which is tested
    row("cdd x"),
    row("dcd z"),  # 5: as line 4
    row("dcd z q", "no"),  # another answer
    row("eeeeeeef 1"),
    row("eeeeeeef 2"),  # another number
    row("hg x"),
]


def test_rows_go_against_a_row_that_stays_with_its_score(run_prepare: Prepare) -> None:
    done = run_prepare(ROWS, embed=by_letters, prepare={"semantic_duplicate": 0.99})
    assert done.manifest.ledger.rejected == {"semantic duplicate": 2, "semantic duplicate of a test row": 1}
    gone = {
        record["line"]: (record["reason"], record["detail"].rpartition("rows.jsonl:")[2]) for record in done.rejected()
    }
    assert gone == {
        2: ("semantic duplicate", "1, similarity 1.00"),
        3: ("semantic duplicate of a test row", "1, similarity 1.00"),
        5: ("semantic duplicate", "4, similarity 1.00"),
    }
    assert all("row" in record and record["row"] for record in done.rejected())
    assert done.manifest.leakage == {
        "duplicate": 0, "near duplicate": 0, "same request": 0, "semantic duplicate": 1,
    }  # fmt: skip
    checks = [check for check in proof(done)["checks"] if check["method"] == "embedding"]
    assert [(check["trained"], check["tested"], check["hit"], check["threshold"]) for check in checks] == [
        ("train", "test", 0, 0.99)
    ]
    assert proof(done)["not_run"] == []


def test_off_unless_asked_and_the_proof_says_so(run_prepare: Prepare) -> None:
    done = run_prepare(ROWS)
    assert done.manifest.ledger.rejected == {}
    assert proof(done)["not_run"] == ["embedding"]
    assert "semantic duplicate" not in done.manifest.leakage


def test_rows_of_a_task_stay_and_training_rows_like_them_go(run_prepare: Prepare) -> None:
    tasks = {"own": [row("gg ab"), row("gg ba")]}
    done = run_prepare([row("gab g"), *ROWS], tasks=tasks, embed=by_letters, prepare={"semantic_duplicate": 0.999})
    assert done.manifest.splits["own"].rows == 2
    leaked = [r for r in done.rejected() if r["reason"] == "semantic duplicate of a test row"]
    assert [Path(r["file"]).name for r in leaked] == ["rows.jsonl", "rows.jsonl"]
    assert leaked[0]["detail"].partition(", ")[0].endswith("own.jsonl:1")


def test_a_source_that_would_lose_most_of_its_rows_stops_with_pairs(run_prepare: Prepare) -> None:
    rows = [
        row("ab", split="test", answer="no"),
        *(row(f"{'c' * (n + 1)} {'xyzw'[n % 4] * (n + 1)}") for n in range(150)),
    ]
    with pytest.raises(DataError, match=r"would lose 149 of 150 rows.*") as caught:
        run_prepare(rows, embed=by_letters, prepare={"semantic_duplicate": 0.99})
    assert "prepare.semantic_duplicate (now 0.99)" in str(caught.value)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.tuples(
            st.text("abcd ", min_size=1, max_size=7).filter(str.strip), st.sampled_from(["yes", "no"]), st.booleans()
        ),
        min_size=4,
        max_size=30,
    ),
    threshold=st.sampled_from([0.8, 0.95, 0.999]),
)
def test_whatever_goes_goes_for_a_row_that_stays(
    run_prepare: Prepare, tmp_path: Path, texts: list[tuple[str, str, bool]], threshold: float
) -> None:
    rows = [row("hhh keep", split="test"), row("ggg keep", split="train")]
    rows += [row(text, answer, split="test" if tested else "train") for text, answer, tested in texts]
    said = {"semantic_duplicate": threshold, "stop_share": 1}
    done = run_prepare(rows, embed=by_letters, prepare=said)
    kept = {r.line: (name, r.messages[-1]["content"]) for name in ("train", "test") for r in done.rows(name)}
    for record in done.rejected():
        line = int(record["detail"].rpartition("rows.jsonl:")[2].partition(",")[0])
        assert line in kept, record
        assert (kept[line][0] == "test") or "test" not in record["reason"]
    checks = [check for check in proof(done)["checks"] if check["method"] == "embedding"]
    assert all(check["hit"] == 0 for check in checks)
    ledger = done.manifest.ledger
    assert ledger.rows_in == ledger.rows_kept + sum(ledger.rejected.values())


def test_each_text_is_embedded_once(tmp_path: Path) -> None:
    seen: list[str] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        seen.extend(texts)
        return by_letters(texts)

    remembered = Remembered(embed, tmp_path)
    texts = ["aa", "bb", "aa", "\ud800"]
    np.testing.assert_array_equal(remembered(texts), by_letters(texts))
    np.testing.assert_array_equal(remembered(["bb", "cc"]), by_letters(["bb", "cc"]))
    assert seen == ["aa", "bb", "\ud800", "cc"]
    assert remembered([]).shape == (0, 8)
