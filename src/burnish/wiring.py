"""What a stage needs from another room, built here and passed as a function or as data. One function a verb.

Stage rooms are imported inside the functions: a command that needs no torch loads none.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.core.artifacts import Adapter, EvalReport, GateVerdict, Manifest, Plan, Release
from burnish.core.events import Emit, Note, Progress
from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.store.files import file_ref, write_bytes
from burnish.store.home import Home

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from burnish.core.rows import TokenRow
    from burnish.evaluate.run import Subject
    from burnish.model.bases import BaseFiles
    from burnish.plan.compare import Compared
    from burnish.registry.entry import Entry
    from burnish.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Base:
    """A base model on disk: its files, and the tokenizer that belongs to it."""

    files: BaseFiles
    tokenizer: Tokenizer


def open_base(name: str, emit: Emit) -> Base:
    """Find the base model, fetching and checking it the first time."""
    from burnish.model.bases import resolve_base
    from burnish.text.tokenizer import load_tokenizer

    files = resolve_base(name, emit=emit)
    return Base(files, load_tokenizer(files.folder))


# ----------------------------------------------------------------------------------------------------------------- prepare


def prepare_inputs(recipe: Recipe, base: Base) -> dict[str, Any]:
    """Return everything that decides what `prepare` makes: bytes of the data, settings, tokenizer and template."""
    return {
        "data": _data_sha256(recipe.data),
        "tasks": {name: _data_sha256(path) for name, path in recipe.evaluate.tasks.items()},
        "settings": recipe.prepare.model_dump(mode="json"),
        "fingerprint": base.tokenizer.fingerprint(recipe.system).model_dump(mode="json"),
        "context_length": base.tokenizer.context_length,
    }


def _data_sha256(source: str) -> str:
    from burnish.data.sources.fingerprint import fingerprint

    return fingerprint(source)


def prepare(recipe: Recipe, base: Base, home: Home, folder: Path, emit: Emit) -> Manifest:
    """Make the dataset."""
    from burnish.data.prepare import prepare as prepare_stage

    return prepare_stage(recipe, tokenizer=base.tokenizer, folder=folder, root=home.root, emit=emit)


# -------------------------------------------------------------------------------------------------------------------- plan


def plan_inputs(recipe: Recipe, base: Base, manifest: Manifest) -> dict[str, Any]:
    """Return everything that decides the plan: base, dataset, method, loop, and the machine it is for."""
    from burnish.plan.hardware import detect

    hardware = detect(probe=False)
    return {
        "name": recipe.name,
        "base": base.files.ref.model_dump(mode="json"),
        "manifest": manifest.id,
        "method": recipe.method.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json"),
        "evaluate": recipe.evaluate.model_dump(mode="json"),
        "seed": recipe.seed,
        "machine": [hardware.device, hardware.cores, hardware.cpu_bf16, hardware.gpu_name],
    }


def plan(recipe: Recipe, base: Base, manifest: Manifest, home: Home) -> Plan:
    """Resolve every number of the run from the dataset that was prepared."""
    from burnish.plan.bases import read_config
    from burnish.plan.hardware import detect
    from burnish.plan.make import make_plan

    return make_plan(
        recipe,
        base=base.files.ref,
        config=read_config(base.files.folder / "config.json"),
        manifest=manifest,
        data_bytes=None,
        hardware=detect(),
        token_lengths=[
            (row.ids[: row.prefix], row.prefix, len(row.ids) - row.prefix) for row in train_rows(manifest, home)
        ],
    )


def estimate(recipe: Recipe, home: Home) -> Plan:
    """Plan without fetching or loading anything: from the newest dataset of this data, or from the size of the file."""
    from burnish.data.sources.read import stored_bytes
    from burnish.plan.bases import find_config, reference
    from burnish.plan.hardware import detect
    from burnish.plan.make import make_plan

    config = find_config(recipe.base)
    data_sha256 = _data_sha256(recipe.data)
    manifests = [m for m in home.all(Manifest) if m.settings.get("data_sha256") == data_sha256]
    manifest = manifests[-1] if manifests and manifests[-1].fingerprint.system == recipe.system else None
    lengths = None
    if manifest is not None and home.is_whole(manifest):
        rows = train_rows(manifest, home)
        lengths = [(row.ids[: row.prefix], row.prefix, len(row.ids) - row.prefix) for row in rows]
    return make_plan(
        recipe,
        base=reference(recipe.base, config),
        config=config,
        manifest=manifest,
        data_bytes=stored_bytes(recipe.data),
        hardware=detect(),
        token_lengths=lengths,
    )


# ------------------------------------------------------------------------------------------------------------------- train


def train_rows(manifest: Manifest, home: Home) -> list[TokenRow]:
    """Return the training rows as token ids."""
    from burnish.data.rows import read_token_rows

    return read_token_rows(home.path(manifest.splits["train"].token_file))


def train(plan: Plan, manifest: Manifest, base: Base, home: Home, folder: Path, emit: Emit) -> Adapter:
    """Load the base as planned, train the adapter on it, and name what came out."""
    from burnish.model.lora import attach_lora
    from burnish.train.loop import train as train_stage

    model = _load(plan, base, emit)
    attach_lora(model, plan.method, seed=plan.train.seed)
    with interruptible() as stop:
        measured = train_stage(plan, train_rows(manifest, home), model, folder=folder, emit=emit, stop=stop)
    files = folder / "adapter"
    return Adapter(
        parents=(plan.id, manifest.id),
        name=plan.name,
        base=plan.base,
        plan=plan.id,
        manifest=manifest.id,
        method=plan.method,
        fingerprint=manifest.fingerprint,
        weights_file=file_ref(files / "adapter_model.safetensors", home.root),
        config_file=file_ref(files / "adapter_config.json", home.root),
        events_file=file_ref(folder / "events.jsonl", home.root),
        measured=measured,
    )


def _load(plan: Plan, base: Base, emit: Emit) -> PreTrainedModel:
    import torch

    from burnish.model.load import load_base
    from burnish.model.memory import trim_heap

    trim_heap()
    emit(Progress("train", "loading the base model", 0, 1, "models"))
    torch.set_num_threads(plan.train.threads)
    model = load_base(
        base.files.folder,
        quantisation=plan.method.quantisation,
        double_quantisation=plan.method.double_quantisation,
        device=plan.train.device,
        dtype=getattr(torch, plan.train.compute_dtype),
    )
    emit(Progress("train", "loading the base model", 1, 1, "models"))
    return model


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C (or SIGTERM) asks to save and stop; a second one stops at once."""
    asked: list[int] = []

    def handler(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        sys.stderr.write("\nsaving after this step; press Ctrl-C again to stop at once\n")

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


# ---------------------------------------------------------------------------------------------------------------- evaluate


def evaluate(
    recipe: Recipe, adapter: Adapter, manifest: Manifest, plan: Plan, base: Base, home: Home, folder: Path, emit: Emit
) -> EvalReport:
    """Let base and tuned answer the same rows."""
    from burnish.data.rows import read_messages, read_token_rows
    from burnish.evaluate.run import EvalRow
    from burnish.evaluate.run import evaluate as evaluate_stage
    from burnish.plan.make import longest_answer

    tasks: dict[str, list[EvalRow]] = {}
    for name, split in manifest.splits.items():
        if name != "train":
            rows = zip(read_token_rows(home.path(split.token_file)), read_messages(home.path(split.file)), strict=True)
            tasks[name] = [EvalRow(tokens, message.messages) for tokens, message in rows]
    return evaluate_stage(
        name=recipe.name,
        adapter=adapter,
        manifest=manifest,
        tasks=tasks,
        subjects=subjects(adapter, plan, base, home, emit),
        encode_general=base.tokenizer.encode,
        decode=base.tokenizer.decode,
        max_new_tokens=longest_answer(recipe, manifest),
        forgetting=recipe.evaluate.forgetting,
        folder=folder,
        root=home.root,
        seed=recipe.seed,
        emit=emit,
    )


def load_for_serving(base: Base, plan: Plan | None, emit: Emit) -> PreTrainedModel:
    """Load a base as `plan` trained on it (None: plain float32 on the CPU).

    On a CPU quantised weights are kept as the float32 values they stand for: the same numbers, decoded several times faster.
    """
    from burnish.model.load import dequantised, load_base

    if plan is None:
        return load_base(base.files.folder)
    model = _load(plan, base, emit)
    return dequantised(model) if plan.train.device == "cpu" else model


def subjects(adapter: Adapter, plan: Plan, base: Base, home: Home, emit: Emit) -> Mapping[str, Subject]:
    """Return base and tuned on one copy of the weights: the tuned one has the adapter on, the base has it off."""
    from burnish.model.lora import load_adapter
    from burnish.subjects import ModelSubject

    model = load_for_serving(base, plan, emit)
    load_adapter(model, home.path(adapter.weights_file).parent)
    stop_ids = base.tokenizer.stop_ids
    return {"base": ModelSubject(model, stop_ids, tuned=False), "tuned": ModelSubject(model, stop_ids, tuned=True)}


# ----------------------------------------------------------------------------------------------------------------- release


def decide(report: EvalReport, thresholds: Mapping[str, float]) -> GateVerdict:
    """Compare the report with the recipe's gate."""
    from burnish.registry.gate import decide as decide_gate

    return decide_gate(report, thresholds)


def tracking_uri(home: Home) -> str:
    """Return where the registry is: $BURNISH_REGISTRY, or a SQLite file in the home."""
    return os.environ.get("BURNISH_REGISTRY") or sqlite_uri_of(home)


def registry_file(home: Home) -> Path:
    """Return the SQLite file that is the registry by default."""
    return home.root / "registry" / "mlflow.db"


def sqlite_uri_of(home: Home) -> str:
    """Return the tracking URI of the home's own registry."""
    from burnish.registry.mlflow_store import sqlite_uri

    return sqlite_uri(registry_file(home))


def _entry(release: Release, home: Home) -> Entry:
    from burnish.registry.entry import Entry

    adapter = home.load(Adapter, release.adapter)
    folder = home.path(adapter.weights_file).parent
    return Entry(release, home.load(EvalReport, release.report), home.load(Plan, release.plan), folder)


def mend_registry(home: Home, emit: Emit) -> None:
    """Make the home's own registry again from its artifacts, if it was lost."""
    if registry_file(home).exists() or (uri := tracking_uri(home)) != sqlite_uri_of(home):
        return
    entries = [_entry(item, home) for item in home.all(Release)]
    if entries:
        from burnish.registry.publish import rebuild

        count = rebuild(entries, uri)
        emit(Note("release", f"the registry was gone; registered again from the artifacts: {count}"))


def release(
    recipe: Recipe, adapter: Adapter, report: EvalReport, plan: Plan, manifest: Manifest, gate: GateVerdict, home: Home
) -> Release:
    """Register the adapter as a version that may be served."""
    from burnish.registry.publish import publish

    return publish(
        recipe_name=recipe.name,
        adapter=adapter,
        report=report,
        plan=plan,
        manifest=manifest,
        thresholds=gate.thresholds,
        folder=home.path(adapter.weights_file).parent,
        tracking_uri=tracking_uri(home),
        now=datetime.now(UTC),
    )


def write_report(
    recipe: Recipe, manifest: Manifest, plan: Plan, adapter: Adapter, report: EvalReport, gate: GateVerdict,
    released: Release | None, home: Home, seconds: Mapping[str, float] | None,
) -> Path:  # fmt: skip
    """Write the HTML report, and beside it the model card of a release. Returns the report's path."""
    from burnish.evaluate.report import render_report
    from burnish.model.bases import BUNDLED
    from burnish.registry.card import model_card
    from burnish.train.events import EventFile

    folder = home.root / "reports" / f"{recipe.name}-{short(report.id)}"
    events = None if adapter.events_file is None else home.path(adapter.events_file)
    steps = EventFile(events).steps() if events is not None and events.exists() else ()
    page = render_report(
        manifest=manifest, plan=plan, adapter=adapter, report=report, gate=gate, release=released, recipe=recipe,
        steps=steps, seconds=seconds,
    )  # fmt: skip
    write_bytes(folder / "report.html", page.encode())
    if released is not None:
        licence = BUNDLED[plan.base.name].licence if plan.base.name in BUNDLED else None
        card = model_card(
            release=released, adapter=adapter, report=report, plan=plan, manifest=manifest, base_licence=licence
        )
        write_bytes(folder / "card.md", card.encode())
    return folder / "report.html"


def predicted_and_measured(plan: Plan, adapter: Adapter | None, report: EvalReport | None) -> Sequence[Compared]:
    """Return what the plan predicted beside what was measured."""
    from burnish.plan.compare import compare, measurements

    return compare(plan, measurements(plan, adapter, report))
