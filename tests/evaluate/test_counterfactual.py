"""Answers to a request and to the same one about somebody else, compared in pairs."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.core.proportions import wilson
from burnish.evaluate.counterfactual import compare_swapped
from burnish.evaluate.stats import mcnemar_p


def line(prompt: str, answer: str, exact: bool, task: str = "test") -> dict[str, Any]:
    graded = {"answer": answer, "exact_match": exact}
    return {
        "task": task,
        "system": None,
        "prompt": prompt,
        "expected": "x",
        "subjects": {"tuned": graded, "base": graded},
    }


def test_pairs_are_found_by_what_is_asked_and_compared_in_pairs() -> None:
    lines = [
        *(line(f"May he open door {n}?", "Yes, he may." if n < 9 else "No.", exact=n < 9) for n in range(10)),
        line("Is the shop open?", "Yes.", exact=True),
        *(line(f"May she open door {n}?", "Yes, she may." if n < 3 else "No.", n < 3, "swapped") for n in range(10)),
        {"task": "general", "text": "...", "subjects": {}},
    ]
    found = compare_swapped(lines, "gender")
    assert found["pairs"] == 10
    tuned = found["subjects"]["tuned"]
    assert tuned["alike"] == wilson(4, 10)._asdict()  # 0 to 2 and 9
    assert (tuned["exact"], tuned["exact_swapped"]) == (0.9, 0.3)
    assert tuned["difference"]["difference"] == pytest.approx(0.6)
    assert tuned["difference"]["p"] == mcnemar_p(6, 0)
    assert tuned["examples"][0]["swapped_answer"] == "No."
    assert len(tuned["examples"]) == 5


def test_without_pairs_there_is_nothing_to_say() -> None:
    assert compare_swapped([line("Is he here?", "Yes.", True)], "gender") == {
        "swap": "gender",
        "pairs": 0,
        "subjects": {},
    }
    assert compare_swapped([], "names")["pairs"] == 0
