"""Reviews: what is used, who agrees, nothing is lost; in the terminal, by script, over HTTP and for rejected rows."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from burnish.cli import main
from burnish.core.errors import StoreError, UsageError
from burnish.core.proportions import Z, wilson
from burnish.data.review.agreement import agreements, cohens_kappa
from burnish.data.review.desk import Desk
from burnish.data.review.reviews import Review, Reviews
from burnish.data.review.use import used
from burnish.data.synthesize.pool import Entry, read_pool, write_pool
from burnish.views.review import from_sheet, review_in_terminal, sheet


def entry(number: int, verdict: str = "kept", **shown: Any) -> Entry:
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": f"answer {number}"}]
    about = {"kind": "persona", "teacher": "t", "id": f"{number:032x}"}
    return Entry(
        f"{number:032x}", "persona", verdict, "", {"messages": turns, "synthetic": about, "license": "MIT"}, shown
    )


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., Desk]:
    entries = [*map(entry, range(6)), entry(6, "graded low"), entry(7, "like a tested row")]
    write_pool(tmp_path, entries)

    def open_desk(reviewer: str = "ann", policy: Any = "none", **more: Any) -> Desk:
        return Desk(tmp_path, read_pool(tmp_path), reviewer, policy, **more)

    return open_desk


def answers(folder: Path) -> list[str]:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["messages"][-1]["content"] for row in rows]


# ---------------------------------------------------------------------------------------------------------- what is used


def test_without_a_policy_what_was_kept_is_used_unless_somebody_rejects_it(desk: Any, tmp_path: Path) -> None:
    ann = desk(show="all")
    ann.write()
    assert answers(tmp_path) == [f"answer {n}" for n in range(6)]
    ann.judge(entry(2).id, "reject", None, "wrong")
    ann.judge(entry(6).id, "accept")
    ann.judge(entry(3).id, "edit", ["question 3", "a better answer"])
    assert answers(tmp_path) == ["answer 0", "answer 1", "a better answer", "answer 4", "answer 5", "answer 6"]
    row = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[2])
    assert row["synthetic"] == {"kind": "persona", "teacher": "t", "id": f"{3:032x}", "reviewers": 1, "edited": True}
    assert row["license"] == "MIT"


@pytest.mark.parametrize(("policy", "verdicts", "state"), [
    ("none", {}, "used"), ("one", {}, "waiting"), ("two", {}, "waiting"),
    ("none", {"ann": "reject"}, "rejected"), ("one", {"ann": "accept"}, "used"), ("two", {"ann": "accept"}, "waiting"),
    ("two", {"ann": "accept", "bob": "accept"}, "used"), ("two", {"ann": "accept", "bob": "edit 1"}, "used"),
    ("one", {"ann": "accept", "bob": "reject"}, "disputed"), ("two", {"ann": "edit 1", "bob": "edit 2"}, "disputed"),
    ("two", {"ann": "edit 1", "bob": "edit 1"}, "used"), ("one", {"ann": "reject", "bob": "reject"}, "rejected"),
])  # fmt: skip
def test_how_many_must_accept_and_what_a_dispute_is(
    policy: str, verdicts: dict[str, str], state: str, desk: Any, tmp_path: Path
) -> None:
    for reviewer, verdict in verdicts.items():
        word, _, which = verdict.partition(" ")
        desk(reviewer, policy).judge(entry(0).id, word, ["question 0", f"edited {which}"] if which else None)
    status = desk("cid", policy).status()
    others = {"none": "used", "one": "waiting", "two": "waiting"}[policy]
    expected = {"used": 0, "waiting": 0, "disputed": 0, "rejected": 2}
    expected[others] += 5
    expected[state] += 1
    assert status["rows"] == expected
    desk("cid", policy).write()
    edited = any(verdict.startswith("edit") for verdict in verdicts.values())
    assert ("edited 1" if edited else "answer 0") in answers(tmp_path) or state != "used"


def test_a_change_of_mind_and_a_withdrawal_count_and_nothing_is_erased(desk: Any, tmp_path: Path) -> None:
    ann = desk()
    ann.judge(entry(0).id, "reject")
    ann.judge(entry(0).id, "accept")
    ann.judge(entry(1).id, "reject")
    assert ann.undo() == entry(1).id
    ann.write()
    assert answers(tmp_path)[:2] == ["answer 0", "answer 1"]
    said = [(review.id[-1], review.verdict) for review in Reviews(tmp_path).read()]
    assert said == [("0", "reject"), ("0", "accept"), ("1", "reject"), ("1", "withdrawn")]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", Reviews(tmp_path).read()[0].at)
    assert ann.undo() == entry(0).id
    assert (tmp_path / "reviews.jsonl").stat().st_mode & 0o077 == 0


def test_each_reviewer_has_an_own_queue_and_disputes_are_shown_with_what_others_said(desk: Any) -> None:
    ann, bob = desk("ann"), desk("bob")
    assert ann.next().id == bob.next().id == entry(0).id
    ann.judge(entry(0).id, "accept")
    ann.skip(entry(1).id)
    assert ann.next().id == entry(2).id
    assert bob.next().id == entry(0).id
    assert bob.shown(bob.next())["others"] == []
    bob.judge(entry(0).id, "reject", None, "no such place")
    third = desk("cid", show="disputed")
    shown = third.shown(third.next())
    assert [(other["reviewer"], other["verdict"], other["note"]) for other in shown["others"]] == [
        ("ann", "accept", ""), ("bob", "reject", "no such place"),
    ]  # fmt: skip
    bob_again = desk("bob", show="disputed")
    bob_again.judge(entry(0).id, "accept")
    assert bob_again.next() is None
    assert desk("cid", show="disputed").next() is None


def test_a_share_of_the_rows_is_the_same_for_every_reviewer(tmp_path: Path) -> None:
    entries = [entry(n) for n in range(2000)]
    seen = [[e.id for e in Desk(tmp_path, entries, name, "none", share=0.1)._queue()] for name in ("ann", "bob")]
    assert seen[0] == seen[1]
    assert 150 < len(seen[0]) < 250


@pytest.mark.parametrize(("arguments", "says"), [
    (("0" * 31 + "0", "edit", None), "needs the texts"), (("0" * 32, "edit", ["question 0", "answer 0"]), "nothing was changed"),
    (("0" * 32, "edit", ["only one"]), "2 turns, and 1 texts"), (("0" * 32, "edit", ["q", " "]), "assistant's text is empty"),
    (("f" * 32, "accept"), "no row of"), (("0" * 30, "accept"), "8 rows of"), (("", "accept"), "no row of"),
    (("0" * 32, "edit", ["q", "x" * 200_001]), "at most 200,000"),
])  # fmt: skip
def test_what_cannot_be_said_is_refused_and_writes_nothing(
    arguments: Any, says: str, desk: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        desk().judge(*arguments)
    assert not (tmp_path / "reviews.jsonl").exists()


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\x1bb"])
def test_a_reviewer_has_a_name(name: str, desk: Any) -> None:
    with pytest.raises(UsageError, match="1 to 60 signs"):
        desk(name)


def test_a_cut_off_line_is_passed_over_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path)
    reviews.add(Review("a", "ann", "accept", {}))
    with reviews.path.open("a") as file:
        file.write('{"id": "b", "revie')
    assert [review.id for review in reviews.read()] == ["a"]
    reviews.add(Review("c", "ann", "reject", {}))
    assert [review.id for review in reviews.read()] == ["a", "c"]
    reviews.path.write_text("nonsense\n" + reviews.path.read_text())
    with pytest.raises(StoreError, match=r"reviews.jsonl:1 is damaged"):
        reviews.read()


def test_many_processes_may_write_reviews_at_once(tmp_path: Path) -> None:
    script = """
import sys, pathlib
from burnish.data.review.reviews import Review, Reviews
for n in range(60):
    Reviews(pathlib.Path(sys.argv[1])).add(Review(f"{n}", sys.argv[2], "accept", {"x": "y" * 5000}))
"""
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in "abc"]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert len(Reviews(tmp_path).read()) == 180


# ------------------------------------------------------------------------------------------------------------- agreement

VERDICT = st.sampled_from(["accept", "edit", "reject"])


@given(st.lists(st.tuples(VERDICT, VERDICT), min_size=2, max_size=40))
@settings(deadline=None)
def test_kappa_is_that_of_scikit_learn_and_its_error_that_of_the_delta_method(pairs: list[tuple[str, str]]) -> None:
    kappa, low, high = cohens_kappa(pairs)
    if kappa is None:
        assert len(set(pairs)) == 1
        return
    assert low is not None
    assert high is not None
    a, b = zip(*pairs, strict=True)
    assert math.isclose(kappa, float(cohen_kappa_score(a, b)), abs_tol=1e-9)
    assert -1 <= low <= kappa + 1e-9
    assert kappa - 1e-9 <= high <= 1
    agreed = sum(x == y for x, y in pairs)
    if agreed in (0, len(pairs)) or 1 in (len(set(a)), len(set(b))):
        return
    names = ["accept", "edit", "reject"]
    cells = {(x, y): pairs.count((x, y)) / len(pairs) for x in names for y in names}

    def of(table: dict[tuple[str, str], float]) -> float:
        total = sum(table.values())
        observed = sum(table[x, x] for x in names) / total
        rows = {x: sum(table[x, y] for y in names) / total for x in names}
        columns = {y: sum(table[x, y] for x in names) / total for y in names}
        expected = sum(rows[x] * columns[x] for x in names)
        return (observed - expected) / (1 - expected)

    step = 1e-6  # the influence of one more row of each kind, by difference
    influence = {cell: (of({**cells, cell: share + step}) - of({**cells, cell: max(share - step, 0)})) / (
        step + min(step, share)) for cell, share in cells.items()}  # fmt: skip
    error = math.sqrt(sum(cells[cell] * influence[cell] ** 2 for cell in cells) / len(pairs))
    assert math.isclose(low, max(-1.0, kappa - Z * error), abs_tol=2e-4)
    assert math.isclose(high, min(1.0, kappa + Z * error), abs_tol=2e-4)


def test_kappa_of_a_published_table() -> None:
    # Fleiss, Levin and Paik 2003, Statistical Methods for Rates and Proportions, table 18.1: kappa 0.68, standard error 0.087.
    table = [[75, 1, 4], [5, 4, 1], [0, 0, 10]]
    pairs = [(str(i), str(j)) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    kappa, low, high = cohens_kappa(pairs)
    assert kappa is not None
    assert low is not None
    assert high is not None
    assert round(kappa, 2) == 0.68
    assert round((high - low) / (2 * Z), 3) == 0.088 or round((high - low) / (2 * Z), 3) == 0.087


def test_where_all_agree_the_interval_does_not_claim_certainty() -> None:
    kappa, low, high = cohens_kappa([("accept", "accept")] * 6 + [("reject", "reject")] * 4)
    expected = 0.6**2 + 0.4**2
    assert (kappa, high) == (1.0, 1.0)
    assert low == pytest.approx((wilson(10, 10).low - expected) / (1 - expected))
    assert cohens_kappa([("accept", "accept")] * 5) == (None, None, None)
    kappa, low, high = cohens_kappa([("accept", "accept"), ("accept", "reject")])
    share = wilson(1, 2)
    assert (kappa, low, high) == (0.0, pytest.approx(2 * share.low - 1), pytest.approx(2 * share.high - 1))


def test_agreement_is_over_rows_that_both_judged(desk: Any) -> None:
    ann, bob = desk("ann"), desk("bob")
    for n, (a, b) in enumerate([("accept", "accept"), ("reject", "reject"), ("accept", "reject"), ("accept", None)]):
        ann.judge(entry(n).id, a)
        if b:
            bob.judge(entry(n).id, b)
    (found,) = agreements(Reviews(ann.folder).last())
    assert (found.reviewers, found.rows, found.agreed) == (("ann", "bob"), 3, 2)
    assert found.kappa == pytest.approx(0.4)


# -------------------------------------------------------------------------------------------------------------- terminal


def talk(desk: Desk, said: str, editor: Any = None) -> str:
    out = io.StringIO()
    review_in_terminal(desk, io.StringIO(said), out, editor)
    return out.getvalue()


def test_in_the_terminal_a_letter_is_a_verdict(desk: Any, tmp_path: Path) -> None:
    told = talk(desk(), "a\nr\nnot true\ne\n\nbetter answer\ns\nx\nu\nq\n")
    assert "1 of 6  00000000, persona, kept" in told
    assert [(r.verdict, r.note) for r in Reviews(tmp_path).read()] == [
        ("accept", ""), ("reject", "not true"), ("edit", ""), ("withdrawn", ""),
    ]  # fmt: skip
    assert "better answer" not in answers(tmp_path)
    assert answers(tmp_path)[0] == "answer 0"


def test_what_a_terminal_would_obey_is_shown_as_such(tmp_path: Path) -> None:
    bad = entry(0, **{"made from": "x\x1b]0;owned\x07"})
    told = talk(Desk(tmp_path, [bad], "ann", "none"), "")
    assert "\x1b" not in told
    assert "x\ufffd]0;owned\ufffd" in told


def test_an_edit_in_an_editor_is_taken_and_a_broken_sheet_is_not(desk: Any, tmp_path: Path) -> None:
    told = talk(desk(), "e\nq\n", lambda text: text.replace("answer 0", "edited\nin two lines"))
    assert answers(tmp_path)[0] == "edited\nin two lines", told
    told = talk(desk("bob"), "e\nq\n", lambda text: text.replace("-----", ""))
    assert "must stay as they are" in told


@settings(deadline=None)
@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="-")), min_size=1, max_size=4))
def test_a_sheet_that_nobody_changed_gives_the_texts_back(texts: list[str]) -> None:
    found = from_sheet(sheet([("user", text) for text in texts]), len(texts))
    assert found == [text.strip("\n") for text in texts]


# ----------------------------------------------------------------------------------------------------- verb, page, rejected


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"please order lamp {n}", "completion": f"lamp {n} is ordered"} for n in range(20)]
    broken = ['{"prompt": "cut off at', json.dumps({"prompt": "call +49 30 901820 now", "completion": ""})]
    Path("rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]) + "\n".join(broken) + "\n"
    )
    section = {"into": "made", "teacher": {"endpoint": "http://127.0.0.1:1/v1", "model": "m"}, "budget": {"tokens": 1},
               "make": {"paraphrase": 1}, "review": "two"}  # fmt: skip
    recipe = {
        "name": "lamps",
        "base": str(tiny_base),
        "method": "lora",
        "data": {"own": "rows.jsonl"},
        "synthesize": section,
    }
    Path("lamps.yaml").write_text(yaml.safe_dump(recipe))
    write_pool(Path("made"), [entry(n) for n in range(4)])
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = main([*arguments, "--home", "home", "--json", "-q"])
    return code, json.loads(capsys.readouterr().out)


def test_scripts_give_verdicts_and_see_where_two_reviewers_stand(
    project: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reviewer, verdict in (("ann", "accept"), ("bob", "accept")):
        code, _ = run(
            capsys, "data", "review", "lamps.yaml", "--reviewer", reviewer, "--id", entry(1).id, "--verdict", verdict
        )
        assert code == 0
    code, status = run(capsys, "data", "review", "lamps.yaml", "--reviewer", "cid")
    assert (code, status["rows"]) == (0, {"used": 1, "waiting": 3, "disputed": 0, "rejected": 0})
    assert status["reviewers"] == {"ann": 1, "bob": 1}
    assert answers(Path("made")) == ["answer 1"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["data", "review", "lamps.yaml", "--reviewer", "cid", "--home", "home"]) == 0
    told = capsys.readouterr().out
    assert "a accept   e edit" in told
    assert "ann and bob" in told


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (("lamps.yaml", "--verdict", "accept"), 2, "needs the row"), (("nothing.yaml",), 2, "unreadable"),
    (("lamps.yaml", "--share", "2"), 2, "is no share"), (("latest",), 2, "--into FOLDER"),
    (("latest", "--into", "mended"), 2, "nothing has been made yet"),
    (("lamps.yaml", "--set", "synthesize.into=empty"), 2, "no rows"),
    (("lamps.yaml", "--page", "--port", "99999"), 2, "is no port"),
])  # fmt: skip
def test_mistakes_are_told(arguments: tuple[str, ...], code: int, says: str, project: Path, capsys: Any) -> None:
    found, error = run(capsys, "data", "review", *arguments)
    assert (found, says in error["error"]["message"]) == (code, True), error


def test_rejected_rows_are_mended_and_come_back_as_a_source(project: Path, capsys: Any) -> None:
    assert run(capsys, "prepare", "lamps.yaml")[0] == 0
    _, status = run(capsys, "data", "review", "latest", "--into", "mended", "--reviewer", "ann")
    assert (status["queue"], status["rows"]["rejected"]) == (3, 3)
    pool = read_pool(Path("mended"))
    assert "901820" not in Path("mended/pool.jsonl").read_text()
    empty = next(e for e in pool if "call" in str(e.row))
    code, error = run(capsys, "data", "review", "latest", "--into", "mended", "--id", empty.id, "--verdict", "accept")
    assert code == 2
    assert "cannot be used: the assistant's text is empty" in error["error"]["message"]
    ann = Desk(Path("mended"), pool, "ann", "one", show="refused")
    ann.judge(empty.id, "edit", ["call the porter now", "I will"])
    cut = next(e for e in pool if "as it stands" in e.shown)
    ann.judge(cut.id, "edit", ["is it whole again", "it is"])
    run(capsys, "data", "review", "latest", "--into", "mended", "--reviewer", "ann")
    assert sorted(answers(Path("mended"))) == ["I will", "it is"]
    run(capsys, "prepare", "lamps.yaml", "--set", "data={own: rows.jsonl, mended: mended/rows.jsonl}")
    _, shown = run(capsys, "data", "show")
    assert shown["ledger"]["sources"]["mended"] == {"rows_in": 2, "rows_kept": 2, "rejected": {}}
    run(capsys, "data", "review", "latest", "--into", "mended", "--reviewer", "ann")
    assert sorted(answers(Path("mended"))) == ["I will", "it is"], "a new dataset does not lose what was mended"


def test_the_page_is_served_to_the_token_alone_and_reviews_flow_back(project: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "burnish",
        "data",
        "review",
        "lamps.yaml",
        "--reviewer",
        "ann",
        "--page",
        "--home",
        "home",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("review at ").strip()
        url, _, token = address.partition("#")
        assert len(token) >= 32
        page = httpx.get(url)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text) == ["data:,"]
        assert token not in page.text
        assert "question 0" not in page.text
        allowed = {"Authorization": f"Bearer {token}"}
        assert httpx.get(url + "api/state").status_code == 401
        assert httpx.get(url + "api/state", headers={"Authorization": "Bearer x"}).status_code == 401
        assert httpx.get(url + "api/state", params={"token": token}).status_code == 401
        assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 400
        state = httpx.get(url + "api/state", headers=allowed).json()
        assert (state["queue"], state["done"], state["row"]["turns"][0]["text"]) == (4, 0, "question 0")

        def act(**action: Any) -> httpx.Response:
            return httpx.post(url + "api/act", headers=allowed, json=action)

        assert act(do="accept", id=state["row"]["id"]).json()["done"] == 1
        assert act(do="edit", id=entry(1).id, texts=["question 1", "better"], note="short").json()["done"] == 2
        assert act(do="undo").json()["row"]["id"] == entry(1).id
        for wrong in ({"do": "burn", "id": "x"}, {"do": "accept"}, {"do": "edit", "id": entry(1).id, "texts": [1]},
                      {"do": "accept", "id": "../../etc/passwd"}, {"do": "edit", "id": entry(1).id, "texts": "ab"}):  # fmt: skip
            assert act(**wrong).status_code == 400
        assert httpx.post(url + "api/act", headers=allowed, content=b"[1]").status_code == 400
        assert httpx.post(url + "api/act", headers=allowed, content=b"x" * (5 << 20)).status_code == 413
        assert httpx.post(url + "api/act", json={"do": "accept", "id": entry(2).id}).status_code == 401
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "ann" in told
    assert [r.verdict for r in Reviews(Path("made")).read()] == ["accept", "edit", "withdrawn"]


def test_used_rows_are_the_same_bytes_for_the_same_reviews(desk: Any, tmp_path: Path) -> None:
    desk().judge(entry(0).id, "accept")
    first = (tmp_path / "rows.jsonl").read_bytes()
    desk("bob").write()
    assert (tmp_path / "rows.jsonl").read_bytes() == first
    assert used(read_pool(tmp_path), Reviews(tmp_path).last(), "none").rows[0]["synthetic"]["reviewers"] == 1
    assert os.environ["OMP_NUM_THREADS"]
