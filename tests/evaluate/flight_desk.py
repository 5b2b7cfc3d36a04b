"""A small flight desk: rows, two scripted subjects, and the artifacts of a whole run around them."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.core.artifacts import (
    Adapter,
    BaseRef,
    EvalReport,
    FileRef,
    GateVerdict,
    Histogram,
    Interval,
    Ledger,
    Manifest,
    Memory,
    MethodPlan,
    Parameters,
    Plan,
    Release,
    SourceFile,
    Split,
    TextFingerprint,
    TimePlan,
    TokenPlan,
    TrainMeasured,
    TrainPlan,
)
from burnish.core.events import Emit, StepDone, discard
from burnish.core.rows import TokenRow
from burnish.evaluate.run import EvalRow, evaluate
from burnish.text.messages import Message

CITIES = [("New York", "NYC"), ("London", "LHR"), ("Paris", "CDG"), ("Rome", "FCO"), ("Lima", "LIM"), ("Oslo", "OSL")]
SYSTEM = "You turn flight requests into JSON. Today is Tuesday, 2025-07-08."
LONGEST = 300


def encode(text: str) -> list[int]:
    """Bytes as token ids: a tokenizer that needs no file."""
    return list(text.encode())


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode()


def make_row(number: int, task: str) -> EvalRow:
    """Return a request, its expected answer, and both as tokens; the same for the same number and task."""
    rng = random.Random(f"{task} {number}")
    (origin, a), (destination, b) = rng.sample(CITIES, 2)
    day, price = rng.randint(9, 28), 150 + 10 * number + 5 * (task == "test")  # no two prompts alike
    prompt = f"Find me flights from {origin} to {destination} on {day} July under ${price}"
    parameters = {
        "origin": a,
        "destination": b,
        "departure_date": f"2025-07-{day:02}",
        "max_price": price,
        "currency": "USD",
    }
    expected = json.dumps({"action": "search_flights", "parameters": parameters})
    messages: list[Message] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": expected},
    ]
    asked, answer = encode(f"{SYSTEM}\n{prompt}\n"), encode(expected)
    mask = (0,) * len(asked) + (1,) * len(answer)
    tokens = TokenRow(f"{task}-{number}", tuple(asked + answer), mask, prefix=len(encode(SYSTEM)), prompt=len(asked))
    return EvalRow(tokens, messages)


@dataclass
class Scripted:
    """A subject that gives the answer it was written for each prompt, and predicts the tokens of a row equally well.

    nats, general_nats: loss of each token of a task's row and of a general text, times a factor of the row.
    """

    answers: dict[tuple[int, ...], str]
    nats: float
    general_nats: float
    steadiness: float
    asked: list[tuple[int, ...]] = field(default_factory=list)
    begun: list[tuple[int, ...]] = field(default_factory=list)

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        begun: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Callable[[int, int], None],
    ) -> list[list[int]]:
        self.begun += [tuple(each) for each in begun]
        self.asked += [tuple(prompt) for prompt in prompts]
        answers = [encode(self.answers[tuple(prompt)])[:max_new_tokens] for prompt in prompts]
        progress(len(prompts), len(prompts))
        return answers

    def read(self, rows: Sequence[TokenRow]) -> list[tuple[float, int, int]]:
        def nats(row: TokenRow) -> float:
            hard = 1 + 0.2 * math.sin(sum(row.ids)) + self.steadiness * math.sin(len(row.ids))
            return hard * (self.general_nats if row.row_id.startswith("general") else self.nats)

        return [(sum(row.mask) * nats(row), sum(row.mask), self._agreed(row)) for row in rows]

    def _agreed(self, row: TokenRow) -> int:
        """Leading tokens of the expected answer that it would write too."""
        own = encode(self.answers.get(row.ids[: row.prompt], ""))
        return next(
            (at for at, pair in enumerate(zip(own, row.ids[row.prompt :], strict=False)) if len({*pair}) > 1), 0
        )


def spoil(expected: str, number: int) -> str:
    """Return the answer a fairly good model gives: now and then a field is wrong, missing, too many, or all is lost."""
    value: dict[str, Any] = json.loads(expected)
    parameters = value["parameters"]
    match number % 12:
        case 3:
            parameters["departure_date"] = "2025-07-29"
        case 5:
            del parameters["max_price"]
            parameters["passengers"] = 1
        case 7 if number > 20:
            return json.dumps(value)[:-9]
        case 9:
            parameters["destination"], parameters["max_price"] = "STN", str(parameters["max_price"])
        case _:
            pass
    return json.dumps(value)


PROSE = (
    "I'm sorry, but I can't book flights for you. However, I can give you some general advice: compare prices early, "
    "be flexible with your dates, and look at nearby airports.",
    'Here is what I found: {"flights": []}. Would you like to know more?',
    "{'origin': 'New York', 'destination': 'London'}",
    "",
)


def subjects_for(tasks: dict[str, list[EvalRow]]) -> dict[str, Scripted]:
    rows = [row for rows in tasks.values() for row in rows]
    prompts = [row.tokens.ids[: row.tokens.prompt] for row in rows]
    base = {prompt: PROSE[0 if n % 3 else n % 4] for n, prompt in enumerate(prompts)}
    tuned = {prompt: spoil(row.expected, n) for n, (prompt, row) in enumerate(zip(prompts, rows, strict=True))}
    return {"base": Scripted(base, 1.4, 3.41, 0.0), "tuned": Scripted(tuned, 0.09, 3.45, 0.02)}


def file(name: str, size: int = 1000) -> FileRef:
    return FileRef(path=name, sha256=hashlib.sha256(name.encode()).hexdigest(), size_bytes=size)


def make_manifest() -> Manifest:
    def split(name: str, rows: int, counts: tuple[int, ...]) -> Split:
        edges = tuple(range(180, 180 + 10 * (len(counts) + 1), 10))
        return Split(
            rows=rows, tokens=rows * 236, unique_tokens=rows * 96, trained_tokens=rows * 62,
            longest_tokens=edges[-1] - 3, longest_answer_tokens=74, lengths=Histogram(edges=edges, counts=counts),
            file=file(f"{name}.rows.parquet"), token_file=file(f"{name}.tokens.parquet"),
        )  # fmt: skip

    return Manifest(
        sources=(
            SourceFile(
                path="examples/flights/requests.jsonl", sha256="5d" * 32, size_bytes=412_311, lines=1240,
                formats={"messages": 801, "instruction": 421},
            ),
            SourceFile(
                path="examples/flights/handwritten.jsonl", sha256="8e" * 32, size_bytes=21_400, lines=64,
                formats={"messages": 64},
            ),
        ),
        fingerprint=TextFingerprint(tokenizer_sha256="a1" * 32, template_sha256="b2" * 32, system=SYSTEM),
        ledger=Ledger(
            rows_in=1304, rows_kept=1118,
            rejected={
                "exact duplicate": 71, "near duplicate": 58, "not JSON": 18, "no answer": 9, "too like a test row": 30,
            },
            changed={"mojibake repaired": 44, "white space trimmed": 19, "instruction format read as messages": 421},
        ),
        splits={
            "train": split("train", 926, (4, 21, 67, 140, 211, 220, 148, 76, 29, 10)),
            "test": split("test", 128, (1, 2, 11, 21, 32, 26, 18, 11, 5, 1)),
            "handwritten": split("handwritten", 64, (0, 3, 6, 12, 17, 13, 8, 4, 1, 0)),
        },
        personal_data={"email": 37, "phone": 22, "card": 3, "iban": 1},
        leakage={"duplicate": 0, "near duplicate": 21, "same request": 9},
        rejected_file=file("rejected.jsonl"),
        settings={},
    )  # fmt: skip


def make_plan(manifest: Manifest) -> Plan:
    return Plan(
        parents=(manifest.id,),
        name="flight-search",
        base=BaseRef(name="smollm2-135m-instruct", digest="c3" * 32),
        manifest=manifest.id,
        method=METHOD,
        train=TrainPlan(
            seed=0, epochs=1.0, learning_rate=1e-3, schedule="cosine", warmup_steps=6, steps=112, tokens_per_step=1024,
            row_tokens=1024, rows_per_step=1, weight_decay=0.0, betas=(0.9, 0.999), epsilon=1e-8, max_gradient_norm=1.0,
            checkpoint_every=12, checkpointed_layers=0, device="cpu", compute_dtype="float32", threads=2,
        ),
        parameters=Parameters(total=139_399_872, trainable=4_884_480),
        memory=Memory(
            weights_bytes=186_000_000, peak_bytes=1_720_000_000, available_bytes=8_100_000_000,
            components={"weights": 186_000_000, "activations": 910_000_000, "adapter": 78_000_000},
        ),
        tokens=TokenPlan(per_epoch=104_000, total=104_000, trained=57_412, exact=True),
        time=TimePlan(
            train=Interval(low=240, mid=330, high=470), evaluate=Interval(low=60, mid=95, high=150),
            total=Interval(low=330, mid=460, high=660),
        ),
        fits=True,
        because={
            "parameters.trainable": "rank 16 on all 210 linear layers: 16 × (inputs + outputs) each",
            "method.rank": "the recipe's default; 8 to 64 is usual",
            "train.tokens_per_step": "1,024 so that an epoch has about a hundred steps",
            "train.warmup_steps": "5% of 112 steps",
            "tokens.total": "counted in the manifest, prefixes shared by packed rows once",
            "memory.peak_bytes": "weights + activations of one packed row of 1,024 tokens + adapter, gradients "
            "and two Adam states in float32",
            "time.train": "104,000 tokens at 315 tokens/s, which 2 cores give this model",
            "base": "named by the recipe, bundled with its sha256",
        },
    )  # fmt: skip


METHOD = MethodPlan(
    kind="qlora",
    rank=16,
    alpha=32.0,
    dropout=0.0,
    targets=("all-linear",),
    quantisation="nf4",
    double_quantisation=True,
)


def make_adapter(manifest: Manifest, plan: Plan) -> Adapter:
    return Adapter(
        parents=(plan.id,), name="flight-search", base=plan.base, plan=plan.id, manifest=manifest.id, method=METHOD,
        fingerprint=manifest.fingerprint, weights_file=file("adapter_model.safetensors", 19_560_000),
        config_file=file("adapter_config.json"),
        measured=TrainMeasured(
            seconds=362.0, peak_rss_bytes=1_640_000_000, peak_device_bytes=0, tokens_per_second=287.3, first_loss=1.71,
            last_loss=0.08, steps=112, resumed_at_step=0,
        ),
    )  # fmt: skip


def make_steps(steps: int) -> list[StepDone]:
    rng = random.Random(5)
    made: list[StepDone] = []
    for step in range(1, steps + 1):
        loss = (
            0.07
            + 1.6 * math.exp(-step / (steps / 8))
            + 0.06 * rng.random()
            + (0.25 * rng.random() if step < steps / 5 else 0)
        )
        rate = 1e-3 * min(step / 6, 0.5 * (1 + math.cos(math.pi * step / steps)))
        norm = 0.25 + 1.9 * math.exp(-step / 9) * rng.random() + 0.2 * rng.random()
        made.append(StepDone("train", step, steps, loss, rate, norm, 1024, 560, 3.2, 1_600_000_000, 0))
    return made


@dataclass
class Desk:
    """Everything that a report shows."""

    tasks: dict[str, list[EvalRow]]
    subjects: dict[str, Scripted]
    manifest: Manifest
    plan: Plan
    adapter: Adapter
    folder: Path

    def evaluate(self, *, emit: Emit = discard, forgetting: bool = True, seed: int = 0, **changed: Any) -> EvalReport:
        given: dict[str, Any] = {
            "name": "flight-search", "adapter": self.adapter, "manifest": self.manifest, "tasks": self.tasks,
            "subjects": self.subjects, "encode_general": encode, "decode": decode, "max_new_tokens": LONGEST,
            "forgetting": forgetting, "folder": self.folder / "evaluate", "root": self.folder, "seed": seed,
            "emit": emit,
        }  # fmt: skip
        return evaluate(**given | changed)


PASSED = GateVerdict(passed=True, thresholds={"exact_match": 0.65, "field_f1": 0.85}, reasons=("both reached",))
FAILED = GateVerdict(
    passed=False,
    thresholds={"exact_match": 0.85, "field_f1": 0.85},
    reasons=("exact_match is 0.672 (95% interval 0.587 to 0.747, n = 128): falls 0.178 short of the gate's 0.85.",),
)


def make_release(desk: Desk, report: EvalReport) -> Release:
    return Release(
        parents=(report.id,), name="flight-search", alias="flight-search", adapter=desk.adapter.id, report=report.id,
        plan=desk.plan.id, manifest=desk.manifest.id, base=desk.plan.base, gate=PASSED, version=3,
        created_at="2026-11-22T10:00:00Z",
    )  # fmt: skip


def make_desk(folder: Path) -> Desk:
    tasks = {
        "test": [make_row(number, "test") for number in range(128)],
        "handwritten": [make_row(number, "handwritten") for number in range(64)],
    }
    manifest = make_manifest()
    plan = make_plan(manifest)
    return Desk(tasks, subjects_for(tasks), manifest, plan, make_adapter(manifest, plan), folder)
