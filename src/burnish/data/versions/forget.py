"""Which versions, adapters and reports hold rows of a person or a document, and what a new version must leave out."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, cast

from burnish.core.artifacts import Adapter, EvalReport, Manifest, Release
from burnish.core.errors import UsageError
from burnish.core.ids import Id
from burnish.data.versions.shards import HeldRow, Span, Version, held, plain_json
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

    versions:  rows found, by id of manifest or version.
    adapters:  adapters whose dataset holds such rows, with the splits these are in: `train` means trained on them.
    reports, releases: reports that quote them or may, and releases that serve those adapters.
    leave_out: ids of rows that a new version must leave out, sorted.
    unread:    manifests that could not be searched, for their files are gone; nobody can say what they held.
    """

    subject: str
    versions: dict[Id, tuple[Finding, ...]]
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
    versions: Iterable[Version] = (),
) -> Forgotten:
    """Search every manifest of the home, and `versions`, for rows of one subject. Changes nothing.

    text:     a name, address or number. Found where its words stand together as whole words, in any case, with or without
              accents, also with the last word first (Smith, Ann) or joined (Ann-Smith); a number in any grouping. What `prepare`
              replaced by a placeholder is no longer there to be found: search by document for a sure answer.
    document: the file a row came from, by name or path; `rows.jsonl:7` is one line of it.

    row:      the id of one row, or its beginning: its lineage, from file and line to adapters.

    Raises UsageError unless exactly one of the three is given, with at least one letter or digit.
    """
    subjects = [subject for subject in (text, document, row) if subject is not None]
    if len(subjects) != 1:
        raise UsageError("say whom or what to forget: a text, a document, or the id of a row; one of them")
    matches = (
        _by_id(row) if row is not None else _by_document(document) if document is not None else _by_text(subjects[0])
    )
    found: dict[Id, tuple[Finding, ...]] = {}
    manifests = home.all(Manifest)
    whole = [manifest for manifest in manifests if home.is_whole(manifest)]
    for version in (*whole, *versions):
        rows = tuple(Finding(r.row_id, r.split, r.span) for r in held(version, home.root) if matches(r))
        if rows:
            found[version.id] = rows
    adapters = {
        adapter.id: tuple(sorted({finding.split for finding in found[adapter.manifest]}))
        for adapter in home.all(Adapter)
        if adapter.manifest in found
    }
    return Forgotten(
        subject=subjects[0],
        versions=found,
        adapters=adapters,
        reports=tuple(report.id for report in home.all(EvalReport) if report.manifest in found),
        releases=tuple(release.id for release in home.all(Release) if release.adapter in adapters),
        leave_out=tuple(sorted({finding.row_id for rows in found.values() for finding in rows})),
        unread=tuple(manifest.id for manifest in manifests if manifest not in whole),
    )


def without(rows: Iterable[HeldRow], leave_out: Iterable[Id]) -> Iterator[tuple[str, Span, dict[str, Any]]]:
    """Yield what `write_shards` takes: the rows, without those to be left out."""
    gone = frozenset(leave_out)
    return ((row.split, row.span, json.loads(row.content)) for row in rows if row.row_id not in gone)


def _by_text(text: str) -> Callable[[HeldRow], bool]:
    words = _plain(text).split()
    if not any(character.isalnum() for word in words for character in word):
        raise UsageError(f'"{text}" has no letter and no digit to search for')
    pattern = _number(words) or _words(words)

    def matches(row: HeldRow) -> bool:
        return any(pattern.search(_plain(string)) for string in _strings(json.loads(row.content)))

    return matches


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


def _by_id(row: Id) -> Callable[[HeldRow], bool]:
    if len(row) < 6:
        raise UsageError(f'"{row}" is too short for the id of a row: give 6 or more of its characters')
    return lambda held_row: held_row.row_id.startswith(row)


def _by_document(document: str) -> Callable[[HeldRow], bool]:
    place = _PLACE.fullmatch(document)
    file, line = (place[1], int(place[2])) if place else (document, None)
    parts = PurePosixPath(file.replace("\\", "/")).parts
    if not parts:
        raise UsageError("give the name of the document")

    def matches(row: HeldRow) -> bool:
        held_parts = PurePosixPath(row.span.file.replace("\\", "/")).parts
        shared = min(len(parts), len(held_parts))  # as many folders as both name: manifests name none
        same = held_parts[-shared:] == parts[-shared:] if shared else False
        return same and line in (None, row.span.line)

    return matches


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
