from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.errors import Interrupted, TrainingError
from burnish.core.events import Checkpointed, Event, Note, StepDone
from burnish.core.packing import pack_order
from burnish.core.rows import TokenRow
from burnish.model.lora import attach_lora, lora_parameters
from burnish.model.place import load_placed
from burnish.model.stream import load_streamed
from burnish.train import sft
from burnish.train.loop import train
from burnish.train.pack import lengths_of

Rows = Callable[..., list[TokenRow]]
Adapted = Callable[..., PreTrainedModel]
MakePlan = Callable[..., Plan]
WEIGHTS = "adapter/adapter_model.safetensors"


def never() -> bool:
    return False


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


def noted(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_training_lowers_the_loss_and_writes_what_it_did(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows, seen = make_rows(12), list[Event]()
    plan = make_plan(rows, epochs=12.0)
    measured = train(
        plan, sft.objective(plan.train, rows), make_adapted(), folder=tmp_path, emit=seen.append, stop=never
    )
    steps = [event for event in seen if isinstance(event, StepDone)]
    assert measured.steps == plan.train.steps == len(steps)
    assert [step.step for step in steps] == list(range(1, plan.train.steps + 1))
    assert measured.last_loss < 0.7 * measured.first_loss
    assert (measured.first_loss, measured.last_loss) == (steps[0].loss, steps[-1].loss)
    assert measured.peak_rss_bytes > 50_000_000
    assert sum(step.trained_tokens for step in steps) == 12 * sum(sum(row.mask) for row in rows)
    assert [line["step"] for line in noted(tmp_path) if line["event"] == "StepDone"] == [step.step for step in steps]
    assert [event.step for event in seen if isinstance(event, Checkpointed)][-1] == plan.train.steps
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_what_was_trained_loads_in_peft(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows, model = make_rows(6), make_adapted()
    plan = make_plan(rows)
    train(plan, sft.objective(plan.train, rows), model, folder=tmp_path, emit=lambda event: None, stop=never)
    base = make_adapted()
    for parameter in lora_parameters(base).values():
        parameter.data.zero_()
    from burnish.model.lora import merge_lora

    theirs = PeftModel.from_pretrained(merge_lora(base), str(tmp_path / "adapter"))
    ids = torch.tensor([rows[0].ids])
    torch.testing.assert_close(model(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    assert not model.training
    assert model.config._attn_implementation == "sdpa"


def test_one_large_batch_equals_eight_accumulated_ones(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    """Rows of different length weigh by their tokens, however they are grouped."""
    rows = make_rows(8)
    results = []
    for name, row_tokens, rows_per_step in (("1x8", 8 * 40, 1), ("8x1", 30, 8)):
        plan = make_plan(
            rows, row_tokens=row_tokens, rows_per_step=rows_per_step, max_gradient_norm=1e9, warmup_steps=0
        )
        seen: list[Event] = []
        train(
            plan, sft.objective(plan.train, rows), make_adapted(), folder=tmp_path / name, emit=seen.append, stop=never
        )
        results.append([event for event in seen if isinstance(event, StepDone)])
    (large,), (accumulated,) = results
    assert large.trained_tokens == accumulated.trained_tokens
    assert large.loss == pytest.approx(accumulated.loss, rel=1e-6)
    assert large.gradient_norm == pytest.approx(accumulated.gradient_norm, rel=1e-5)
    assert large.tokens < accumulated.tokens  # the prefixes were shared


def test_stopping_saves_the_state_and_going_on_gives_the_same_bits(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows = make_rows(24)
    plan = make_plan(rows, checkpoint_every=100)
    train(
        plan,
        sft.objective(plan.train, rows),
        make_adapted(),
        folder=tmp_path / "undisturbed",
        emit=lambda event: None,
        stop=never,
    )
    asked = iter([False, False, True])
    folder, seen = tmp_path / "stopped", list[Event]()
    with pytest.raises(Interrupted, match="stopped after step 3 of"):
        train(
            plan,
            sft.objective(plan.train, rows),
            make_adapted(),
            folder=folder,
            emit=lambda event: None,
            stop=lambda: next(asked),
        )
    other = make_adapted()
    for parameter in lora_parameters(other).values():  # whatever the adapter starts from, the checkpoint decides
        parameter.data.add_(1.0)
    measured = train(plan, sft.objective(plan.train, rows), other, folder=folder, emit=seen.append, stop=never)
    assert measured.resumed_at_step == 3
    assert Note("train", f"going on after step 3 of {plan.train.steps}") in seen
    assert weights(folder) == weights(tmp_path / "undisturbed")


HELD = {"checkpointed_layers": 2, "feed_forward_again": 1, "offloaded_layers": 3}


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
@pytest.mark.parametrize("where", ["streamed", "offloaded", "placed", "all of them"])
def test_layers_that_lie_elsewhere_are_stopped_and_go_on_to_the_bits_of_a_run_that_is_all_here(
    make_frozen: Adapted, make_rows: Rows, make_plan: MakePlan, make_method: Callable[..., MethodPlan], tmp_path: Path,
    where: str, quantisation: Literal["none", "nf4"], blocks_taken: list[int],
) -> None:  # fmt: skip
    rows, method, base = make_rows(12), make_method(quantisation=quantisation, dropout=0.1), tmp_path / "base"
    make_frozen("qwen3").save_pretrained(base)
    streamed = 2 if where in ("streamed", "all of them") else 0

    def run(folder: Path, *, apart: bool, stop: Callable[[], bool] = never) -> None:
        if apart and where in ("placed", "all of them"):
            model = load_placed(
                base,
                devices=["cpu", "cpu:0"],
                layers_by_device=[1, 2],
                streamed_layers=streamed,
                quantisation=quantisation,
            )
        else:
            model = load_streamed(base, streamed_layers=streamed if apart else 0, quantisation=quantisation)
        attach_lora(model, method, seed=0)
        held = HELD if apart and where in ("offloaded", "all of them") else {}
        plan = make_plan(rows, method=method, checkpoint_every=100, epochs=2.0, **held)
        train(plan, sft.objective(plan.train, rows), model, folder=folder, emit=lambda event: None, stop=stop)

    run(tmp_path / "here", apart=False)
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run(tmp_path / "apart", apart=True, stop=lambda: next(asked))
    run(tmp_path / "apart", apart=True)
    assert weights(tmp_path / "apart") == weights(tmp_path / "here")
    assert bool(blocks_taken) == (where in ("offloaded", "all of them"))


def test_events_after_the_checkpoint_are_cut_when_the_run_goes_on(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows = make_rows(30)
    plan = make_plan(rows, checkpoint_every=2, rows_per_step=1)

    def die(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, sft.objective(plan.train, rows), make_adapted(), folder=tmp_path, emit=die, stop=never)
    assert [line["step"] for line in noted(tmp_path)] == [1, 2, 3, 4, 5]
    measured = train(
        plan, sft.objective(plan.train, rows), make_adapted(), folder=tmp_path, emit=lambda event: None, stop=never
    )
    assert [line["step"] for line in noted(tmp_path)] == list(range(1, plan.train.steps + 1))
    assert measured.steps == plan.train.steps
    assert measured.resumed_at_step == 4


def test_a_finished_run_started_again_only_writes_the_adapter(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows = make_rows(6)
    plan = make_plan(rows)
    first = train(
        plan, sft.objective(plan.train, rows), make_adapted(), folder=tmp_path, emit=lambda event: None, stop=never
    )
    before = weights(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    seen: list[Event] = []
    second = train(
        plan, sft.objective(plan.train, rows), make_adapted(seed=4), folder=tmp_path, emit=seen.append, stop=never
    )
    assert weights(tmp_path) == before
    assert not any(isinstance(event, StepDone) for event in seen)
    assert second.first_loss == first.first_loss


def test_a_loss_that_is_not_finite_names_the_step_and_the_rows(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows, model = make_rows(6), make_adapted("qwen3")
    plan = make_plan(rows, rows_per_step=1)
    poisoned = rows[4].ids[-2]
    with torch.no_grad():
        model.get_input_embeddings().weight[poisoned] = float("nan")
    with pytest.raises(TrainingError, match=r"step \d+: the loss is nan.*row-\d") as caught:
        train(plan, sft.objective(plan.train, rows), model, folder=tmp_path, emit=lambda event: None, stop=never)
    named = {row.row_id for row in rows if row.row_id in str(caught.value)}
    assert any(poisoned in row.ids for row in rows if row.row_id in named)
    assert not (tmp_path / "adapter").exists()


def test_a_model_without_adapter_is_an_error(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    from burnish.model.lora import merge_lora

    rows, bare = make_rows(3), merge_lora(make_adapted())
    plan = make_plan(rows)
    with pytest.raises(TrainingError, match="no adapter to train"):
        train(plan, sft.objective(plan.train, rows), bare, folder=tmp_path, emit=lambda event: None, stop=never)


def test_two_runs_of_one_plan_give_the_same_bits_and_another_seed_gives_others(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows = make_rows(12)
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        plan, folder = make_plan(rows, seed=seed), tmp_path / name
        train(plan, sft.objective(plan.train, rows), make_adapted(), folder=folder, emit=lambda event: None, stop=never)
    assert weights(tmp_path / "first") == weights(tmp_path / "second")
    assert weights(tmp_path / "first") != weights(tmp_path / "third")


KILLED_RUN = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import adapted, plan_for, plan_method, random_rows
import torch
from burnish.core.events import Checkpointed
from burnish.train import sft
from burnish.train.loop import train
from burnish.train.pack import lengths_of
torch.set_num_threads(1)
rows = random_rows(40)
plan = plan_for(rows, epochs=2.0, checkpoint_every=3, checkpointed_layers=1, method=plan_method(dropout=0.2))
def emit(event):
    if isinstance(event, Checkpointed):
        print(event.step, flush=True)
    time.sleep(0.05)
train(plan, sft.objective(plan.train, rows), adapted(dropout=0.2), folder=Path(sys.argv[2]), emit=emit, stop=lambda: False)
"""


def test_a_killed_run_goes_on_and_ends_with_the_bits_of_an_undisturbed_one(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, make_method: Callable[..., MethodPlan], tmp_path: Path
) -> None:
    """With dropout and a recomputed layer; another process is killed with SIGKILL at whatever it was doing."""
    rows = make_rows(40)
    plan = make_plan(rows, epochs=2.0, checkpoint_every=3, checkpointed_layers=1, method=make_method(dropout=0.2))
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    train(
        plan,
        sft.objective(plan.train, rows),
        make_adapted(dropout=0.2),
        folder=undisturbed,
        emit=lambda event: None,
        stop=never,
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN, str(Path(__file__).parent), str(killed)], stdout=subprocess.PIPE, text=True
    )
    assert victim.stdout is not None
    assert [int(victim.stdout.readline()) for _ in range(2)] == [3, 6]
    time.sleep(0.07)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert not (killed / "adapter").exists()
    measured = train(
        plan,
        sft.objective(plan.train, rows),
        make_adapted(dropout=0.2),
        folder=killed,
        emit=lambda event: None,
        stop=never,
    )
    assert measured.resumed_at_step >= 6
    for key in ("step", "loss", "gradient_norm"):
        assert [line[key] for line in noted(killed)] == [line[key] for line in noted(undisturbed)]
    assert weights(killed) == weights(undisturbed)


def test_a_run_in_a_given_order_goes_on_with_the_same_bits(
    make_adapted: Adapted, make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows = make_rows(24)
    order = (tuple(range(12, 24)), (0, 5, 5, 0, 5, 1), tuple(range(8)))
    packed = len(pack_order(lengths_of(rows), order, 48, 0))
    plan = make_plan(rows, checkpoint_every=100, steps=-(-packed // 2))
    train(
        plan,
        sft.objective(plan.train, rows, order),
        make_adapted(),
        folder=tmp_path / "whole",
        emit=lambda event: None,
        stop=never,
    )
    asked = iter([False, True])
    with pytest.raises(Interrupted, match="stopped after step 2 of"):
        train(
            plan, sft.objective(plan.train, rows, order), make_adapted(), folder=tmp_path / "cut",
            emit=lambda event: None, stop=lambda: next(asked),
        )  # fmt: skip
    measured = train(
        plan, sft.objective(plan.train, rows, order), make_adapted(), folder=tmp_path / "cut",
        emit=lambda event: None, stop=never,
    )  # fmt: skip
    assert measured.resumed_at_step == 2
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    mixed = make_plan(rows, checkpoint_every=100)
    train(
        mixed, sft.objective(mixed.train, rows), make_adapted(), folder=tmp_path / "mixed",
        emit=lambda event: None, stop=never,
    )  # fmt: skip
    assert weights(tmp_path / "mixed") != weights(tmp_path / "whole")


@pytest.mark.parametrize(("gain", "taken"), [(0.4, 1), (1.7, 2)])
def test_threads_that_are_slower_than_one_are_not_taken_and_that_is_told(
    make_adapted: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, gain: float, taken: int,
) -> None:  # fmt: skip
    """How busy this machine is now is no matter of a test; what is measured is in tests/model/test_threads.py."""
    monkeypatch.setattr("burnish.train.loop.gain_of_threads", lambda threads, hidden, dtype: gain)
    rows, seen, threads = make_rows(6), list[Event](), set[int]()
    plan = make_plan(rows, threads=2)

    def note(event: Event) -> None:
        seen.append(event)
        threads.add(torch.get_num_threads())

    train(plan, sft.objective(plan.train, rows), make_adapted(), folder=tmp_path, emit=note, stop=lambda: False)
    assert torch.get_num_threads() == 1
    told = [event.text for event in seen if isinstance(event, Note) and "one thread" in event.text]
    assert [text.startswith("one thread: 2 are 0.40 times as fast as one now") for text in told] == [True] * (
        taken == 1
    )
    assert taken in threads
