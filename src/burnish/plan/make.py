"""From a recipe, a model's shape, a dataset and a machine to a Plan: every number resolved, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from burnish.core.artifacts import (
    BaseRef,
    CostPlan,
    Interval,
    Manifest,
    Memory,
    MethodPlan,
    Parameters,
    Plan,
    Probe,
    TimePlan,
    TokenPlan,
    TrainPlan,
)
from burnish.core.ids import Id
from burnish.core.mix import RunOrder
from burnish.core.packing import Length
from burnish.core.plan_parts import unmeasured_bytes
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes, format_count, format_seconds
from burnish.plan import time as clock
from burnish.plan.architecture import read_architecture
from burnish.plan.constants import constant
from burnish.plan.cost import Spending, cost_of
from burnish.plan.decide import Decided, decide
from burnish.plan.evaluation import evaluation_work
from burnish.plan.fits import fits, tell_fits
from burnish.plan.give_way import give_way
from burnish.plan.hardware import Hardware
from burnish.plan.learning import learning_rate, preference
from burnish.plan.memory import CHECKPOINT_BYTES, training_components, weight_bytes
from burnish.plan.prices import Prices, read_prices
from burnish.plan.probe import with_measured_peak
from burnish.plan.recompute import Again, tell_again
from burnish.plan.refused import why_refused
from burnish.plan.work import CHECKPOINTS, Dataset, checkpoint_every, read_dataset

TOKEN_BYTES, ROW_BYTES = 16, 250
"""Of a row in memory: the references of a token's id and mask, and the row's name, its tuples and their place in a list."""
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""AdamW's defaults (Loshchilov and Hutter 2019; torch.optim.AdamW)."""


def make_plan(
    recipe: Recipe,
    *,
    base: BaseRef,
    config: Mapping[str, Any],
    manifest: Manifest | None,
    data_bytes: int | None,
    hardware: Hardware,
    token_lengths: Sequence[Length] | None = None,
    order: RunOrder | None = None,
    prices: Prices | None = None,
    today: date | None = None,
    probe: Probe | None = None,
    start: Id | None = None,
) -> Plan:
    """Resolve every number of a run. Reads no weights, no tokenizer, no data.

    config: the base model's config.json. manifest: the dataset, if it is prepared; without it tokens are estimated from
    `data_bytes`, the size of the raw file. token_lengths: (prefix key, prefix tokens, tokens after it) of each training
    row in order, with which steps are exact; of a preference pair its prompt and both answers. start: the adapter that
    training goes on from. order: which of them the run draws, where the recipe mixes or stages them.
    prices: those of the bundled table, unless given; today: the day by which their age is told. probe: steps of this very
    shape on this machine, whose seconds and bytes are then taken instead of those of formulas.

    Raises BaseModelError for a config that cannot be counted, RecipeError for unknown targets or sizes that cannot hold
    the data, DataError when there is nothing to train on.
    """
    architecture = read_architecture(config, source=f"config.json of {base.name}")
    because: dict[str, str] = {}
    run = decide(
        recipe,
        architecture,
        hardware,
        read_dataset(manifest, data_bytes, token_lengths, recipe.prepare.test_share),
        order,
        probe,
        start,
        because,
    )
    trainable = run.trainable
    _tell_parameters(run, trainable, because)
    refused = why_refused(config)
    if refused is not None:
        because["parameters.total"] += f"; BUT `burnish run` refuses this base: {refused}"
    memory, again, counted = _memory(run, because)
    train = _train(run, again, because)
    tokens = _tokens(run, because)
    duration, factors = _time(run, train, again, manifest, because)
    if run.measured is not None:
        factors |= {"memory.peak_bytes": run.measured.took.peak_bytes / counted}
    because["fits"] = tell_fits(memory, run.method.kind)
    cost = _cost(run, duration, train, trainable, (prices or read_prices(), today or date.today()), because)
    return Plan(
        parents=() if manifest is None else (manifest.id,),
        name=recipe.name,
        base=base,
        manifest=None if manifest is None else manifest.id,
        method=run.method,
        train=train,
        parameters=Parameters(total=architecture.parameters, trainable=trainable),
        memory=memory,
        tokens=tokens,
        time=duration,
        cost=cost,
        correction=factors or None,
        fits=fits(memory),
        because=because,
        start=start,
    )


def _tell_parameters(run: Decided, trainable: int, because: dict[str, str]) -> None:
    architecture = run.architecture
    because["parameters.total"] = (
        f"counted from config.json: {architecture.layers} layers, hidden size {architecture.hidden:,}, "
        f"{architecture.vocabulary:,} tokens"
        + (
            f"; the text part of {architecture.part_of}, its other parts are not counted"
            if architecture.part_of
            else ""
        )
    )
    if run.full:
        because["parameters.trainable"] = "every weight, embeddings and norms too"
        return
    because["parameters.trainable"] = (
        f"A and B of rank {run.method.rank} beside {len(run.method.targets)} linears in each of {architecture.layers} "
        f"layers{_beside(run.method)}: {trainable / architecture.parameters:.2%} of the model"
    )


def _beside(method: MethodPlan) -> str:
    """Say what trains beside low-rank products."""
    biases = {None: "", "lora_only": ", their biases", "all": ", all biases"}[method.bias]
    return biases + (", a length for each of their rows" if method.dora else "")


def _cost(
    run: Decided,
    duration: TimePlan,
    train: TrainPlan,
    trainable: int,
    table: tuple[Prices, date],
    because: dict[str, str],
) -> CostPlan:
    disk = weight_bytes(run.architecture, "none", run.dtype) + CHECKPOINTS * CHECKPOINT_BYTES * trainable
    lost = duration.train.mid / max(1, train.steps) * train.checkpoint_every
    spending = Spending(duration.total, lost, disk, 4 * trainable)
    cost, because["cost.usd"] = cost_of(spending, run.hardware, run.device, *table)
    return cost


def _memory(run: Decided, because: dict[str, str]) -> tuple[Memory, Again, int]:
    """Return the memory, what is computed again so that the peak keeps to the limit, and what formulas say a run measures of it."""
    share, work = run.recipe.train.memory_share, run.work
    beside = _host_beside(run.data) if run.device == "cpu" else {}

    def components(whole: int, halves: int, offloaded: int, streamed: int = 0) -> dict[str, int]:
        return beside | training_components(
            run.architecture, run.method, device=run.device, dtype=run.dtype, work=work, checkpointed_layers=whole,
            feed_forward_again=halves, offloaded_layers=offloaded, streamed_layers=streamed,
            reference_copy=run.reference_copy, optimizer=run.recipe.train.optimizer,
            optimizer_in_backward=run.recipe.train.optimizer_in_backward,
        )  # fmt: skip

    again, found = give_way(run, components, because)
    peak = sum(found.values())
    because["train.checkpointed_layers"] = tell_again(again, run.architecture.layers, peak, share)
    stored = "NF4 linears at half a byte a weight, the rest" if run.method.quantisation == "nf4" else "every weight"
    because["memory.weights_bytes"] = f"{stored} in {run.dtype}"
    largest = sorted(((size, name) for name, size in found.items()), reverse=True)[:3]
    because["memory.peak_bytes"] = "largest parts: " + ", ".join(
        f"{name.replace('_', ' ')} {format_bytes(size)}" for size, name in largest
    )
    weights, counted = found["weights"], peak - unmeasured_bytes(found, run.device)
    if run.measured is not None:
        found = with_measured_peak(found, run.measured.took.peak_bytes, run.device)
        peak = sum(found.values())
        because["memory.peak_bytes"] += f"; a probe here held {format_bytes(run.measured.took.peak_bytes)}"
    memory = Memory(
        weights_bytes=weights, peak_bytes=peak, components=found, available_bytes=run.available_bytes, limit_bytes=run.limit_bytes,
        host_bytes=again.host_bytes or None, by_device=again.peaks, peak_band=constant("memory_band"),
    )  # fmt: skip
    return memory, again, counted


def _host_beside(data: Dataset) -> dict[str, int]:
    """Return the components of a CPU's process that do not depend on how it trains."""
    tokens = data.tokens if data.lengths is None else sum(prefix + own for _, prefix, own in data.lengths)
    return {
        "prepared": round(constant("cpu_prepared_bytes")),
        "rows": TOKEN_BYTES * tokens + ROW_BYTES * data.rows,
    }


def _train(run: Decided, again: Again, because: dict[str, str]) -> TrainPlan:
    asked, steps = run.recipe.train, run.steps
    warmup = min(steps.steps, math.ceil(asked.warmup_share * steps.steps))
    because["train.warmup_steps"] = f"{asked.warmup_share:.0%} of {steps.steps:,} steps, rounded up"
    every = asked.checkpoint_every
    because["train.checkpoint_every"] = "the recipe says so"
    if every is None:
        every, because["train.checkpoint_every"] = checkpoint_every(steps, run.device, full=run.full)
    because["train.threads"] = (
        "cores that usually come with one rented GPU"
        if run.hardware.rented
        else "the cores that affinity, the control group and OMP_NUM_THREADS leave to this process"
    )
    return TrainPlan(
        seed=run.recipe.seed,
        epochs=asked.epochs,
        learning_rate=learning_rate(run.recipe, because),
        schedule=asked.schedule,
        warmup_steps=warmup,
        steps=steps.steps,
        tokens_per_step=steps.rows_per_step * steps.row_tokens,
        row_tokens=steps.row_tokens,
        rows_per_step=steps.rows_per_step,
        weight_decay=asked.weight_decay,
        betas=BETAS,
        epsilon=EPSILON,
        max_gradient_norm=asked.max_gradient_norm,
        checkpoint_every=every,
        checkpointed_layers=again.whole,
        feed_forward_again=again.feed_forward or None,
        offloaded_layers=again.offloaded or None,
        piece_tokens=again.piece_tokens,
        streamed_layers=again.streamed or None,
        layers_by_device=again.layers_by_device,
        device=run.device,
        compute_dtype=run.dtype,
        threads=run.hardware.cores,
        mix=run.mix,
        preference=preference(run.recipe, reference_copy=run.reference_copy, because=because),
        optimizer=None if asked.optimizer == "adamw" else asked.optimizer,
        optimizer_in_backward=True if asked.optimizer_in_backward else None,
    )


def _tokens(run: Decided, because: dict[str, str]) -> TokenPlan:
    epochs, exact = run.recipe.train.epochs, run.data.lengths is not None
    total = run.steps.run_tokens
    because["tokens.total"] = f"{run.data.source}; {epochs:g} epochs" if exact else run.data.source
    return TokenPlan(per_epoch=run.steps.epoch_tokens, total=total, trained=run.steps.run_trained, exact=exact)


def _time(
    run: Decided, train: TrainPlan, again: Again, manifest: Manifest | None, because: dict[str, str]
) -> tuple[TimePlan, dict[str, float]]:
    """Return the time, and by which factors a probe changed what formulas give."""
    rate = clock.rates(run.hardware, run.device)
    total = run.steps.run_tokens
    work = clock.TrainWork(
        tokens=total,
        trained=run.steps.run_trained,
        seen=run.data.tokens / run.data.rows
        if run.data.lengths is None
        else sum(p + t / 2 for _, p, t in run.data.lengths) / run.data.rows,
        packed_rows=run.steps.run_rows,
        steps=train.steps,
        checkpointed_layers=again.layers,
        # Each packed row asks the reference once, whatever the number of epochs.
        reference_share=0.0 if train.preference is None else min(1.0, run.steps.epoch_tokens / max(1, total)),
    )
    training = clock.train_seconds(run.architecture, run.method, work, run.device, rate)
    training = clock.later(training, again.exposed_seconds * run.steps.run_rows)
    evaluation = evaluation_work(run.recipe, run.data, manifest, subjects=2 if run.start is None else 3)
    evaluating = clock.evaluate_seconds(run.architecture, evaluation, rate)
    factors: dict[str, float] = {}
    if run.measured is not None:
        planned, rate = (training, evaluating), run.measured.rates(run.architecture, rate)
        training = run.measured.train_seconds(total)
        evaluating = clock.evaluate_seconds(run.architecture, evaluation, rate)
        factors["time.train"], factors["time.evaluate"] = (
            new.mid / old.mid for new, old in zip((training, evaluating), planned, strict=True)
        )
    start = constant("start_seconds")
    operations = clock.train_operations(run.architecture, run.method, work)
    because["time.train"] = f"{format_count(operations)} operations over {total:,} tokens; {rate.source}"
    because["time.evaluate"] = (
        f"{evaluation.read:,} tokens read and about {evaluation.generated:,} generated, by all subjects together"
    )
    because["time.total"] = f"with {format_seconds(start)} for starting, loading and preparing"
    both = Interval(
        low=training.low + evaluating.low + start / 2,
        mid=training.mid + evaluating.mid + start,
        high=training.high + evaluating.high + 2 * start,
    )
    return TimePlan(train=training, evaluate=evaluating, total=both), factors
