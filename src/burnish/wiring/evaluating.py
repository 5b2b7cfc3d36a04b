"""What the evaluation stage needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.artifacts import Adapter, EvalReport, Manifest, Plan
from burnish.core.events import Emit
from burnish.core.recipe import Recipe
from burnish.store.home import Home
from burnish.wiring.base import Base, load_for_serving

if TYPE_CHECKING:
    from burnish.evaluate.run import Subject


def evaluate(
    recipe: Recipe, adapter: Adapter, manifest: Manifest, plan: Plan, base: Base, home: Home, folder: Path, emit: Emit
) -> EvalReport:
    """Let base and tuned answer the same rows."""
    from burnish.data.rows import read_messages, read_token_rows
    from burnish.data.tables import EARLIER
    from burnish.evaluate.run import EvalRow
    from burnish.evaluate.run import evaluate as evaluate_stage
    from burnish.plan.make import longest_answer

    tasks: dict[str, list[EvalRow]] = {}
    for name, split in manifest.splits.items():
        if name != "train":
            # Of a conversation with several renderings the last answer is graded.
            last = [row for row in read_token_rows(home.path(split.token_file)) if EARLIER not in row.row_id]
            rows = zip(last, read_messages(home.path(split.file)), strict=True)
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


def subjects(adapter: Adapter, plan: Plan, base: Base, home: Home, emit: Emit) -> Mapping[str, Subject]:
    """Return base and tuned on one copy of the weights: the tuned one has the adapter on, the base has it off."""
    from burnish.model.lora import load_adapter
    from burnish.subjects import ModelSubject

    model = load_for_serving(base, plan, emit)
    load_adapter(model, home.path(adapter.weights_file).parent)
    stop_ids = base.tokenizer.stop_ids
    return {"base": ModelSubject(model, stop_ids, tuned=False), "tuned": ModelSubject(model, stop_ids, tuned=True)}
