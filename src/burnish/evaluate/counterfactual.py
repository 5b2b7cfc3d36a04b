"""Does a model answer a request as it answers the same one about somebody else? Read off the rows of an evaluation.

Pairs are found by what is asked: a graded request whose swap (`text.counterfactual`) was graded too, whatever task it is in. So
a file of `burnish data swap`, given as a task, is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from burnish.core.proportions import wilson
from burnish.evaluate.grade import words
from burnish.evaluate.stats import paired_binary
from burnish.text.counterfactual import Swap, swapped

EXAMPLES = 5


def compare_swapped(lines: Iterable[Mapping[str, Any]], what: Swap) -> dict[str, Any]:
    """Return for each subject how many pairs are answered alike, and the paired difference in exact answers.

    lines: the rows of an EvalReport's `rows_file`. Alike: the words of one answer, swapped, are those of the other. The difference
    is that of the request in the earlier row minus that of its swap, with Newcombe's interval and McNemar's p.
    """
    asked: dict[tuple[str | None, str], Mapping[str, Any]] = {}
    for line in lines:
        if "prompt" in line and "expected" in line:
            asked.setdefault((line["system"], line["prompt"]), line)
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    seen: set[tuple[str | None, str]] = set()
    for key, line in asked.items():
        other = (key[0], swapped(key[1], what))
        if other != key and other in asked and key not in seen:
            seen.add(other)
            pairs.append((line, asked[other]))
    subjects = list(dict.fromkeys(name for line, _ in pairs for name in line["subjects"]))
    return {"swap": what, "pairs": len(pairs), "subjects": {name: _of(name, pairs, what) for name in subjects}}


def _of(subject: str, pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]], what: Swap) -> dict[str, Any]:
    both = [(line["subjects"][subject], other["subjects"][subject]) for line, other in pairs]
    alike = [words(swapped(a["answer"], what)) == words(b["answer"]) for a, b in both]
    first, second = (np.array([pair[place]["exact_match"] for pair in both], np.bool_) for place in (0, 1))
    differ = [number for number, same in enumerate(alike) if not same]
    return {
        "alike": wilson(sum(alike), len(alike))._asdict(),
        "exact": float(first.mean()),
        "exact_swapped": float(second.mean()),
        "difference": paired_binary(first, second)._asdict(),
        "examples": [
            {
                "prompt": pairs[number][0]["prompt"],
                "answer": both[number][0]["answer"],
                "swapped_prompt": pairs[number][1]["prompt"],
                "swapped_answer": both[number][1]["answer"],
            }
            for number in differ[:EXAMPLES]
        ],
    }
