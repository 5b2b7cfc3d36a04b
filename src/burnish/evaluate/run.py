"""The stage: base and tuned answer and predict the same rows; out comes an EvalReport with every row in a file."""

from __future__ import annotations

import itertools
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from burnish.core.artifacts import Adapter, Comparison, EvalReport, Example, Manifest, Score
from burnish.core.errors import BurnishError, DataError
from burnish.core.events import Emit, Progress
from burnish.core.rows import TokenRow
from burnish.evaluate import forgetting as general
from burnish.evaluate.examples import choose_examples
from burnish.evaluate.grade import Grade, grade
from burnish.evaluate.preference import PairLoss, reward_margins
from burnish.evaluate.score import RowLoss, TaskResult, compare_task, score_task
from burnish.store.files import file_ref, write_bytes
from burnish.text.messages import Message

ROWS_PER_LOSS_CALL = 32
"""Rows whose losses are asked for at once: few enough to show progress, enough to fill a batch."""


class Subject(Protocol):
    """One model under test: the base, the tuned one, later the champion."""

    def read(self, rows: Sequence[TokenRow]) -> Sequence[tuple[float, int, int]]:
        """Return for each row the summed negative log-likelihood in nats of its tokens with loss, and their number.

        And how many leading tokens of its last answer this subject would write itself, greedily.
        """
        ...

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        begun: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Callable[[int, int], None],
    ) -> list[list[int]]:
        """Answer each prompt greedily, in order, without the stop token; call `progress(answers done, in all)`.

        begun: how each answer begins, as `read` found it: whatever greedy decoding would give too.
        """
        ...


@dataclass(frozen=True, slots=True)
class EvalRow:
    """A row as token ids and as messages, system prompt included. The last message is the expected answer.

    Of a preference pair that is the chosen one; rejected: the other as token ids, and what it says.
    """

    tokens: TokenRow
    messages: Sequence[Message]
    rejected: tuple[TokenRow, str] | None = None

    @property
    def expected(self) -> str:
        """The text of the expected answer."""
        return self.messages[-1]["content"]

    @property
    def system(self) -> str | None:
        """The rendered system prompt, if there is one."""
        first = self.messages[0]
        return first["content"] if first["role"] == "system" else None

    @property
    def prompt(self) -> str:
        """What is asked: the user's only message, or every turn before the answer with its speaker."""
        turns = [turn for turn in self.messages[:-1] if turn["role"] != "system"]
        if len(turns) == 1:
            return turns[0]["content"]
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


@dataclass(frozen=True, slots=True)
class Reference:
    """The subject that rewards of preference pairs are measured against, and the beta they are measured with."""

    subject: str
    beta: float


@dataclass(frozen=True, slots=True)
class Answered:
    """What one subject did on one task: its answers as text, which of them were cut at the longest length."""

    result: TaskResult
    answers: Sequence[str] = ()
    cut: Sequence[bool] = ()


Tasks = Mapping[str, Sequence[EvalRow]]


def evaluate(
    *,
    name: str,
    adapter: Adapter,
    manifest: Manifest,
    tasks: Tasks,
    subjects: Mapping[str, Subject],
    encode_general: Callable[[str], list[int]],
    decode: Callable[[Sequence[int]], str],
    max_new_tokens: int,
    forgetting: bool,
    folder: Path,
    root: Path,
    seed: int,
    emit: Emit,
    reference: Reference | None = None,
) -> EvalReport:
    """Measure every subject on every task and return the report; the rows go to `folder`/rows.jsonl.

    tasks: rows by task name, such as test and handwritten. subjects: must hold "base" and "tuned"; tuned is
    compared with each other one. forgetting: measure the loss on the general texts too. root: the home that file
    paths are relative to. reference: what the tuned one's rewards on preference pairs are measured against.

    Raises DataError for a task without rows, with rows that end without an answer, or named "general"; BurnishError
    when a subject gives back something other than one finite loss and one answer for each row.
    """
    began = time.perf_counter()
    _check(tasks, subjects)
    texts = general.general_rows(encode_general) if forgetting else []
    found: dict[str, dict[str, Answered]] = {task: {} for task in (*tasks, *([general.TASK] if texts else []))}
    for subject, model in subjects.items():
        for task, rows in tasks.items():
            found[task][subject] = _answer(subject, model, task, rows, decode, max_new_tokens, emit)
        if texts:
            read = _read(subject, model, general.TASK, texts, emit)
            found[general.TASK][subject] = Answered(TaskResult([loss for loss, _ in read]))
    if reference is not None:
        found = {task: _with_rewards(by_subject, reference) for task, by_subject in found.items()}
    scores, comparisons = _score(found, seed)
    lines = [*_task_lines(tasks, found), *_general_lines(texts, found)]
    path = folder / "rows.jsonl"
    write_bytes(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    return EvalReport(
        parents=(adapter.id, manifest.id),
        name=name,
        adapter=adapter.id,
        manifest=manifest.id,
        scores=tuple(scores),
        comparisons=tuple(comparisons),
        examples=choose_examples(_examples(tasks, found), seed),
        rows_file=file_ref(path, root),
        measured_seconds=time.perf_counter() - began,
        peak_rss_bytes=peak_rss_bytes(),
    )


def _check(tasks: Tasks, subjects: Mapping[str, Subject]) -> None:
    if not {"base", "tuned"} <= subjects.keys():
        raise ValueError(f"an evaluation needs the subjects base and tuned, found: {', '.join(subjects) or 'none'}")
    if not tasks:
        raise DataError("there is nothing to evaluate: no test split and no task. Set prepare.test_share above 0.")
    for task, rows in tasks.items():
        if task == general.TASK:
            raise DataError(f'a task may not be named "{task}": that is the measurement of forgetting. Rename it.')
        if not rows:
            raise DataError(f'the task "{task}" has no rows to grade. Give it some, or raise prepare.test_share.')
        for row in rows:
            if not row.messages or row.messages[-1]["role"] != "assistant":
                raise DataError(f'row {row.tokens.row_id} of the task "{task}" does not end with an answer')


def _answer(
    subject: str,
    model: Subject,
    task: str,
    rows: Sequence[EvalRow],
    decode: Callable[[Sequence[int]], str],
    max_new_tokens: int,
    emit: Emit,
) -> Answered:
    """Let one subject answer and predict the rows of one task."""

    def progress(done: int, total: int) -> None:
        emit(Progress("evaluate", f"{task}: {subject} answers", done, total, "rows"))

    read = _read(subject, model, task, [row.tokens for row in rows], emit)
    losses = [loss for loss, _ in read]
    pairs = _pair_losses(subject, model, task, rows, losses, emit)
    progress(0, len(rows))
    prompts = [row.tokens.ids[: row.tokens.prompt] for row in rows]
    begun = [row.tokens.ids[row.tokens.prompt :][:agreed] for row, (_, agreed) in zip(rows, read, strict=True)]
    answered = model.complete(prompts, begun, max_new_tokens, progress)
    if len(answered) != len(rows):
        raise BurnishError(f"{subject} gave {len(answered)} answers to the {len(rows)} rows of {task}")
    answers = [decode(ids) for ids in answered]
    grades = [grade(row.expected, answer) for row, answer in zip(rows, answers, strict=True)]
    return Answered(TaskResult(losses, grades, pairs), answers, [len(ids) >= max_new_tokens for ids in answered])


def _pair_losses(
    subject: str, model: Subject, task: str, rows: Sequence[EvalRow], losses: Sequence[RowLoss], emit: Emit
) -> list[PairLoss]:
    """Return the losses of both answers of the rows that are preference pairs."""
    chosen = [loss for row, loss in zip(rows, losses, strict=True) if row.rejected is not None]
    worse = [row.rejected[0] for row in rows if row.rejected is not None]
    found = _read(subject, model, task, worse, emit, "loss of rejected") if worse else []
    return [PairLoss(better, loss) for better, (loss, _) in zip(chosen, found, strict=True)]


def _with_rewards(by_subject: Mapping[str, Answered], reference: Reference) -> dict[str, Answered]:
    tuned, before = by_subject["tuned"], by_subject[reference.subject]
    rewards = reward_margins(tuned.result.pairs, before.result.pairs, reference.beta)
    return {**by_subject, "tuned": replace(tuned, result=replace(tuned.result, rewards=rewards))}


def _read(
    subject: str, model: Subject, task: str, rows: Sequence[TokenRow], emit: Emit, what: str = "loss"
) -> list[tuple[RowLoss, int]]:
    """Return the loss of each row, and how many tokens of its answer the subject would write itself."""
    found: list[tuple[RowLoss, int]] = []
    for start in range(0, len(rows), ROWS_PER_LOSS_CALL):
        emit(Progress("evaluate", f"{task}: {subject} {what}", start, len(rows), "rows"))
        read = model.read(rows[start : start + ROWS_PER_LOSS_CALL])
        found += [(RowLoss(nats, tokens), agreed) for nats, tokens, agreed in read]
    emit(Progress("evaluate", f"{task}: {subject} {what}", len(rows), len(rows), "rows"))
    if len(found) != len(rows):
        raise BurnishError(f"{subject} gave {len(found)} losses for the {len(rows)} rows of {task}")
    for row, (loss, _) in zip(rows, found, strict=True):
        if not math.isfinite(loss.nats) or loss.tokens != sum(row.mask):
            raise BurnishError(
                f"{subject} gave the loss {loss.nats} over {loss.tokens} tokens for row {row.row_id} of {task}; "
                f"expected a finite number over {sum(row.mask)} tokens. Its weights may be damaged: train again."
            )
    return found


def _score(found: Mapping[str, Mapping[str, Answered]], seed: int) -> tuple[list[Score], list[Comparison]]:
    scores: list[Score] = []
    comparisons: list[Comparison] = []
    for task, by_subject in found.items():
        tuned = ("tuned", by_subject["tuned"].result)
        for subject, answered in by_subject.items():
            scores += score_task(task, subject, answered.result, seed)
            if subject != "tuned":
                comparisons += compare_task(task, tuned, (subject, answered.result), seed)
    return scores, comparisons


def _task_lines(tasks: Tasks, found: Mapping[str, Mapping[str, Answered]]) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "row": row.tokens.row_id,
            "system": row.system,
            "prompt": row.prompt,
            "expected": row.expected,
            **({} if row.rejected is None else {"rejected": row.rejected[1]}),
            "subjects": {subject: _subject_line(answered, place, pair) for subject, answered in found[task].items()},
        }
        for task, rows in tasks.items()
        for place, (row, pair) in enumerate(zip(rows, _pair_numbers(rows), strict=True))
    ]


def _pair_numbers(rows: Sequence[EvalRow]) -> list[int | None]:
    """Return for each row which of the task's pairs it is, or None."""
    numbers = itertools.count()
    return [None if row.rejected is None else next(numbers) for row in rows]


def _subject_line(answered: Answered, place: int, pair: int | None) -> dict[str, Any]:
    graded: Grade = answered.result.grades[place]
    return {
        "answer": answered.answers[place],
        "cut": answered.cut[place],
        "ending": graded.ending,
        "json_valid": graded.json_valid,
        "exact_match": graded.exact,
        "field_f1": graded.field_f1,
        "fields": {"matched": graded.matched, "expected": graded.expected, "answered": graded.answered},
        "loss": answered.result.losses[place]._asdict(),
        **({} if pair is None else {"rejected_loss": answered.result.pairs[pair].rejected._asdict()}),
    }


def _general_lines(texts: Sequence[TokenRow], found: Mapping[str, Mapping[str, Answered]]) -> list[dict[str, Any]]:
    return [
        {
            "task": general.TASK,
            "row": row.row_id,
            "subjects": {s: {"loss": a.result.losses[place]._asdict()} for s, a in found[general.TASK].items()},
        }
        for place, row in enumerate(texts)
    ]


def _examples(tasks: Tasks, found: Mapping[str, Mapping[str, Answered]]) -> list[tuple[str, Example]]:
    return [
        (
            row.tokens.row_id,
            Example(
                task=task,
                system=row.system,
                prompt=row.prompt,
                expected=row.expected,
                base=found[task]["base"].answers[place],
                tuned=found[task]["tuned"].answers[place],
                base_exact=found[task]["base"].result.grades[place].exact,
                tuned_exact=found[task]["tuned"].result.grades[place].exact,
            ),
        )
        for task, rows in tasks.items()
        for place, row in enumerate(rows)
    ]


def peak_rss_bytes() -> int:
    """Return the most resident memory this process has held so far, in bytes.

    Linux keeps it as VmHWM (proc(5)); elsewhere it is `ru_maxrss`, in KiB but on macOS in bytes (getrusage(2)). On
    Linux `ru_maxrss` would also count what a parent held before it started this process.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
