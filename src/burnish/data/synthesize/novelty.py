"""Is a draft new: against the user's own rows, against everything that is tested, against what was made before it.

By the search for duplicates that `prepare` uses (equal, or near with the same answer), by 13-grams as the leakage proof counts
them, by ROUGE-L where a kind is to bring something new, and by embeddings where the recipe compares by those.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from burnish.data.near.canonical import plain, plain_answer
from burnish.data.near.find import find
from burnish.data.near.rows import Row, Rules
from burnish.data.near.semantic import Embed
from burnish.data.splits.grams import TEMPLATE_ROWS, TEMPLATE_SHARE, gram_blocks, word_blocks
from burnish.data.splits.leakage import Part, Proof, Thresholds, leakage
from burnish.data.synthesize.draft import Draft
from burnish.data.synthesize.jobs import SEVERAL
from burnish.data.synthesize.material import Seed
from burnish.data.synthesize.rouge import Index

Pair = tuple[str, str]
"""A request and its answer."""
SEED, TESTED, EARLIER = "like an example", "like a tested row", "like an earlier row"


@dataclass(frozen=True, slots=True)
class Limits:
    """rouge: from which a request is not new. near: Jaccard similarity of near duplicates. cosine: None without embeddings."""

    rouge: float
    near: float
    cosine: float | None = None


class Novelty:
    """Knows the rows there are, and takes in the drafts that pass."""

    def __init__(
        self, seeds: Sequence[Seed], tested: Mapping[str, Sequence[Pair]], limits: Limits, *,
        embed: Embed | None = None, folder: Path | None = None,
    ) -> None:  # fmt: skip
        """tested: requests and answers of the test split and of each task, by name. folder: for temporary files."""
        self._limits, self._folder, self._embed = limits, folder, embed
        self._sets = {name: list(pairs) for name, pairs in tested.items()}
        tested_pairs = [pair for pairs in self._sets.values() for pair in pairs]
        self._pairs: list[tuple[str, Pair]] = [(TESTED, pair) for pair in tested_pairs]
        self._pairs += [(SEED, (seed.request, seed.answer)) for seed in seeds]
        self._asked = {plain(request): (TESTED, request) for request, _ in tested_pairs}
        self._index = Index()
        for _, (request, _) in self._pairs:
            self._index.add(request)
        self._grams = _TestedGrams(tested_pairs)
        self._vectors = embed([request for request, _ in tested_pairs]) if embed is not None and tested_pairs else None

    def problems(self, drafts: Sequence[Draft]) -> list[tuple[str, str] | None]:
        """Return for each draft why it is not new, and what it is like; None, and remember it, where it is new."""
        near = self._near(drafts)
        alike = self._alike(drafts)
        found: list[tuple[str, str] | None] = []
        for number, draft in enumerate(drafts):
            problem = near.get(number) or self._known(draft) or alike.get(number)
            found.append(problem)
            if problem is None:
                self._pairs.append((EARLIER, (draft.request, draft.answer)))
                self._index.add(draft.request)
        return found

    def proof(self, drafts: Sequence[Draft]) -> Proof:
        """Return the leakage proof of drafts against everything that is tested."""
        part = Part("synthetic", [draft.id for draft in drafts], [f"{d.request}\n{d.answer}" for d in drafts])
        sets = [
            Part(name, [f"{name}:{n}" for n in range(len(pairs))], [f"{a}\n{b}" for a, b in pairs])
            for name, pairs in self._sets.items()
        ]
        return leakage([part], sets, embed=self._embed)

    def _near(self, drafts: Sequence[Draft]) -> dict[int, tuple[str, str]]:
        """Return the drafts that are equal or near to a row or to a draft before them, with the same answer."""
        known = len(self._pairs)
        rows = [
            Row(n, request, plain_answer(answer), fixed=True) for n, (_, (request, answer)) in enumerate(self._pairs)
        ]
        rows += [Row(known + n, draft.request, plain_answer(draft.answer), rank=1) for n, draft in enumerate(drafts)]
        removals = find(rows, Rules(threshold=self._limits.near), folder=self._folder).removals
        found: dict[int, tuple[str, str]] = {}
        for removal in removals:
            if removal.row >= known:
                kept = removal.kept
                reason, text = (
                    (self._pairs[kept][0], self._pairs[kept][1][0])
                    if kept < known
                    else (EARLIER, drafts[kept - known].request)
                )
                found[removal.row - known] = (reason, f"{removal.score:.2f}: {text[:200]}")
        return found

    def _known(self, draft: Draft) -> tuple[str, str] | None:
        if same := self._asked.get(plain(draft.request)):
            return same[0], f"the same request: {same[1][:200]}"
        if shared := self._grams.share(f"{draft.request}\n{draft.answer}"):
            return TESTED, f"{shared[0]:.0%} of the 13-grams of: {shared[1][:200]}"
        if draft.kind in SEVERAL and (near := self._index.closest(draft.request, self._limits.rouge)):
            reason, (request, _) = self._pairs[near[0]]
            return reason, f"ROUGE-L {near[1]:.2f}: {request[:200]}"
        return None

    def _alike(self, drafts: Sequence[Draft]) -> dict[int, tuple[str, str]]:
        """Return the drafts that ask in other words what is tested, by embeddings."""
        if self._embed is None or self._vectors is None or self._limits.cosine is None or not drafts:
            return {}
        cosine = self._embed([draft.request for draft in drafts]) @ self._vectors.T
        nearest = cosine.argmax(axis=1)
        scores = cosine[np.arange(len(drafts)), nearest]
        return {
            int(n): (TESTED, f"cosine {scores[n]:.2f}: {self._pairs[int(nearest[n])][1][0][:200]}")
            for n in np.flatnonzero(scores >= self._limits.cosine)
        }


class _TestedGrams:
    """The 13-grams of tested rows, without those that belong to a template."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._requests = [request for request, _ in pairs]
        rows: defaultdict[int, list[int]] = defaultdict(list)
        for first, sets in gram_blocks(word_blocks(f"{request}\n{answer}" for request, answer in pairs)):
            numbers = np.repeat(np.arange(first, first + len(sets.starts) - 1), np.diff(sets.starts))
            for gram, row in zip(sets.values.tolist(), numbers.tolist(), strict=True):
                rows[gram].append(row)
        most = max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(pairs))
        self._rows = {gram: of for gram, of in rows.items() if len(of) <= most}
        self._sizes = Counter(row for of in self._rows.values() for row in of)

    def share(self, text: str) -> tuple[float, str] | None:
        """Return the largest share of a tested row's 13-grams that a text holds, and that row's request, from one half on."""
        hits: Counter[int] = Counter()
        for _, sets in gram_blocks(word_blocks([text])):
            for gram in sets.values.tolist():
                hits.update(self._rows.get(gram, ()))
        best = max(((count / self._sizes[row], row) for row, count in hits.items()), default=(0.0, 0))
        return (best[0], self._requests[best[1]]) if best[0] >= Thresholds().grams else None
