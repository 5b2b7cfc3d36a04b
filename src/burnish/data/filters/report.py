"""What the filters found, as a file beside the manifest: how many rows, of which sources, and ten of them each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish.core.proportions import wilson
from burnish.core.recipe_filters import LANGUAGES
from burnish.data.examples import Changed
from burnish.data.fates import FILTERED, FORGOTTEN, KEPT, Fates
from burnish.data.filters import rules
from burnish.data.filters.clusters import effective
from burnish.data.filters.marks import Marks, Mask
from burnish.data.filters.signals import VARIETIES
from burnish.data.pair import read_content
from burnish.data.private.replace import redact
from burnish.data.spool import Spool

I64 = npt.NDArray[np.int64]
EXAMPLES = 10
"""Rows of each filter that are shown."""
MOST_SOURCES = 20
"""Sources of each filter that are told; the others are added up."""
MOST_CLUSTERS_SHOWN = 20
SHOWN_CHARACTERS = 400
REPAIRED = "repaired"


def filter_report(
    spool: Spool, fates: Fates, marks: Marks, names: Sequence[str], changed: Mapping[str, Sequence[Changed]]
) -> dict[str, Any]:
    """Return what was found in the rows of the data. names: of the data's sources, where the recipe names several.

    changed: of each repair or other change, some rows before and after.
    """
    masks = list(_masks(spool, marks))
    chosen = [[] if action == REPAIRED else _examples(spool, mask, fates, name) for name, _, action, mask in masks]
    texts = _texts(spool, chosen)
    sources = Sources(spool, marks.data, names)
    return {
        "rows": int(marks.data.sum()),
        "kept": int((marks.data & (fates.reasons == KEPT)).sum()),
        "filters": [
            {
                "name": name,
                "what": what,
                "action": action,
                **_counts(fates, mask, name, sources),
                "examples": [_shown(each) for each in changed.get(name, ())]
                if action == REPAIRED
                else [texts[row] | {"kept": bool(fates.reasons[row] == KEPT)} for row in rows],
            }
            for (name, what, action, mask), rows in zip(masks, chosen, strict=True)
        ],
        "kinds": shares_of(spool.columns["kind"][marks.data], rules.KINDS),
        "languages": shares_of(spool.columns["language"][marks.data], ("unknown", *LANGUAGES)),
        "varieties": _varieties(spool, marks.data),
        "wanted_languages": list(marks.wanted_languages),
        "clusters": _clusters(spool, fates, marks),
        "not_run": _not_run(marks),
    }


def _shown(changed: Changed) -> dict[str, Any]:
    return {**changed._asdict(), "file": PurePosixPath(changed.file).name}


def share_of(count: int, rows: int) -> dict[str, float]:
    """Return a share with its 95% interval (Wilson), to four digits; zeros where there is nothing to share."""
    found = wilson(count, rows) if rows else (0.0, 0.0, 1.0)
    return dict(zip(("share", "low", "high"), (round(value, 4) for value in found), strict=True))


def shown_text(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """Return a text as it may be shown: without personal data, cut."""
    text = redact(text).text
    return text if len(text) <= most else text[: most - 3] + "..."


def _masks(spool: Spool, marks: Marks) -> Iterator[tuple[str, str, str, Mask]]:
    """Yield name, meaning, action and marked rows of everything that is looked for."""
    for rule in rules.RULES:
        action = marks.said.action(rule.name)
        if action != "off" and (rule.name != "outlier" or marks.clusters is not None):
            yield rule.name, rule.what, action, marks.of(rule.name)
    for name, bit in rules.REPAIRS.items():
        mask = marks.data & (spool.columns["signals"] & bit > 0)
        if mask.any():
            yield name, f"The row was repaired or changed: {name}.", REPAIRED, mask


def _clusters(spool: Spool, fates: Fates, marks: Marks) -> dict[str, Any] | None:
    """Return the groups of training rows, largest first, each with the row at its centre; None where none were looked for."""
    found = marks.clusters
    if found is None:
        return None
    sizes = found.sizes
    kept = np.bincount(found.of[fates.reasons[found.rows] == KEPT], minlength=len(sizes))
    largest = [n for n in np.argsort(-sizes, kind="stable")[:MOST_CLUSTERS_SHOWN].tolist() if sizes[n]]
    texts = _texts(spool, [[int(found.nearest[n]) for n in largest]])
    return {
        "count": int((sizes > 0).sum()),
        "effective": round(effective(sizes.tolist()), 2),
        "effective_kept": round(effective(kept.tolist()), 2),
        "removed": int((fates.reasons == FILTERED[rules.BALANCE]).sum()),
        "largest": [
            {
                "rows": int(sizes[n]),
                "kept": int(kept[n]),
                **share_of(int(sizes[n]), len(found.rows)),
                "centre": texts[int(found.nearest[n])],
            }
            for n in largest
        ],
    }


def _not_run(marks: Marks) -> list[str]:
    off = [rule.name for rule in rules.RULES if marks.said.action(rule.name) == "off"]
    return off + ([] if marks.said.balance is not None else [rules.BALANCE])


def _counts(fates: Fates, mask: Mask, name: str, sources: Sources) -> dict[str, Any]:
    removed = fates.reasons == FILTERED[name] if name in FILTERED else np.zeros(len(mask), np.bool_)
    return {
        "marked": int(mask.sum()),
        **share_of(int(mask.sum()), sources.total),
        "in_dataset": int((mask & (fates.reasons == KEPT)).sum()),
        "removed": int(removed.sum()),
        "by_source": sources.counts(mask),
    }


class Sources:
    """The rows of each source: those that the recipe names, else files."""

    def __init__(self, spool: Spool, data: Mask, names: Sequence[str]) -> None:
        """Number the sources of the data."""
        self.data = data
        self.total = int(data.sum())
        self.names = list(names) or [PurePosixPath(file).name for file in spool.files]
        self.of = spool.sources if names else spool.columns["file"]
        self.rows = np.bincount(self.of[data], minlength=len(self.names))

    def counts(self, mask: Mask) -> list[dict[str, Any]]:
        """Return the sources of marked rows, most first."""
        marked = np.bincount(self.of[mask], minlength=len(self.names))
        order: list[int] = [number for number in np.argsort(-marked, kind="stable").tolist() if marked[number]]
        found = [self._entry(self.names[n], int(marked[n]), int(self.rows[n])) for n in order[:MOST_SOURCES]]
        rest = order[MOST_SOURCES:]
        if rest:
            found.append(self._entry(f"{len(rest)} more", int(marked[rest].sum()), int(self.rows[rest].sum())))
        return found

    def _entry(self, name: str, marked: int, rows: int) -> dict[str, Any]:
        return {"source": name, "marked": marked, "rows": rows, **share_of(marked, rows)}


def _examples(spool: Spool, mask: Mask, fates: Fates, name: str) -> list[int]:
    """Return some marked rows, as good as drawn, since a row's position is a hash: those the filter let go, else kept ones."""
    rows = np.flatnonzero(mask & (fates.reasons != FORGOTTEN))
    if name in FILTERED:
        rank = np.select([fates.reasons[rows] == FILTERED[name], fates.reasons[rows] == KEPT], [0, 1], 2)
    else:
        rank = np.where(fates.reasons[rows] == KEPT, 0, 1)
    return sorted(rows[np.lexsort((spool.columns["position"][rows], rank))[:EXAMPLES]].tolist())


def _texts(spool: Spool, chosen: Sequence[Sequence[int]]) -> dict[int, dict[str, Any]]:
    wanted = np.unique(np.array([row for rows in chosen for row in rows], np.int64))
    found: dict[int, dict[str, Any]] = {}
    for row, messages in spool.messages(wanted):
        file, line = spool.place(row)
        said, _ = read_content(messages)
        found[row] = {
            "file": PurePosixPath(file).name,
            "line": line,
            "request": shown_text("\n".join(m["content"] for m in said if m["role"] == "user")),
            "answer": shown_text("\n".join(m["content"] for m in said if m["role"] == "assistant")),
        }
    return found


def shares_of(numbers: npt.NDArray[np.uint8], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return how many rows are of each name, with their share, most first. numbers: places in names."""
    counts = np.bincount(numbers, minlength=len(names))
    order = np.argsort(-counts, kind="stable").tolist()
    return [
        {"name": names[number], "rows": int(counts[number]), **share_of(int(counts[number]), len(numbers))}
        for number in order
        if counts[number]
    ]


def _varieties(spool: Spool, data: Mask) -> list[dict[str, Any]]:
    """Return the varieties of languages, as shares of the rows that show any variety of that language."""
    numbers = spool.columns["variety"][data]
    counts = np.bincount(numbers, minlength=len(VARIETIES) + 1)[1:]
    found: list[dict[str, Any]] = []
    order: list[int] = np.argsort(-counts, kind="stable").tolist()
    for number in order:
        language = VARIETIES[number].partition("-")[0]
        of = sum(int(count) for name, count in zip(VARIETIES, counts, strict=True) if name.startswith(f"{language}-"))
        if counts[number]:
            found.append(
                {"name": VARIETIES[number], "rows": int(counts[number]), "of": of, **share_of(int(counts[number]), of)}
            )
    return found
