"""What the training stage needs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.core.artifacts import Adapter, BaseRef, Foretold, Manifest, Plan
from burnish.core.events import Emit
from burnish.store.files import file_ref
from burnish.store.home import Home
from burnish.wiring.base import Base, load_planned
from burnish.wiring.samples import planned_order, train_samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from burnish.train.objective import Objective


def train(plan: Plan, manifest: Manifest, base: Base, home: Home, folder: Path, emit: Emit) -> Adapter:
    """Load the base as planned, train the adapter on it or every weight, and name what came out."""
    from burnish.train.choose import choose
    from burnish.train.loop import train as train_stage

    model = begin(plan, base, home, emit)
    paths = choose(plan, planned_objective(plan, manifest, home, model), model, home=home.root, emit=emit)
    objective = planned_objective(plan, manifest, home, model)  # anew: nothing that the choice computed is kept
    with interruptible() as stop:
        measured = train_stage(plan, objective, model, folder=folder, emit=emit, stop=stop, paths=paths)
    return Adapter(
        parents=(plan.id, manifest.id) if plan.start is None else (plan.id, manifest.id, plan.start),
        name=plan.name,
        base=plan.base,
        plan=plan.id,
        manifest=manifest.id,
        method=plan.method,
        fingerprint=manifest.fingerprint,
        events_file=file_ref(folder / "events.jsonl", home.root),
        measured=measured,
        foretold=_foretold(plan),
        **(_model_files(plan, base, folder, home) if plan.method.kind == "full" else _adapter_files(folder, home)),
    )


def _foretold(plan: Plan) -> Foretold:
    from burnish.plan.hardware import detect

    machine = detect(probe=False).processor(plan.train.device)
    return Foretold(machine=machine, memory=plan.memory, time=plan.time, correction=plan.correction)


def _adapter_files(folder: Path, home: Home) -> dict[str, Any]:
    from burnish.model.lora import CONFIG, WEIGHTS
    from burnish.train.trained import ADAPTER

    files = folder / ADAPTER
    return {"weights_file": file_ref(files / WEIGHTS, home.root), "config_file": file_ref(files / CONFIG, home.root)}


def _model_files(plan: Plan, base: Base, folder: Path, home: Home) -> dict[str, Any]:
    """Make a base of its own of what was written: with the tokenizer, its files named, and its digest."""
    from burnish.model.bases import resolve_base, weight_files
    from burnish.model.full import copy_tokenizer
    from burnish.train.trained import MODEL

    files = folder / MODEL
    copy_tokenizer(base.files.folder, files)
    shards = weight_files(files)
    digest = resolve_base(str(files)).ref.digest
    return {
        "weights_file": file_ref(
            files / (shards[0] if len(shards) == 1 else "model.safetensors.index.json"), home.root
        ),
        "config_file": file_ref(files / "config.json", home.root),
        "model": BaseRef(name=plan.name, digest=digest),
        "model_files": tuple(file_ref(path, home.root) for path in sorted(files.iterdir())),
    }


def begin(plan: Plan, base: Base, home: Home, emit: Emit) -> PreTrainedModel:
    """Return the model as training begins: the base with a fresh adapter, or the one that it goes on from; or all of it trains."""
    from burnish.model.full import train_every_weight
    from burnish.model.fused.paths import keep_compiled
    from burnish.model.lora import adaptable_layers, attach_lora, biases, put_adapter, read_adapter

    keep_compiled()
    if plan.method.kind == "full":
        start = None if plan.start is None else home.path(home.load(Adapter, plan.start).weights_file).parent
        model = load_planned(plan, base, emit, folder=start)
        train_every_weight(model)
        return model
    model = load_planned(plan, base, emit)
    attach_lora(model, plan.method, seed=plan.train.seed)
    if plan.start is not None:
        folder = home.path(home.load(Adapter, plan.start).weights_file).parent
        put_adapter(model, read_adapter(folder, adaptable_layers(model), biases=biases(model))[1])
    return model


def planned_objective(plan: Plan, manifest: Manifest, home: Home, model: PreTrainedModel) -> Objective[Any]:
    """Return what is learned, from the rows of the dataset. model: as training begins, which preferences are held against."""
    from burnish.model.lora import adapter_copy
    from burnish.train import dpo, sft

    samples = train_samples(manifest, home)
    order = planned_order(plan, manifest, home, samples)
    if plan.train.preference is None:
        return sft.objective(plan.train, samples.rows, order)
    full = plan.method.kind == "full"
    start = None if plan.start is None or full else adapter_copy(model)
    return dpo.objective(plan.train, samples.pairs, order, start=start, beforehand=full)


@contextmanager
def interruptible(saying: str = "saving after this step") -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C (or SIGTERM) asks to stop after the step, and says so; a second one stops at once."""
    asked: list[int] = []

    def handler(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        sys.stderr.write(f"\n{saying}; press Ctrl-C again to stop at once\n")

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
