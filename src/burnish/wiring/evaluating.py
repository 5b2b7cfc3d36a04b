"""What the evaluation stage needs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.artifacts import Adapter, EvalReport, Manifest, Plan
from burnish.core.dataset import Split
from burnish.core.events import Emit
from burnish.core.recipe import Recipe
from burnish.store.home import Home
from burnish.wiring.base import Base, load_for_serving

if TYPE_CHECKING:
    from burnish.evaluate.run import EvalRow, Subject


def evaluate(
    recipe: Recipe, adapter: Adapter, manifest: Manifest, plan: Plan, base: Base, home: Home, folder: Path, emit: Emit
) -> EvalReport:
    """Let base and tuned answer the same rows."""
    from burnish.evaluate.run import Reference
    from burnish.evaluate.run import evaluate as evaluate_stage
    from burnish.plan.evaluation import longest_answer

    tasks = {name: eval_rows(split, home) for name, split in manifest.splits.items() if name != "train"}
    preference = plan.train.preference
    before = "base" if plan.start is None else "start"
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
        reference=None if preference is None else Reference(before, preference.beta),
    )


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
    """Return base, what training began as where that was an adapter, and tuned, all on one copy of the weights."""
    from burnish.model.lora import adaptable_layers, adapter_as, adapter_off, load_adapter, read_adapter
    from burnish.subjects import ModelSubject

    model = load_for_serving(base, plan, emit)
    load_adapter(model, home.path(adapter.weights_file).parent)
    found: dict[str, Subject] = {"base": ModelSubject(model, base.tokenizer.stop_ids, adapter_off)}
    if plan.start is not None:
        folder = home.path(home.load(Adapter, plan.start).weights_file).parent
        weights = {
            name: value.to(model.device) for name, value in read_adapter(folder, adaptable_layers(model))[1].items()
        }
        found["start"] = ModelSubject(model, base.tokenizer.stop_ids, lambda model: adapter_as(model, weights))
    found["tuned"] = ModelSubject(model, base.tokenizer.stop_ids, lambda model: nullcontext())
    return found
