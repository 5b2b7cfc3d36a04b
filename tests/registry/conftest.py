"""A small family of artifacts that belong together, and an empty PostgreSQL database."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from burnish.core.artifacts import (
    Adapter,
    BaseRef,
    Comparison,
    EvalReport,
    FileRef,
    Histogram,
    Interval,
    Ledger,
    Manifest,
    Memory,
    MethodPlan,
    Parameters,
    Plan,
    Score,
    SourceFile,
    Split,
    TextFingerprint,
    TimePlan,
    TokenPlan,
    TrainMeasured,
    TrainPlan,
)
from burnish.registry.entry import Entry
from burnish.registry.mlflow_store import registered, sqlite_uri

BASE = BaseRef(name="smollm2-135m-instruct", digest="b" * 64)
FINGERPRINT = TextFingerprint(tokenizer_sha256="1" * 64, template_sha256="2" * 64, system="Today is {weekday} {date}.")
METHOD = MethodPlan(
    kind="qlora",
    rank=16,
    alpha=32.0,
    dropout=0.0,
    targets=("down_proj", "q_proj"),
    quantisation="nf4",
    double_quantisation=True,
)


def file(name: str) -> FileRef:
    return FileRef(path=name, sha256="f" * 64, size_bytes=10)


def split(rows: int) -> Split:
    return Split(
        rows=rows,
        tokens=100 * rows,
        unique_tokens=60 * rows,
        trained_tokens=40 * rows,
        longest_tokens=120,
        longest_answer_tokens=50,
        lengths=Histogram(edges=(0, 128), counts=(rows,)),
        file=file("rows"),
        token_file=file("tokens"),
    )


def make_manifest() -> Manifest:
    return Manifest(
        sources=(
            SourceFile(
                path="examples/flights/requests.jsonl",
                sha256="5" * 64,
                size_bytes=1000,
                lines=640,
                formats={"messages": 600},
            ),
        ),
        fingerprint=FINGERPRINT,
        ledger=Ledger(
            rows_in=640, rows_kept=520, rejected={"not JSON": 20, "near duplicate": 100}, changed={"text repaired": 12}
        ),
        splits={"train": split(400), "test": split(120)},
        personal_data={"email": 31, "phone": 12},
        leakage={"train rows equal to test rows": 0},
        rejected_file=file("rejected.jsonl"),
        settings={"near_duplicate": 0.85},
    )


def make_plan(manifest: Manifest) -> Plan:
    second = Interval(low=1.0, mid=2.0, high=3.0)
    return Plan(
        parents=(manifest.id,),
        name="flight-search",
        base=BASE,
        manifest=manifest.id,
        method=METHOD,
        train=TrainPlan(
            seed=0,
            epochs=1.0,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=4,
            steps=80,
            tokens_per_step=512,
            row_tokens=512,
            rows_per_step=1,
            weight_decay=0.0,
            betas=(0.9, 0.999),
            epsilon=1e-8,
            max_gradient_norm=1.0,
            checkpoint_every=8,
            checkpointed_layers=0,
            device="cpu",
            compute_dtype="float32",
            threads=2,
        ),
        parameters=Parameters(total=134_515_008, trainable=4_884_480),
        memory=Memory(weights_bytes=1, peak_bytes=2, components={"weights": 1}),
        tokens=TokenPlan(per_epoch=24_000, total=24_000, trained=16_000, exact=True),
        time=TimePlan(train=second, evaluate=second, total=second),
        fits=True,
        because={},
    )


def make_adapter(plan: Plan, manifest: Manifest) -> Adapter:
    return Adapter(
        parents=(plan.id,),
        name="flight-search",
        base=BASE,
        plan=plan.id,
        manifest=manifest.id,
        method=METHOD,
        fingerprint=FINGERPRINT,
        weights_file=file("adapter_model.safetensors"),
        config_file=file("adapter_config.json"),
        measured=TrainMeasured(
            seconds=212.0,
            peak_rss_bytes=2 * 2**30,
            peak_device_bytes=0,
            tokens_per_second=113.0,
            first_loss=2.31,
            last_loss=0.08,
            steps=80,
            resumed_at_step=0,
        ),
    )


def score(subject: str, metric: str, value: float, *, task: str = "test", n: int = 120) -> Score:
    return Score(subject=subject, task=task, metric=metric, value=value, low=value - 0.05, high=value + 0.05, n=n)


def make_report(adapter: Adapter, manifest: Manifest, exact_match: float = 0.8) -> EvalReport:
    return EvalReport(
        parents=(adapter.id, manifest.id),
        name="flight-search",
        adapter=adapter.id,
        manifest=manifest.id,
        scores=(
            score("base", "exact_match", 0.0),
            score("tuned", "exact_match", exact_match),
            score("base", "json_valid", 0.1),
            score("tuned", "json_valid", 1.0),
            score("tuned", "exact_match", 0.6, task="handwritten", n=60),
            score("base", "token_loss", 2.9),
            score("tuned", "token_loss", 2.95, task="forgetting", n=200),
        ),
        comparisons=(
            Comparison(
                task="test",
                metric="exact_match",
                a="tuned",
                b="base",
                difference=exact_match,
                low=0.7,
                high=0.85,
                p=1e-9,
            ),
        ),
        examples=(),
        rows_file=file("rows.jsonl"),
    )


@pytest.fixture
def family() -> dict[str, Any]:
    """Manifest, plan, adapter and report of one run."""
    manifest = make_manifest()
    plan = make_plan(manifest)
    adapter = make_adapter(plan, manifest)
    return {"manifest": manifest, "plan": plan, "adapter": adapter, "report": make_report(adapter, manifest)}


@pytest.fixture
def better_report(family: dict[str, Any]) -> EvalReport:
    """A second report on the same adapter, with an exact match of 0.9."""
    return make_report(family["adapter"], family["manifest"], exact_match=0.9)


@pytest.fixture
def entry_of(family: dict[str, Any], tmp_path: Path) -> Callable[..., Entry]:
    """Make the entry of a release that was published from `family`."""

    def make(release: Any, report: EvalReport | None = None) -> Entry:
        return Entry(
            release=release, report=report or family["report"], plan=family["plan"], folder=tmp_path / "adapter"
        )

    return make


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry without releases, made once: MLflow takes a second to make its tables."""
    database = tmp_path_factory.mktemp("registry") / "mlflow.db"
    assert registered("nothing", sqlite_uri(database)) == []
    return database


@pytest.fixture
def postgres_uri() -> Iterator[str]:
    """A throw-away database on 127.0.0.1:5432. Absent on a laptop: skipped. Absent in CI: an error."""
    psycopg = pytest.importorskip("psycopg")
    server = "postgresql://postgres@127.0.0.1:5432"
    try:
        admin = psycopg.connect(f"{server}/postgres", autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no PostgreSQL at {server}: {str(error).splitlines()[0]}")
    name = f"burnish_test_{uuid.uuid4().hex}"
    with admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    try:
        yield f"{server}/{name}"
    finally:
        with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
