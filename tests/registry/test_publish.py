"""A release is registered once, with its lineage, and the registry can be lost without losing anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from burnish.core.artifacts import EvalReport, Release
from burnish.core.errors import GateError, StoreError
from burnish.registry.entry import Entry
from burnish.registry.mlflow_store import registered, sqlite_uri
from burnish.registry.publish import publish, rebuild

pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*")
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
Publish = Callable[..., Release]


@pytest.fixture
def database(tmp_path: Path, empty_registry: Path) -> Path:
    """A SQLite registry of this test alone."""
    path = tmp_path / "registry" / "mlflow.db"
    path.parent.mkdir()
    shutil.copyfile(empty_registry, path)
    return path


@pytest.fixture
def go(family: dict[str, Any], tmp_path: Path, database: Path) -> Publish:
    """Publish the family to `database`, with changes."""

    def call(**changes: Any) -> Release:
        values = {
            "recipe_name": "flight-search",
            "thresholds": {"exact_match": 0.65},
            "folder": tmp_path / "adapter",
            "now": NOW,
            "tracking_uri": sqlite_uri(database),
            **family,
        }
        return publish(**(values | changes))

    return call


def test_a_release_is_a_version_with_lineage_parameters_scores_and_alias(
    go: Publish, family: dict[str, Any], tmp_path: Path, database: Path
) -> None:
    release = go()
    uri = sqlite_uri(database)
    assert (release.version, release.alias, release.created_at) == (1, "champion", "2026-11-22T12:00:00+00:00")

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version_by_alias("flight-search", "champion")
    assert version.tags["burnish.release"] == release.id
    assert version.tags["burnish.manifest"] == family["manifest"].id
    assert version.source == (tmp_path / "adapter").as_uri()
    run = client.get_run(str(version.run_id))
    assert run.data.params["train.learning_rate"] == "0.001"
    assert run.data.params["method.targets"] == "down_proj, q_proj"
    assert run.data.metrics["tuned/test/exact_match"] == pytest.approx(0.8)
    assert run.data.metrics["tuned/test/exact_match/low"] == pytest.approx(0.75)
    assert run.info.status == "FINISHED"
    assert "postgres" not in str(run.data.tags) + str(version.tags)


def test_the_same_release_published_twice_keeps_its_version_and_a_better_one_gets_the_next(
    go: Publish, better_report: EvalReport, database: Path
) -> None:
    first, again = go(), go(now=datetime(2027, 1, 1, tzinfo=UTC))
    assert (again.id, again.version) == (first.id, first.version) == (first.id, 1)
    second = go(report=better_report)
    assert second.version == 2
    versions = registered("flight-search", sqlite_uri(database))
    assert [(v.version, v.release, v.aliases) for v in versions] == [(1, first.id, ()), (2, second.id, ("champion",))]


def test_a_failed_gate_raises_the_sentence_and_records_nothing(go: Publish, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere" / "mlflow.db"
    with pytest.raises(GateError, match=r"exact_match is 0\.800 .* falls 0\.100 short of the gate's 0\.9"):
        go(thresholds={"exact_match": 0.9}, tracking_uri=sqlite_uri(nowhere))
    assert not nowhere.parent.exists()


def test_artifacts_that_do_not_belong_together_are_refused(go: Publish, family: dict[str, Any]) -> None:
    stranger = family["adapter"].model_copy(update={"plan": "0" * 64})
    with pytest.raises(StoreError, match="do not belong together"):
        go(adapter=stranger)


def test_an_emptied_registry_is_rebuilt_with_the_same_versions_and_alias(
    go: Publish, better_report: EvalReport, database: Path, entry_of: Callable[..., Entry]
) -> None:
    report = better_report
    first, second = go(), go(report=report)
    before = registered("flight-search", sqlite_uri(database))
    database.unlink()
    assert rebuild([entry_of(second, report), entry_of(first)], sqlite_uri(database)) == 2
    assert registered("flight-search", sqlite_uri(database)) == before
    assert rebuild([entry_of(first), entry_of(second, report)], sqlite_uri(database)) == 2
    assert registered("flight-search", sqlite_uri(database)) == before


def test_a_version_that_was_deleted_leaves_its_number_empty_when_rebuilt(
    go: Publish, better_report: EvalReport, database: Path, entry_of: Callable[..., Entry]
) -> None:
    report = better_report
    go()
    second = go(report=report)
    database.unlink()
    uri = sqlite_uri(database)
    rebuild([entry_of(second, report)], uri)
    assert [v.version for v in registered("flight-search", uri)] == [2]


def test_a_number_that_another_release_has_is_not_given_twice(
    go: Publish, better_report: EvalReport, database: Path, entry_of: Callable[..., Entry]
) -> None:
    go()
    stranger = go(report=better_report, tracking_uri=sqlite_uri(database.with_name("other.db")))
    assert stranger.version == 1
    with pytest.raises(StoreError, match="version 1 is taken"):
        rebuild([entry_of(stranger, better_report)], sqlite_uri(database))


def test_threads_that_publish_one_release_at_once_get_one_version(go: Publish, database: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = {future.result().version for future in [pool.submit(go) for _ in range(4)]}
    assert versions == {1}
    assert len(registered("flight-search", sqlite_uri(database))) == 1


def test_a_file_that_is_no_database_is_said_at_once(go: Publish, database: Path) -> None:
    database.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        go()


@pytest.mark.parametrize("uri", ["mysql://root:hunter2@db/x", "file:///tmp/x", "sqlite:///", "nonsense"])
def test_an_unknown_kind_of_registry_is_refused_without_showing_a_password(go: Publish, uri: str) -> None:
    with pytest.raises(StoreError, match="must be sqlite") as caught:
        go(tracking_uri=uri)
    assert "hunter2" not in str(caught.value)


def test_a_postgresql_that_does_not_answer_is_said_without_its_password(go: Publish) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="does not answer") as caught:
        go(tracking_uri="postgresql://someone:hunter2@127.0.0.1:9/none")
    assert "hunter2" not in str(caught.value)


def test_postgresql_works_as_sqlite_does(
    go: Publish, better_report: EvalReport, postgres_uri: str, entry_of: Callable[..., Entry]
) -> None:
    report = better_report
    with ThreadPoolExecutor(2) as pool:
        first, same = (future.result() for future in [pool.submit(go, tracking_uri=postgres_uri) for _ in range(2)])
    second = go(report=report, tracking_uri=postgres_uri)
    assert (first.version, same.version, second.version) == (1, 1, 2)
    assert rebuild([entry_of(first), entry_of(second, report)], postgres_uri) == 2
    assert [(v.version, v.aliases) for v in registered("flight-search", postgres_uri)] == [(1, ()), (2, ("champion",))]


def test_mlflow_stays_away_until_something_is_registered() -> None:
    rooms = "burnish.registry.publish, burnish.registry.card, burnish.registry.mlflow_store"
    code = f"import sys, {rooms}; assert not {{'mlflow', 'sqlalchemy', 'torch'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_making_a_database_and_publishing_is_silent(
    go: Publish, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    go(tracking_uri=sqlite_uri(tmp_path / "new" / "mlflow.db"))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
