"""Preference pairs in the loop: what is told, exact resume, the reference, and TRL's losses step by step."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PhiConfig, PreTrainedModel

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.errors import Interrupted, TrainingError
from burnish.core.events import Event, StepDone
from burnish.core.packing import count_steps, pack
from burnish.core.rows import TokenPair
from burnish.model.attention import packing
from burnish.model.full import train_every_weight
from burnish.model.load import load_base
from burnish.model.lora import adapter_copy, attach_lora, lora_parameters, merge_lora, save_adapter
from burnish.model.place import load_placed
from burnish.train import dpo
from burnish.train.loop import train
from burnish.train.objective import Loss, Objective
from burnish.train.pairs import PackedPairs, lay_pairs, log_probabilities, pair_lengths, reference_log_probabilities

Adapted = Callable[..., PreTrainedModel]
MakePlan = Callable[..., Plan]
DPO = {"kind": "dpo", "beta": 0.5, "loss": "sigmoid", "label_smoothing": 0.0}
FULL = MethodPlan(
    kind="full", rank=0, alpha=0.0, dropout=0.0, targets=(), quantisation="none", double_quantisation=False
)
WEIGHTS = "adapter/adapter_model.safetensors"
CPU = torch.device("cpu")


def never() -> bool:
    return False


def some_pairs(count: int, *, prompts: int | None = None) -> list[TokenPair]:
    draw = random.Random(3)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 131) for _ in range(draw.randrange(least, most)))

    starts = [tokens(4, 10) for _ in range(prompts or count)]
    return [TokenPair(f"pair-{i}", starts[i % len(starts)], tokens(2, 7), tokens(2, 7)) for i in range(count)]


@pytest.fixture
def plan_of(make_plan: MakePlan) -> Callable[..., Plan]:
    def make(pairs: Sequence[TokenPair], **changes: object) -> Plan:
        numbers = {"row_tokens": 48, "rows_per_step": 2, "epochs": 1.0, "seed": 0} | changes
        packed = pack(pair_lengths(pairs), int(str(numbers["row_tokens"])), 0)
        steps = count_steps(len(packed), float(str(numbers["epochs"])), int(str(numbers["rows_per_step"])))
        return make_plan([], **{"steps": steps, "preference": DPO, **changes})

    return make


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


def test_the_margin_grows_and_every_step_tells_its_rewards(
    make_adapted: Adapted, plan_of: MakePlan, tmp_path: Path
) -> None:
    pairs, seen = some_pairs(12), list[Event]()
    plan = plan_of(pairs, epochs=12.0)
    objective = dpo.objective(plan.train, pairs)
    train(plan, objective, make_adapted(), folder=tmp_path, emit=seen.append, stop=never)
    steps = [event for event in seen if isinstance(event, StepDone)]
    assert len(steps) == plan.train.steps
    assert steps[-1].loss < 0.5 * steps[0].loss
    assert steps[-1].told["reward_accuracy"] == 1.0
    for step in steps:
        told = step.told
        assert told["reward_margin"] == pytest.approx(told["reward_chosen"] - told["reward_rejected"], abs=1e-5)
        assert 0.0 <= told["reward_accuracy"] <= 1.0
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["told"] for line in lines] == [step.told for step in steps]
    assert steps[0].trained_tokens + steps[1].trained_tokens <= sum(len(p.chosen) + len(p.rejected) for p in pairs)


def test_the_first_loss_of_a_fresh_adapter_is_that_of_no_preference(
    make_adapted: Adapted, plan_of: MakePlan, tmp_path: Path
) -> None:
    pairs, seen, model = some_pairs(5), list[Event](), make_adapted()
    for name, parameter in lora_parameters(model).items():
        if name.endswith("lora_B"):
            parameter.data.zero_()
    plan = plan_of(pairs)
    train(plan, dpo.objective(plan.train, pairs), model, folder=tmp_path, emit=seen.append, stop=never)
    (first, *_) = [event for event in seen if isinstance(event, StepDone)]
    assert first.loss == pytest.approx(0.693147, rel=1e-5)
    assert first.told["reward_margin"] == pytest.approx(0.0, abs=1e-5)


def test_going_on_gives_the_bits_of_an_undisturbed_run(
    make_adapted: Adapted, plan_of: MakePlan, make_method: Callable[..., MethodPlan], tmp_path: Path
) -> None:
    """With dropout, several epochs, and the adapter that training goes on from as the reference."""
    pairs = some_pairs(20)
    plan = plan_of(pairs, epochs=3.0, checkpoint_every=100, method=make_method(dropout=0.2))

    def run(folder: Path, stop: Callable[[], bool]) -> None:
        model = make_adapted(dropout=0.2)
        objective = dpo.objective(plan.train, pairs, start=adapter_copy(model))
        train(plan, objective, model, folder=folder, emit=lambda event: None, stop=stop)

    run(tmp_path / "whole", never)
    asked = iter([False, False, False, False, True])
    with pytest.raises(Interrupted, match="stopped after step 5 of"):
        run(tmp_path / "cut", lambda: next(asked))
    run(tmp_path / "cut", never)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.parametrize("changes", [{}, {"bias": "lora_only"}, {"dora": True}], ids=str)
def test_the_reference_is_the_adapter_training_goes_on_from_and_stays_as_it_was(
    make_adapted: Adapted, plan_of: MakePlan, changes: dict[str, object]
) -> None:
    pairs, model = some_pairs(4), make_adapted("qwen2", dropout=0.3, **changes)
    start, row = adapter_copy(model), lay_pairs(pairs, CPU)
    with packing(model), torch.no_grad():
        began = log_probabilities(model.eval(), row)
        for parameter in lora_parameters(model).values():
            parameter.add_(0.1)
        moved = adapter_copy(model)
        model.train()
        reference = reference_log_probabilities(model, row, start)
    torch.testing.assert_close(reference, began)
    assert all(torch.equal(value, moved[name]) for name, value in lora_parameters(model).items())
    assert all(module.training for module in model.modules())


def test_the_reference_of_a_base_that_drops_in_training_drops_nothing(make_method: Callable[..., MethodPlan]) -> None:
    """Phi's layers drop what they add; drawn from the numbers of a step, that would move the policy's own draws too."""
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=131, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        resid_pdrop=0.3, embd_pdrop=0.3,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    attach_lora(model, make_method(), seed=0)
    row = lay_pairs(some_pairs(4), CPU)
    with packing(model):
        expected = reference_log_probabilities(model.eval(), row)
        torch.manual_seed(5)
        found = reference_log_probabilities(model.train(), row)
        drawn = torch.rand(1)
        with torch.no_grad():
            policy = log_probabilities(model, row)
    assert torch.equal(found, expected)
    assert not torch.equal(policy, expected)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1)), "nothing was drawn"


@pytest.mark.parametrize("kind", ["fresh", "goes on", "full"])
def test_pairs_on_layers_that_lie_elsewhere_train_to_the_same_bits(
    make_frozen: Adapted, plan_of: MakePlan, make_method: Callable[..., MethodPlan], tmp_path: Path, kind: str,
    blocks_taken: list[int],
) -> None:  # fmt: skip
    """On two devices, activations on the host, and with an adapter every weight streamed: policy and reference take turns."""
    pairs, base, full = some_pairs(14), tmp_path / "base", kind == "full"
    make_frozen("gemma3").save_pretrained(base)
    method = FULL if full else make_method(dropout=0.2)
    held = {"checkpointed_layers": 2, "feed_forward_again": 1, "offloaded_layers": 3}
    found = []
    for apart in (False, True):
        if apart:
            model = load_placed(
                base, devices=["cpu", "cpu:0"], layers_by_device=[1, 2], streamed_layers=0 if full else 3
            )
        else:
            model = load_base(base)
        if full:
            train_every_weight(model)
        else:
            attach_lora(model, method, seed=0)
        plan = plan_of(pairs, epochs=2.0, method=method, checkpoint_every=100, **(held if apart else {}))
        start = adapter_copy(model) if kind == "goes on" else None
        folder = tmp_path / str(apart)
        train(
            plan, dpo.objective(plan.train, pairs, start=start, beforehand=full), model, folder=folder,
            emit=lambda event: None, stop=never,
        )  # fmt: skip
        found.append((folder / ("model/model.safetensors" if full else WEIGHTS)).read_bytes())
    assert found[0] == found[1]
    assert blocks_taken


def test_later_epochs_take_the_reference_that_was_kept(
    make_adapted: Adapted, plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pairs, asked = some_pairs(12), list[tuple[str, ...]]()

    def counted(model: PreTrainedModel, row: PackedPairs, start: object) -> torch.Tensor:
        asked.append(row.row_ids)
        return reference_log_probabilities(model, row)

    monkeypatch.setattr(dpo, "reference_log_probabilities", counted)
    plan = plan_of(pairs, epochs=4.0)
    train(plan, dpo.objective(plan.train, pairs), make_adapted(), folder=tmp_path, emit=lambda event: None, stop=never)
    assert sorted(pair for row in asked for pair in row) == sorted(pair.pair_id for pair in pairs)


def test_a_plan_of_conversations_and_a_pair_that_is_too_long_are_refused(
    make_plan: MakePlan, plan_of: MakePlan
) -> None:
    pairs = some_pairs(3)
    with pytest.raises(TrainingError, match="not one of preference pairs"):
        dpo.objective(make_plan([], steps=1).train, pairs)
    long = TokenPair("long", (3,) * 30, (4,) * 9, (5,) * 10)
    with pytest.raises(TrainingError, match=r"cannot pack the rows: .* a row holds up to 48"):
        next(dpo.objective(plan_of(pairs).train, [*pairs, long]).batches(0))


def test_tokens_of_an_answer_that_do_not_count_are_seen_and_not_learned(make_adapted: Adapted) -> None:
    model = make_adapted()
    whole = TokenPair("p", (5, 6), (7, 8, 9), (10,))
    masked = whole._replace(chosen_mask=(1, 0, 1))
    with packing(model), torch.no_grad():
        everything, some = (log_probabilities(model, lay_pairs([pair], CPU)) for pair in (whole, masked))
    with torch.no_grad():
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        log_p = model(input_ids=ids).logits[0].log_softmax(-1)
    assert some[0, 0].item() == pytest.approx((log_p[1, 7] + log_p[3, 9]).item(), rel=1e-5)
    assert some[1, 0] == everything[1, 0]


TEXTS = [
    ("Where is my parcel?", " It left Paris on Tuesday.", " No idea."),
    ("Two flights to London under 800 dollars", ' {"city":"London"}', ' {"city":"Paris","size":3}'),
    ("Hello team", " Hello!", " Find me another team, thanks, mine is late today."),
    ("Hello", ' {"team":"billing","urgent":true}', " Thanks!"),
    ("Today is Tuesday", " 2025-07-08", " Find me flights next Tuesday"),
    ("My parcel is late", " Hello team, thanks!", " Paris"),
]
STEPS = 30


@pytest.mark.slow
def test_thirty_losses_and_margins_equal_those_of_trl(
    tiny_base: Path, make_plan: MakePlan, make_method: Callable[..., MethodPlan], tmp_path: Path
) -> None:
    """The same pairs in the same order, the same optimizer and schedule, float32: TRL pads, burnish packs and shares."""
    from datasets import Dataset
    from peft import PeftModel
    from trl import DPOConfig, DPOTrainer

    method = make_method(rank=8, alpha=16.0)
    plan = make_plan(
        [], method=method, steps=STEPS, warmup_steps=0, learning_rate=2e-3, preference={**DPO, "beta": 0.3}
    )
    ours = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).requires_grad_(False)
    attach_lora(ours, method, seed=0)
    save_adapter(ours, tmp_path / "start", method, str(tiny_base))
    numbers = plan.train
    settings = DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=2, max_steps=STEPS, beta=0.3, learning_rate=2e-3,
        lr_scheduler_type=numbers.schedule, warmup_steps=0, weight_decay=0.0, adam_beta1=numbers.betas[0],
        adam_beta2=numbers.betas[1], adam_epsilon=numbers.epsilon, max_grad_norm=numbers.max_gradient_norm,
        optim="adamw_torch_fused", logging_steps=1, report_to="none", save_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_tqdm=True, seed=0,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    trainer = DPOTrainer(
        model=PeftModel.from_pretrained(base, str(tmp_path / "start"), is_trainable=True), args=settings,
        train_dataset=Dataset.from_list([{"prompt": p, "chosen": c, "rejected": r} for p, c, r in TEXTS]),
        processing_class=AutoTokenizer.from_pretrained(tiny_base),
    )  # fmt: skip
    batches: list[list[TokenPair]] = []
    collate = trainer.data_collator

    def recorded(rows: object) -> object:
        batch = collate(rows)
        batches.append(pairs_in(batch))
        return batch

    trainer.data_collator = recorded
    trainer.train()
    expected = [entry for entry in trainer.state.log_history if "loss" in entry]

    def loss_of(model: PreTrainedModel, row: PackedPairs) -> Loss:
        assert plan.train.preference is not None
        reference = reference_log_probabilities(model, row)
        return dpo.loss(plan.train.preference, row, reference, log_probabilities(model, row))

    rows = [lay_pairs(batch, CPU) for batch in batches[:STEPS]]
    objective = Objective(lambda first: iter([[row] for row in rows[first:]]), lambda: rows[0], loss_of)
    seen: list[Event] = []
    train(plan, objective, ours, folder=tmp_path / "ours", emit=seen.append, stop=never)
    found = [event for event in seen if isinstance(event, StepDone)]
    assert len(found) == len(expected) == STEPS
    for step, entry in zip(found, expected, strict=True):
        assert step.loss == pytest.approx(entry["loss"], rel=2e-4, abs=2e-4)
        assert step.told["reward_margin"] == pytest.approx(entry["rewards/margins"], rel=2e-3, abs=2e-3)
    assert found[-1].loss < 0.9 * found[0].loss


def pairs_in(batch: dict[str, torch.Tensor]) -> list[TokenPair]:
    """Read TRL's batch, chosen rows above rejected ones, back into pairs."""
    ids, kept, answer = batch["input_ids"], batch["attention_mask"].bool(), batch["completion_mask"].bool()
    prompts = [tuple(row[k & ~a].tolist()) for row, k, a in zip(ids, kept, answer, strict=True)]
    answers = [tuple(row[a].tolist()) for row, a in zip(ids, answer, strict=True)]
    half = len(answers) // 2
    return [TokenPair(f"pair-{i}", prompts[i], answers[i], answers[half + i]) for i in range(half)]


def test_with_every_weight_the_reference_is_the_model_as_it_began_even_in_a_run_that_goes_on(
    make_adapted: Adapted, plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    def whole() -> PreTrainedModel:
        model = merge_lora(make_adapted())
        train_every_weight(model)
        return model

    pairs = some_pairs(16)
    plan = plan_of(pairs, epochs=4.0, learning_rate=1e-3, method=FULL, checkpoint_every=100)

    def run(folder: Path, stop: Callable[[], bool] = never) -> list[StepDone]:
        seen: list[Event] = []
        objective = dpo.objective(plan.train, pairs, beforehand=True)
        train(plan, objective, whole(), folder=folder, emit=seen.append, stop=stop)
        return [event for event in seen if isinstance(event, StepDone)]

    steps = run(tmp_path / "whole")
    assert steps[0].loss == pytest.approx(math.log(2), abs=1e-6)  # the policy is its own reference, so the margin is 0
    assert steps[-1].loss < 0.6
    assert steps[-1].told["reward_margin"] > 0.1
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", stop=lambda: next(asked))
    run(tmp_path / "cut")
    found = [(folder / "model" / "model.safetensors").read_bytes() for folder in (tmp_path / "whole", tmp_path / "cut")]
    assert found[0] == found[1]
