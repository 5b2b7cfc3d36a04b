"""From limits to settings: what to change in a recipe so that it fits a memory, ends by a deadline, keeps to a budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
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
from burnish.plan.activations import Workload, is_fused, moved_bytes
from burnish.plan.adapters import ALL_LINEAR, resolve_targets
from burnish.plan.architecture import read_architecture
from burnish.plan.bases import KnownModel, known_models
from burnish.plan.calibrate import Correction, calibrated
from burnish.plan.gpus import Gpu, gpus
from burnish.plan.hardware import Hardware, rented
from burnish.plan.host import host_of
from burnish.plan.make import make_plan
from burnish.plan.memory import training_components
from burnish.plan.prices import Prices
from burnish.plan.probe import probe_shape
from burnish.plan.time import rates

ROW_TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16_384)
"""Sizes of a packed row that are tried: what one pass computes at once."""
LORA_KINDS: dict[str, str] = {"lora": "qlora", "qlora": "lora"}
"""The same adapter on weights stored otherwise."""
OPTIMIZERS = ("adamw_8bit", "adafactor")
"""Tried where every weight trains, the nearer to AdamW first. Adafactor's rate is a share of a weight's size, so it is not tried
beside a rate that the recipe gives."""
SHORTEST_CONTEXT = 64


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that a plan is made of but the machine. `probes` by the content of their shape."""

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
    corrections: Mapping[tuple[str, str], Correction] = field(default_factory=dict[tuple[str, str], Correction])
    probes: Mapping[Id, Probe] = field(default_factory=dict[Id, Probe])

    def plan(self, hardware: Hardware, recipe: Recipe | None = None) -> Plan:
        """Plan on this machine; raises what `make_plan` raises.

        This machine's plans use the probe of their shape where there is one, else what earlier runs here taught.
        """
        made = self._made(hardware, recipe or self.recipe, None)
        if hardware.rented:
            return made
        if not self.probes:
            return calibrated(made, self.corrections)
        shape = probe_shape(made, read_architecture(self.config), hardware)
        probe = self.probes.get(content_id(shape))
        if probe is not None:
            made = self._made(hardware, recipe or self.recipe, probe)
        return calibrated(made, self.corrections)

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
    return Solution(best, (), len(options), _why(best, options, limits))


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
        return replace(hardware, ram_bytes=memory_bytes)
    return replace(hardware, gpu_bytes=memory_bytes)


def machine_for(memory_bytes: int) -> Gpu:
    """Return the GPU of the table that has so much memory and not much more, for the speed of one that was not named."""
    able = [gpu for gpu in gpus() if gpu.memory_mib * 2**20 >= memory_bytes]
    return min(able, key=lambda gpu: (gpu.memory_mib, gpu.tflops)) if able else max(gpus(), key=lambda g: g.memory_mib)


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


# ------------------------------------------------------------------------------------------------------------- the largest


def largest_context(inputs: Inputs, plan: Plan, machine: Hardware) -> tuple[int, str] | None:
    """Return the longest row that training could hold, and why; None without a limit.

    Every layer is computed again; what they keep goes to the host's memory where the row fits no other way, the recipe allows
    it and the host holds it. At most the model's own context; 0 when not even a short row fits.
    """
    available, device = plan.memory.available_bytes, plan.train.device
    if available is None:
        return None
    architecture, dtype = read_architecture(inputs.config), plan.train.compute_dtype
    host = host_of(machine, rates(machine, device), fused=is_fused(architecture, plan.method))

    def holds(tokens: int, offloaded: int) -> bool:
        work = Workload(tokens, tokens * tokens, tokens)
        parts = training_components(
            architecture, plan.method, device=device, dtype=dtype, work=work, checkpointed_layers=architecture.layers,
            offloaded_layers=offloaded,
        )  # fmt: skip
        return sum(parts.values()) <= available and (host.bytes is None or on_host(tokens, offloaded) <= host.bytes)

    def on_host(tokens: int, offloaded: int) -> int:
        work = Workload(tokens, tokens * tokens, tokens)
        return moved_bytes(architecture, dtype, work, whole=architecture.layers, halves=0, offloaded=offloaded)[0]

    ways = [0] if device == "cpu" or inputs.recipe.train.activation_offload == "never" else [0, architecture.layers]
    found = {
        offloaded: _longest(lambda tokens, way=offloaded: holds(tokens, way), architecture.context)
        for offloaded in ways
    }
    offloaded = max(found, key=lambda way: (found[way], -way))
    tokens = found[offloaded]
    how = "with every layer recomputed"
    if offloaded:
        how = f"{how}, what they keep in the host's memory ({format_bytes(on_host(tokens, offloaded))}),"
    if tokens == architecture.context:
        return tokens, f"the model's own context; it fits {how.removesuffix(',')}"
    if tokens == 0:
        return 0, f"{format_bytes(available)} hold no row at all, with every layer recomputed and {plan.method.kind}"
    return tokens, f"{format_bytes(available)} hold it {how} and {plan.method.kind}; nothing longer"


def _longest(holds: Callable[[int], bool], most: int) -> int:
    """Return the longest row that is held, to SHORTEST_CONTEXT tokens; 0 for none, `most` at most."""
    if holds(most):
        return most
    low, high = 0, most
    while high - low > SHORTEST_CONTEXT:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def largest_model(plan: Plan, available: int | None) -> tuple[KnownModel, str] | None:
    """Return the largest known model that qlora of this plan's rank fits, rows as long as here, every layer recomputed."""
    if available is None:
        return None
    tokens = plan.train.row_tokens
    work = Workload(tokens, tokens * tokens, tokens)
    for model in sorted(known_models(), key=lambda model: -model.parameters):
        architecture = read_architecture(model.config, source=model.name)
        method = plan.method.model_copy(
            update={
                "kind": "qlora",
                "quantisation": "nf4",
                "double_quantisation": True,
                "targets": resolve_targets(architecture, (ALL_LINEAR,), source=model.name),
            }
        )
        found = training_components(
            architecture, method, device=plan.train.device, dtype=plan.train.compute_dtype, work=work,
            checkpointed_layers=architecture.layers,
        )  # fmt: skip
        peak = sum(found.values())
        if peak <= available:
            return model, f"qlora of rank {method.rank} on rows of {tokens:,} tokens peaks at {format_bytes(peak)}"
    return None


# ------------------------------------------------------------------------------------------------------------ several GPUs


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One GPU: the option that keeps to the limits there, else the one of the recipe and what binds."""

    gpu: Gpu
    solution: Solution
    plan: Plan


def compare_gpus(inputs: Inputs, chosen: Sequence[Gpu], limits: Limits) -> list[GpuRow]:
    """Return a row for each GPU, in the order given."""
    rows: list[GpuRow] = []
    for gpu in chosen:
        machine = rented(gpu)
        memory = min(gpu.memory_mib * 2**20, limits.memory_bytes or gpu.memory_mib * 2**20)
        solution = solve(inputs, machine, replace(limits, memory_bytes=memory))
        plan = inputs.plan(_limited(machine, memory)) if solution.option is None else solution.option.plan
        rows.append(GpuRow(gpu, solution, plan))
    return rows
