"""The proof that what is tested was not trained on: between splits, and against named evaluation sets.

Methods, from sure to fuzzy: `group` (rows of one document, where documents are given), `exact` (the same words), `13-gram`
(share of a tested row's word 13-grams that occur in the other part), `near` and `embedding` (functions of others, passed
in). Rows should come without what all of them share, such as the system prompt; 13-grams in more than 5% of the tested
rows are left out as template.

The proof lists what was checked as well as what was found, the inputs' hashes, and the methods that did not run: a proof
by fewer methods says so. `require_clean` makes a gate of it.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from burnish.core.errors import GateError
from burnish.data.near.canonical import plain, words_only
from burnish.data.near.shingle import Words
from burnish.data.splits.grams import GramIndex, gram_blocks, word_blocks
from burnish.data.splits.positions import U64

Near: TypeAlias = "Callable[[Part, Part, float], Iterable[tuple[int, int, float]]]"
"""near(trained, tested, threshold) -> (row of trained, row of tested, Jaccard similarity) of at least the threshold."""
Embed: TypeAlias = Callable[[Sequence[str]], npt.NDArray[np.floating[Any]]]
"""embed(texts) -> vectors of shape (texts, width), of any length."""
WORST = 10
_WORDS_ALONE = bytes(
    byte if byte in b"0123456789abcdefghijklmnopqrstuvwxyz_" or byte > 127 else 32 for byte in range(256)
)
PASS_WORDS = 7 << 20
"""Words of tested rows that are indexed at once, about 400 MB while the index is made."""
_BLOCK = 4096
"""Rows embedded and compared at once: 4096 x 4096 similarities are 64 MiB."""


@dataclass(frozen=True, slots=True)
class Part:
    """A split or an evaluation set: ids of rows, and the text of each that counts. `texts` may read lazily.

    groups: the document or group of each row, where rows of one must not be on both sides; else empty.
    exact: `exact_hash` of each text where it is known already. words: from some rows (the first, the one after the last) to
    their words, block by block, where they are known.
    """

    name: str
    ids: Sequence[str]
    texts: Sequence[str]
    groups: Sequence[str] = ()
    exact: U64 | None = None
    words: Callable[[int, int], Iterable[Words]] | None = None

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.texts) or len(self.groups) not in (0, len(self.ids)):
            raise ValueError(
                f"{self.name} has {len(self.ids)} ids, {len(self.texts)} texts and {len(self.groups)} groups"
            )

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterable[Words]:
        """Return the words of the rows from start to stop, block by block."""
        end = len(self.ids) if stop is None else stop
        return word_blocks(self.texts[start:end]) if self.words is None else self.words(start, end)

    def hashes(self) -> U64:
        """Return the `exact_hash` of each row."""
        if self.exact is not None:
            return self.exact
        return np.fromiter((exact_hash(text) for text in self.texts), dtype=np.uint64, count=len(self.texts))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The score from which on a tested row counts as hit, by method; an exact match always does."""

    grams: float = 0.5
    near: float = 0.8
    embedding: float = 0.95


@dataclass(frozen=True, slots=True)
class Check:
    """One method on one pair. `worst` holds (row id in `trained`, row id in `tested`, score), highest first.

    `touched` counts rows with any score above 0; `unfit` those the method can say nothing about (fewer than 13 words).
    """

    trained: str
    tested: str
    method: str
    threshold: float
    rows: int
    unfit: int
    touched: int
    hit: int
    worst: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """What was checked, and what was found. `clean` when no method that ran hit a row."""

    clean: bool
    checks: tuple[Check, ...]
    not_run: tuple[str, ...]
    inputs: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Return the proof as JSON values."""
        return asdict(self)

    def hits(self) -> list[Check]:
        """Return the checks that hit rows."""
        return [check for check in self.checks if check.hit]


def leakage(
    splits: Sequence[Part],
    evaluations: Sequence[Part] = (),
    *,
    thresholds: Thresholds | None = None,
    pass_words: int = PASS_WORDS,
    near: Near | None = None,
    embed: Embed | None = None,
    embedding: Near | None = None,
) -> Proof:
    """Compare each split with every later one and with every evaluation set.

    splits: in the order train, validation, test. Rows of the last are trained on nowhere: it is checked against the
    others, and not against evaluation sets. pass_words: words of tested rows that are indexed at once. embedding: compares by
    embeddings as `near` does by words; or `embed` gives them, and every pair of texts is compared.
    """
    limits = thresholds or Thresholds()
    checks: list[Check] = []
    for number, trained in enumerate(splits):
        later = list(splits[number + 1 :])
        tested = later + list(evaluations) if later or len(splits) == 1 else []
        checks += _streamed(trained, tested, limits, pass_words)
        for part in tested:
            if trained.groups and part.groups:
                checks.append(_check(trained, part, "group", 1.0, _same_group(trained, part)))
            if near is not None:
                pairs = near(trained, part, limits.near)
                checks.append(_check(trained, part, "near", limits.near, pairs))
            if embed is not None:
                pairs = _similar(trained.texts, part.texts, limits.embedding, embed)
                checks.append(_check(trained, part, "embedding", limits.embedding, pairs))
            elif embedding is not None:
                pairs = embedding(trained, part, limits.embedding)
                checks.append(_check(trained, part, "embedding", limits.embedding, pairs))
    return Proof(
        clean=not any(check.hit for check in checks),
        checks=tuple(checks),
        not_run=tuple(
            method for method, function in (("near", near), ("embedding", embed or embedding)) if function is None
        ),
        inputs={part.name: {"rows": len(part.ids), "sha256": part_sha256(part)} for part in (*splits, *evaluations)},
    )


def require_clean(proof: Proof, *, most_hits: int = 0) -> None:
    """Raise GateError when a check hit more than `most_hits` rows; the message names the worst pair of each."""
    bad = [check for check in proof.checks if check.hit > most_hits]
    if not bad:
        return
    lines = [f"{len(bad)} checks found tested rows in what is trained on (allowed: {most_hits} a check):"]
    for check in bad:
        a, b, score = check.worst[0]
        lines.append(
            f"  {check.tested} in {check.trained}, {check.method}: {check.hit} of {check.rows} rows; worst {b} ~ {a} ({score:.2f})"
        )
    lines.append("Remove these rows from what is trained on, or split by source or cluster.")
    raise GateError("\n".join(lines))


def exact_hash(text: str) -> int:
    """Return 64 bits that texts of the same words have in common; a text without words counts letter by letter."""
    return exact_hash_of([words_only(plain(text))], text)


def exact_hash_of(parts: Sequence[bytes], text: str) -> int:
    """Return the `exact_hash` of a text whose parts are given as `canonical.words_only` returns them."""
    words = b" ".join(b" ".join(parts).translate(_WORDS_ALONE).split())
    said = words or f"\0{text.strip()}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "little")


def part_sha256(part: Part) -> str:
    """Return the hash of a part's ids and of what is exact about its texts, in order."""
    total = hashlib.sha256()
    for identifier in part.ids:
        data = identifier.encode("utf-8", "surrogatepass")
        total.update(len(data).to_bytes(8, "big") + data)
    total.update(np.ascontiguousarray(part.hashes(), "<u8").tobytes())
    return total.hexdigest()


def _streamed(trained: Part, tested: Sequence[Part], limits: Thresholds, pass_words: int) -> list[Check]:
    """Exact and 13-gram checks of all tested parts in as few passes over the trained rows as memory allows."""
    shown: list[list[tuple[int, int, float]]] = [[] for _ in tested]
    unfit = [0] * len(tested)
    for pieces in _passes(tested, pass_words):
        indices = [(part, start, GramIndex(tested[part].blocks(start, stop))) for part, start, stop in pieces]
        for first, grams in gram_blocks(trained.blocks()):
            for _, _, index in indices:
                index.see(first, grams)
        for part, start, index in indices:
            shares, best = index.shares()
            rows = np.flatnonzero(shares > 0)
            shown[part] += [(int(best[row]), start + row, float(shares[row])) for row in rows.tolist()]
            unfit[part] += index.unfit()
    ours = trained.hashes()
    checks: list[Check] = []
    for number, part in enumerate(tested):
        checks.append(_check(trained, part, "exact", 1.0, _same(ours, part.hashes())))
        checks.append(_check(trained, part, "13-gram", limits.grams, shown[number], unfit=unfit[number]))
    return checks


def _same(trained: U64, tested: U64) -> Iterator[tuple[int, int, float]]:
    """Yield each tested row whose words are trained on, with the first trained row that has them."""
    values, first = np.unique(trained, return_index=True)
    if not len(values):
        return
    at = np.minimum(np.searchsorted(values, tested), len(values) - 1)
    for row in np.flatnonzero(values[at] == tested).tolist():
        yield int(first[at[row]]), row, 1.0


def _passes(tested: Sequence[Part], most: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield what one pass compares: (part, first row, row after the last) of at most `most` words, one row at least."""
    pieces: list[tuple[int, int, int]] = []
    words = 0
    for number, part in enumerate(tested):
        start = row = 0
        for block in part.blocks():
            for size in np.diff(block.starts).tolist():
                if words and words + size > most:
                    if row > start:
                        pieces.append((number, start, row))
                    yield pieces
                    pieces, words, start = [], 0, row
                words += size
                row += 1
        if row > start:
            pieces.append((number, start, row))
    if pieces:
        yield pieces


def _check(
    trained: Part,
    tested: Part,
    method: str,
    threshold: float,
    pairs: Iterable[tuple[int, int, float]],
    *,
    unfit: int = 0,
) -> Check:
    best: dict[int, tuple[float, int]] = {}
    for a, b, score in pairs:
        if b not in best or (score, -a) > (best[b][0], -best[b][1]):
            best[b] = (score, a)
    worst = heapq.nsmallest(WORST, ((-score, b, a) for b, (score, a) in best.items()))
    return Check(
        trained=trained.name,
        tested=tested.name,
        method=method,
        threshold=threshold,
        rows=len(tested.ids),
        unfit=unfit,
        touched=len(best),
        hit=sum(score >= threshold for score, _ in best.values()),
        worst=tuple((trained.ids[a], tested.ids[b], round(-score, 6)) for score, b, a in worst),
    )


def _same_group(trained: Part, tested: Part) -> Iterable[tuple[int, int, float]]:
    """Yield each tested row whose group is trained on, with the first trained row of it."""
    first: dict[str, int] = {}
    for row, group in enumerate(trained.groups):
        first.setdefault(group, row)
    return ((first[group], row, 1.0) for row, group in enumerate(tested.groups) if group in first)


def _similar(
    trained: Sequence[str], tested: Sequence[str], threshold: float, embed: Embed
) -> Iterable[tuple[int, int, float]]:
    """Yield the nearest trained row of each tested row by cosine, block by block, where it reaches the threshold."""
    blocks = range(0, len(tested), _BLOCK)
    vectors = [_unit(embed(tested[start : start + _BLOCK])) for start in blocks]
    for first in range(0, len(trained), _BLOCK):
        ours = _unit(embed(trained[first : first + _BLOCK]))
        for start, theirs in zip(blocks, vectors, strict=True):
            cosine = ours @ theirs.T
            nearest = cosine.argmax(axis=0)
            score = cosine[nearest, np.arange(len(theirs))]
            for row in np.flatnonzero(score >= threshold).tolist():
                yield first + int(nearest[row]), start + row, float(score[row])


def _unit(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)
