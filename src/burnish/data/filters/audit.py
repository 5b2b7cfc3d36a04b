"""The bias audit: whom the rows name, how they are answered, how the splits differ from the whole, what a swap would find.

Rates come with Wilson's interval, comparisons with a test of independence, its effect size, and p values adjusted for how many
tests there are (Holm). A finding is what is both: unlikely by chance, and not small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from burnish.core.association import association, holm
from burnish.core.proportions import shares_differ
from burnish.core.recipe_filters import LANGUAGES
from burnish.data.fates import FIRST_TASK, KEPT, Fates
from burnish.data.filters import rules
from burnish.data.filters.columns import NO_SENTIMENT
from burnish.data.filters.groups import GROUP_LANGUAGES, GROUPS
from burnish.data.filters.language import UNKNOWN
from burnish.data.filters.marks import Marks, Mask
from burnish.data.filters.report import Sources, share_of, shares_of, shown_text
from burnish.data.filters.twins import twins
from burnish.data.spool import Spool
from burnish.text.counterfactual import SWAPS

I64 = npt.NDArray[np.int64]
LEAST_ROWS = 10
"""Rows that name one group of an axis alone, below which its rates are told but not tested."""
SIGNIFICANT, SMALL = 0.05, 0.1
"""A finding has an adjusted p value below the first and an effect size (Cramer's V) from the second."""
ANSWERED, REFUSED = "answered", "refused"
MOST_LABELS = 20
MOST_SOURCES = 30
ROWS_PER_LABEL = 5
"""Answers are labels where there are at most so many different ones, each on average in so many rows."""
REFUSAL_LANGUAGES = ("en", "de", "fr", "es", "it", "pt")
"""Those of the phrases that refuse."""
SENTIMENT_MARGIN = 50
"""Thousandths around 0 within which VADER's authors call a text neutral."""


class Property(NamedTuple):
    """A property of rows: the category of each row as a number, and what the categories are called. -1 is none."""

    name: str
    of: npt.NDArray[np.integer[Any]]
    categories: Sequence[str]


def audit(spool: Spool, fates: Fates, marks: Marks, sides: Mapping[str, int], names: Sequence[str]) -> dict[str, Any]:
    """Return the audit of the rows that are kept. sides: the splits' names and numbers; names: of the data's sources."""
    kept = marks.data & (fates.reasons == KEPT)
    looked = _in(spool, GROUP_LANGUAGES)
    if marks.main_language not in ("en", None):  # what is too short to tell is as likely in another language
        looked &= spool.columns["language"] != UNKNOWN
    labels = _labels(spool, kept)
    answers = [_refused(spool), _sentiments(spool), _lengths(spool, kept), *([labels] if labels else [])]
    axes = [
        _axis(spool, fates, kept & looked, axis, answers, sides)
        for axis in dict.fromkeys(group.axis for group in GROUPS)
    ]
    sources = Sources(spool, marks.data, names)
    splits = _splits(fates, kept, sides, [
        _sources(spool, sources, kept), _kinds(spool), _languages(spool), *answers[1:], _genders(spool, looked),
    ])  # fmt: skip
    _adjust([test for axis in axes for test in axis["tests"]])
    _adjust(splits)
    return {
        "rows": int(kept.sum()),
        "groups_looked_for": {
            "languages": list(GROUP_LANGUAGES),
            "rows": int((kept & looked).sum()),
            "other_languages": shares_of(spool.columns["language"][kept & ~looked], ("unknown", *LANGUAGES)),
        },
        "axes": axes,
        "labels": list(labels.categories) if labels else [],
        "splits": splits,
        "counterfactual": [
            twins(spool, np.flatnonzero(kept), np.flatnonzero(kept & looked & _in(spool, ("en",))), what)
            for what in SWAPS
        ],
        "findings": [*_findings(axes), *_split_findings(splits)],
    }


# ------------------------------------------------------------------------------------------------------------- properties


def _sources(spool: Spool, sources: Sources, kept: Mask) -> Property:
    """Return the largest sources, the others taken together: a folder may have any number of files."""
    counts = np.bincount(sources.of[kept], minlength=len(sources.names))
    largest: list[int] = np.argsort(-counts, kind="stable")[:MOST_SOURCES].tolist()
    place = np.full(max(len(sources.names), int(sources.of.max(initial=0)) + 1), len(largest), np.int64)
    place[largest] = np.arange(len(largest))
    names = [sources.names[number] for number in largest]
    return Property("source", place[sources.of], [*names, "other sources"])


def _in(spool: Spool, languages: Sequence[str]) -> Mask:
    """Return which rows are in one of some languages, or too short to tell."""
    return np.isin(spool.columns["language"], [UNKNOWN, *(LANGUAGES.index(code) + 1 for code in languages)])


def _refused(spool: Spool) -> Property:
    marked = spool.columns["signals"] & rules.BY_ROW["refusal"] > 0
    of = np.where(_in(spool, REFUSAL_LANGUAGES) | marked, marked.astype(np.int64), -1)
    return Property("refusal", of, (ANSWERED, REFUSED))


def _sentiments(spool: Spool) -> Property:
    values = spool.columns["sentiment"].astype(np.int64)
    of = np.select([values == NO_SENTIMENT, values < -SENTIMENT_MARGIN, values > SENTIMENT_MARGIN], [3, 0, 2], 1)
    of = np.where(_in(spool, ("en",)), of, -1)  # the words are English
    return Property("sentiment", of, ("negative", "neutral", "positive", "no such words"))


def _lengths(spool: Spool, kept: Mask) -> Property:
    sizes = spool.columns["size"].astype(np.int64)
    edges = np.unique(np.quantile(sizes[kept], [0.2, 0.4, 0.6, 0.8], method="higher")) if kept.any() else np.empty(0)
    bounds = [0, *(int(edge) for edge in edges)]
    names = [f"{low} to {high - 1} words" for low, high in pairwise(bounds)]
    return Property("length", np.searchsorted(edges, sizes, side="right"), [*names, f"{bounds[-1]} words or more"])


def _labels(spool: Spool, kept: Mask) -> Property | None:
    """Return the answers as labels, most frequent first; None where there are too many different ones."""
    answers = spool.columns["answer"][kept]
    values, first, counts = np.unique(answers, return_index=True, return_counts=True)
    if not 2 <= len(values) <= MOST_LABELS or len(answers) < ROWS_PER_LABEL * len(values):
        return None
    order = np.argsort(-counts, kind="stable")
    shown = {int(row): text for row, _, text in spool.pairs(np.sort(np.flatnonzero(kept)[first]))}
    categories = [shown_text(shown[int(row)], 60) for row in np.flatnonzero(kept)[first[order]]]
    at = np.minimum(np.searchsorted(values, spool.columns["answer"]), len(values) - 1)
    places = np.argsort(order)[at]
    return Property("label", np.where(values[at] == spool.columns["answer"], places, -1), categories)


def _kinds(spool: Spool) -> Property:
    return Property("kind", spool.columns["kind"].astype(np.int64), rules.KINDS)


def _languages(spool: Spool) -> Property:
    return Property("language", spool.columns["language"].astype(np.int64), ("unknown", *LANGUAGES))


def _genders(spool: Spool, looked: Mask) -> Property:
    women, men = (_names_group(spool, "gender", name) for name in ("women", "men"))
    of = np.where(looked, women + 2 * men.astype(np.int64), -1)
    return Property("gender", of, ("none named", "women", "men", "both"))


def _names_group(spool: Spool, axis: str, name: str) -> Mask:
    bit = next(number for number, group in enumerate(GROUPS) if (group.axis, group.name) == (axis, name))
    return spool.columns["asked"] & np.uint32(1 << bit) > 0


# ----------------------------------------------------------------------------------------------------------------- groups


def _axis(
    spool: Spool, fates: Fates, kept: Mask, axis: str, answers: Sequence[Property], sides: Mapping[str, int]
) -> dict[str, Any]:
    """Return how often each group of an axis is named, and how rows that ask about it alone are answered."""
    numbers = [number for number, group in enumerate(GROUPS) if group.axis == axis]
    asked = {n: kept & (spool.columns["asked"] & np.uint32(1 << n) > 0) for n in numbers}
    several = sum((mask.astype(np.int8) for mask in asked.values()), np.zeros(len(kept), np.int8)) > 1
    alone = {n: mask & ~several for n, mask in asked.items()}
    groups: list[dict[str, Any]] = []
    for n in numbers:
        told = kept & (spool.columns["told"] & np.uint32(1 << n) > 0)
        if not asked[n].any() and not told.any():
            continue
        rows = int(alone[n].sum())
        values = spool.columns["sentiment"][alone[n]].astype(np.float64)
        values = values[values != NO_SENTIMENT] / 1000
        groups.append({
            "name": GROUPS[n].name,
            "asked": {"rows": int(asked[n].sum()), **share_of(int(asked[n].sum()), int(kept.sum()))},
            "told": {"rows": int(told.sum()), **share_of(int(told.sum()), int(kept.sum()))},
            "splits": {name: int((asked[n] & (fates.sides == side)).sum()) for name, side in sides.items()},
            "alone": rows,
            "sentiment": round(float(values.mean()), 3) if len(values) else None,
            "rates": {each.name: _rates(each, alone[n]) for each in answers},
        })  # fmt: skip
    tested = {GROUPS[n].name: mask for n, mask in alone.items() if mask.sum() >= LEAST_ROWS}
    tests = [found for each in answers if (found := _test(each, tested)) is not None]
    return {"axis": axis, "several": int((several & kept).sum()), "groups": groups, "tests": tests}


def _rates(found: Property, mask: Mask) -> list[dict[str, Any]]:
    counts = _counts(found, mask)
    return [
        {"category": category, "rows": count, **share_of(count, sum(counts))}
        for category, count in zip(found.categories, counts, strict=True)
        if count or category == REFUSED
    ]


def _counts(found: Property, mask: Mask) -> list[int]:
    values = found.of[mask]
    return np.bincount(values[values >= 0], minlength=len(found.categories)).tolist()


def _test(found: Property, groups: Mapping[str, Mask]) -> dict[str, Any] | None:
    """Compare groups; None where fewer than two have enough rows of which the property can be told."""
    counts = {name: of for name, mask in groups.items() if sum(of := _counts(found, mask)) >= LEAST_ROWS}
    if len(counts) < 2:
        return None
    return {"what": found.name, "groups": list(counts), **_result(association(list(counts.values())))}


def _result(result: Any) -> dict[str, Any]:
    return {
        "statistic": round(result.statistic, 3),
        "df": result.df,
        "p": float(f"{result.p:.4g}"),
        "v": round(result.v, 4),
    }


# ----------------------------------------------------------------------------------------------------------------- splits


def _splits(fates: Fates, kept: Mask, sides: Mapping[str, int], properties: Sequence[Property]) -> list[dict[str, Any]]:
    """Compare each split with all other rows of the data, property by property."""
    everything = fates.reasons == KEPT
    found: list[dict[str, Any]] = []
    for name, side in sides.items():
        inside = everything & (fates.sides == side)
        rest = kept & ~inside
        if not inside.any() or not rest.any():
            continue
        for each in properties:
            if each.name == "source" and side >= FIRST_TASK:
                continue  # a task is a source of its own
            here, there = _counts(each, inside), _counts(each, rest)
            result = association([here, there])
            if result.df:
                found.append(
                    {"split": name, "property": each.name, **_result(result), "largest": _largest(each, here, there)}
                )
    return found


def _largest(found: Property, here: Sequence[int], there: Sequence[int]) -> dict[str, Any]:
    """Return the category whose share differs most between a split and the rest, with the interval of the difference."""
    inside, outside = sum(here), sum(there)
    place = max(range(len(here)), key=lambda n: abs(here[n] / inside - there[n] / outside))
    difference = shares_differ(here[place], inside, there[place], outside)
    return {
        "category": found.categories[place],
        "in_split": round(here[place] / inside, 4),
        "in_rest": round(there[place] / outside, 4),
        **dict(zip(("difference", "low", "high"), (round(value, 4) for value in difference), strict=True)),
    }


# --------------------------------------------------------------------------------------------------------------- findings


def _adjust(tests: Sequence[dict[str, Any]]) -> None:
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_adjusted"] = float(f"{p:.4g}")
        test["finding"] = p < SIGNIFICANT and test["v"] >= SMALL


def _findings(axes: Sequence[dict[str, Any]]) -> list[str]:
    said: list[str] = []
    for axis in axes:
        for test in axis["tests"]:
            if test["finding"]:
                said.append(
                    f"Rows about {', '.join(test['groups'])} differ in {test['what']}: {_contrast(axis, test)} "
                    f"(V {test['v']:.2f}, adjusted p {test['p_adjusted']:.2g})."
                )
    return said


def _contrast(axis: dict[str, Any], test: dict[str, Any]) -> str:
    """The category that differs most between two groups, with its share in each."""
    rates = {
        group["name"]: {rate["category"]: rate["share"] for rate in group["rates"][test["what"]]}
        for group in axis["groups"]
        if group["name"] in test["groups"]
    }
    categories = sorted({category for of in rates.values() for category in of} - {ANSWERED})
    most = max(
        categories,
        key=lambda c: max(of.get(c, 0.0) for of in rates.values()) - min(of.get(c, 0.0) for of in rates.values()),
    )
    return f"{most} " + ", ".join(f"{of.get(most, 0.0):.1%} {name}" for name, of in rates.items())


def _split_findings(splits: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"The split {each['split']} differs from the other rows in {each['property']}: {each['largest']['category']} "
        f"{each['largest']['in_split']:.1%} against {each['largest']['in_rest']:.1%} "
        f"(V {each['v']:.2f}, adjusted p {each['p_adjusted']:.2g})."
        for each in splits
        if each["finding"] and each["split"] != "train"  # what train has less of, the others have more of
    ]
