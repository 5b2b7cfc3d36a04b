"""What the evaluation stage needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.artifacts import Adapter, EvalReport, Manifest, Plan
from burnish.core.dataset import Split
from burnish.core.events import Emit
from burnish.core.recipe import Recipe
from burnish.store.home import Home
from burnish.wiring.base import Base, load_for_serving, load_planned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from burnish.evaluate.run import EvalRow, Subject
    from burnish.model.banked_linear import BankedModel

    Lender = Callable[[], AbstractContextManager[PreTrainedModel]]


def evaluate(
    recipe: Recipe, adapter: Adapter, manifest: Manifest, plan: Plan, base: Base, home: Home, folder: Path, emit: Emit
) -> EvalReport:
    """Let base and tuned answer the same rows."""
    from burnish.evaluate.run import Reference
    from burnish.evaluate.run import evaluate as evaluate_stage
    from burnish.plan.evaluation import longest_answer
    from burnish.plan.hardware import detect

    tasks = {name: eval_rows(split, home) for name, split in manifest.splits.items() if name != "train"}
    preference = plan.train.preference
    before = "base" if plan.start is None else "start"
    report = evaluate_stage(
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
        reference=None if preference is None else Reference(before, preference.beta),
    )
    return report.model_copy(update={"machine": detect(probe=False).processor(plan.train.device)})


def eval_rows(split: Split, home: Home) -> list[EvalRow]:
    """Return the rows of a split as they are graded: of a conversation with several renderings the last answer."""
    from burnish.data.rows import read_messages, read_token_rows
    from burnish.data.tables import EARLIER
    from burnish.evaluate.run import EvalRow

    tokens = read_token_rows(home.path(split.token_file))
    earlier = {row.row_id.partition(EARLIER)[0]: row for row in tokens if EARLIER in row.row_id}
    last = [row for row in tokens if EARLIER not in row.row_id]
    return [
        EvalRow(
            row,
            said.messages,
            None if said.rejected is None else (earlier[row.row_id], said.rejected[-1]["content"]),
        )
        for row, said in zip(last, read_messages(home.path(split.file)), strict=True)
    ]


def subjects(adapter: Adapter, plan: Plan, base: Base, home: Home, emit: Emit) -> Mapping[str, Subject]:
    """Return base, what training began as where that was trained too, and tuned: one model in memory at any time."""
    from burnish.subjects import ModelSubject

    start = None if plan.start is None else home.path(home.load(Adapter, plan.start).weights_file).parent
    tuned = home.path(adapter.weights_file).parent
    lenders = _models if plan.method.kind == "full" else _adapters
    return {
        name: ModelSubject(lent, base.tokenizer.stop_ids)
        for name, lent in lenders(plan, base, start, tuned, emit).items()
    }


def _models(plan: Plan, base: Base, start: Path | None, tuned: Path, emit: Emit) -> dict[str, Lender]:
    """Return the subjects where every weight was trained, each read from its folder when it is asked."""
    from burnish.subjects import OneAtATime

    def load(folder: Path) -> PreTrainedModel:
        model = load_planned(plan, base, emit, folder=folder)
        with_bank(model, plan)
        return model

    models = OneAtATime(load)
    folders = {"base": base.files.folder, **({} if start is None else {"start": start}), "tuned": tuned}
    return {name: partial(models.lend, folder) for name, folder in folders.items()}


def _adapters(plan: Plan, base: Base, start: Path | None, tuned: Path, emit: Emit) -> dict[str, Lender]:
    """Return the subjects of an adapter, all on one copy of the weights, which are packed where a bank of adapters is."""
    from burnish.model.lora import read_adapter
    from burnish.model.lora_bank import pack

    model = load_for_serving(base, plan, emit)
    banked = with_bank(model, plan)
    if banked is None:
        return on_layers(model, start, tuned)

    def answering(key: str | None) -> Lender:
        return lambda: lent(model, banked.answering(key))

    found = {"base": answering(None)}
    for name, folder in (("start", start), ("tuned", tuned)):
        if folder is not None:
            method, weights = read_adapter(folder, banked.sizes)
            banked.bank.load(name, pack(banked.layout, method, weights, banked.bank.dtype))
            found[name] = answering(name)
    return found


def with_bank(model: PreTrainedModel, plan: Plan) -> BankedModel | None:
    """Give a model a bank, as the engine has it, where evaluation is faster so: low-rank products alone, on a CPU."""
    from burnish.model.banked_linear import BankedModel

    alone = plan.method.bias is None and not plan.method.dora
    return BankedModel(model) if alone and plan.train.device == "cpu" else None


def on_layers(model: PreTrainedModel, start: Path | None, tuned: Path) -> dict[str, Lender]:
    """Return the subjects of an adapter that may have lengths and biases: it is on the model, and switched off or changed."""
    from burnish.model.lora import adaptable_layers, adapter_as, adapter_off, biases, load_adapter, read_adapter

    load_adapter(model, tuned)
    found: dict[str, Lender] = {"base": lambda: lent(model, adapter_off(model))}
    if start is not None:
        read = read_adapter(start, adaptable_layers(model), biases=biases(model))[1]
        weights = {name: value.to(model.device) for name, value in read.items()}
        found["start"] = lambda: lent(model, adapter_as(model, weights))
    return {**found, "tuned": lambda: nullcontext(model)}


@contextmanager
def lent(model: PreTrainedModel, as_it_shall_answer: AbstractContextManager[None]) -> Iterator[PreTrainedModel]:
    """Within the block lend a model in the state in which it shall answer."""
    with as_it_shall_answer:
        yield model
