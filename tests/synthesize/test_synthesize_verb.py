"""`burnish data synthesize` over real HTTP: what comes out, what leaves, what it costs, and what happens when things go wrong."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from teacher import Teacher, sensible, teaching

from burnish.cli import main
from burnish.data.versions.forgotten import row_hash

ROWS = [
    {"prompt": f"please {verb} my {noun} number {n}", "completion": f"We will {verb} the {noun}, ticket {n}."}
    for n, (verb, noun) in enumerate(
        (v, o)
        for v in ("repair", "order", "return", "paint", "clean", "carry")
        for o in ("lamp", "kettle", "violin", "door")
    )
]
DOCUMENT = """# House rules

The house opens at 8 in the morning and closes at 22 in the evening. Guests must ring twice before they enter. A lost key costs
45 dollars and is replaced within 3 days.

## Parking

Cars may stand in the yard for 2 hours. The gate is closed between midnight and six.
"""
TEMPLATE = {"rows": 6, "request": "can you {verb} a {noun}?", "answer": "Yes, we {verb} each {noun}.",
            "fields": {"verb": ["mend", "sell", "hide"], "noun": ["table", "chair", "sofa"]}}  # fmt: skip
ALL = {"self_instruct": 9, "persona": 6, "adversarial": 6, "paraphrase": 12, "style": 4, "template": TEMPLATE, "questions": 4,
       "translation": {"rows": 4, "languages": ["German"]}, "preference": 4}  # fmt: skip

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return write(make, **more): a folder with rows, a document and a recipe that asks the teacher."""
    monkeypatch.chdir(tmp_path)

    def write(make: dict[str, Any], rows: list[dict[str, Any]] = ROWS, **more: Any) -> Path:
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        Path("rules.md").write_text(DOCUMENT)
        recipe = {"name": "house", "base": str(tiny_base), "method": "lora", "data": {"own": "rows.jsonl"}}
        model = {
            "endpoint": teacher.url,
            "model": "scripted",
            "license": "MIT",
            "timeout_s": 20,
            **more.pop("teacher", {}),
        }
        section = {"into": "made", "teacher": model, "budget": {"tokens": 10**7}, "make": make, "task": "Runs a house.",
                   "documents": "rules.md", **more.pop("synthesize", {})}  # fmt: skip
        path = Path("house.yaml")
        path.write_text(yaml.safe_dump({**recipe, "synthesize": section, **more}, sort_keys=False))
        return path

    return write


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, Any]:
        code = main(["data", "synthesize", "house.yaml", *arguments, "--home", "home", "--json", "-q"])
        return code, json.loads(capsys.readouterr().out)

    return call


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


def texts_sent(teacher: Teacher) -> str:
    return "\n".join(message["content"] for body in teacher.bodies for message in body["messages"])


def test_every_kind_is_made_tagged_and_checked_and_a_second_run_asks_nothing(
    project: Any, run: Run, teacher: Teacher
) -> None:
    project(ALL, synthesize={"judge": 4})
    code, report = run()
    assert code == 0
    assert {name: kind["kept"] for name, kind in report["kinds"].items()} == {
        name: wanted if isinstance(wanted, int) else wanted["rows"] for name, wanted in ALL.items()
    }
    rows, pairs = lines("made/rows.jsonl"), lines("made/pairs.jsonl")
    assert (report["rows"], report["pairs"]) == (len(rows), len(pairs)) == (51, 4)
    assert {row["license"] for row in rows + pairs} == {"MIT"}
    assert all(row["synthetic"]["teacher"].startswith("scripted at 127.0.0.1") for row in rows + pairs)
    assert len({row["synthetic"]["id"] for row in rows}) == 51
    parents = {f"{row_hash(m):016x}" for m in ([{"role": "user", "content": r["prompt"]}, {"role": "assistant",
               "content": r["completion"]}] for r in ROWS)}  # fmt: skip
    again = [row for row in rows if row["synthetic"]["kind"] in ("paraphrase", "style", "translation")]
    assert {row["synthetic"]["parent"] for row in again} <= parents
    for row in rows:
        if row["synthetic"]["kind"] == "questions":
            quote = row["synthetic"]["quote"]
            assert quote["text"] in DOCUMENT
    assert json.loads(Path("made/leakage.json").read_text())["clean"]
    asked = len(teacher.bodies)
    before = {path.name: path.read_bytes() for path in Path("made").iterdir() if path.name != "report.json"}
    _, second = run()
    assert len(teacher.bodies) == asked
    assert second["spent"]["tokens_in_this_run"] == 0
    assert second["requests"]["from_the_cache"] == second["requests"]["asked"] > 0
    assert {path.name: path.read_bytes() for path in Path("made").iterdir() if path.name != "report.json"} == before
    assert second["spent"]["tokens"] == teacher.billed


def test_what_is_tested_is_shown_to_no_teacher_and_synthetic_rows_are_trained_on_alone(
    project: Any, run: Run, teacher: Teacher, capsys: pytest.CaptureFixture[str]
) -> None:
    project({"paraphrase": 40, "self_instruct": 6}, prepare={"test_share": 0.3})
    assert run()[0] == 0
    sent = texts_sent(teacher)
    path = project({"paraphrase": 40, "self_instruct": 6}, prepare={"test_share": 0.3},
                   data={"own": "rows.jsonl", "made": "made/rows.jsonl"})  # fmt: skip
    assert main(["prepare", str(path), "--home", "home", "--json", "-q"]) == 0
    capsys.readouterr()
    shown: dict[str, list[Any]] = {}
    for split in ("train", "test"):
        assert main(["data", "rows", "--split", split, "--limit", "999", "--home", "home", "--json"]) == 0
        shown[split] = json.loads(capsys.readouterr().out)
    tested = [row["messages"][0]["content"] for row in shown["test"]]
    assert len(tested) >= 3
    assert not [request for request in tested if request in sent]
    assert {row["synthetic"] for row in shown["test"]} == {None}
    kinds = Counter(row["synthetic"] for row in shown["train"])
    assert kinds["paraphrase"] == 40
    assert kinds["self_instruct"] == 6
    assert run()[1]["requests"]["answered"] == 0, "its own rows are no seeds"


def test_personal_data_does_not_leave_whatever_prepare_does_with_it(project: Any, run: Run, teacher: Teacher) -> None:
    rows = [
        {"prompt": f"write to ann.smith{n}@example.org about {n}", "completion": f"Sent, from 4111 1111 1111 111{n}"}
        for n in range(9)
    ]
    project({"paraphrase": 3, "self_instruct": 3, "questions": 2}, rows=rows, prepare={"personal_data": "keep"})
    Path("rules.md").write_text(
        DOCUMENT + "\nThe porter's address is porter@house.example and his phone +49 30 901820.\n"
    )
    _, report = run()
    sent = texts_sent(teacher)
    assert "write to" in sent
    assert "[EMAIL]" in sent
    for secret in ("@example.org", "porter@", "901820", "4111 1111 1111 1111"):
        assert secret not in sent
    assert report["personal_data_replaced_before_sending"]["EMAIL"] > 3


def test_a_budget_ends_the_making_and_a_larger_one_goes_on_to_the_same_rows(
    project: Any, run: Run, teacher: Teacher
) -> None:
    project({"self_instruct": 30, "paraphrase": 10}, teacher={"at_once": 1})
    _, report = run("--set", "synthesize.budget.tokens=2600")
    assert report["stopped"] == "the budget is spent"
    assert 0 < report["rows"] < 40
    assert teacher.billed == report["spent"]["tokens"] <= 2600
    done = len(teacher.bodies)
    _, whole = run()
    assert (whole["stopped"], whole["rows"]) == (None, 40)
    rows = Path("made/rows.jsonl").read_bytes()
    assert len({json.dumps(body, sort_keys=True) for body in teacher.bodies}) == len(teacher.bodies) > done
    _, cheap = run("--set", "synthesize.into=other")
    assert (cheap["requests"]["answered"], Path("other/rows.jsonl").read_bytes()) == (0, rows)


def test_a_bad_form_is_corrected_a_bounded_number_of_times(project: Any, run: Run, teacher: Teacher) -> None:
    def say(body: dict[str, Any]) -> str:
        first = len(body["messages"]) == 1
        return "Sorry, what?" if first else sensible({**body, "messages": body["messages"][:1]})

    teacher.say = say
    project({"self_instruct": 3})
    _, report = run()
    assert report["rows"] == 3
    assert [message["role"] for message in teacher.bodies[1]["messages"]] == ["user", "assistant", "user"]
    assert "no JSON object" in teacher.bodies[1]["messages"][-1]["content"]
    teacher.say = lambda body: "Sorry, what?"
    teacher.bodies.clear()
    _, report = run("--set", "synthesize.task=Other.", "--set", "synthesize.repairs=1", "--set", "synthesize.tries=2")
    assert len(teacher.bodies) == 4, "two jobs at most for three rows, each corrected once"
    assert report["kinds"]["self_instruct"]["refused"] == {"not in the asked form": 2}
    assert report["kinds"]["self_instruct"]["ended"] == "the tries are used up"


@pytest.mark.parametrize(("fault", "reason"), [
    ("endless loop", "cut off at the limit of tokens"), ("loop", "goes round in circles"), ("over-long", "no reply"),
])  # fmt: skip
def test_answers_without_an_end_are_no_rows(fault: str, reason: str, project: Any, run: Run, teacher: Teacher) -> None:
    teacher.always = fault
    template = {"rows": 2, "request": "what about {x}?", "fields": {"x": ["a", "b", "c", "d"]}}
    project({"template": template}, synthesize={"repairs": 0, "max_tokens": 200})
    code, report = run()
    assert code == 0
    assert report["rows"] == 0
    assert set(report["kinds"]["template"]["refused"]) == {reason}


def test_the_judge_may_be_another_model_and_turns_rows_down(project: Any, run: Run, teacher: Teacher) -> None:
    with teaching(
        say=lambda body: json.dumps({"why": "an odd one", "grade": 5 if "lamp" in str(body) else 2})
    ) as judge:
        by = {"endpoint": judge.url, "model": "grader"}
        project({"paraphrase": 4}, synthesize={"judge": {"minimum": 4, "by": by}, "tries": 2})
        _, report = run()
    assert {body["model"] for body in judge.bodies} == {"grader"}
    assert len(judge.bodies) == 8
    refused = report["kinds"]["paraphrase"]["refused"]
    assert refused.get("graded low", 0) + report["rows"] == 8
    pool = lines("made/pool.jsonl")
    assert {entry["shown"]["grade"] for entry in pool} <= {2, 5}
    assert all("lamp" in str(row["messages"]) for row in lines("made/rows.jsonl"))


def test_a_judge_that_prefers_what_it_reads_first_makes_no_pair(project: Any, run: Run, teacher: Teacher) -> None:
    teacher.say = lambda body: '{"better": "A"}' if "You compare two" in str(body) else sensible(body)
    project({"preference": 3}, synthesize={"tries": 1})
    _, report = run()
    assert report["pairs"] == 0
    assert report["kinds"]["preference"]["refused"] == {"the judge's choice depends on the order": 3}


def test_documents_alone_are_enough_and_tasks_are_kept_clear_of(project: Any, run: Run, teacher: Teacher) -> None:
    project({"questions": 4}, data="made/rows.jsonl", evaluate={"tasks": {"hard": "hard.jsonl"}})
    Path("hard.jsonl").write_text(
        json.dumps({"prompt": "What is said of Cars may stand in (bridge)?", "completion": "2 hours"}) + "\n"
    )
    teacher.say = lambda body: sensible(body).replace("(kettle)", "(bridge)").replace("(lamp)", "(bridge)")
    code, report = run()
    assert (code, report["seeds"], report["tested_rows"]) == (0, 0, {"hard": 1})
    kind = report["kinds"]["questions"]
    assert report["rows"] == kind["kept"] == 3, "what is said again is refused, and does not undo what was said first"
    assert kind["refused"]["like a tested row"] == 3
    assert kind["refused"]["like an earlier row"] > 3


def test_an_endpoint_that_dies_leaves_what_was_made_and_the_next_run_goes_on(
    project: Any, run: Run, teacher: Teacher
) -> None:
    project({"template": TEMPLATE, "paraphrase": 12}, teacher={"tries": 1, "at_once": 1})
    teacher.faults = [""] * 5
    teacher.always = "500"
    code, error = run()
    assert (code, error["error"]["type"]) == (5, "ResourceError")
    assert "run the same command to go on" in error["error"]["message"]
    assert len(lines("made/rows.jsonl")) == 6, "the template's rows need no teacher"
    teacher.always = None
    teacher.bodies.clear()
    _, report = run()
    assert report["rows"] == 18
    assert len(teacher.bodies) == 7, "five answers were in the cache"


def start(*more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "burnish", "data", "synthesize", "house.yaml", "--home", "home", "--json", *more]
    # A shell's background job ignores SIGINT, and children inherit that.
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_or_killed_goes_on_without_asking_twice(
    number: signal.Signals, code: int, project: Any, run: Run, teacher: Teacher
) -> None:
    project({"template": TEMPLATE, "paraphrase": 20}, teacher={"at_once": 2})
    teacher.slow_s = 0.15
    process = start()
    while len(teacher.bodies) < 8:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    if number is signal.SIGINT:
        assert b"Run the same command to go on" in told
        assert len(lines("made/rows.jsonl")) == 6
    teacher.slow_s = 0
    under_way = 0 if number is signal.SIGINT else 2
    _, report = run()
    assert report["rows"] == 26
    assert 20 <= len(teacher.bodies) <= 20 + under_way
    assert (report["spent"]["tokens_of_requests_without_an_end"] > 0) <= (number is signal.SIGKILL)


def test_two_at_once_on_one_folder_are_refused(project: Any, run: Run, teacher: Teacher) -> None:
    project({"paraphrase": 10})
    teacher.slow_s = 0.3
    process = start("-q")
    while not teacher.bodies:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    code, error = run()
    assert code == 8
    assert "is at work on synthesize" in error["error"]["message"]
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(("change", "code", "says"), [
    ({"synthesize.teacher.endpoint": "http://u:sk-secret@h/v1"}, 2, "must hold no user or password"),
    ({"synthesize.teacher.endpoint": "http://h/v1?api_key=sk-secret"}, 2, r"must hold no `\?`"),
    ({"synthesize.teacher.endpoint": "ftp://h"}, 2, "must begin with http"),
    ({"synthesize.teacher.key_variable": "sk-secret-abcdef"}, 2, "name of an environment variable"),
    ({"synthesize.teacher.key_variable": "BURNISH_UNSET_KEY"}, 2, "BURNISH_UNSET_KEY is not set"),
    ({"synthesize.budget": "{}"}, 2, "budget needs tokens or dollars"),
    ({"synthesize.budget.dollars": "1"}, 2, "needs teacher.price"),
    ({"synthesize.budget.tokens": "0"}, 2, "greater than or equal to 1"),
    ({"synthesize.make": "{}"}, 2, "names no kind"),
    ({"synthesize.make.paraphrases": "3"}, 2, 'Did you mean "paraphrase"'),
    ({"synthesize.make.paraphrase": "many"}, 2, "mapping of keys"),
    ({"synthesize.make.template": "{rows: 1, request: '{a} {b}', fields: {a: [x]}}"}, 2, r"\{b\} is no field"),
    ({"synthesize.make.template": "{rows: 1, request: '{a', fields: {a: [x]}}"}, 2, "braces that are text"),
    ({"synthesize.make.translation": "5"}, 2, "languages"),
    ({"synthesize.make.questions": "5", "synthesize.documents": "[]"}, 2, "needs documents"),
    ({"synthesize.make.questions": "5", "synthesize.documents": "nowhere/*.md"}, 3, "nowhere"),
    ({"synthesize.teacher.request": "{messages: []}"}, 2, "burnish says it itself"),
    ({"synthesize.novelty": "0"}, 2, "greater than 0"),
    ({"synthesize": "null"}, 2, "has no `synthesize` section"),
    ({"data": "made/rows.jsonl"}, 3, "is made from training rows"),
])  # fmt: skip
def test_mistakes_in_the_recipe_are_told_before_anything_is_asked_and_secrets_are_not_repeated(
    change: dict[str, str],
    code: int,
    says: str,
    project: Any,
    run: Run,
    teacher: Teacher,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project({"paraphrase": 2})
    sets = [part for key, value in change.items() for part in ("--set", f"{key}={value}")]
    found, error = run(*sets)
    assert found == code
    assert re.search(says, error["error"]["message"])
    assert "sk-secret" not in error["error"]["message"] + capsys.readouterr().err
    assert teacher.bodies == []


def test_the_key_goes_into_the_header_alone(
    project: Any, run: Run, teacher: Teacher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOUSE_KEY", "sk-the-key-0123456789")
    project({"paraphrase": 2}, teacher={"key_variable": "HOUSE_KEY"})
    assert run()[0] == 0
    assert {headers["Authorization"] for headers in teacher.headers} == {"Bearer sk-the-key-0123456789"}
    files = b"".join(path.read_bytes() for path in Path().rglob("*") if path.is_file())
    assert b"sk-the-key" not in files


def test_the_table_for_people_tells_what_was_made_and_what_it_cost(
    project: Any, teacher: Teacher, capsys: pytest.CaptureFixture[str]
) -> None:
    project({"paraphrase": 3, "questions": 2}, teacher={"price": {"prompt": 1.0, "answer": 2.0}})
    assert main(["data", "synthesize", "house.yaml", "--home", "home"]) == 0
    told = capsys.readouterr()
    assert re.search(r"paraphrase +3 +3 +3 +all rows made", told.out)
    assert re.search(r"spent [\d,]+ tokens \([\d,]+ now\), 0\.00\d\d dollars, of at most 10,000,000 tokens", told.out)
    assert "5 rows in made/rows.jsonl" in told.out
    assert "replies" in told.err


def test_burnish_itself_can_be_the_teacher(
    project: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real base behind the real server, from another process: no scripted answer anywhere."""
    command = [sys.executable, "-m", "burnish", "serve", "--port", "0", "--json", "--home", str(tmp_path / "serving")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            said = ""
            while not said.endswith("}\n"):
                said += (line := server.stdout.readline())
                assert line, said
            started = json.loads(said)
            monkeypatch.setenv("BURNISH_KEY", started["admin_key"])
            template = {"rows": 2, "request": "What is the capital of {country}? Answer in one short sentence.",
                        "fields": {"country": ["France", "Italy", "Spain", "Japan"]}}  # fmt: skip
            model = {"endpoint": started["url"].rstrip("/").removesuffix("/v1") + "/v1", "model": "base", "at_once": 2}
            project(
                {"template": template}, teacher={**model, "timeout_s": 200, "key_variable": "BURNISH_KEY"},
                synthesize={"max_tokens": 40, "temperature": 0.0, "task": None},
            )  # fmt: skip
            code, report = run()
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)
    assert code == 0, report
    assert report["kinds"]["template"]["kept"] == 2
    rows = lines("made/rows.jsonl")
    capitals = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}
    assert sum(capital in row["messages"][1]["content"] for row in rows for country, capital in capitals.items()
               if country in row["messages"][0]["content"]) >= 1  # fmt: skip
    assert report["spent"]["tokens"] > 40


def test_rows_that_are_not_made_yet_are_asked_for_by_name(
    project: Any, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project({"template": TEMPLATE}, data={"own": "rows.jsonl", "made": "made/rows.jsonl"})
    for verb in ("prepare", "check"):
        assert main([verb, str(path), "--home", "home", "--json", "-q"]) == 3
        assert "`burnish data synthesize` writes it" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert run()[0] == 0
    assert main(["prepare", str(path), "--home", "home", "--json", "-q"]) == 0
