"""The frozen nouns that stages hand to each other: Manifest, Plan, Probe, Adapter, EvalReport, Release.

An artifact is readable JSON with a `schema_version`, its `parents`, and an `id` that is the SHA-256 of its canonical JSON
without times, paths, hosts and measurements (each record names those fields in `OUTSIDE_ID`). Large bytes lie beside it
and are named by `FileRef`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from burnish.core.account import TokenAccount
from burnish.core.dataset import Ledger, SourceFile, Split, TextFingerprint
from burnish.core.ids import Id, content_id
from burnish.core.plan_parts import Memory as Memory  # these four are parts of what artifacts are, and taken from here
from burnish.core.plan_parts import MethodPlan as MethodPlan
from burnish.core.plan_parts import PreferencePlan as PreferencePlan
from burnish.core.plan_parts import TrainPlan as TrainPlan
from burnish.core.records import Count, FileRef, Record, Seconds
from burnish.core.records import Histogram as Histogram  # part of what artifacts are, and taken from here


class Artifact(Record):
    """A record that is stored under its id."""

    kind: ClassVar[str]
    schema_version: Literal[1] = 1
    parents: tuple[Id, ...] = ()

    @property
    def id(self) -> Id:
        """SHA-256 of the kind and the canonical JSON of what counts."""
        return content_id({"kind": self.kind, **self.identity()})


# ---------------------------------------------------------------------------------------------------------------- Manifest


PAIRS = "preference pairs"
"""What `settings["rows"]` of a dataset says where its training rows are not conversations."""


class Manifest(Artifact):
    """A dataset version: what went in, what was dropped and why, what came out."""

    kind: ClassVar[str] = "manifest"
    WHEN_SET: ClassVar[frozenset[str]] = frozenset(
        {"leakage_file", "certificate_file", "filters_file", "audit_file", "account"}
    )
    sources: tuple[SourceFile, ...]
    fingerprint: TextFingerprint
    ledger: Ledger
    splits: dict[str, Split]
    personal_data: dict[str, Count]
    leakage: dict[str, Count]
    leakage_file: FileRef | None = None
    certificate_file: FileRef | None = None
    filters_file: FileRef | None = None
    audit_file: FileRef | None = None
    rejected_file: FileRef
    account: TokenAccount | None = None
    settings: dict[str, Any]

    @property
    def of_pairs(self) -> bool:
        """Whether the training rows are preference pairs."""
        return self.settings.get("rows") == PAIRS


# -------------------------------------------------------------------------------------------------------------------- Plan


class BaseRef(Record):
    """The base model by content: name as the recipe says it, digest of its weights and configuration."""

    name: str
    digest: str


class Interval(Record):
    """An estimate with its band."""

    low: float
    mid: float
    high: float


class Parameters(Record):
    """Counts of parameters: of the base, and of those that are trained."""

    total: Count
    trainable: Count


class TokenPlan(Record):
    """Tokens of the whole run. `exact` is False when they were estimated from bytes."""

    per_epoch: Count
    total: Count
    trained: Count
    exact: bool


class TimePlan(Record):
    """Seconds by stage and in all, as low, mid and high."""

    train: Interval
    evaluate: Interval
    total: Interval


class CostPlan(Record):
    """Dollars of the run with their band, on demand and, where a price is known, on spot machines; None without a price.

    `usd_per_hour` is the machine's rate; `parts` what the middle is made of; `energy_kwh` the electricity.
    """

    usd: Interval | None
    spot_usd: Interval | None
    usd_per_hour: Interval | None
    energy_kwh: Interval
    parts: dict[str, float]


class Plan(Artifact):
    """Every number of the run before it starts, each with its `because`. `correction`: factors learnt from earlier runs.

    `start`: the adapter that training goes on from; None for a fresh one.
    """

    OUTSIDE_ID: ClassVar[frozenset[str]] = frozenset({"memory", "time", "cost", "fits", "because", "correction"})
    WHEN_SET: ClassVar[frozenset[str]] = frozenset({"start"})
    kind: ClassVar[str] = "plan"
    name: str
    base: BaseRef
    manifest: Id | None
    method: MethodPlan
    train: TrainPlan
    parameters: Parameters
    memory: Memory
    tokens: TokenPlan
    time: TimePlan
    cost: CostPlan | None = None
    correction: dict[str, float] | None = None
    fits: bool | None
    because: dict[str, str]
    start: Id | None = None


# ------------------------------------------------------------------------------------------------------------------- Probe


class ProbeMeasured(Record):
    """What a few steps took: `tokens` and `seconds` of `steps`, those to warm up left out, and the peak over all of them.

    `spread`: standard deviation of the seconds of a token from step to step, as a share of their mean. `waited`: share of the
    seconds in which the host waited for a GPU.

    `peak_bytes`: resident memory of the process on a CPU, what torch allocated on a GPU. Of evaluation: `read_tokens`, of
    them `read_trained` with loss, and `generated_tokens`, `rows` answers at once; 0 where nothing was read or generated.
    """

    steps: Count
    tokens: Count
    seconds: float
    peak_bytes: Count
    spread: float = 0.0
    waited: float = 0.0
    read_tokens: Count = 0
    read_trained: Count = 0
    read_seconds: float = 0.0
    rows: Count = 0
    generated_tokens: Count = 0
    generate_seconds: float = 0.0


class Probe(Artifact):
    """A few steps of the training loop on a machine. `shape` is everything that speed and memory depend on."""

    OUTSIDE_ID: ClassVar[frozenset[str]] = frozenset({"measured"})
    kind: ClassVar[str] = "probe"
    shape: dict[str, Any]
    measured: ProbeMeasured


# ----------------------------------------------------------------------------------------------------------------- Adapter


class TrainMeasured(Record):
    """What training took: seconds of the loop, peak resident memory of the process, peak of the device."""

    seconds: Seconds
    peak_rss_bytes: Count
    peak_device_bytes: Count
    tokens_per_second: float
    first_loss: float
    last_loss: float
    steps: Count
    resumed_at_step: Count


class Foretold(Record):
    """What the plan said when training began, and the processor that trained.

    A plan of the same id says something else later: on another machine, after a probe, after more runs.
    """

    machine: str
    memory: Memory
    time: TimePlan
    correction: dict[str, float] | None = None


class Adapter(Artifact):
    """Trained weights in PEFT's layout, with everything a server needs to use them as they were trained.

    `model`: set where every weight was trained. What came out is a base of its own then: a folder of sharded safetensors (all in
    `model_files`; `weights_file` is the only shard, or the index of several), configuration and tokenizer.
    """

    OUTSIDE_ID: ClassVar[frozenset[str]] = frozenset({"measured", "foretold", "events_file"})
    WHEN_SET: ClassVar[frozenset[str]] = frozenset({"model", "model_files"})
    kind: ClassVar[str] = "adapter"
    name: str
    base: BaseRef
    plan: Id
    manifest: Id
    method: MethodPlan
    fingerprint: TextFingerprint
    weights_file: FileRef
    config_file: FileRef
    events_file: FileRef | None = None
    measured: TrainMeasured | None = None
    foretold: Foretold | None = None
    model: BaseRef | None = None
    model_files: tuple[FileRef, ...] | None = None

    def plan_then(self, plan: Plan) -> Plan:
        """Return its plan with what it said when training began, where that was kept."""
        said = self.foretold
        if said is None:
            return plan
        return plan.model_copy(update={"memory": said.memory, "time": said.time, "correction": said.correction})

    @property
    def runs_on(self) -> BaseRef:
        """The weights that answer: the base that the adapter was trained on, or those that were all trained."""
        return self.base if self.model is None else self.model


# -------------------------------------------------------------------------------------------------------------- EvalReport


class Score(Record):
    """One measured number with its 95% interval. `subject` is base, start, tuned or champion; `n` the rows behind it."""

    subject: str
    task: str
    metric: str
    value: float
    low: float
    high: float
    n: Count


CHANCE = 0.05
"""A difference with a p value under this is said to be more than chance."""


class Comparison(Record):
    """The paired difference a - b of two subjects on the same rows, with its 95% interval and two-sided p value."""

    task: str
    metric: str
    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float

    @property
    def sure(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p < CHANCE


class Example(Record):
    """One row before and after. `system` is the rendered system prompt, which may hold the day that the answer needs."""

    task: str
    system: str | None = None
    prompt: str
    expected: str
    base: str
    tuned: str
    base_exact: bool
    tuned_exact: bool


class EvalReport(Artifact):
    """Scores of base and tuned on the same rows, their paired differences, and the rows themselves in a file.

    `machine`: the processor that `measured_seconds` were taken on.
    """

    OUTSIDE_ID: ClassVar[frozenset[str]] = frozenset({"measured_seconds", "peak_rss_bytes", "machine"})
    kind: ClassVar[str] = "report"
    name: str
    adapter: Id
    manifest: Id
    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]
    examples: tuple[Example, ...]
    rows_file: FileRef
    measured_seconds: Seconds = 0.0
    peak_rss_bytes: Count = 0
    machine: str | None = None

    @property
    def before(self) -> str:
        """The subject that the tuned one is held against: what its training began as, where that was not the base."""
        return "start" if any(comparison.b == "start" for comparison in self.comparisons) else "base"


# ----------------------------------------------------------------------------------------------------------------- Release


class GateVerdict(Record):
    """Whether the report meets the recipe's thresholds; one sentence for each number that falls short, or that was reached."""

    passed: bool
    thresholds: dict[str, float]
    reasons: tuple[str, ...]


class Release(Artifact):
    """A version that may be served: adapter, report, verdict and the alias that people call it by."""

    OUTSIDE_ID: ClassVar[frozenset[str]] = frozenset({"version", "created_at"})
    kind: ClassVar[str] = "release"
    name: str
    alias: str
    adapter: Id
    report: Id
    plan: Id
    manifest: Id
    base: BaseRef
    gate: GateVerdict
    version: Count = 0
    created_at: str = ""


ARTIFACTS: dict[str, type[Artifact]] = {c.kind: c for c in (Manifest, Plan, Probe, Adapter, EvalReport, Release)}
