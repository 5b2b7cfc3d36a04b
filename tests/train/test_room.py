"""A run where memory is short: more layers are computed again, and what is learned stays the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from burnish.core.artifacts import Plan
from burnish.core.errors import ResourceError
from burnish.core.events import Event, Note, StepDone
from burnish.core.rows import TokenRow
from burnish.train import sft
from burnish.train.loop import train
from burnish.train.objective import Loss, Objective
from burnish.train.pack import PackedRow

Rows = Callable[..., list[TokenRow]]
Adapted = Callable[..., PreTrainedModel]
MakePlan = Callable[..., Plan]


def run(
    plan: Plan, objective: Objective[PackedRow], model: PreTrainedModel, folder: Path
) -> tuple[list[StepDone], list[str]]:
    seen: list[Event] = []
    train(plan, objective, model, folder=folder, emit=seen.append, stop=lambda: False)
    notes = [event.text for event in seen if isinstance(event, Note)]
    return [event for event in seen if isinstance(event, StepDone)], notes


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def with_limit(plan: Plan, limit: int) -> Plan:
    return plan.model_copy(update={"memory": plan.memory.model_copy(update={"limit_bytes": limit})})


def test_a_longest_row_over_the_limit_lets_layers_give_way_before_the_first_step(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows = make_rows(12)
    plan = make_plan(rows, epochs=2.0)
    _, quiet = run(with_limit(plan, 1 << 50), sft.objective(plan.train, rows), make_adapted(), tmp_path / "roomy")
    assert quiet == []
    steps, told = run(with_limit(plan, 1), sft.objective(plan.train, rows), make_adapted(), tmp_path / "tight")
    assert [note.rpartition(": ")[2] for note in told[:2]] == [
        "0 whole and 1 by their feed-forward half", "0 whole and 2 by their feed-forward half",
    ]  # fmt: skip
    assert "every layer is computed again already" in told[-1]
    assert len(steps) == plan.train.steps
    assert weights(tmp_path / "tight") == weights(tmp_path / "roomy")


def failing(objective: Objective[PackedRow], at: set[int], error: RuntimeError) -> Objective[PackedRow]:
    """Return an objective whose loss fails at some calls, as an allocation does in the middle of a step."""
    calls = 0

    def loss(model: PreTrainedModel, row: PackedRow) -> Loss:
        nonlocal calls
        calls += 1
        if calls in at:
            raise error
        return objective.loss(model, row)

    return Objective(objective.batches, objective.longest, loss)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_step_that_runs_out_of_memory_is_made_again_with_the_same_numbers(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, make_method: Callable, tmp_path: Path, dropout: float
) -> None:
    """It fails in its second row, when the first one's gradients are there; the step's rows stay what they were."""
    rows = make_rows(16)
    plan = make_plan(rows, epochs=2.0, rows_per_step=2, method=make_method(dropout=dropout))
    objective = sft.objective(plan.train, rows)
    expected, _ = run(plan, objective, make_adapted(dropout=dropout), tmp_path / "roomy")
    short = failing(objective, {5, 8}, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    found, told = run(plan, short, make_adapted(dropout=dropout), tmp_path / "short")
    assert len(told) == 2
    assert all("memory ran out" in note for note in told)
    assert [step.tokens for step in found] == [step.tokens for step in expected]
    assert [step.loss for step in found] == pytest.approx([step.loss for step in expected], rel=1e-6)
    assert weights(tmp_path / "short") == weights(tmp_path / "roomy")


def test_when_nothing_is_left_to_give_the_error_says_what_to_do(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows = make_rows(6)
    plan = make_plan(rows)
    short = failing(sft.objective(plan.train, rows), set(range(1, 99)), torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(
        ResourceError, match="3 layers computed again whole: CUDA out of memory Use qlora, a smaller base"
    ):
        run(plan, short, make_adapted(), tmp_path)


def test_another_error_is_not_taken_for_a_lack_of_memory(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows = make_rows(6)
    plan = make_plan(rows)
    broken = failing(sft.objective(plan.train, rows), {2}, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(plan, broken, make_adapted(), tmp_path)


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import plan_for, plan_method
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from burnish.core.events import Note, StepDone
from burnish.core.rows import TokenRow
from burnish.model.lora import attach_lora
from burnish.train import sft
from burnish.train.loop import train
torch.set_num_threads(1)
torch.manual_seed(0)
config = LlamaConfig(vocab_size=131, hidden_size=64, intermediate_size=8192, num_hidden_layers=8, num_attention_heads=4,
                     num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=2)
model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().eval().requires_grad_(False)
attach_lora(model, plan_method(), seed=0)
rows = [TokenRow(str(i), tuple((i + 3 * j) % 128 + 3 for j in range(1024)), (0,) + (1,) * 1023, 0, 1) for i in range(2)]
plan = plan_for(rows, row_tokens=1024, rows_per_step=1, warmup_steps=0)
objective = sft.objective(plan.train, rows)
sft.loss  # everything is imported and warm before the limit
pages = int(Path("/proc/self/statm").read_text().split()[0])
if sys.argv[3] != "none":
    limit = pages * resource.getpagesize() + int(sys.argv[3]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
def emit(event):
    if isinstance(event, Note):
        print("NOTE", event.text, flush=True)
    if isinstance(event, StepDone):
        print("LOSS", repr(event.loss), flush=True)
train(plan, objective, model, folder=Path(sys.argv[2]), emit=emit, stop=lambda: False)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept by Linux")
def test_under_a_limit_of_the_system_a_cpu_goes_on_with_layers_computed_again(tmp_path: Path) -> None:
    """8 layers that keep 64 MiB each for 1,024 tokens (gate and up of 8,192 numbers), in 560 MiB beyond what is loaded."""
    said: dict[str, list[str]] = {}
    for limit in ("none", "560"):
        command = [sys.executable, "-c", LIMITED, str(Path(__file__).parent), str(tmp_path / limit), limit]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        said[limit] = done.stdout.splitlines()
    losses = {limit: [line for line in lines if line.startswith("LOSS")] for limit, lines in said.items()}
    assert not any(line.startswith("NOTE") for line in said["none"])
    assert any("memory ran out" in line and "can't allocate memory" in line for line in said["560"])
    assert losses["560"] == losses["none"]
    assert len(losses["none"]) == 2
