"""Prices of every option, what a month costs on one's own machines and at a hosted API, and when one pays for the other.

Every number is a band. Training: operations over the GPU's measured share of its data sheet; per token and weight 6 for full
fine-tuning, 4 with the base frozen (plan/time.py), and for DPO 6 on two answers (policy 4, reference 2; Rafailov et al.
2023). People's hours, repeated runs and how busy a GPU is are priors (priors.json).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from burnish.core.artifacts import MethodPlan
from burnish.plan.activations import Workload
from burnish.plan.adapters import ALL_LINEAR, resolve_targets
from burnish.plan.advise.rules import priors
from burnish.plan.advise.situation import Situation
from burnish.plan.architecture import Architecture
from burnish.plan.constants import constant
from burnish.plan.gpus import Gpu
from burnish.plan.memory import training_components
from burnish.plan.prices import Prices

DAYS, HOURS = 30.4375, 730.5
"""Of an average month."""
OPERATIONS: Mapping[str, float] = {"full": 6, "lora": 4, "qlora": 4, "dpo": 6}
"""For each token and weight."""
SLOWER: Mapping[str, tuple[float, float]] = {"qlora": (1.05, 2.5)}
"""How much slower than LoRA: QwenLM's published speeds on an A100, rows of 8,192 and of 256 tokens."""
ROLLOUTS = 10
"""Answers that RLHF writes for each preference pair there is."""
TRAIN_ROW_TOKENS = 2048
RANK = 16


@dataclass(frozen=True, slots=True)
class Band:
    """A low and a high end."""

    low: float
    high: float

    @property
    def mid(self) -> float:
        """The middle."""
        return (self.low + self.high) / 2

    def __add__(self, other: Band) -> Band:
        return Band(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Band) -> Band:
        return Band(self.low - other.high, self.high - other.low)

    def times(self, factor: float) -> Band:
        """Return the band times a number that is not negative."""
        return Band(self.low * factor, self.high * factor)

    def as_json(self) -> dict[str, float]:
        """Return low and high."""
        return {"low": self.low, "high": self.high}


ZERO = Band(0.0, 0.0)


def prior(*names: str) -> Band:
    """Return a band of priors.json."""
    at: Any = priors()
    for name in names:
        at = at[name]
    return Band(float(at["low"]), float(at["high"]))


@dataclass(frozen=True, slots=True)
class Price:
    """What an option costs to build: hours of GPU and of people, and dollars, None where the GPU has no price."""

    gpu_hours: Band
    work_hours: Band
    usd: Band | None
    because: str

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "gpu_hours": self.gpu_hours.as_json(),
            "work_hours": self.work_hours.as_json(),
            "usd": None if self.usd is None else self.usd.as_json(),
            "because": self.because,
        }


def together(parts: Sequence[Price]) -> Price:
    """Return the price of several options together; no dollars when one of them has none."""
    gpu_hours, work_hours, usd = ZERO, ZERO, ZERO
    for part in parts:
        gpu_hours, work_hours = gpu_hours + part.gpu_hours, work_hours + part.work_hours
        usd = None if usd is None or part.usd is None else usd + part.usd
    return Price(gpu_hours, work_hours, usd, "; ".join(part.because for part in parts))


def weights_of(architecture: Architecture) -> float:
    """Weights that a token is multiplied with: those of the layers, and the head's."""
    return float(architecture.computed_weights + architecture.vocabulary * architecture.hidden)


def gpu_price(asked: Situation, gpu: Gpu, table: Prices, today: date) -> tuple[Band | None, str]:
    """Return dollars an hour and where they come from: what was said, else the price table; None when neither tells."""
    ends = [end for end in (asked.gpu_usd_low, asked.gpu_usd_high) if end is not None]
    if ends:
        return Band(min(ends), max(ends)), "you said so"
    found = table.per_hour(gpu.name, today)
    if found is None:
        return None, f"no price of {gpu.name} is in the table: say gpu_usd_low and gpu_usd_high"
    return Band(found[0].low, found[0].high), found[1]


def fits(architecture: Architecture, asked: Situation, gpu: Gpu) -> dict[str, bool]:
    """Return whether LoRA and QLoRA fit one GPU (rows of 2,048 tokens, every layer recomputed), and full fine-tuning all."""
    memory = gpu.memory_mib * 2**20
    row = max(TRAIN_ROW_TOKENS, min(asked.tokens_per_row, architecture.context))
    full = priors()["full_bytes_per_parameter"]["value"] * architecture.parameters
    found = {"full": full <= memory * asked.gpus}
    for kind in ("lora", "qlora"):
        method = MethodPlan(
            kind=kind,
            rank=RANK,
            alpha=2.0 * RANK,
            dropout=0.0,
            targets=resolve_targets(architecture, [ALL_LINEAR], source="advise"),
            quantisation="nf4" if kind == "qlora" else "none",
            double_quantisation=kind == "qlora",
        )
        parts = training_components(
            architecture,
            method,
            device="cuda",
            dtype="bfloat16",
            work=Workload(row, row * row, row),
            checkpointed_layers=architecture.layers,
        )
        found[kind] = sum(parts.values()) <= memory
    return found


def prices(architecture: Architecture, asked: Situation, gpu: Gpu, an_hour: Band | None) -> dict[str, Price]:
    """Return the price of building each option. Training counts all runs that are usual, not one."""
    found = {
        name: _price(
            ZERO, prior("work_hours", name), asked, an_hour, f"people's hours: {priors()['work_hours']['source']}"
        )
        for name in ("prompt", "rag")
    }
    weights, tokens = weights_of(architecture), asked.rows * asked.tokens_per_row * asked.epochs
    pair_tokens = 2.0 * asked.pairs * asked.tokens_per_row
    for name in ("qlora", "lora", "full"):
        hours = _gpu_hours(OPERATIONS[name] * weights * tokens, gpu, SLOWER.get(name, (1.0, 1.0)))
        because = (
            f"{OPERATIONS[name]:g} operations for each of {weights:.3g} weights and {tokens:.3g} tokens on {gpu.name}"
        )
        because += ", 2 to 10 runs"
        found[name] = _price(hours, prior("work_hours", "tune"), asked, an_hour, because)
    hours = _gpu_hours(OPERATIONS["dpo"] * weights * pair_tokens, gpu, (1.0, 2.5))
    because = f"6 operations for each weight and {pair_tokens:.3g} tokens of both answers, 2 to 10 runs"
    found["dpo"] = _price(hours, prior("work_hours", "align"), asked, an_hour, because)
    rollouts = ROLLOUTS * asked.pairs * asked.tokens_per_row
    each = priors()["rlhf_operations_per_weight"]["value"]
    hours = _gpu_hours(weights * (4 * pair_tokens + each * rollouts), gpu, (1.0, 2.5))
    because = f"a reward model on the pairs, then {each} operations for each weight and {rollouts:.3g} written tokens, 2 to 10 runs"
    found["rlhf"] = _price(hours, prior("work_hours", "rlhf"), asked, an_hour, because)
    return found


def _gpu_hours(operations: float, gpu: Gpu, slower: tuple[float, float]) -> Band:
    rate, runs = gpu.tflops * 1e12 * constant("cuda_train_share"), prior("runs")
    low, high = rate * constant("band_low"), rate * constant("band_high")
    return Band(operations / high * slower[0] * runs.low / 3600, operations / low * slower[1] * runs.high / 3600)


def _price(gpu_hours: Band, work_hours: Band, asked: Situation, an_hour: Band | None, because: str) -> Price:
    work = work_hours.times(asked.usd_per_work_hour)
    if gpu_hours.high == 0:
        return Price(gpu_hours, work_hours, work, because)
    if an_hour is None:
        return Price(gpu_hours, work_hours, None, because + "; the GPU has no price: say gpu_usd_low, gpu_usd_high")
    return Price(
        gpu_hours, work_hours, work + Band(gpu_hours.low * an_hour.low, gpu_hours.high * an_hour.high), because
    )


@dataclass(frozen=True, slots=True)
class Economics:
    """Months and traffic. None where a price is missing. `pays_back`: within the horizon, by the middles of the bands."""

    api_per_request: float | None
    api_month: Band | None
    own_month: Band | None
    gpus: tuple[int, int]
    build: Band | None
    break_even_requests_per_day: dict[str, float | None] | None
    payback_months: float | None
    pays_back: bool | None
    return_on_build: dict[str, Any] | None
    rag_month: float | None
    because: dict[str, str]


def economics(architecture: Architecture, asked: Situation, gpu: Gpu, build: Price, an_hour: Band | None) -> Economics:
    """Return what a month costs with a hosted API and on own GPUs, and what building pays back.

    `build`: the price of the option that would be built.
    """
    because: dict[str, str] = {}
    busy = prior("utilisation")
    seconds = request_seconds(architecture, asked, gpu)
    load = asked.requests_per_day / 86_400
    few, many = (max(1, math.ceil(load * seconds / share)) for share in (busy.high, busy.low))
    because["own.gpus"] = (
        f"{seconds:.3g} s of {gpu.name} a request ({asked.prompt_tokens - asked.prompt_tokens_saved} tokens read, "
        f"{asked.answer_tokens} written), busy {busy.low:.0%} to {busy.high:.0%} of the time, at least one"
    )
    wage = asked.usd_per_work_hour
    own = None
    if an_hour is not None:
        rent = Band(few * HOURS * an_hour.low, many * HOURS * an_hour.high)
        own = rent + prior("run_hours_per_month", "own").times(wage)
    api_request = _api_request(asked)
    api = None
    if api_request is not None:
        month = asked.requests_per_day * DAYS * api_request
        api = Band(month, month) + prior("run_hours_per_month", "api").times(wage)
        because["api.month"] = (
            f"{asked.requests_per_day:,g} requests a day at {api_request:.6f} dollars, and people's hours"
        )
    if not asked.data_may_leave:
        because["api.month"] = "requests must not leave, so there is no hosted API to compare with"
    even = (
        None
        if own is None or api_request is None or build.usd is None
        else _break_even(asked, seconds, an_hour, api_request, build.usd)
    )
    payback, pays = _payback(asked, own, api, build.usd)
    rag = None
    if api_request is not None and asked.api_input_usd is not None:
        added = priors()["rag_tokens_added"]["value"]
        rag = asked.requests_per_day * DAYS * added * asked.api_input_usd / 1e6
        because["rag.month"] = (
            f"{added} tokens of passages a request, at the API's price ({priors()['rag_tokens_added']['source']})"
        )
    gain = _return(asked, own, api, build.usd)
    return Economics(api_request, api, own, (few, many), build.usd, even, payback, pays, gain, rag, because)


def request_seconds(architecture: Architecture, asked: Situation, gpu: Gpu) -> float:
    """Seconds of one GPU for a request: its prompt read at the rate of training, its answer written at that of memory."""
    weights = weights_of(architecture)
    read = 2 * weights * (asked.prompt_tokens - asked.prompt_tokens_saved)
    read /= gpu.tflops * 1e12 * constant("cuda_train_share")
    rate = gpu.gigabytes_per_second * 1e9 * constant("cuda_decode_share") * constant("cuda_decode_batch")
    return read + 2 * weights * asked.answer_tokens / rate


def _api_request(asked: Situation) -> float | None:
    if asked.api_input_usd is None or asked.api_output_usd is None or not asked.data_may_leave:
        return None
    return (asked.prompt_tokens * asked.api_input_usd + asked.answer_tokens * asked.api_output_usd) / 1e6


def _break_even(
    asked: Situation, seconds: float, an_hour: Band | None, api_request: float, build: Band
) -> dict[str, float | None]:
    """Return the traffic from which own GPUs are cheaper, at the favourable, middle and unfavourable ends of the bands."""
    assert an_hour is not None
    wage, busy = asked.usd_per_work_hour, prior("utilisation")
    own_run, api_run = prior("run_hours_per_month", "own").times(wage), prior("run_hours_per_month", "api").times(wage)
    ends = {
        "low": (an_hour.low, busy.high, own_run.low - api_run.high, build.low),
        "mid": (an_hour.mid, busy.mid, own_run.mid - api_run.mid, build.mid),
        "high": (an_hour.high, busy.low, own_run.high - api_run.low, build.high),
    }
    return {
        name: break_even(
            api_request,
            price * HOURS,
            share / seconds * 86_400 if seconds else math.inf,
            more + cost / asked.horizon_months,
        )
        for name, (price, share, more, cost) in ends.items()
    }


def break_even(api_request: float, gpu_month: float, requests_per_gpu: float, fixed_month: float) -> float | None:
    """Return the fewest requests a day from which own GPUs cost no more than the API; None when no traffic gets there.

    api_request: dollars a request. gpu_month: dollars of a GPU a month, whole GPUs only. requests_per_gpu: what one serves
    a day. fixed_month: dollars a month whatever the traffic (people, and the building spread over the horizon).
    """
    month = api_request * DAYS
    if month <= 0 or requests_per_gpu <= 0:
        return None
    if month * requests_per_gpu <= gpu_month and not math.isinf(requests_per_gpu):
        return (
            None if fixed_month + gpu_month > month * requests_per_gpu else max(0.0, (fixed_month + gpu_month) / month)
        )
    gpus = 1
    if not math.isinf(requests_per_gpu):
        gpus = max(1, math.ceil(fixed_month / (month * requests_per_gpu - gpu_month)))
    return max(0.0, (gpus - 1) * requests_per_gpu if gpus > 1 else 0.0, (fixed_month + gpus * gpu_month) / month)


def _payback(
    asked: Situation, own: Band | None, api: Band | None, build: Band | None
) -> tuple[float | None, bool | None]:
    if own is None or api is None or build is None or asked.requests_per_day == 0:
        return None, None
    saved = api.mid - own.mid
    if saved <= 0:
        return None, False
    months = build.mid / saved
    return months, months <= asked.horizon_months


def _return(asked: Situation, own: Band | None, api: Band | None, build: Band | None) -> dict[str, Any] | None:
    """Return what is gained over the horizon beyond what the building and running cost, with the inputs.

    None where nobody said what is spared, neither an API's prices nor hours of work: a loss would be told that is none.
    """
    if own is None or build is None or build.low <= 0 or (api is None and not asked.hours_saved_per_month):
        return None
    hours = asked.hours_saved_per_month * asked.usd_per_work_hour
    spared = ZERO if api is None else api
    net = (spared - own + Band(hours, hours)).times(asked.horizon_months) - build
    shorter = asked.prompt_tokens_saved * asked.requests_per_day * DAYS
    return {
        "net_usd": net.as_json(),
        "ratio": {"low": net.low / (build.high if net.low >= 0 else build.low), "high": net.high / build.low},
        "inputs": {
            "horizon_months": asked.horizon_months,
            "build_usd": build.as_json(),
            "own_usd_per_month": own.as_json(),
            "api_usd_per_month_spared": None if api is None else api.as_json(),
            "work_usd_per_month_spared": hours,
            "prompt_tokens_per_month_spared": shorter,
        },
    }
