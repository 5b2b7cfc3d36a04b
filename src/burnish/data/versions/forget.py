"""Which versions, adapters and reports hold rows of a person or a document, and what a new version must leave out."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast

from burnish.core.artifacts import Adapter, EvalReport, Manifest, Release
from burnish.core.errors import UsageError
from burnish.core.ids import Id
from burnish.data.versions.diff import rejected_rows
from burnish.data.versions.held import HeldRow, Span, held, plain_json
from burnish.store.home import Home

_PLACE = re.compile(r"(.+?):(\d+)")
_BETWEEN_WORDS = r"(?:\s+|[\s,._\-'’]{1,3})"
_BETWEEN_DIGITS = r"[\s().,/\-]{0,3}"
_FEWEST_DIGITS = 7


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the subject."""

    row_id: Id
    split: str
    span: Span


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What holds rows of a subject.

    versions:  rows found, by id of the dataset.
    rejected:  lines that became no row of a dataset and were written down beside it, by its id; nothing was trained on them.
    adapters:  adapters whose dataset holds such rows, with the splits these are in: `train` means trained on them.
    reports, releases: reports that quote them or may, and releases that serve those adapters.
    leave_out: ids of rows that a new version must leave out, sorted.
    unread:    manifests that could not be searched, for their files are gone; nobody can say what they held.
    """

    subject: str
    versions: dict[Id, tuple[Finding, ...]]
    rejected: dict[Id, tuple[Span, ...]]
    adapters: dict[Id, tuple[str, ...]]
    reports: tuple[Id, ...]
    releases: tuple[Id, ...]
    leave_out: tuple[Id, ...]
    unread: tuple[Id, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the findings as JSON values."""
        return plain_json(asdict(self))


def forget(
    home: Home,
    *,
    text: str | None = None,
    document: str | None = None,
    row: Id | None = None,
) -> Forgotten:
    """Search every dataset of the home, and what it rejected, for rows of one subject. Changes nothing.

    text:     a name, address or number. Found where its words stand together as whole words, in any case, with or without
              accents, also with the last word first (Smith, Ann) or joined (Ann-Smith), whichever way round it is given; a
              number in any grouping. What `prepare` replaced by a placeholder is no longer there to be found: search by
              document for a sure answer.
    document: the file a row came from, by name or path; `rows.jsonl:7` is one line of it.
    row:      the id of one row, or its beginning: its lineage, from file and line to adapters.

    Raises UsageError unless exactly one of the three is given, with at least one letter or digit.
    """
    subjects = [subject for subject in (text, document, row) if subject is not None]
    if len(subjects) != 1:
        raise UsageError("say whom or what to forget: a text, a document, or the id of a row; one of them")
    sought = (
        _by_id(row) if row is not None else _by_document(document) if document is not None else _by_text(subjects[0])
    )
    found: dict[Id, tuple[Finding, ...]] = {}
    rejected: dict[Id, tuple[Span, ...]] = {}
    manifests = home.all(Manifest)
    whole = [manifest for manifest in manifests if home.is_whole(manifest)]
    for manifest in whole:
        rows = tuple(Finding(r.row_id, r.split, r.span) for r in held(manifest, home.root) if sought.row(r))
        lines = tuple(_place(each) for each in rejected_rows(manifest, home.root) if sought.rejected(each))
        found |= {manifest.id: rows} if rows else {}
        rejected |= {manifest.id: lines} if lines else {}
    adapters = {
        adapter.id: tuple(sorted({finding.split for finding in found[adapter.manifest]}))
        for adapter in home.all(Adapter)
        if adapter.manifest in found
    }
    return Forgotten(
        subject=subjects[0],
        versions=found,
        rejected=rejected,
        adapters=adapters,
        reports=tuple(report.id for report in home.all(EvalReport) if report.manifest in found),
        releases=tuple(release.id for release in home.all(Release) if release.adapter in adapters),
        leave_out=tuple(sorted({finding.row_id for rows in found.values() for finding in rows})),
        unread=tuple(manifest.id for manifest in manifests if manifest not in whole),
    )


class _Sought(NamedTuple):
    """What says of a row that is held, and of a record of a rejected one, whether it is the subject's."""

    row: Callable[[HeldRow], bool]
    rejected: Callable[[dict[str, Any]], bool]


def _by_text(text: str) -> _Sought:
    words = _plain(text).replace(",", " ").split()  # as a list has a name: Smith, Ann
    if not any(character.isalnum() for word in words for character in word):
        raise UsageError(f'"{text}" has no letter and no digit to search for')
    pattern = _number(words) or _words(words)

    def holds(value: Any) -> bool:
        return any(pattern.search(_plain(string)) for string in _strings(value))

    def of_row(row: HeldRow) -> bool:
        return holds(json.loads(row.content))

    def of_rejected(record: dict[str, Any]) -> bool:
        return holds(_read(str(record["row"])))

    return _Sought(of_row, of_rejected)


def _read(line: str) -> Any:
    """Return what a line says; the line itself where it is no JSON, as many a rejected one is not."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _words(words: list[str]) -> re.Pattern[str]:
    """Words together, or the last before the others, as lists of people write names; what joins names may stand between."""
    orders = [words] if len(words) == 1 else [words, [words[-1], *words[:-1]]]
    spelled = "|".join(_BETWEEN_WORDS.join(map(re.escape, order)) for order in orders)
    return re.compile(rf"(?<!\w)(?:{spelled})(?!\w)")


def _number(words: list[str]) -> re.Pattern[str] | None:
    """The digits of a number in any grouping, where a text is a number of seven digits or more, and nothing else."""
    joined = "".join(words)
    digits = re.sub(r"\D", "", joined)
    if len(digits) < _FEWEST_DIGITS or re.fullmatch(r"[\d+().,/\-]+", joined) is None:
        return None
    return re.compile(r"(?<!\d)" + _BETWEEN_DIGITS.join(digits) + r"(?!\d)")


def _by_id(row: Id) -> _Sought:
    if len(row) < 6:
        raise UsageError(f'"{row}" is too short for the id of a row: give 6 or more of its characters')

    def of_row(held_row: HeldRow) -> bool:
        return held_row.row_id.startswith(row)

    return _Sought(of_row, _never)


def _never(record: dict[str, Any]) -> bool:
    """A rejected row has no id."""
    return False


def _by_document(document: str) -> _Sought:
    place = _PLACE.fullmatch(document)
    file, line = (place[1], int(place[2])) if place else (document, None)
    parts = PurePosixPath(file.replace("\\", "/")).parts
    if not parts:
        raise UsageError("give the name of the document")

    def matches(span: Span) -> bool:
        held_parts = PurePosixPath(span.file.replace("\\", "/")).parts
        shared = min(len(parts), len(held_parts))  # as many folders as both name: manifests name none
        same = held_parts[-shared:] == parts[-shared:] if shared else False
        return same and line in (None, span.line)

    def of_row(row: HeldRow) -> bool:
        return matches(row.span)

    def of_rejected(record: dict[str, Any]) -> bool:
        return matches(_place(record))

    return _Sought(of_row, of_rejected)


def _place(record: dict[str, Any]) -> Span:
    return Span("", str(record["file"]), int(record["line"]))


def _plain(text: str) -> str:
    """A text without case and accents."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFKC", "".join(c for c in apart if not unicodedata.combining(c)))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in cast(dict[str, Any], value).items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            yield from _strings(item)
    elif isinstance(value, int | float):
        yield str(value)
