"""A step's numbers are read when the next one is launched: nothing else waits for the device, and nothing else changes.

A GPU is a step behind; here the same loop is made to be so on a CPU.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.errors import Interrupted, TrainingError
from burnish.core.events import Checkpointed, Event, StepDone, discard
from burnish.core.packing import count_steps, pack
from burnish.core.rows import TokenPair, TokenRow
from burnish.model.full import train_every_weight
from burnish.model.load import load_base
from burnish.model.lora import attach_lora
from burnish.train import dpo, loop, probe, sft
from burnish.train.loop import train
from burnish.train.objective import Objective
from burnish.train.pairs import pair_lengths
from burnish.train.probe import STEPS, probe_steps

Rows = Callable[..., list[TokenRow]]
Adapted = Callable[..., PreTrainedModel]
MakePlan = Callable[..., Plan]
MakeMethod = Callable[..., MethodPlan]
FULL = MethodPlan(
    kind="full", rank=0, alpha=0.0, dropout=0.0, targets=(), quantisation="none", double_quantisation=False
)


def never() -> bool:
    return False


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let a CPU be so many steps behind."""
    return lambda steps: monkeypatch.setattr(loop, "STEPS_BEHIND", {"cpu": steps})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def without_clocks(folder: Path) -> list[dict[str, Any]]:
    clocks = ("seconds", "waited_seconds", "rss_bytes")
    return [{key: value for key, value in line.items() if key not in clocks} for line in lines(folder)]


def written(folder: Path) -> bytes:
    (path,) = [*folder.glob("adapter/adapter_model.safetensors"), *folder.glob("model/model.safetensors")]
    return path.read_bytes()


def some_pairs(count: int) -> list[TokenPair]:
    return [
        TokenPair(f"pair-{i}", tuple(range(3 + i, 9 + i)), tuple(range(20, 23 + i % 4)), tuple(range(40, 42 + i % 3)))
        for i in range(count)
    ]


KINDS = ("llama", "gemma2", "qlora", "recomputed", "offloaded", "preferences", "full", "in backward", "muon")


@pytest.fixture
def prepared(
    make_adapted: Adapted, make_frozen: Adapted, make_configs: dict[str, Any], make_rows: Rows, make_plan: MakePlan,
    make_method: MakeMethod, tmp_path: Path,
) -> Callable[..., tuple[Plan, Objective[Any], PreTrainedModel]]:  # fmt: skip
    """Return what `train` takes, for a kind of run."""

    def lora(kind: str, **changes: object) -> tuple[Plan, Objective[Any], PreTrainedModel]:
        rows, architecture = make_rows(24), "gemma2" if kind == "gemma2" else "llama"
        model = make_adapted(architecture, dropout=0.1)
        if kind == "qlora":
            make_frozen().save_pretrained(tmp_path / "base")
            model = load_base(tmp_path / "base", quantisation="nf4")
            attach_lora(model, make_method(quantisation="nf4"), seed=0)
        held = {
            "recomputed": {"checkpointed_layers": 1, "feed_forward_again": 1},
            "offloaded": {"checkpointed_layers": 2, "feed_forward_again": 1, "offloaded_layers": 3},
        }.get(kind, {})
        plan = make_plan(rows, method=make_method(dropout=0.1), **held, **changes)
        return plan, sft.objective(plan.train, rows), model

    def full(kind: str, **changes: object) -> tuple[Plan, Objective[Any], PreTrainedModel]:
        rows = make_rows(24)
        own = {"in backward": {"rows_per_step": 1, "optimizer_in_backward": True}, "muon": {"optimizer": "muon"}}.get(
            kind, {}
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(make_configs["qwen3"](), attn_implementation="sdpa")
        train_every_weight(model)
        plan = make_plan(rows, method=FULL, **own, **changes)
        return plan, sft.objective(plan.train, rows), model

    def preferences(**changes: object) -> tuple[Plan, Objective[Any], PreTrainedModel]:
        pairs = some_pairs(24)
        steps = count_steps(len(pack(pair_lengths(pairs), 48, 0)), float(str(changes.get("epochs", 1.0))), 2)
        settings = {"kind": "dpo", "beta": 0.5, "loss": "sigmoid", "label_smoothing": 0.0}
        plan = make_plan([], steps=steps, preference=settings, **changes)
        return plan, dpo.objective(plan.train, pairs), make_adapted()

    def make(kind: str, **changes: object) -> tuple[Plan, Objective[Any], PreTrainedModel]:
        if kind == "preferences":
            return preferences(**changes)
        return full(kind, **changes) if kind in ("full", "in backward", "muon") else lora(kind, **changes)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_behind_gives_the_rows_and_bits_of_reading_at_once(
    prepared: Callable[..., Any], behind: Callable[[int], None], blocks_taken: list[int], kind: str, tmp_path: Path
) -> None:
    for steps in (0, 1):
        behind(steps)
        plan, objective, model = prepared(kind, epochs=2.0)
        train(plan, objective, model, folder=tmp_path / str(steps), emit=discard, stop=never)
    assert without_clocks(tmp_path / "0") == without_clocks(tmp_path / "1")
    assert [line["step"] for line in lines(tmp_path / "1")] == list(range(1, plan.train.steps + 1))
    assert written(tmp_path / "0") == written(tmp_path / "1")
    assert bool(blocks_taken) == (kind == "offloaded")


@pytest.mark.parametrize("kind", ["llama", "preferences", "in backward"])
def test_stopped_a_step_behind_all_is_told_and_it_goes_on_to_the_same_bits(
    prepared: Callable[..., Any], behind: Callable[[int], None], kind: str, tmp_path: Path
) -> None:
    behind(1)
    plan, objective, model = prepared(kind, checkpoint_every=100)
    train(plan, objective, model, folder=tmp_path / "whole", emit=discard, stop=never)
    plan, objective, model = prepared(kind, checkpoint_every=100)
    asked = iter([False, False, True])
    seen: list[Event] = []
    with pytest.raises(Interrupted, match="stopped after step 3 of"):
        train(plan, objective, model, folder=tmp_path / "cut", emit=seen.append, stop=lambda: next(asked))
    told = [event.step for event in seen if isinstance(event, StepDone | Checkpointed)]
    assert told == [1, 2, 3, 3]  # and the checkpoint is the last of them
    plan, objective, model = prepared(kind, checkpoint_every=100)
    train(plan, objective, model, folder=tmp_path / "cut", emit=discard, stop=never)
    assert without_clocks(tmp_path / "cut") == without_clocks(tmp_path / "whole")
    assert written(tmp_path / "cut") == written(tmp_path / "whole")


def test_the_next_step_is_prepared_and_launched_before_a_step_is_told_and_a_checkpoint_tells_all(
    prepared: Callable[..., Any], behind: Callable[[int], None], tmp_path: Path
) -> None:
    behind(1)
    plan, objective, model = prepared("llama", checkpoint_every=4, rows_per_step=1)
    course: list[str] = []

    def batches(first: int) -> Iterator[Any]:
        for number, batch in enumerate(objective.batches(first), start=first + 1):
            course.append(f"laid {number}")
            yield batch

    def note(event: Event) -> None:
        if isinstance(event, StepDone | Checkpointed):
            course.append(f"{'told' if isinstance(event, StepDone) else 'saved'} {event.step}")

    train(plan, replace(objective, batches=batches), model, folder=tmp_path, emit=note, stop=never)
    assert course[:10] == [
        "laid 1", "laid 2", "told 1", "laid 3", "told 2", "laid 4", "told 3", "told 4", "saved 4", "laid 5",
    ]  # fmt: skip
    assert course[-2:] == [f"told {plan.train.steps}", f"saved {plan.train.steps}"]


def test_a_loss_that_is_not_finite_ends_the_run_a_step_later_at_most_and_nothing_after_it_is_written(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, behind: Callable[[int], None], tmp_path: Path
) -> None:
    rows, said = make_rows(30), list[str]()
    plan = make_plan(rows, rows_per_step=1, checkpoint_every=2)
    for steps in (0, 1):
        behind(steps)
        objective, folder, launched = sft.objective(plan.train, rows), tmp_path / str(steps), Counter[str]()

        def poisoned(model: PreTrainedModel, row: Any, launched: Counter[str] = launched, objective: Any = objective):
            launched["rows"] += 1
            found = objective.loss(model, row)
            # the longest row is held first; the fifth step of the run is the one that breaks
            return replace(found, total=found.total * float("nan")) if launched["rows"] == 6 else found

        with pytest.raises(TrainingError, match=r"step 5: the loss is nan .*\. Its rows: row-\d+") as caught:
            train(plan, replace(objective, loss=poisoned), make_adapted(), folder=folder, emit=discard, stop=never)
        said.append(str(caught.value))
        assert launched["rows"] == 6 + steps
        assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4]
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
        assert not (folder / "adapter").exists()
    assert said[0] == said[1]


def test_a_probe_a_step_behind_makes_its_steps_and_counts_each_once(
    prepared: Callable[..., Any], behind: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(probe, "MOST_STEPS", STEPS)
    behind(1)
    plan, objective, model = prepared("llama", epochs=8.0)
    done = probe_steps(plan, objective, model, folder=tmp_path, emit=discard, stop=never)
    assert [step.step for step in done] == list(range(1, STEPS + 2))  # it is asked to stop when the twenty are known
    assert all(0.0 < step.seconds < 60.0 for step in done)


def test_a_scale_that_follows_the_gradients_is_known_before_the_next_step(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, behind: Callable[[int], None], tmp_path: Path
) -> None:
    """float16's loss scale is halved by one step and multiplied with the next one's loss."""
    behind(1)
    rows = make_rows(12)
    plan, launched = make_plan(rows, compute_dtype="float16", rows_per_step=1), Counter[str]()
    objective = sft.objective(plan.train, rows)

    def counted(model: PreTrainedModel, row: Any):
        launched["rows"] += 1
        return objective.loss(model, row)

    def note(event: Event) -> None:
        if isinstance(event, StepDone):
            assert launched["rows"] == event.step + 1  # and the longest row

    train(plan, replace(objective, loss=counted), make_adapted(), folder=tmp_path, emit=note, stop=never)
    assert launched["rows"] == plan.train.steps + 1


READS = {
    torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__bool__,
    torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.__index__, torch.tensor, torch.as_tensor,
}  # fmt: skip
"""What copies between host and device and waits for it, as Python writes it."""
READ_BELOW = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
"""What else does, wherever it is called from."""


def caller() -> str:
    """Return the file and function that called torch."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == __file__ or "/torch/" in frame.f_code.co_filename:
        frame = frame.f_back
        assert frame is not None
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"


class Reads(TorchFunctionMode):
    """Counts what Python asks of torch that a device would be waited for."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.seen[caller()] += 1
        return func(*args, **(kwargs or {}))


class ReadsBelow(TorchDispatchMode):
    """Counts the same beneath Python."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if name in READ_BELOW:
            self.seen[f"{name} of {caller()}"] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_for_the_device_once_to_read_the_numbers_of_the_one_before(
    prepared: Callable[..., Any], behind: Callable[[int], None], kind: str
) -> None:
    behind(1)
    plan, objective, model = prepared(kind, epochs=3.0, checkpoint_every=100)
    seen, counted = Counter[str](), list[Counter[str]]()
    modes = ReadsBelow(seen), Reads(seen)

    def note(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            for mode in modes:
                mode.__enter__()
        elif isinstance(event, StepDone) and event.step == 5:
            counted.append(Counter(seen))
            for mode in reversed(modes):
                mode.__exit__(None, None, None)

    with tempfile.TemporaryDirectory() as folder:
        train(plan, objective, model, folder=Path(folder), emit=note, stop=never)
    (three_steps,) = counted
    assert three_steps.pop("launched.py:read") == 3
    assert three_steps.keys() == {"devices.py:to_device"}  # rows, by way of pinned memory on a GPU
