"""From limits to settings: what to change in a recipe so that it fits a memory, ends by a deadline, keeps to a budget."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

from burnish.core.artifacts import BaseRef, Manifest, Plan, Probe
from burnish.core.errors import ResourceError
from burnish.core.ids import Id, content_id
from burnish.core.mix import RunOrder
from burnish.core.packing import Length
from burnish.core.recipe import Recipe
from burnish.core.units import format_bytes, format_seconds
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import KnownModel
from burnish.plan.calibrate import RunError, calibrated, corrections
from burnish.plan.gpus import Gpu, gpus
from burnish.plan.hardware import Hardware, rented
from burnish.plan.make import make_plan
from burnish.plan.prices import Prices
from burnish.plan.probe import probe_shape

ROW_TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16_384)
"""Sizes of a packed row that are tried: what one pass computes at once."""
LORA_KINDS: dict[str, str] = {"lora": "qlora", "qlora": "lora"}
"""The same adapter on weights stored otherwise."""
OPTIMIZERS = ("adamw_8bit", "adafactor")
"""Tried where every weight trains, the nearer to AdamW first. Adafactor's rate is a share of a weight's size, so it is not tried
beside a rate that the recipe gives."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that a plan is made of but the machine. `errors` of earlier runs; `probes` by the content of their shape."""

    recipe: Recipe
    base: BaseRef
    config: Mapping[str, Any]
    manifest: Manifest | None
    data_bytes: int | None
    token_lengths: Sequence[Length] | None = None
    order: RunOrder | None = None
    prices: Prices | None = None
    today: date | None = None
    start: Id | None = None
    errors: Sequence[RunError] = ()
    probes: Mapping[Id, Probe] = field(default_factory=dict[Id, Probe])

    def plan(self, hardware: Hardware, recipe: Recipe | None = None) -> Plan:
        """Plan on this machine; raises what `make_plan` raises.

        This machine's plans use the probe of their shape where there is one, else what earlier runs here taught.
        """
        made = self._made(hardware, recipe or self.recipe, None)
        if hardware.rented:
            return made
        known = corrections(self.errors, hardware.processor(made.train.device))
        if not self.probes:
            return calibrated(made, known)
        shape = probe_shape(made, read_architecture(self.config), hardware)
        probe = self.probes.get(content_id(shape))
        if probe is not None:
            made = self._made(hardware, recipe or self.recipe, probe)
        return calibrated(made, known)

    def _made(self, hardware: Hardware, recipe: Recipe, probe: Probe | None) -> Plan:
        return make_plan(
            recipe,
            base=self.base,
            config=self.config,
            manifest=self.manifest,
            data_bytes=self.data_bytes,
            hardware=hardware,
            token_lengths=self.token_lengths,
            order=self.order,
            prices=self.prices,
            today=self.today,
            probe=probe,
            start=self.start,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may take at most; None for no limit. Time and money are held against the middle of their bands."""

    memory_bytes: int | None = None
    seconds: float | None = None
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """A recipe with `changes` by key, and its plan."""

    changes: Mapping[str, Any]
    plan: Plan


@dataclass(frozen=True, slots=True)
class Binding:
    """A limit that no option keeps to: the least that is needed, and by how much that is over."""

    limit: Literal["memory", "deadline", "budget", "all together"]
    needed: float
    allowed: float
    text: str


@dataclass(frozen=True, slots=True)
class Solution:
    """The option chosen, or why there is none. `because` says why each change is made."""

    option: Option | None
    binding: tuple[Binding, ...]
    tried: int
    because: Mapping[str, str]


def solve(inputs: Inputs, hardware: Hardware, limits: Limits) -> Solution:
    """Choose quantisation, packed row and recomputed layers: of what keeps to all limits the fewest changes, then the fastest.

    Fewer rows of more tokens, or more rows of fewer, hold the tokens of an optimizer step as they were. Other optimizers are
    tried where every weight trains; an adapter's states are a small part of its memory, and `because` says how small. Layers
    that are streamed count as a change: where qlora fits without, time decides.
    """
    machine = _limited(hardware, limits.memory_bytes)
    options = _options(inputs, machine)
    kept = [option for option in options if _keeps(option.plan, limits)]
    if not kept:
        return Solution(None, _binding(options, limits), len(options), {})
    order = (None, *OPTIMIZERS)
    best = min(kept, key=lambda option: (
        len(option.changes) + (option.plan.train.streamed_layers is not None),
        order.index(option.changes.get("train.optimizer")), option.plan.time.total.mid,
    ))  # fmt: skip
    why = _why(best, options, limits)
    there = hardware.ram_bytes if hardware.device == "cpu" else hardware.gpu_bytes
    if limits.memory_bytes is not None and there is not None and there < limits.memory_bytes:
        asked = f"{format_bytes(limits.memory_bytes)} are allowed, and {hardware.gpu_name or 'this machine'} has"
        why["memory.available_bytes"] = f"{asked} {format_bytes(there)}"
    return Solution(best, (), len(options), why)


def require(solution: Solution, what: str) -> Option:
    """Return the option. Raises ResourceError that says which limit binds and by how much."""
    if solution.option is not None:
        return solution.option
    texts = " ".join(binding.text for binding in solution.binding)
    raise ResourceError(f"{what} cannot keep to the limits, of {solution.tried} settings tried. {texts}")


def _limited(hardware: Hardware, memory_bytes: int | None) -> Hardware:
    if memory_bytes is None:
        return hardware
    if hardware.device == "cpu":
        return replace(hardware, ram_bytes=_least(memory_bytes, hardware.ram_bytes))
    return replace(hardware, gpu_bytes=_least(memory_bytes, hardware.gpu_bytes))


def _least(allowed: int, there: int | None) -> int:
    """A limit above what the machine has allows no more than that."""
    return allowed if there is None else min(allowed, there)


def machine_for(memory_bytes: int, prices: Prices) -> Gpu:
    """Return the GPU of the table that has so much memory and not much more, one with a price where there is one.

    It lends its speed to a memory that was given without a GPU. Where none has so much, the largest is returned.
    """
    able = [gpu for gpu in gpus() if gpu.memory_mib * 2**20 >= memory_bytes]
    if not able:
        return max(gpus(), key=lambda gpu: gpu.memory_mib)
    return min(able, key=lambda gpu: (not prices.of(gpu.name, spot=False), gpu.memory_mib, gpu.tflops))


def _options(inputs: Inputs, hardware: Hardware) -> list[Option]:
    recipe = inputs.recipe
    longest = 1 if inputs.manifest is None else inputs.manifest.splits["train"].longest_tokens
    context = read_architecture(inputs.config).context
    other = LORA_KINDS.get(recipe.method.kind)
    kinds = (recipe.method.kind, *([] if other is None else [other]))
    rows = (None, *(size for size in ROW_TOKENS if longest <= size <= context))
    found: list[Option] = []
    for kind, optimizer, row in itertools.product(kinds, _optimizers(recipe), rows):
        changes: dict[str, Any] = {}
        if kind != recipe.method.kind:
            changes["method.kind"] = kind
        if optimizer != recipe.train.optimizer:
            changes["train.optimizer"] = optimizer
        if row is not None and row != recipe.train.row_tokens:
            changes["train.row_tokens"] = row
        if row is None or changes.get("train.row_tokens"):
            found.append(Option(changes, inputs.plan(hardware, _changed(recipe, changes))))
    return found


def _optimizers(recipe: Recipe) -> tuple[str, ...]:
    """Return the optimizers that are tried, the recipe's own first."""
    asked = recipe.train
    if recipe.method.kind != "full":
        return (asked.optimizer,)
    others = OPTIMIZERS if asked.learning_rate is None else OPTIMIZERS[:1]
    return (asked.optimizer, *(each for each in others if each != asked.optimizer))


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, _, field = key.partition(".")
        sections.setdefault(section, {})[field] = value
    return recipe.model_copy(
        update={name: getattr(recipe, name).model_copy(update=fields) for name, fields in sections.items()}
    )


def _usd(plan: Plan) -> float | None:
    return None if plan.cost is None or plan.cost.usd is None else plan.cost.usd.mid


def _keeps(plan: Plan, limits: Limits) -> bool:
    usd = _usd(plan)
    return (
        plan.fits is not False
        and (limits.seconds is None or plan.time.total.mid <= limits.seconds)
        and (limits.usd is None or (usd is not None and usd <= limits.usd))
    )


def _binding(options: Sequence[Option], limits: Limits) -> tuple[Binding, ...]:
    """Return each limit that cannot be kept to even alone; if each could, that they cannot be kept together."""
    smallest = min(options, key=lambda option: option.plan.memory.peak_bytes).plan.memory
    available = smallest.available_bytes
    fitting = [option for option in options if option.plan.fits is not False]
    found: list[Binding] = []
    if not fitting and available is not None:
        over = smallest.peak_bytes - available
        found.append(
            Binding("memory", smallest.peak_bytes, available, (
                f"Memory binds: the least is {format_bytes(smallest.peak_bytes)}, {format_bytes(over)} over the "
                f"{format_bytes(available)} allowed; a smaller base, a smaller rank or shorter rows would lower it."
            ))
        )  # fmt: skip
    usable = fitting or list(options)
    if limits.seconds is not None:
        fastest = min(option.plan.time.total.mid for option in usable)
        if fastest > limits.seconds:
            found.append(
                Binding("deadline", fastest, limits.seconds, (
                    f"The deadline binds: the fastest takes {format_seconds(fastest)}, "
                    f"{format_seconds(fastest - limits.seconds)} too long; a faster GPU or fewer epochs would shorten it."
                ))
            )  # fmt: skip
    priced = [usd for option in usable if (usd := _usd(option.plan)) is not None]
    if limits.usd is not None and (not priced or min(priced) > limits.usd):
        found.append(_budget_binding(priced, limits.usd))
    if not found:
        found.append(Binding("all together", 0.0, 0.0, "Each limit can be kept to alone, but no setting keeps to all."))
    return tuple(found)


def _budget_binding(priced: Sequence[float], allowed: float) -> Binding:
    if not priced:
        return Binding(
            "budget", float("inf"), allowed, "The budget cannot be judged: this GPU has no price; see --prices."
        )
    cheapest = min(priced)
    text = (
        f"The budget binds: the cheapest costs {cheapest:.2f} USD, {cheapest - allowed:.2f} over; a cheaper GPU or fewer "
        "epochs would lower it."
    )
    return Binding("budget", cheapest, allowed, text)


def _why(best: Option, options: Sequence[Option], limits: Limits) -> dict[str, str]:
    plan = best.plan
    asked = options[0].plan
    why: dict[str, str] = {}
    for key, value in best.changes.items():
        failed = _failed(asked, limits)
        why[key] = f"{value}, because as the recipe is {failed}"
    memory = plan.memory
    states = memory.components.get("optimizer", 0)
    held = f"its states are {format_bytes(states)}, {states / memory.peak_bytes:.1%} of the peak"
    called = "AdamW" if plan.train.optimizer is None else plan.train.optimizer
    why["train.optimizer"] = f"{why['train.optimizer']}; {held}" if "train.optimizer" in why else f"{called}: {held}"
    why["train.rows_per_step"] = (
        f"{plan.train.rows_per_step} passes of one packed row of {plan.train.row_tokens:,} tokens make a step (accumulation)"
    )
    why["train.checkpointed_layers"] = plan.because["train.checkpointed_layers"]
    return why


def _failed(plan: Plan, limits: Limits) -> str:
    if plan.fits is False and plan.memory.available_bytes is not None:
        over = plan.memory.peak_bytes - plan.memory.available_bytes
        return f"it needs {format_bytes(over)} more memory than there is"
    if limits.seconds is not None and plan.time.total.mid > limits.seconds:
        return f"it takes {format_seconds(plan.time.total.mid)}"
    usd = _usd(plan)
    return "it costs more than the budget" if usd is None else f"it costs {usd:.2f} USD"


# ------------------------------------------------------------------------------------------------------------ several GPUs


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One GPU: the option that keeps to the limits there, else the one of the recipe and what binds.

    `context` and `model`: the longest row and the largest known model that fit, each with why.
    """

    gpu: Gpu
    solution: Solution
    plan: Plan
    context: tuple[int, str] | None = None
    model: tuple[KnownModel, str] | None = None


def compare_gpus(inputs: Inputs, chosen: Sequence[Gpu], limits: Limits) -> list[GpuRow]:
    """Return a row for each GPU, in the order given."""
    rows: list[GpuRow] = []
    for gpu in chosen:
        machine = rented(gpu)
        solution = solve(inputs, machine, limits)
        plan = inputs.plan(_limited(machine, limits.memory_bytes)) if solution.option is None else solution.option.plan
        rows.append(GpuRow(gpu, solution, plan))
    return rows
