"""The rows of a query. SQLite and PostgreSQL are opened for reading only; other databases as SQLAlchemy knows them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from burnish.core.errors import DataError
from burnish.data.record import Origin, RawRow
from burnish.data.sources.plain import table_row
from burnish.data.sources.refusal import UNREADABLE
from burnish.data.sources.spec import SQL, SourceSpec, scrubbed

_FETCH_ROWS = 500
_EXAMPLE = "sql:postgresql://user@host/base SELECT question, answer FROM tickets ORDER BY id"


def read_sql(spec: SourceSpec) -> Iterator[RawRow]:
    """Yield the rows of `sql:URL QUERY`; `line` counts them. The URL may be `$NAME`: the variable that holds it.

    Rows come through a cursor on the server, 500 at a time, in a transaction that cannot write.

    Raises DataError, which never shows a password, when the URL or the query is wrong or the database does not answer.
    """
    address, _, query = spec.location.removeprefix(SQL).strip().partition(" ")
    if not query.strip():
        raise DataError(f"{spec.shown} has no query; write for example: {_EXAMPLE}")
    given = _from_environment(address)
    url = _url(given)
    rows = _Rows(spec, url, given, query.strip())
    rows.open()
    return rows.rows()


def _from_environment(address: str) -> str:
    if not address.startswith("$"):
        return address
    name = address[1:].strip("{}")
    if name not in os.environ:
        raise DataError(f"the environment variable {name} is not set; it should hold the URL of a database")
    return os.environ[name]


def _url(given: str) -> URL:
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise DataError(f"this is no URL of a database; write for example: {_EXAMPLE}") from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        if not path.is_file():
            raise DataError(f"{path} does not exist (looked in {Path.cwd()}); name the file as sqlite:///FILE")
        address = f"file:{str(path.absolute()).replace('%', '%25').replace('?', '%3f').replace('#', '%23')}"
        url = url.set(database=address, query={"mode": "ro", "uri": "true"})
    return url


class _Rows:
    """An open query."""

    def __init__(self, spec: SourceSpec, url: URL, given: str, query: str) -> None:
        self._spec, self._url, self._given, self._query = spec, url, given, query
        self._engine: sqlalchemy.Engine | None = None
        self._connection: sqlalchemy.Connection | None = None
        self._result: Any = None

    def open(self) -> None:
        """Send the query. Raises DataError."""
        backend = self._url.get_backend_name()
        options: dict[str, Any] = {"stream_results": True, "yield_per": _FETCH_ROWS}
        if backend == "postgresql":
            options["postgresql_readonly"] = True
        try:
            self._engine = sqlalchemy.create_engine(self._url, poolclass=sqlalchemy.pool.NullPool)
            self._connection = self._engine.connect().execution_options(**options)
            self._result = self._connection.exec_driver_sql(
                self._query.replace("%", "%%") if backend != "sqlite" else self._query
            )
            if not self._result.returns_rows:
                raise DataError(f"{self._spec.shown}: the query gives no rows; it must be a SELECT")
            names = list(self._result.keys())
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise DataError(
                    f"{self._spec.shown}: the column {twice!r} is named twice; give one another name with AS"
                )
        except NoSuchModuleError:
            self._close()
            raise DataError(
                f"{self._spec.shown}: burnish knows sqlite and postgresql, and what SQLAlchemy has a driver for"
            ) from None
        except ImportError as error:
            self._close()
            raise DataError(
                f"{self._spec.shown} needs {error.name}, which is not installed: pip install 'burnish[sql]'"
            ) from None
        except SQLAlchemyError as error:
            self._close()
            raise DataError(f"{self._spec.shown}: {self._words(error)}") from None
        except DataError:
            self._close()
            raise

    def rows(self) -> Iterator[RawRow]:
        """Yield what it gives; a connection that breaks is the last row."""
        table = self._spec.shown.removeprefix(SQL).partition(" ")[0]
        number = 0
        try:
            for cells in cast(Iterator[Mapping[str, Any]], self._result.mappings()):
                number += 1
                yield table_row(Origin(self._spec.shown, table, number), cells)
        except SQLAlchemyError as error:
            origin = Origin(self._spec.shown, table, number + 1)
            yield RawRow(origin, None, "", UNREADABLE, self._words(error))
        finally:
            self._close()

    def _words(self, error: SQLAlchemyError) -> str:
        """What the database says, in one line, without credentials and without the query."""
        cause: object = error.orig if isinstance(error, DBAPIError) else error
        return scrubbed(" ".join(str(cause).split())[:300], self._given)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._engine is not None:
            self._engine.dispose()
