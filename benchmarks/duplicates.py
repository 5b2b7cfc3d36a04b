"""Near duplicates: burnish against datasketch (bulk signatures and LSH), and how cost and memory grow with the rows.

`python benchmarks/duplicates.py` writes benchmarks/results/duplicates.json. Needs `pip install datasketch rensa`.

Documents: 20,000 of 100 to 400 words drawn from a Zipf law over 50,000 words, 3,806 of them planted copies: 1,693 exact, the
rest with 0.2% to 6% of the words replaced. Both sides get word 5-grams and the threshold 0.8, datasketch its 128 permutations,
one thread pinned to one core, and take turns. Medians are reported, of wall time and of processor time (where a machine
is shared, the second is the truer one). Both go through the documents in the same order, keep or remove each, and verify each
candidate on the real sets before anything is removed.
- Given the shingles: datasketch starts from sets of bytes and hashes them as it does by default (SHA-1), burnish from its own
  sets of hashes of 52 bits in a file. `datasketch_given_numbers` spares datasketch the hashing: it gets sets of numbers.
- End to end: both start from the texts; n-grams for datasketch are cut in Python, as its examples do.
Exact copies get no help from their hash but in burnish's end to end, where that is the first step.

Truth is brute force: the overlaps of all pairs, by a product of sparse matrices over all n-grams.
"""

# The peers are no dependencies.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from datasketch import MinHash, MinHashLSH
from datasketch.hashfunc import sha1_hash32
from rensa import RMinHash
from scipy.sparse import csr_matrix

from burnish.data.near.canonical import plain, words_only
from burnish.data.near.find import find
from burnish.data.near.join import Equal, join, pairs
from burnish.data.near.rows import DOCUMENTS, REQUESTS, Row
from burnish.data.near.shingle import BLOCK_BYTES, Sets, shingle_sets
from burnish.data.near.signature import _signatures, is_prefixed, keys, plan
from burnish.data.near.sketch import RowCounts
from burnish.data.near.spool import SetFile

RESULTS = Path(__file__).parent / "results" / "duplicates.json"
DOCUMENT_COUNT, PLANTED, EXACT = 20_000, 3_806, 1_693
VOCABULARY = 50_000
THRESHOLD, WORDS, PERMUTATIONS = 0.8, 5, 128
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
EDIT_RATES = (0.002, 0.005, 0.01, 0.015, 0.02, 0.06)


def make_documents(seed: int = 0) -> list[str]:
    """Return the documents in random order."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 10, VOCABULARY)
    words = np.array(["".join(map(chr, random.integers(97, 123, length))) for length in lengths], dtype=object)
    weights = np.cumsum(1 / np.arange(1, VOCABULARY + 1))

    def draw() -> np.ndarray:
        return np.searchsorted(weights, random.random(random.integers(100, 401)) * weights[-1])

    documents = [draw() for _ in range(DOCUMENT_COUNT - PLANTED)]
    for copy in range(PLANTED):
        document = documents[random.integers(DOCUMENT_COUNT - PLANTED)].copy()
        if copy >= EXACT:
            edited = random.random(len(document)) < random.choice(EDIT_RATES)
            document[edited] = random.integers(0, VOCABULARY, edited.sum())
        documents.append(document)
    return [" ".join(words[documents[place]]) for place in random.permutation(len(documents))]


def python_shingles(text: str) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[at : at + WORDS]) for at in range(max(1, len(words) - WORDS + 1))}


def true_pairs(sets: Sets) -> dict[tuple[int, int], float]:
    """Return {(later, earlier): Jaccard similarity} of all pairs that reach the threshold."""
    values, columns = np.unique(sets.values, return_inverse=True)
    rows = len(sets.starts) - 1
    matrix = csr_matrix((np.ones(len(columns), np.int32), columns, sets.starts), shape=(rows, len(values)))
    both = (matrix @ matrix.T).tocoo()
    sizes = np.diff(sets.starts)
    scores = both.data / (sizes[both.row] + sizes[both.col] - both.data)
    chosen = (both.row > both.col) & (scores >= THRESHOLD)
    return {
        (int(a), int(b)): float(s) for a, b, s in zip(both.row[chosen], both.col[chosen], scores[chosen], strict=True)
    }


def true_removals(similar: dict[tuple[int, int], float], rows: int) -> set[int]:
    """Return the rows that go when each is compared with every kept row before it."""
    earlier: dict[int, list[int]] = {}
    for later, before in similar:
        earlier.setdefault(later, []).append(before)
    gone: set[int] = set()
    for row in range(rows):
        if any(before not in gone for before in earlier.get(row, ())):
            gone.add(row)
    return gone


def all_sets(texts: Sequence[bytes], words: int = WORDS) -> Sets:
    parts = [shingle_sets(block, words) for block in blocks(texts)]
    sizes = np.concatenate([np.diff(part.starts) for part in parts])
    return Sets(np.concatenate([part.values for part in parts]), np.concatenate(([0], np.cumsum(sizes))))


def blocks(texts: Sequence[bytes]) -> Iterator[list[bytes]]:
    block, size = [], 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def ours_given_shingles(sets: SetFile) -> set[int]:
    """Signatures, bands, candidates and verification; exact copies get no help from their hash."""
    found = join(our_keys(sets), np.arange(len(sets)), sets, Equal(np.zeros(len(sets), np.uint64)), THRESHOLD)
    return set(found.rows.tolist())


def our_keys(sets: SetFile) -> Any:
    how = plan(THRESHOLD)
    counts = RowCounts(int(sets.starts[-1]))
    for _, block in sets.blocks():
        sizes_here = np.diff(block.starts)
        counts.add(block.values[np.repeat(is_prefixed(sizes_here, how), sizes_here)])
    values, sizes = [], []
    for _, block in sets.blocks():
        found = keys(block, np.zeros(len(block.starts) - 1, np.uint64), how, counts)
        values.append(found.values)
        sizes.append(np.diff(found.starts))
    return type(found)(np.concatenate(values), np.concatenate(([0], np.cumsum(np.concatenate(sizes)))))


def ours_end_to_end(documents: Sequence[str]) -> set[int]:
    found = find((Row(number, text) for number, text in enumerate(documents)), DOCUMENTS)
    return {removal.row for removal in found.removals}


def datasketch_given_shingles(sets: Sequence[set[Any]], hashfunc: Callable[[Any], int]) -> tuple[set[int], float]:
    """Return the removed rows, and the seconds that the signatures took."""
    began = time.perf_counter()
    signatures = MinHash.bulk(sets, num_perm=PERMUTATIONS, hashfunc=hashfunc)
    signed = time.perf_counter() - began
    index = MinHashLSH(threshold=THRESHOLD - 0.05, num_perm=PERMUTATIONS)
    gone: set[int] = set()
    for row, signature in enumerate(signatures):
        own = sets[row]
        for other in index.query(signature):
            both = len(own & sets[other])
            if both / (len(own) + len(sets[other]) - both) >= THRESHOLD:
                gone.add(row)
                break
        else:
            index.insert(row, signature, check_duplication=False)
    return gone, signed


def datasketch_end_to_end(documents: Sequence[str]) -> set[int]:
    sets = [{shingle.encode() for shingle in python_shingles(text)} for text in documents]
    return datasketch_given_shingles(sets, sha1_hash32)[0]


def number_itself(number: int) -> int:
    return number & 0xFFFFFFFF


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall seconds, seconds of this process on the processor, and the result."""
    began, worked = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - began, time.process_time() - worked, result


def quality(gone: set[int], truth: set[int], similar: dict[tuple[int, int], float]) -> dict[str, float]:
    """Recall of the rows that should go, and the share of removed rows that have a similar row at all."""
    has_twin = {row for pair in similar for row in pair}
    return {
        "removed": len(gone),
        "recall": round(len(gone & truth) / len(truth), 5),
        "precision": round(len(gone & has_twin) / max(1, len(gone)), 5),
    }


def side_by_side(rounds: int) -> dict[str, Any]:
    documents = make_documents()
    sets = all_sets([words_only(plain(text)) for text in documents])
    similar = true_pairs(sets)
    truth = true_removals(similar, len(documents))
    bounds = sets.starts.tolist()
    flat = sets.values.tolist()
    number_sets: list[set[Any]] = [set(flat[a:b]) for a, b in pairwise(bounds)]
    del flat
    byte_sets: list[set[Any]] = [{shingle.encode() for shingle in python_shingles(text)} for text in documents]
    seconds: dict[str, list[float]] = {}
    cpu_seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = SetFile(Path(folder))
        file.append(sets)
        file.finish()
        for _ in range(rounds):
            arms: dict[str, Callable[[], Any]] = {
                "ours_given_shingles": lambda: ours_given_shingles(file),
                "datasketch_given_shingles": lambda: datasketch_given_shingles(byte_sets, sha1_hash32),
                "datasketch_given_numbers": lambda: datasketch_given_shingles(number_sets, number_itself),
                "ours_end_to_end": lambda: ours_end_to_end(documents),
                "datasketch_end_to_end": lambda: datasketch_end_to_end(documents),
                "shingles_ours": lambda: all_sets([words_only(plain(text)) for text in documents]),
                "shingles_python": lambda: [python_shingles(text) for text in documents],
                "signatures_ours": lambda: _signatures(sets, plan(THRESHOLD).bins),
                "signatures_rensa": lambda: rensa_signatures(sets),
            }
            results: dict[str, Any] = {}
            for name, work in arms.items():
                took, worked, results[name] = timed(work)
                seconds.setdefault(name, []).append(took)
                cpu_seconds.setdefault(name, []).append(worked)
                print(f"{name}: {took:.2f} s, {worked:.2f} s of processor", file=sys.stderr, flush=True)
        every = pairs(our_keys(file), file, Equal(np.zeros(len(file), np.uint64)), THRESHOLD)
        found = set(zip(every.rows.tolist(), every.kept.tolist(), strict=True))
        file.close()
    medians = {name: round(statistics.median(times), 3) for name, times in seconds.items()}
    cpu = {name: round(statistics.median(times), 3) for name, times in cpu_seconds.items()}
    return {
        "documents": len(documents),
        "megabytes": round(sum(map(len, documents)) / 1e6, 1),
        "rounds": rounds,
        "seconds": medians,
        "processor_seconds": cpu,
        "ratio_given_shingles": round(medians["datasketch_given_shingles"] / medians["ours_given_shingles"], 1),
        "ratio_given_shingles_by_processor_seconds": round(
            cpu["datasketch_given_shingles"] / cpu["ours_given_shingles"], 1
        ),
        "ratio_given_numbers": round(medians["datasketch_given_numbers"] / medians["ours_given_shingles"], 1),
        "ratio_given_numbers_by_processor_seconds": round(
            cpu["datasketch_given_numbers"] / cpu["ours_given_shingles"], 1
        ),
        "ratio_end_to_end": round(medians["datasketch_end_to_end"] / medians["ours_end_to_end"], 1),
        "ratio_end_to_end_by_processor_seconds": round(cpu["datasketch_end_to_end"] / cpu["ours_end_to_end"], 1),
        "ours_megabytes_per_s_end_to_end": round(sum(map(len, documents)) / 1e6 / medians["ours_end_to_end"], 1),
        "true_pairs": len(similar),
        "pairs_recall": round(len(found & similar.keys()) / len(similar), 6),
        "pairs_precision": round(len(found & similar.keys()) / max(1, len(found)), 6),
        "rows_that_should_go": len(truth),
        "ours_given_shingles": quality(results["ours_given_shingles"], truth, similar),
        "ours_end_to_end": quality(results["ours_end_to_end"], truth, similar),
        "datasketch_given_shingles": quality(results["datasketch_given_shingles"][0], truth, similar),
        "datasketch_signatures_s": round(results["datasketch_given_shingles"][1], 3),
        "datasketch_end_to_end": quality(results["datasketch_end_to_end"], truth, similar),
    }


def rensa_signatures(sets: Sets) -> np.ndarray:
    """As many numbers as ours, as a matrix; rensa hands them out as lists only."""
    starts = sets.starts.astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(sets.values, starts, plan(THRESHOLD).bins, 42)
    return np.array(matrix.to_rows(), np.uint32)


def short_rows(count: int, seed: int = 1) -> Iterator[Row]:
    """Yield requests of 10 to 50 words, a fifth of them edited copies of one of the last thousand; 5,000 answers."""
    random = np.random.default_rng(seed)
    words = np.array([f"w{number}" for number in range(VOCABULARY)], dtype=object)
    weights = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    recent: list[tuple[np.ndarray, str]] = []
    for number in range(count):
        if recent and random.random() < 0.2:
            drawn, answer = recent[random.integers(len(recent))]
            drawn = drawn.copy()
            drawn[random.integers(len(drawn))] = random.integers(VOCABULARY)
        else:
            drawn = np.searchsorted(weights, random.random(random.integers(10, 51)) * weights[-1])
            answer = f"answer {random.integers(5_000)}"
        recent.append((drawn, answer))
        if len(recent) > 1_000:
            recent.pop(0)
        yield Row(number, " ".join(words[drawn]), answer, f"source {number % 5}")


def scale(count: int) -> dict[str, float]:
    """Time and memory of one size, in this process. The rows come from a file, so that making them is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        with path.open("w") as file:
            for row in short_rows(count):
                file.write(f"{row.text}\t{row.answer}\t{row.source}\n")
        size = path.stat().st_size
        # The sketch and numpy's own needs do not grow with the rows, so a small run comes first.
        find(list(read_rows(path, 5_000)), REQUESTS)
        before = peak_kib(reset=True)
        took, worked, found = timed(lambda: find(read_rows(path, count), REQUESTS, folder=Path(folder)))
        after = peak_kib()
    return {
        "rows": count,
        "megabytes": round(size / 1e6, 1),
        "seconds": round(took, 2),
        "processor_seconds": round(worked, 2),
        "processor_microseconds_per_row": round(1e6 * worked / count, 2),
        "microseconds_per_row": round(1e6 * took / count, 2),
        "megabytes_per_s": round(size / 1e6 / took, 1),
        "peak_rss_growth_mib": round((after - before) / 1024, 1),
        "removed": len(found.removals),
        "cut_short": found.cut_short,
    }


def peak_kib(*, reset: bool = False) -> int:
    """Return the most memory this process ever held, or since the last reset. (getrusage's counts the parent's, too.)"""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def read_rows(path: Path, count: int) -> Iterator[Row]:
    with path.open() as file:
        for number, line in zip(range(count), file, strict=False):
            text, answer, source = line.rstrip("\n").split("\t")
            yield Row(number, text, answer, source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--scale", type=int, help="measure one size and print it; what --sizes runs for each")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    if any(os.environ.get(name) != "1" for name in THREADS):
        # Read when libraries are loaded, so the program starts again.
        os.environ.update(dict.fromkeys(THREADS, "1"))
        os.execv(sys.executable, [sys.executable, *sys.argv])
    if options.scale:
        print(json.dumps(scale(options.scale)))
        return
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{platform.machine()}, {processor()}, one thread pinned to one core",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "datasketch", "rensa")},
        "load_average": round(os.getloadavg()[0], 1),
        "side_by_side": side_by_side(options.rounds),
    }
    sizes: list[dict[str, float]] = []
    for size in options.sizes:
        command = [sys.executable, __file__, "--scale", str(size)]
        sizes.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print(sizes[-1], file=sys.stderr, flush=True)
    if len(sizes) > 1:
        # Tables of counters and blocks in work are of one size from some size on; what the rows themselves take is the slope.
        grown = (sizes[-1]["peak_rss_growth_mib"] - sizes[-2]["peak_rss_growth_mib"]) * 2**20
        report["peak_rss_bytes_per_further_row"] = round(grown / (sizes[-1]["rows"] - sizes[-2]["rows"]), 1)
    options.out.write_text(json.dumps({**report, "short_rows": sizes}, indent=2) + "\n")
    print(options.out.read_text())


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
