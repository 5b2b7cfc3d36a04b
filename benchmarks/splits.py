"""Splits of documents cut into chunks: rows whose document is on both sides, here, with scikit-learn, and without care.

`python benchmarks/splits.py` writes benchmarks/results/splits.json. 500 documents x 10 chunks, 20% tested, labels by document
(20% rare). Arms: `assign` by source; `assign` by source joined with near-duplicate clusters; scikit-learn's GroupShuffleSplit
and StratifiedGroupKFold by source; `assign` by the chunk's own key and scikit-learn's stratified train_test_split, which both
ignore documents. `leaked_share` is the share of test rows whose document is in train too. Then 10% more documents come, and
`moved_share` is the share of the old rows that change sides; last, a
million rows are split, and 20,000 rows are checked for planted excerpts, in processor time.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold, train_test_split

from burnish.data.splits.assign import TEST, Shares, assign, crossing, stratified
from burnish.data.splits.leakage import Part, leakage
from burnish.data.splits.positions import joined, positions

CHUNKS, SHARE = 10, 0.2
RESULTS = Path(__file__).parent / "results" / "splits.json"


class Corpus:
    """Documents of ten chunks; every 20th document repeats a chunk of the one before it."""

    def __init__(self, documents: int) -> None:
        self.document = np.repeat(np.arange(documents), CHUNKS)
        self.keys = [f"document {row // CHUNKS} chunk {row % CHUNKS}" for row in range(len(self.document))]
        # Near duplicates have the same label.
        origin = np.arange(documents)
        origin[20::20] -= 1
        self.label = (positions(f"label {number}" for number in origin) % 5 == 0).astype(int)[self.document]
        self.near = np.arange(len(self.document))
        first = np.arange(20, documents, 20) * CHUNKS
        self.near[first] = first - CHUNKS

    def sources(self) -> np.ndarray:
        return positions(f"document {number}" for number in self.document)


def by_source(corpus: Corpus) -> np.ndarray:
    return assign(corpus.sources(), Shares(SHARE)) == TEST


def by_cluster(corpus: Corpus) -> np.ndarray:
    return assign(corpus.sources(), Shares(SHARE), clusters=joined(corpus.document, corpus.near)) == TEST


def by_stratum(corpus: Corpus) -> np.ndarray:
    clusters = joined(corpus.document, corpus.near)
    return stratified(corpus.sources(), corpus.label, Shares(SHARE), clusters=clusters, exact=True) == TEST


def group_shuffle(corpus: Corpus) -> np.ndarray:
    split = GroupShuffleSplit(n_splits=1, test_size=SHARE, random_state=0)
    _, test = next(split.split(corpus.document, groups=corpus.document))
    return flags(corpus, test)


def stratified_group(corpus: Corpus) -> np.ndarray:
    split = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=0)
    _, test = next(split.split(corpus.document, corpus.label, corpus.document))
    return flags(corpus, test)


def by_chunk(corpus: Corpus) -> np.ndarray:
    return assign(positions(corpus.keys), Shares(SHARE)) == TEST


def random_rows(corpus: Corpus) -> np.ndarray:
    _, test = train_test_split(np.arange(len(corpus.document)), test_size=SHARE, stratify=corpus.label, random_state=0)
    return flags(corpus, test)


def flags(corpus: Corpus, test: np.ndarray) -> np.ndarray:
    found = np.zeros(len(corpus.document), dtype=bool)
    found[test] = True
    return found


ARMS: dict[str, Callable[[Corpus], np.ndarray]] = {
    "burnish by source": by_source,
    "burnish by source and near-duplicate cluster": by_cluster,
    "burnish by source and cluster, stratified exactly": by_stratum,
    "scikit-learn GroupShuffleSplit": group_shuffle,
    "scikit-learn StratifiedGroupKFold": stratified_group,
    "burnish by chunk": by_chunk,
    "scikit-learn train_test_split, stratified": random_rows,
}


def measure(arm: Callable[[Corpus], np.ndarray]) -> dict[str, float | int]:
    corpus, grown = Corpus(500), Corpus(550)
    began = time.perf_counter()
    test = arm(corpus)
    seconds = time.perf_counter() - began
    leaked = np.isin(corpus.document[test], corpus.document[~test])
    moved = arm(grown)[: len(test)] != test
    label = corpus.label
    return {
        "test_rows": int(test.sum()),
        "test_rows_with_source_in_train": int(leaked.sum()),
        "leaked_share": round(float(leaked.mean()), 4),
        "near_duplicate_clusters_on_both_sides": crossing(test.astype(np.int8), corpus.near),
        "label_drift_points": round(100 * abs(float(label[test].mean() - label.mean())), 2),
        "moved_share_when_a_tenth_is_added": round(float(moved.mean()), 4),
        "milliseconds": round(1000 * seconds, 2),
    }


def million() -> dict[str, float]:
    rows = 1_000_000
    began = time.process_time()
    place = positions(str(row) for row in range(rows))
    hashed = time.process_time()
    documents = np.arange(rows) // CHUNKS
    near = np.arange(rows)
    near[::50] = near[::-50]  # 2% of the rows have a near duplicate in a document far away
    clusters = joined(documents, near)
    united = time.process_time()
    assign(place, Shares(0.1, 0.1), clusters=clusters)
    done = time.process_time()
    parts = (("hash_keys", began, hashed), ("join_clusters", hashed, united), ("assign", united, done))
    return {f"{name}_processor_seconds": round(end - start, 2) for name, start, end in parts}


def proof() -> dict[str, float | int]:
    draw = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in draw.zipf(1.3, 200) % 50_000) for _ in range(20_000)]
    words = sum(len(text) for text in texts)
    parts = [Part("train", [str(n) for n in range(19_000)], texts[:19_000])]
    copies = [" ".join(text.split()[50:150]) for text in texts[:50]]
    parts.append(Part("test", [str(n) for n in range(1_050)], texts[19_000:] + copies))
    began = time.process_time()
    found = leakage(parts)
    seconds = time.process_time() - began
    grams = next(check for check in found.checks if check.method == "13-gram")
    return {
        "rows": len(texts),
        "megabytes": round(words / 1e6, 1),
        "planted_excerpts": 50,
        "found": grams.hit,
        "megabytes_per_processor_second": round(words / 1e6 / seconds, 2),
    }


def main() -> None:
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {"numpy": np.__version__, "scikit-learn": sklearn.__version__},
        "documents": 500,
        "chunks_each": CHUNKS,
        "test_share": SHARE,
        "arms": {name: measure(arm) for name, arm in ARMS.items()},
        "million_rows": million(),
        "leakage_proof": proof(),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
