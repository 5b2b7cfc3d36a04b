"""The certificate measures what it says, and names are found or their absence is told."""

from __future__ import annotations

import json
import random

import pytest

from burnish.core.errors import DataError
from burnish.core.proportions import wilson
from burnish.data.private import names as naming
from burnish.data.private.canaries import PLANTED, canary
from burnish.data.private.certificate import certificate, plant
from burnish.data.private.find import find
from burnish.data.private.kinds import STRUCTURED, Kind

TEXTS = [
    "I would like to change my flight. The date does not suit me.\nCan you help?",
    '{"question": "Can I get a refund?", "answer": "Yes, within 14 days."}',
    "One line without an end",
]


def test_every_structured_kind_is_planted() -> None:
    assert set(PLANTED) == STRUCTURED


def test_the_pass_finds_nearly_every_canary_and_says_which_it_missed() -> None:
    proof = certificate(TEXTS, seed=5)
    recall = {kind.kind: kind.recall for kind in proof.kinds}
    assert set(recall) == {kind.value for kind in PLANTED}
    assert all(share == 1.0 for kind, share in recall.items() if kind != "PHONE"), recall
    assert recall["PHONE"] >= 0.85
    assert len([miss for miss in proof.misses if miss.kind == "PHONE"]) == min(20, round(100 * (1 - recall["PHONE"])))
    assert json.loads(json.dumps(proof.to_json()))["seed"] == 5
    assert proof.to_json() == certificate(TEXTS, seed=5).to_json() != certificate(TEXTS, seed=6).to_json()


def test_a_pass_that_does_nothing_finds_nothing() -> None:
    proof = certificate(TEXTS, seed=5, clean=lambda text: text, kinds=[Kind.EMAIL], per_kind=10)
    (recall,) = proof.kinds
    assert (recall.found, recall.planted) == (0, 10)
    assert (recall.recall, recall.low, recall.high) == tuple(wilson(0, 10))
    assert proof.below(0.5) == ["EMAIL"]
    assert len(proof.misses) == 10


def test_a_value_that_is_half_there_counts_as_missed() -> None:
    def half(text: str) -> str:
        for item in reversed(find(text)):
            text = text[: (item.start + item.end) // 2] + "[CARD]" + text[item.end :]
        return text

    (recall,) = certificate(TEXTS, seed=5, clean=half, kinds=[Kind.CARD], per_kind=10).kinds
    assert recall.found == 0


def test_a_canary_stands_in_the_users_text_and_json_stays_json() -> None:
    chance = random.Random(1)
    for kind in PLANTED:
        for text in TEXTS:
            planted = canary(kind, chance)
            mixed = plant(text, planted, chance)
            if text.startswith("{"):
                assert planted.sentence in json.loads(mixed).values()
            else:
                assert planted.sentence in mixed
                assert len(mixed) > len(text)


def test_a_certificate_needs_a_text() -> None:
    with pytest.raises(ValueError, match="0 texts"):
        certificate([], seed=1)


def test_without_a_model_names_are_refused_and_the_absence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "find_spec", lambda _: None)
    assert "not looked for" in naming.note()
    with pytest.raises(DataError, match="burnish\\[ner\\]"):
        naming.names()
    with pytest.raises(DataError, match="presidio_analyzer and spacy"):
        naming.presidio()


def test_only_sentences_with_a_capitalised_word_go_to_the_model() -> None:
    text = "the price is low. Please ask Ann Smith about it. The end is near.\nIt costs 3.5 dollars. Berlin is nice"
    assert [text[start : start + len(piece)] for start, piece in naming.candidates(text)] == [
        "Please ask Ann Smith about it. ",
        "Berlin is nice",
    ]
    assert [piece for _, piece in naming.candidates("x" * 5000)] == []
    assert max(len(piece) for _, piece in naming.candidates("a Bob " * 2000)) == 2000


@pytest.mark.skipif(naming.available() is None, reason="no spaCy model is installed")
def test_names_places_and_organisations_are_found_where_they_stand() -> None:
    texts = [
        "the price is low",
        "Yesterday John Smith of Microsoft flew to Paris. He liked it.",
        "Mail ann@example.com, Maria Garcia!",
    ]
    batch = naming.names()(texts)
    assert batch[0] == []
    assert {(f.kind.value, texts[1][f.start : f.end]) for f in batch[1]} == {
        ("PERSON", "John Smith"),
        ("ORGANISATION", "Microsoft"),
        ("PLACE", "Paris"),
    }
    both = naming.with_names(find)(texts[2])
    assert [(f.kind.value, texts[2][f.start : f.end]) for f in both] == [
        ("EMAIL", "ann@example.com"),
        ("PERSON", "Maria Garcia"),
    ]
