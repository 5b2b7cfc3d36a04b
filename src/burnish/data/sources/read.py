"""One door for every source: a name in, a stream of raw rows out. A row that is no row comes with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from burnish.core.errors import DataError
from burnish.data.record import Origin, RawRow
from burnish.data.sources.archives import ARCHIVES, zip_members
from burnish.data.sources.compression import Limits, expand, spooled
from burnish.data.sources.folders import Found, local_items
from burnish.data.sources.item import Item, check_unchanged
from burnish.data.sources.kinds import ANY_ORDER, KINDS, SUFFIXES, kind_of, reading
from burnish.data.sources.refusal import DAMAGED, NO_ROWS, UNKNOWN_KIND, UNREADABLE, Refused
from burnish.data.sources.spec import DATASETS, SQL, SourceSpec, as_spec

At = Callable[[int], None]
LIMITS = Limits()


def read(spec: str | SourceSpec, *, at: At | None = None, limits: Limits = LIMITS) -> Iterator[RawRow]:
    """Yield the rows of a source, in the same order each time, holding one row (or one batch of a table) at a time.

    `at` hears how many of the stored bytes are read, over all files of the source; a database has no bytes to tell.

    Raises DataError when the source as a whole is not there, empty, of an unknown kind, or needs a library that is not
    installed. What is wrong within it is a row with a reason.
    """
    wanted = as_spec(spec)
    if wanted.location.startswith(SQL):
        from burnish.data.sources.sql import read_sql

        return read_sql(wanted)
    if wanted.location.startswith(DATASETS):
        from burnish.data.sources.hub import read_datasets

        return read_datasets(wanted)
    return _Files(wanted, at, limits).rows()


def stored_files(spec: str | SourceSpec) -> list[Path]:
    """The local files that a source reads, sorted: what a manifest hashes. Empty for URLs, SQL and `datasets` names.

    Raises DataError as `read` does.
    """
    wanted = as_spec(spec)
    if wanted.is_url or wanted.location.startswith((SQL, DATASETS)):
        return []
    return [Path(name) for name, found in local_items(wanted.location) if isinstance(found, Item)]


def stored_bytes(spec: str | SourceSpec) -> int | None:
    """What `at` counts up to; None where it is not known before."""
    wanted = as_spec(spec)
    if wanted.is_url or wanted.location.startswith((SQL, DATASETS)):
        return None
    return sum(path.stat().st_size for path in stored_files(wanted))


class _Progress:
    """Adds up what is read over several files: a file read twice, or out of order, counts once."""

    def __init__(self, at: At | None) -> None:
        self._at = at
        self._before = 0
        self._here = 0

    def hear(self, place: int) -> None:
        if place > self._here:
            self._here = place
            if self._at is not None:
                self._at(self._before + place)

    def end(self, size: int | None) -> None:
        self.hear(size or 0)
        self._before += self._here
        self._here = 0


@dataclass(slots=True)
class _Files:
    """A source made of files."""

    spec: SourceSpec
    at: At | None
    limits: Limits

    def rows(self) -> Iterator[RawRow]:
        progress = _Progress(self.at)
        found = self._found(progress)
        single = len(found) == 1 and found[0][0] in (self.spec.location, str(Path(self.spec.location).expanduser()))
        self._check_kinds(found, single=single)
        return self._stream(found, progress)

    def _found(self, progress: _Progress) -> Sequence[Found]:
        if self.spec.is_url:
            from burnish.data.sources.remote import remote_items

            return remote_items(self.spec.location, progress.hear)
        return local_items(self.spec.location, progress.hear)

    def _check_kinds(self, found: Sequence[Found], *, single: bool) -> None:
        """Raise DataError before the first row for what no row can mend."""
        if self.spec.kind is not None and self.spec.kind not in KINDS:
            raise DataError(f"kind is {self.spec.kind!r}; burnish reads {', '.join(KINDS)}")
        items = [item for _, item in found if isinstance(item, Item)]
        kinds = {self._kind(item)[0] for item in items}
        for kind in sorted(kind for kind in kinds if kind is not None and kind not in ARCHIVES):
            reading(kind)
        if kinds <= {None}:
            names = ", ".join(name for name, _ in found[:3]) + (", ..." if len(found) > 3 else "")
            known = ", ".join(f".{suffix}" for suffix in (*SUFFIXES, *ARCHIVES))
            what = "is of no kind" if single else f"has {len(found)} files ({names}), none of a kind"
            raise DataError(
                f"{self.spec.shown} {what} that burnish can read; it knows {known}, each also with .gz, .bz2, .xz, .zst"
            )

    def _kind(self, item: Item) -> tuple[str | None, str | None]:
        kind, pressed = kind_of(item.name)
        if self.spec.kind is not None and kind not in ARCHIVES:  # of an archive it says what the members are
            return self.spec.kind, pressed
        return kind or (_guess(item) if pressed is None else None), pressed

    def _stream(self, found: Sequence[Found], progress: _Progress) -> Iterator[RawRow]:
        for name, item in found:
            if isinstance(item, Refused):
                yield self._refused(name, item)
                continue
            yield from self._file(item)
            progress.end(item.size)

    def _file(self, item: Item, *, within: bool = False) -> Iterator[RawRow]:
        """The rows of one file; what breaks on the way is the last row."""
        line = 0
        try:
            kind, pressed = self._kind(item)
            if kind in ARCHIVES and not within:
                yield from self._archive(item)
                return
            if kind is None or kind in ARCHIVES:
                raise Refused(UNKNOWN_KIND, f"known: {', '.join(f'.{suffix}' for suffix in SUFFIXES)}")
            with self._opened(item, kind, pressed) as stream:
                for row in reading(kind)(stream, self.spec, item.name):
                    line = row.origin.line
                    yield row
                if pressed is None and not within:
                    check_unchanged(stream)
            if line == 0:
                raise Refused(NO_ROWS)
        except Refused as refusal:
            yield self._refused(item.name, refusal, line + 1)
        except (OSError, EOFError) as error:
            yield self._refused(item.name, Refused(UNREADABLE, _plain(error)), line + 1)
        except (MemoryError, RecursionError) as error:
            yield self._refused(item.name, Refused(DAMAGED, f"{type(error).__name__} while it was read"), line + 1)

    def _archive(self, archive: Item) -> Iterator[RawRow]:
        some = False
        for name, member in zip_members(archive, self.limits):
            some = True
            if isinstance(member, Refused):
                yield self._refused(name, member)
            else:
                yield from self._file(member, within=True)
        if not some:
            raise Refused(NO_ROWS, "the archive has no members")

    def _opened(self, item: Item, kind: str, pressed: str | None) -> BinaryIO:
        stream = expand(item.open, pressed, item.size, self.limits) if pressed is not None else item.open()
        in_order = pressed is not None or item.in_order
        return spooled(stream) if kind in ANY_ORDER and in_order else stream

    def _refused(self, name: str, refusal: Refused, line: int = 1) -> RawRow:
        return RawRow(Origin(self.spec.shown, name, line), None, "", refusal.reason, refusal.detail)


def _plain(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _guess(item: Item) -> str | None:
    """A file whose name says nothing is read as rows when it begins like one."""
    if "." in Path(item.name).name:
        return None
    try:
        with item.open() as stream:
            return "jsonl" if stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{" else None
    except (Refused, OSError):
        return None
