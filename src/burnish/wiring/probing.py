"""What a probe of the plan needs: the base as planned, the rows of the run, a few prompts of its evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from burnish.core.artifacts import Manifest, Plan, Probe, ProbeMeasured
from burnish.core.events import Emit, Progress
from burnish.store.home import Home
from burnish.wiring.base import Base, load_for_serving
from burnish.wiring.evaluating import lent, with_bank
from burnish.wiring.training import begin, interruptible, planned_objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from burnish.core.packing import Length
    from burnish.core.rows import TokenRow
    from burnish.wiring.evaluating import Lender

READ_ROWS = 32
"""Rows whose losses are timed."""
NEW_TOKENS = 8
"""Tokens that each prompt is answered with."""


def probe(plan: Plan, manifest: Manifest, base: Base, home: Home, emit: Emit) -> Probe:
    """Make the first steps of a run, read and answer some of its test rows, and return what they took."""
    from burnish.plan.architecture import read_architecture
    from burnish.plan.bases import read_config
    from burnish.plan.hardware import detect
    from burnish.plan.probe import probe_shape
    from burnish.train.choose import choose
    from burnish.train.probe import probe_steps, spread, timed, waited

    model = begin(plan, base, home, emit)
    paths = choose(plan, planned_objective(plan, manifest, home, model), model, home=home.root, emit=emit)
    objective = planned_objective(plan, manifest, home, model)  # anew: nothing that the choice computed is kept
    with interruptible("ending the probe after this step") as stop:
        steps = probe_steps(plan, objective, model, folder=home.root, emit=emit, stop=stop, paths=paths)
    del model
    counted = timed(steps)
    trained = ProbeMeasured(
        steps=len(counted),
        tokens=sum(step.tokens for step in counted),
        seconds=sum(step.seconds for step in counted),
        spread=spread(counted),
        waited=waited(counted),
        peak_bytes=max(step.rss_bytes if plan.train.device == "cpu" else step.device_bytes for step in steps),
    )
    architecture = read_architecture(read_config(base.files.folder / "config.json"))
    shape = probe_shape(plan, architecture, detect(probe=False))
    return Probe(shape=shape, measured=_evaluated(trained, plan, base, _test_rows(manifest, home), emit))


def _test_rows(manifest: Manifest, home: Home) -> list[TokenRow]:
    """Return rows that the run will be evaluated on: of the largest split, as many as are answered at once."""
    from burnish.data.rows import read_token_rows
    from burnish.subjects import ROWS_AT_ONCE

    splits = [split for name, split in manifest.splits.items() if name != "train" and split.rows]
    if not splits:
        return []
    return read_token_rows(home.path(max(splits, key=lambda split: split.rows).token_file))[:ROWS_AT_ONCE]


def _evaluated(trained: ProbeMeasured, plan: Plan, base: Base, rows: Sequence[TokenRow], emit: Emit) -> ProbeMeasured:
    """Add what reading and answering takes. No stop token: every answer has NEW_TOKENS, whatever the base says."""
    if not rows:
        return trained
    from burnish.core.packing import packed_tokens
    from burnish.subjects import ModelSubject

    subject = ModelSubject(_tuned(plan, load_for_serving(base, plan, emit)), frozenset())
    prompts = [row.ids[: row.prompt] for row in rows]

    def seconds_of(new_tokens: int) -> float:
        began = time.perf_counter()
        subject.complete(prompts, [()] * len(prompts), new_tokens, lambda done, total: None)
        return time.perf_counter() - began

    emit(Progress("plan", "probe: answering", 0, 1, "batches"))
    seconds_of(1)  # the first pass chooses kernels and takes memory
    prompts_alone = seconds_of(1)
    answered = seconds_of(1 + NEW_TOKENS)
    emit(Progress("plan", "probe: answering", 1, 1, "batches"))
    read = rows[:READ_ROWS]
    lengths: list[Length] = [(row.ids[: row.prefix], row.prefix, len(row.ids) - row.prefix) for row in read]
    began = time.perf_counter()
    subject.read(read)
    took = time.perf_counter() - began
    return trained.model_copy(
        update={
            "rows": len(prompts),
            "read_tokens": packed_tokens(lengths, range(len(lengths))),
            "read_trained": sum(sum(row.mask) for row in read),
            "read_seconds": took,
            "generated_tokens": NEW_TOKENS * len(prompts),
            "generate_seconds": max(1e-9, answered - prompts_alone),
        }
    )


def _tuned(plan: Plan, model: PreTrainedModel) -> Lender:
    """Return a model as the tuned one will be evaluated; the products of a new adapter take as long as those of a trained one."""
    from burnish.model.lora import attach_lora
    from burnish.model.lora_bank import pack

    banked = with_bank(model, plan)
    if plan.method.kind != "full" and banked is not None:
        banked.bank.load("tuned", pack(banked.layout, plan.method, {}, banked.bank.dtype))
        return lambda: lent(model, banked.answering("tuned"))
    if plan.method.kind != "full":
        attach_lora(model, plan.method, seed=plan.train.seed)
    return lambda: nullcontext(model)
