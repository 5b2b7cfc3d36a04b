"""Releases in MLflow: a run with parameters and scores, a version with lineage, an alias. Only this file knows MLflow.

MLflow is imported when a function here is called: it takes about 1.5 s, and a new database takes another second for its
migrations. A database is locked while it is written, so that threads and processes give one release one version.
"""

# What MLflow's methods return is not typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import uuid
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.errors import StoreError
from burnish.core.ids import short
from burnish.registry import entry as record
from burnish.registry.entry import Entry
from burnish.store.files import unwritable

if TYPE_CHECKING:
    from mlflow import MlflowClient

QUIET: Mapping[str, str] = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
"""What MLflow reads from the environment when it is imported; what is already set there is left as it is. NullPool: no
connection outlives a call, so a database file that was replaced is seen, and a forked process shares none."""
SQLITE = "sqlite:///"
LOCK_KEY = 0x6275726E697368
"""Key of the PostgreSQL advisory lock: the bytes of 'burnish'."""
CONNECT_SECONDS = 5
REBUILD = "Our artifacts hold all it knows: move it away, and the next release builds it again."
RELEASE_TAG = "burnish.release"


def sqlite_uri(database: Path) -> str:
    """Return the tracking URI of a SQLite file."""
    return f"{SQLITE}{database.resolve()}"


@dataclass(frozen=True, slots=True)
class Registered:
    """A model version as MLflow has it."""

    name: str
    version: int
    release: str
    source: str
    aliases: tuple[str, ...]


def register(entry: Entry, tracking_uri: str, *, version: int | None = None) -> int:
    """Record a release and point its alias at it. Returns its version: the one it has already, if it is there.

    `version` asks for a number (when a database is rebuilt). Raises StoreError when the database cannot be used, or the
    number is taken by another release.
    """
    with _open(tracking_uri) as client:
        name = entry.release.name
        known = {found.release: found.version for found in _versions(client, name)}
        number = known.get(entry.release.id)
        if number is None:
            number = _create(client, entry, version)
        elif version is not None and number != version:
            raise StoreError(
                f"{name}: release {short(entry.release.id)} is version {number} in MLflow and version {version} in its "
                "artifact. Move the registry's database away and rebuild it."
            )
        client.set_registered_model_alias(name, entry.release.alias, str(number))
        return number


def registered(name: str, tracking_uri: str) -> list[Registered]:
    """Return the versions of a model, oldest first; none when the model is unknown."""
    with _open(tracking_uri) as client:
        return _versions(client, name)


@contextmanager
def _open(tracking_uri: str) -> Generator[MlflowClient]:
    """Hold the database's lock and give MLflow's client for it; failures of the database become StoreError."""
    uri = _driver_uri(tracking_uri)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with _locked(uri):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        try:
            if uri.startswith(SQLITE):
                _make_database(Path(uri.removeprefix(SQLITE)))
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
        except MlflowException as error:
            raise StoreError(f"the registry {_shown(uri)} cannot be used: {error.message}. {REBUILD}") from error


def _make_database(database: Path) -> None:
    """Let MLflow make its tables in a new file, which gets its name when it is whole.

    A crash in the migrations leaves no half a database. And a file that was deleted while this process lives is made
    again: MLflow looks for its tables only when it first meets an address.
    """
    if database.exists() and database.stat().st_size > 0:
        return
    from mlflow import MlflowClient

    fresh = database.with_name(f".{database.name}.{uuid.uuid4().hex}")
    try:
        MlflowClient(tracking_uri=f"{SQLITE}{fresh}", registry_uri=f"{SQLITE}{fresh}")
        fresh.replace(database)
    finally:
        fresh.unlink(missing_ok=True)


def _driver_uri(tracking_uri: str) -> str:
    """Name the driver that PostgreSQL is reached by, and make a SQLite path's folder."""
    scheme, separator, rest = tracking_uri.partition("://")
    if separator and scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        return f"postgresql+psycopg://{rest}"
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        folder = Path(rest[1:]).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        return tracking_uri
    raise StoreError(
        f"registry {_shown(tracking_uri)}: must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
    )


def _shown(uri: str) -> str:
    """The URI without its password."""
    scheme, separator, rest = uri.partition("://")
    login, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{login.partition(':')[0]}{at}{place}"


@contextmanager
def _locked(uri: str) -> Generator[None]:
    """Hold the database for one writer: a locked file beside SQLite's, an advisory lock in PostgreSQL."""
    if not uri.startswith(SQLITE):
        with _advisory_lock(uri):
            yield
        return
    database = Path(uri.removeprefix(SQLITE))
    path = database.with_name(f"{database.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _check_sqlite(database)
        yield
    finally:
        os.close(descriptor)


def _check_sqlite(database: Path) -> None:
    """Say at once what MLflow would find out after ten attempts: that the file is no database, or cannot be opened."""
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"the registry {database} cannot be used: {error}. {REBUILD}") from error


@contextmanager
def _advisory_lock(uri: str) -> Generator[None]:
    try:
        import psycopg
        import sqlalchemy
        from sqlalchemy.exc import OperationalError
        from sqlalchemy.pool import NullPool
    except ImportError as error:
        raise StoreError(f"{error.name} is missing, and PostgreSQL needs it: pip install 'psycopg[binary]'.") from error

    engine = sqlalchemy.create_engine(uri, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_SECONDS})
    try:
        connection = engine.connect()
    except OperationalError as error:
        why = str(error.orig).splitlines()[0] if isinstance(error.orig, psycopg.Error) else type(error).__name__
        raise StoreError(f"PostgreSQL at {_shown(uri)} does not answer: {why}") from error
    with connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
        yield


def _versions(client: MlflowClient, name: str) -> list[Registered]:
    models = client.search_registered_models(f"name = '{name}'")
    if not models:
        return []
    aliases: dict[int, list[str]] = {}
    for alias, version in models[0].aliases.items():
        aliases.setdefault(int(version), []).append(alias)
    found, page = [], None
    while True:
        batch = client.search_model_versions(f"name = '{name}'", page_token=page)
        found += batch
        page = batch.token
        if not page:
            break
    return sorted(
        (
            Registered(
                name,
                int(item.version),
                item.tags.get(RELEASE_TAG, ""),
                str(item.source),
                tuple(sorted(aliases.get(int(item.version), ()))),
            )
            for item in found
        ),
        key=lambda item: item.version,
    )


def _create(client: MlflowClient, entry: Entry, version: int | None) -> int:
    """Record the run and a new version. When `version` asks for a later number, those before it are used up."""
    release = entry.release
    if not client.search_registered_models(f"name = '{release.name}'"):
        client.create_registered_model(release.name, description=f"burnish: {release.name} on {release.base.name}")
    run, tags, source = _record_run(client, entry), record.lineage(entry), entry.folder.resolve().as_uri()
    while True:
        made = client.create_model_version(
            release.name, source, run_id=run, tags=tags, description=" ".join(release.gate.reasons)
        )
        number = int(made.version)
        if version is None or number == version:
            return number
        client.delete_model_version(release.name, str(number))
        if number > version:
            raise StoreError(f"{release.name}: version {version} is taken in MLflow by another release.")


def _record_run(client: MlflowClient, entry: Entry) -> str:
    """Record parameters, scores and lineage in the release's one run, and return its id."""
    from mlflow.entities import Metric, Param

    release = entry.release
    name = f"burnish/{release.name}"
    experiment = client.get_experiment_by_name(name)
    place = entry.folder.resolve().as_uri()
    number = experiment.experiment_id if experiment else client.create_experiment(name, artifact_location=place)
    at = int(datetime.fromisoformat(release.created_at).timestamp() * 1000) if release.created_at else 0
    earlier = client.search_runs([number], f"tags.`{RELEASE_TAG}` = '{release.id}'")
    run = earlier[0].info.run_id if earlier else _new_run(client, number, at, entry)
    client.log_batch(
        run,
        metrics=[Metric(key, value, at, 0) for key, value in record.metrics(entry).items()],
        params=[Param(key, value) for key, value in record.parameters(entry).items()],
    )
    client.set_terminated(run, end_time=at)
    return run


def _new_run(client: MlflowClient, experiment: str, at: int, entry: Entry) -> str:
    run = client.create_run(experiment, start_time=at, run_name=short(entry.release.id), tags=record.lineage(entry))
    return str(run.info.run_id)
