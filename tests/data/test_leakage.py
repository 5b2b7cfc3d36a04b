"""The proof finds what a brute search finds, and says what it did not look for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.errors import GateError
from burnish.data.splits.assign import TEST, TRAIN, Shares, assign
from burnish.data.splits.grams import GramIndex, gram_blocks, word_blocks
from burnish.data.splits.leakage import Check, Part, Proof, Thresholds, leakage, require_clean
from burnish.data.splits.positions import positions

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=24).map(" ".join), max_size=6)


def part(name: str, texts: Sequence[str]) -> Part:
    return Part(name, [f"{name}{number}" for number in range(len(texts))], texts)


def check(proof: Proof, method: str) -> Check:
    return next(found for found in proof.checks if found.method == method)


def grams(text: str, size: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}


@given(trained=TEXTS, tested=TEXTS, size=st.integers(1, 13))
@settings(max_examples=300)
def test_gram_shares_are_those_of_a_brute_search(trained: list[str], tested: list[str], size: int) -> None:
    index = GramIndex(word_blocks(tested), size)
    for first, block in gram_blocks(word_blocks(trained), size):
        index.see(first, block)
    shares, best = index.shares()
    everything = set().union(*(grams(text, size) for text in trained))
    for row, text in enumerate(tested):
        mine = grams(text, size)
        assert shares[row] == pytest.approx(len(mine & everything) / max(1, len(mine)))
        assert (best[row] >= 0) == bool(mine & everything)
        if best[row] >= 0:
            assert mine & grams(trained[best[row]], size)
    assert index.unfit() == sum(not grams(text, size) for text in tested)


@given(trained=TEXTS, tested=TEXTS)
def test_exact_hits_are_those_of_a_brute_search(trained: list[str], tested: list[str]) -> None:
    found = check(leakage([part("train", trained), part("test", tested)]), "exact")
    assert found.hit == sum(text.strip() in {other.strip() for other in trained} for text in tested)
    assert found.rows == len(tested)


def test_scores_by_hand() -> None:
    # 15 words have 3 grams of 13; the training row holds the first 14 words, so 2 of them.
    trained = ["nothing of the kind", " ".join(LONG.split()[:14]).upper() + "!"]
    proof = leakage([part("train", trained), part("test", [LONG, "short", LONG.replace(" ", ",  ")])])
    found = check(proof, "13-gram")
    assert (found.rows, found.unfit, found.touched, found.hit) == (3, 1, 2, 2)
    assert found.worst == (("train1", "test0", 0.666667), ("train1", "test2", 0.666667))
    assert check(proof, "exact").hit == 0
    assert not proof.clean
    strict = leakage([part("train", trained), part("test", [LONG])], thresholds=Thresholds(grams=0.7))
    assert strict.clean
    assert check(strict, "13-gram").touched == 1


def test_a_template_that_many_tested_rows_share_is_no_leak() -> None:
    tested = [f"{LONG} {number}" for number in range(60)]
    proof = leakage([part("train", [f"{LONG} x"]), part("test", tested)])
    assert check(proof, "13-gram").touched == 0
    assert check(proof, "13-gram").unfit == 0  # each has one gram of its own: the last


def test_splits_are_compared_with_later_ones_and_with_evaluation_sets() -> None:
    parts = [part(name, [f"{name} text"]) for name in ("train", "validation", "test")]
    proof = leakage(parts, [part("mmlu", ["a question"])])
    assert {(found.trained, found.tested) for found in proof.checks} == {
        ("train", "validation"),
        ("train", "test"),
        ("train", "mmlu"),
        ("validation", "test"),
        ("validation", "mmlu"),
    }
    assert proof.clean
    assert proof.not_run == ("near", "embedding")
    assert leakage([part("train", ["a"])], [part("mmlu", ["a"])]).hits()


def test_the_proof_is_json_and_its_inputs_are_hashed() -> None:
    a = leakage([part("train", ["a", "b"]), part("test", ["c"])])
    b = leakage([part("train", ["ab", ""]), part("test", ["c"])])
    assert json.loads(json.dumps(a.as_json()))["inputs"]["train"]["rows"] == 2
    assert a.inputs["train"] != b.inputs["train"]
    assert a.inputs["test"] == b.inputs["test"]


def test_chunks_of_500_documents_split_by_document_have_no_document_on_both_sides() -> None:
    documents = [f"document {number // 10}" for number in range(5_000)]
    chunks = [f"chunk {number}" for number in range(5_000)]

    def split(keys: list[str]) -> Check:
        sides = assign(positions(keys), Shares(0.2))
        rows = [np.flatnonzero(sides == side).tolist() for side in (TRAIN, TEST)]
        parts = [
            Part(name, [chunks[row] for row in part], [chunks[row] for row in part], [documents[row] for row in part])
            for name, part in zip(("train", "test"), rows, strict=True)
        ]
        return check(leakage(parts), "group")

    by_document, by_chunk = split(documents), split(chunks)
    assert (by_document.rows, by_document.hit) == (1_130, 0)
    assert by_chunk.hit == by_chunk.rows > 900
    with pytest.raises(ValueError, match="1 groups"):
        Part("x", ["a", "b"], ["a", "b"], ["g"])


@given(trained=TEXTS, tested=TEXTS, more=TEXTS, words=st.integers(1, 12))
def test_passes_find_what_one_pass_finds(trained: list[str], tested: list[str], more: list[str], words: int) -> None:
    parts = [part("train", trained), part("test", tested)]
    others = [parts[1], part("more", more)]
    assert leakage(parts[:1], others, pass_words=words) == leakage(parts[:1], others)


def test_near_and_embedding_functions_are_asked() -> None:
    def near(trained: Part, tested: Part, threshold: float) -> Iterator[tuple[int, int, float]]:
        for a, ours in enumerate(trained.texts):
            for b, theirs in enumerate(tested.texts):
                x, y = set(ours.split()), set(theirs.split())
                if (score := len(x & y) / len(x | y)) >= threshold:
                    yield a, b, score

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text), 3.0 * text.count("a")] for text in texts])

    proof = leakage(
        [part("train", ["a b c d e", "x y"]), part("test", ["a b c d e f", "zz y"])],
        near=near,
        embed=embed,
        thresholds=Thresholds(near=0.8, embedding=0.999),
    )
    assert check(proof, "near").worst == (("train0", "test0", 0.833333),)
    # Vectors (9, 3), (3, 0) against (11, 3), (4, 0): cosines 108/sqrt(90 * 130) = 0.998 and 1.
    assert check(proof, "embedding").worst == (("train1", "test1", 1.0),)
    assert proof.not_run == ()


def test_embeddings_agree_with_brute_force() -> None:
    draw = np.random.default_rng(0)
    table = {f"{side}{number}": draw.normal(size=4) for side in "ab" for number in range(50)}
    names = [[f"{side}{number}" for number in range(50)] for side in "ab"]
    proof = leakage(
        [part("train", names[0]), part("test", names[1])],
        embed=lambda texts: np.array([table[text] for text in texts]),
        thresholds=Thresholds(embedding=0.9),
    )
    ours, theirs = (np.array([table[name] / np.linalg.norm(table[name]) for name in side]) for side in names)
    assert check(proof, "embedding").hit == int(((ours @ theirs.T).max(axis=0) >= 0.9).sum()) > 5


def test_the_gate_names_the_worst_pair() -> None:
    proof = leakage([part("train", ["Same words!"]), part("test", ["same words", "other"])])
    with pytest.raises(GateError, match=r"test in train, exact: 1 of 2 rows; worst test0 ~ train0 \(1.00\)"):
        require_clean(proof)
    require_clean(proof, most_hits=1)


def test_words_are_told_apart_as_people_read_them() -> None:
    wide, plain = "Ｆull-width ﬁne, STRASSE straße", "full width fine strasse STRASSE!"
    assert check(leakage([part("train", [wide]), part("test", [plain])]), "exact").hit == 1
    assert check(leakage([part("train", ["!!"]), part("test", ["!!", "??"])]), "exact").hit == 1
