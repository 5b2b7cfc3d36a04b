"""How a source is named: a word in the recipe, or the same with its options. Names are shown without credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from burnish.core.errors import DataError

SQL = "sql:"
DATASETS = "datasets:"
_USER = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(?<=\S)\?\S*")


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source and how to read it. Only `location` is needed; the rest is found out where it is not given.

    location:   file, folder, glob, fsspec URL (`s3://bucket/key`), `sql:URL QUERY`, or `datasets:NAME`.
    kind:       kind of file, as a suffix without its dot (`jsonl`, `csv`), for files whose names do not say it.
    key:        the list to read in a JSON object.
    delimiter:  between the columns of a CSV file; one character.
    header:     whether the first row of a table names the columns.
    sheet:      the sheet of a workbook; all sheets where it is left out.
    columns:    the columns to take of a Parquet file; all where it is empty.
    config:     configuration of a `datasets` name.
    split:      split of a `datasets` name or folder, `train` where it is left out for a name.
    """

    location: str
    kind: str | None = None
    key: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    sheet: str | None = None
    columns: tuple[str, ...] = ()
    config: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        """Raise DataError for an empty name and for a delimiter that is not one character."""
        if not self.location.strip():
            raise DataError(
                "a source has an empty name; give a file, a folder, a URL, `sql:URL QUERY` or `datasets:NAME`"
            )
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise DataError(f"delimiter is {self.delimiter!r}; it must be one character, and no quote or line end")

    @property
    def shown(self) -> str:
        """The name for messages and origins."""
        return shown(self.location)

    @property
    def is_url(self) -> bool:
        """Whether fsspec has to open it."""
        return "://" in self.location and not self.location.startswith((SQL, DATASETS))


def as_spec(spec: str | SourceSpec) -> SourceSpec:
    """The spec itself, or the one that has nothing but a location."""
    return spec if isinstance(spec, SourceSpec) else SourceSpec(spec)


def shown(name: str) -> str:
    """A name or URL without what may be secret: user and password, and the parameters of a URL (signed links)."""
    if "://" not in name:
        return name
    if name.startswith(SQL):
        url, _, query = name.partition(" ")
        return f"{_without_secrets(url)} {query}".rstrip()
    return _without_secrets(name)


def _without_secrets(url: str) -> str:
    """Cut greedily: a password may itself hold `@`, `/` or `?` where its writer forgot to escape it."""
    scheme, colon, rest = url.partition("://")
    if not colon:
        return url
    if "@" in rest and not scheme.startswith("datasets"):
        rest = rest.rpartition("@")[2]
    return f"{scheme}://{re.split(r'[?#]', rest, maxsplit=1)[0]}"


def scrubbed(message: str, url: str) -> str:
    """An error text of a library without the credentials of `url` and without those of any URL in it."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        message = message.replace(secret, "***")
    return _QUERY.sub("", _USER.sub("", message)) if "://" in message else message


def _secrets(url: str) -> set[str]:
    rest = url.partition("://")[2]
    found = {rest.rpartition("@")[0]} if "@" in rest else set[str]()
    found |= {part for user in found for part in user.split(":", 1)[1:]}
    try:
        found |= {password for password in [urlsplit(url).password] if password}
    except ValueError:
        return {secret for secret in found if secret}
    return {secret for secret in found if secret}
