"""The making itself: ask in waves, check what comes, until each kind has its rows, its tries or the budget are used up.

Waves are asked several requests at a time, but their replies are looked at in the order of asking. So with the same replies
(from the cache) a second run makes the same rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from burnish.core.completion import NO_BUDGET, Complete
from burnish.core.recipe_augment import Synthesize
from burnish.data.synthesize.asking import Answered, ask_checked
from burnish.data.synthesize.checks import problem_of
from burnish.data.synthesize.draft import Draft
from burnish.data.synthesize.jobs import SEVERAL, Jobs
from burnish.data.synthesize.judge import Judge
from burnish.data.synthesize.novelty import TESTED, Novelty
from burnish.data.synthesize.pool import KEPT
from burnish.data.synthesize.rouge import words
from burnish.data.synthesize.shape import read_text

MOST_IN_A_WAVE = 256
NOT_NEEDED = "more than was asked for"
PREFERENCE = "preference"
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Checked:
    """A draft with its verdict: `kept`, or why not, and what exactly."""

    draft: Draft
    verdict: str
    detail: str = ""


@dataclass(slots=True)
class Kind:
    """What became of one kind. refused: replies and rows that are not used, by reason; examples: the first few of each."""

    wanted: int
    kept: int = 0
    jobs: int = 0
    ended: str = ""
    refused: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def refuse(self, reason: str, detail: str) -> None:
        """Count a refusal, and remember the first few."""
        self.refused[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if detail and len(shown) < EXAMPLES:
            shown.append(detail)


@dataclass(slots=True)
class Made:
    """Everything that came out."""

    kinds: dict[str, Kind] = field(default_factory=dict[str, Kind])
    rows: list[Checked] = field(default_factory=list[Checked])

    @property
    def kept(self) -> list[Draft]:
        """The drafts that passed every check."""
        return [row.draft for row in self.rows if row.verdict == KEPT]

    @property
    def out_of_budget(self) -> bool:
        """Whether the budget ended it."""
        return any(kind.ended == NO_BUDGET for kind in self.kinds.values())


@dataclass(frozen=True, slots=True)
class Maker:
    """What rows are made with. clean: what every text passes before it leaves. tell: hears of each wave."""

    said: Synthesize
    jobs: Jobs
    complete: Complete
    clean: Callable[[str], str]
    judge: Judge
    novelty: Novelty
    tell: Callable[[str], None]

    def make(self, made: Made) -> None:
        """Make the rows of each kind. What is made stands in `made` at all times, also when this raises."""
        for name, wanted in self.said.make.wanted().items():
            kind = made.kinds[name] = Kind(wanted)
            self._kind(name, kind, made)
            if kind.ended == NO_BUDGET:
                break

    def _kind(self, name: str, kind: Kind, made: Made) -> None:
        most = self.jobs.most(name, kind.wanted)
        while kind.kept < kind.wanted:
            count = min(self._wave(name, kind), most - kind.jobs)
            if count <= 0:
                kind.ended = "the tries are used up"
                return
            self.tell(f"{name}: {kind.kept} of {kind.wanted} rows so far, asking for {count} more replies")
            numbers = range(kind.jobs, kind.jobs + count)
            drafts = self._pairs(numbers, kind) if name == PREFERENCE else self._drafts(name, numbers, kind)
            kind.jobs += count
            for checked in self._checked(drafts):
                if checked.verdict == KEPT and kind.kept == kind.wanted:
                    checked = Checked(checked.draft, NOT_NEEDED)
                kind.kept += checked.verdict == KEPT
                if checked.verdict != KEPT:
                    kind.refuse(checked.verdict, checked.detail)
                made.rows.append(checked)
            if kind.kept < kind.wanted and kind.refused[NO_BUDGET]:
                kind.ended = NO_BUDGET
                return
        kind.ended = "all rows made"

    def _wave(self, name: str, kind: Kind) -> int:
        """Return how many replies to ask for: as many as are needed if the rest goes as it went so far."""
        a_job = kind.kept / kind.jobs if kind.jobs else self.jobs.a_reply(name)
        need = math.ceil((kind.wanted - kind.kept) / max(a_job, 0.1))
        return min(need, MOST_IN_A_WAVE)

    def _drafts(self, name: str, numbers: range, kind: Kind) -> list[Draft]:
        jobs = [self.jobs.of(name, number) for number in numbers]
        asks = [(job.ask, job.read) for job in jobs if job.ask is not None]
        answered = iter(ask_checked(self.complete, self.clean, asks, self.said.repairs))
        drafts: list[Draft] = []
        for job in jobs:
            found: Answered[list[Draft]] = Answered(job.read("")) if job.ask is None else next(answered)
            if found.value is None:
                kind.refuse(found.reason, found.detail)
            else:
                drafts += found.value
        return drafts

    def _pairs(self, numbers: range, kind: Kind) -> list[Draft]:
        """Return two answers to each request, as drafts of which nobody knows yet which is the better."""
        both = [self.jobs.answers(number) for number in numbers]
        asks = [(ask, read_text) for _, two in both for ask in two]
        answered = ask_checked(self.complete, self.clean, asks, self.said.repairs)
        drafts: list[Draft] = []
        for number, (seed, _) in enumerate(both):
            a, b = answered[2 * number : 2 * number + 2]
            if a.value is None or b.value is None:
                lost = a if a.value is None else b
                kind.refuse(lost.reason, lost.detail)
            elif words(a.value) == words(b.value):
                kind.refuse("both answers are the same", a.value[:80])
            else:
                drafts.append(Draft(PREFERENCE, seed.request, a.value, seed, rejected=b.value))
        return drafts

    def _checked(self, drafts: Sequence[Draft]) -> list[Checked]:
        """Return each draft with its verdict. Cheap checks come first; only what passes them is judged."""
        found: dict[int, tuple[str, str]] = {}
        left = list(range(len(drafts)))
        single = [n for n in left if drafts[n].rejected is None]
        steps: list[tuple[list[int], Callable[[list[Draft]], Sequence[tuple[str, str] | None]]]] = [
            (left, lambda some: [problem_of(draft) for draft in some]),
            (single, self.novelty.problems),
            (single, self.judge.problems),
            ([n for n in left if drafts[n].rejected is not None], self.judge.preferred),
        ]
        for numbers, check in steps:
            going = [number for number in numbers if number not in found]
            for number, problem in zip(going, check([drafts[number] for number in going]), strict=True):
                if problem is not None:
                    found[number] = problem
        return [Checked(draft, *found.get(number, (KEPT, ""))) for number, draft in enumerate(drafts)]


def without_leaks(made: Made, novelty: Novelty) -> dict[str, object]:
    """Return the leakage proof of what is kept, after the rows that it finds are out.

    Each row was looked at by itself; together rows may show what none shows alone.
    """
    while True:
        proof = novelty.proof([draft for draft in made.kept if draft.rejected is None])
        worst = {trained for check in proof.hits() for trained, _, _ in check.worst}
        if not worst:
            return proof.as_json()
        for place, row in enumerate(made.rows):
            if row.verdict == KEPT and row.draft.id in worst:
                made.rows[place] = Checked(row.draft, TESTED, "found by the leakage proof")
                kind = made.kinds[row.draft.kind]
                kind.kept -= 1
                kind.refuse(TESTED, row.draft.request[:200])


def distinct(drafts: Sequence[Draft], size: int = 2) -> float | None:
    """Return the share of different word n-grams among those of all requests (Li et al. 2016, arXiv 1510.03055); None for none."""
    grams: Counter[tuple[str, ...]] = Counter()
    for draft in drafts:
        own = words(draft.request)
        grams.update(tuple(own[place : place + size]) for place in range(len(own) - size + 1))
    return len(grams) / grams.total() if grams else None


assert PREFERENCE not in SEVERAL
