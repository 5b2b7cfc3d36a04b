"""A model grades what was made: each row by itself from 1 to 5, two answers against each other in both orders.

Judges prefer the answer they read first (Zheng et al. 2023, arXiv 2306.05685, section 3.3), so a preference counts only when it
is the same in both orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from burnish.core.completion import NO_BUDGET, Ask, Complete, Turn
from burnish.data.synthesize import prompts
from burnish.data.synthesize.asking import ask_checked
from burnish.data.synthesize.draft import Draft
from burnish.data.synthesize.shape import Choice, Grade, read_json

TOKENS = 300
"""Of a grade with its reason."""
Problem = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Judge:
    """Grades with a model. minimum: the smallest grade that passes; None: rows are not graded, pairs still are compared."""

    complete: Complete
    clean: Callable[[str], str]
    task: str | None
    minimum: int | None
    repairs: int

    def problems(self, drafts: Sequence[Draft]) -> list[Problem | None]:
        """Grade drafts; return why those that do not pass do not. The grade goes into the draft's notes."""
        if self.minimum is None:
            return [None] * len(drafts)
        asks = [
            (self._ask(prompts.grade(self.task, _instructions(d), d.request, d.answer, _source(d))), _grade)
            for d in drafts
        ]
        found: list[Problem | None] = []
        for draft, answered in zip(drafts, ask_checked(self.complete, self.clean, asks, self.repairs), strict=True):
            if answered.value is None:
                reason = NO_BUDGET if answered.reason == NO_BUDGET else "the judge gave no grade"
                found.append((reason, answered.detail))
                continue
            draft.notes |= {"grade": answered.value.grade, "why": answered.value.why}
            low = answered.value.grade < self.minimum
            found.append(("graded low", f"{answered.value.grade} of 5: {answered.value.why}") if low else None)
        return found

    def preferred(self, drafts: Sequence[Draft]) -> list[Problem | None]:
        """Compare `answer` and `rejected` of each draft in both orders, and put the better one into `answer`."""
        asks: list[tuple[Ask, Callable[[str], Choice]]] = []
        for draft in drafts:
            worse = draft.rejected or ""
            for a, b in ((draft.answer, worse), (worse, draft.answer)):
                asks.append((self._ask(prompts.choice(self.task, _instructions(draft), draft.request, a, b)), _choice))
        answered = ask_checked(self.complete, self.clean, asks, self.repairs)
        found: list[Problem | None] = []
        for number, draft in enumerate(drafts):
            first, second = answered[2 * number], answered[2 * number + 1]
            if first.value is None or second.value is None:
                lost = first if first.value is None else second
                reason = NO_BUDGET if lost.reason == NO_BUDGET else "the judge made no choice"
                found.append((reason, lost.detail))
            elif first.value.better.upper() == second.value.better.upper():
                found.append(("the judge's choice depends on the order", first.value.why[:200]))
            else:
                if first.value.better.upper() == "B":
                    draft.answer, draft.rejected = draft.rejected or "", draft.answer
                draft.notes["why"] = first.value.why
                found.append(None)
        return found

    def _ask(self, turns: tuple[Turn, ...]) -> Ask:
        return Ask(turns, TOKENS, 0.0, 0)


def _grade(reply: str) -> Grade:
    return read_json(reply, Grade)


def _choice(reply: str) -> Choice:
    return read_json(reply, Choice)


def _instructions(draft: Draft) -> str:
    return draft.like.instructions if draft.like is not None else ""


def _source(draft: Draft) -> str | None:
    return draft.piece.text if draft.piece is not None else None
