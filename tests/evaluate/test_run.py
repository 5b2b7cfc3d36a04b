"""The stage from rows and two subjects to a report and its file."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from flight_desk import LONGEST, PROSE, SYSTEM, Desk, Scripted, encode, make_row

from burnish.core.artifacts import EvalReport
from burnish.core.errors import BurnishError, DataError
from burnish.core.events import Event, Progress
from burnish.core.ids import file_sha256
from burnish.evaluate.forgetting import general_rows
from burnish.evaluate.run import EvalRow, peak_rss_bytes


def value(report: EvalReport, subject: str, task: str, metric: str) -> float:
    (found,) = [s for s in report.scores if (s.subject, s.task, s.metric) == (subject, task, metric)]
    return found.value


def test_the_report_holds_every_score_and_every_comparison(desk: Desk) -> None:
    report = desk.evaluate()
    graded = ["exact_match", "field_f1", "json_valid", "token_loss"]
    expected = [(task, metric) for task in ("test", "handwritten") for metric in graded] + [("general", "token_loss")]
    for subject in ("base", "tuned"):
        assert [(s.task, s.metric) for s in report.scores if s.subject == subject] == expected
    assert [(c.task, c.metric) for c in report.comparisons] == expected
    assert {(c.a, c.b) for c in report.comparisons} == {("tuned", "base")}
    assert {s.n for s in report.scores if s.task == "test"} == {128}
    assert {s.n for s in report.scores if s.task == "general"} == {200}


def test_scores_are_what_the_answers_deserve(desk: Desk) -> None:
    report = desk.evaluate()
    # Rows 3, 5, 7 and 9 of each twelve are spoiled, 7 only after row 20: 128 rows hold 11 + 11 + 9 + 11 of them.
    right = 128 - sum(n % 12 in (3, 5, 9) or (n % 12 == 7 and n > 20) for n in range(128))
    assert value(report, "tuned", "test", "exact_match") == right / 128
    assert value(report, "base", "test", "exact_match") == 0.0
    assert value(report, "tuned", "test", "json_valid") == 1 - 9 / 128
    tuned = desk.subjects["tuned"].read([row.tokens for row in desk.tasks["test"]])
    nats, tokens, _ = (sum(column) for column in zip(*tuned, strict=True))
    assert value(report, "tuned", "test", "token_loss") == pytest.approx(nats / tokens)
    for score in report.scores:
        assert score.low <= score.value <= score.high


def test_subjects_are_asked_the_prompts_up_to_the_answer_and_nothing_of_the_answer(desk: Desk) -> None:
    desk.evaluate()
    asked = desk.subjects["tuned"].asked
    assert asked == [row.tokens.ids[: row.tokens.prompt] for rows in desk.tasks.values() for row in rows]
    assert bytes(asked[0]).decode() == f"{SYSTEM}\n{desk.tasks['test'][0].prompt}\n"


def test_what_a_subject_would_write_itself_is_how_its_answers_begin(desk: Desk) -> None:
    desk.evaluate()
    tuned = desk.subjects["tuned"]
    rows = [row.tokens for rows in desk.tasks.values() for row in rows]
    for row, begun in zip(rows, tuned.begun, strict=True):
        assert bytes(begun).decode() == tuned.answers[row.ids[: row.prompt]][: len(begun)]
    assert sum(map(len, tuned.begun)) > 1000, "next to nothing is begun: the test shows nothing"
    assert {*desk.subjects["base"].begun} == {(), (ord("{"),)}, "of prose nothing is expected but a brace"


def test_forgetting_is_the_paired_difference_on_the_general_texts(desk: Desk) -> None:
    report = desk.evaluate()
    rows = general_rows(encode)
    base, tuned = (desk.subjects[subject].read(rows) for subject in ("base", "tuned"))
    tokens = sum(n for _, n, _ in base)
    (found,) = [c for c in report.comparisons if c.task == "general"]
    assert found.difference == pytest.approx((sum(n for n, *_ in tuned) - sum(n for n, *_ in base)) / tokens)
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.001


def test_forgetting_can_be_left_out(desk: Desk) -> None:
    report = desk.evaluate(forgetting=False)
    assert {score.task for score in report.scores} == {"test", "handwritten"}


def test_the_rows_file_holds_every_row_with_answers_grades_and_losses(desk: Desk) -> None:
    report = desk.evaluate()
    path = desk.folder / report.rows_file.path
    assert report.rows_file.path == "evaluate/rows.jsonl"
    assert report.rows_file.sha256 == file_sha256(path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["task"] for line in lines] == ["test"] * 128 + ["handwritten"] * 64 + ["general"] * 200
    line = lines[5]
    assert (line["row"], line["system"], line["prompt"]) == ("test-5", SYSTEM, desk.tasks["test"][5].prompt)
    assert line["expected"] == desk.tasks["test"][5].expected
    tuned = line["subjects"]["tuned"]
    assert tuned["answer"] == desk.subjects["tuned"].answers[desk.subjects["tuned"].asked[5]]
    assert (tuned["ending"], tuned["json_valid"], tuned["exact_match"], tuned["cut"]) == ("valid", True, False, False)
    assert tuned["fields"] == {"matched": 5, "expected": 6, "answered": 6}
    assert tuned["loss"]["tokens"] == sum(desk.tasks["test"][5].tokens.mask)
    assert lines[-1]["subjects"].keys() == {"base", "tuned"}
    assert lines[-1]["subjects"]["base"].keys() == {"loss"}


def test_an_answer_of_the_longest_length_is_marked_as_cut(desk: Desk) -> None:
    desk.evaluate(max_new_tokens=40)
    line = json.loads((desk.folder / "evaluate/rows.jsonl").read_text().splitlines()[0])
    assert line["subjects"]["tuned"]["cut"] is True
    assert line["subjects"]["tuned"]["ending"] == "unfinished"
    assert len(encode(PROSE[0])) < LONGEST


def test_ten_examples_show_right_and_wrong_answers_of_each_task(desk: Desk) -> None:
    examples = desk.evaluate().examples
    assert len(examples) == 10
    assert {(e.task, e.tuned_exact) for e in examples} == {(t, x) for t in desk.tasks for x in (True, False)}
    for example in examples:
        assert example.system == SYSTEM
        assert example.tuned_exact == (json.loads(example.expected) == _parsed(example.tuned))


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def test_the_same_inputs_give_the_same_report_and_another_seed_another(desk: Desk) -> None:
    first, again = desk.evaluate(), desk.evaluate()
    assert first.id == again.id
    assert desk.evaluate(seed=1).id != first.id
    assert EvalReport.model_validate_json(first.model_dump_json()) == first


def test_progress_reaches_its_end_for_every_subject_and_task(desk: Desk) -> None:
    events: list[Event] = []
    desk.evaluate(emit=events.append)
    ends = {event.what: (event.done, event.total) for event in events if isinstance(event, Progress)}
    assert ends["test: base answers"] == ends["test: tuned loss"] == (128, 128)
    assert ends["general: tuned loss"] == (200, 200)
    assert len(ends) == 10


def test_a_third_subject_is_scored_and_compared_with_the_tuned_one(desk: Desk) -> None:
    subjects = {**desk.subjects, "champion": replace(desk.subjects["tuned"], asked=[])}
    report = desk.evaluate(subjects=subjects)
    against = [c for c in report.comparisons if c.b == "champion"]
    assert len(against) == 9
    assert all((c.a, c.difference, c.p) == ("tuned", 0.0, 1.0) for c in against)


def test_a_conversation_is_shown_with_its_speakers() -> None:
    row = make_row(1, "test")
    first, second, answer = row.messages
    longer = EvalRow(row.tokens, [first, second, {"role": "assistant", "content": "Which day?"}, second, answer])
    asked = second["content"]
    assert row.prompt == asked
    assert longer.prompt == f"user: {asked}\nassistant: Which day?\nuser: {asked}"
    assert EvalRow(row.tokens, row.messages[1:]).system is None


def test_tasks_that_cannot_be_graded_are_refused(desk: Desk) -> None:
    row = desk.tasks["test"][0]
    with pytest.raises(DataError, match="nothing to evaluate"):
        desk.evaluate(tasks={})
    with pytest.raises(DataError, match='"handwritten" has no rows'):
        desk.evaluate(tasks={"test": [row], "handwritten": []})
    with pytest.raises(DataError, match='may not be named "general"'):
        desk.evaluate(tasks={"general": [row]})
    with pytest.raises(DataError, match=r"test-0 .* does not end with an answer"):
        desk.evaluate(tasks={"test": [EvalRow(row.tokens, row.messages[:-1])]})
    with pytest.raises(ValueError, match="base and tuned"):
        desk.evaluate(subjects={"tuned": desk.subjects["tuned"]})


class Forgetful(Scripted):
    def complete(self, *args: object) -> list[list[int]]:
        return []


class Broken(Scripted):
    def read(self, rows: object) -> list[tuple[float, int, int]]:
        return [(math.nan, 5, 0)] * 32


class Short(Scripted):
    def read(self, rows: object) -> list[tuple[float, int, int]]:
        return []


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Forgetful, "0 answers to the 128 rows"), (Broken, "the loss nan over 5 tokens"), (Short, "0 losses for the 128")],
)
def test_a_subject_that_breaks_its_promise_is_an_error_and_no_row_is_lost(
    desk: Desk, kind: type[Scripted], message: str
) -> None:
    broken = kind(desk.subjects["tuned"].answers, 1.0, 1.0, 0.0)
    with pytest.raises(BurnishError, match=message):
        desk.evaluate(subjects={"base": desk.subjects["base"], "tuned": broken})
    assert not (desk.folder / "evaluate").exists()


def test_peak_memory_grows_with_what_was_held() -> None:
    before = peak_rss_bytes()
    held = b"x" * (before + 20_000_000)
    assert peak_rss_bytes() >= len(held)
    assert before > 1_000_000


def test_evaluate_loads_no_tensors() -> None:
    for path in Path(__file__).parents[2].glob("src/burnish/evaluate/*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import torch" not in text
        assert "import scipy" not in text
