"""The loss curve of the loop against TRL's SFTTrainer: same rows, same order, same schedule, same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.events import Event, StepDone
from burnish.core.rows import TokenRow
from burnish.model.load import load_base
from burnish.model.lora import attach_lora, save_adapter
from burnish.train import sft
from burnish.train.loop import train

STEPS = 200
TOLERANCE = 1e-4
"""Largest relative difference of two losses. Both run in float32, but sum in another order, and 200 steps of Adam carry that on."""


def write_base(folder: Path, tokenizer: Path, *, tied: bool = False) -> Path:
    """Write a Llama of about a million random parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        tie_word_embeddings=tied,
    )  # fmt: skip
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # larger than the initialiser makes them, so that an adapter can learn
            if parameter.ndim == 2:
                parameter.mul_(4)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def theirs(
    folder: Path,
    adapter: Path | None,
    rows: Sequence[TokenRow],
    plan: Plan,
    output: Path,
    *,
    optim: str = "adamw_torch_fused",
) -> list[float]:
    """Return TRL's loss of each step on the rows in the order given; of every weight trained where there is no adapter."""
    from datasets import Dataset  # here, because a machine that only runs `make gpu` has neither
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list(
        [
            {"input_ids": list(row.ids), "labels": [i if m else -100 for i, m in zip(row.ids, row.mask, strict=True)]}
            for row in rows
        ]
    )
    numbers = plan.train
    settings = SFTConfig(
        output_dir=str(output), per_device_train_batch_size=1, gradient_accumulation_steps=numbers.rows_per_step,
        max_steps=numbers.steps, learning_rate=numbers.learning_rate, lr_scheduler_type=numbers.schedule, warmup_steps=0,
        weight_decay=numbers.weight_decay, adam_beta1=numbers.betas[0], adam_beta2=numbers.betas[1],
        adam_epsilon=numbers.epsilon, max_grad_norm=numbers.max_gradient_norm, optim=optim, logging_steps=1,
        train_sampling_strategy="sequential", report_to="none", save_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False,
        disable_tqdm=True, seed=0,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = base if adapter is None else PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer = SFTTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
def test_two_hundred_losses_equal_those_of_trl(
    tiny_base: Path,
    make_rows: Callable[..., list[TokenRow]],
    make_plan: Callable[..., Plan],
    make_method: Callable[..., MethodPlan],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    method = make_method(rank=8, alpha=16.0)
    # packed rows of 19 tokens have no place for two samples of more than 9: one row a forward pass, as TRL computes it
    rows = [row for row in make_rows(2 * STEPS, prefixes=(0,)) if len(row.ids) > 9][:100]
    plan = make_plan(
        rows, method=method, row_tokens=19, rows_per_step=2, epochs=4.0, warmup_steps=0, learning_rate=3e-3
    )
    base = write_base(tmp_path / "base", tiny_base)
    ours = load_base(base)
    attach_lora(ours, method, seed=0)
    save_adapter(ours, tmp_path / "start", method, str(base))
    by_id = {row.row_id: row for row in rows}
    batches = list(sft.objective(plan.train, rows).batches(0))
    assert len(batches) == plan.train.steps == STEPS
    assert all(len(batch) == 2 and all(len(row.row_ids) == 1 for row in batch) for batch in batches)
    order = [by_id[row_id] for batch in batches for row in batch for row_id in row.row_ids]
    seen: list[Event] = []
    train(plan, sft.objective(plan.train, rows), ours, folder=tmp_path / "ours", emit=seen.append, stop=lambda: False)
    found = [event.loss for event in seen if isinstance(event, StepDone)]
    expected = theirs(base, tmp_path / "start", order, plan, tmp_path / "theirs")
    assert len(found) == len(expected) == STEPS
    worst = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
    record_property("largest_relative_difference", worst)
    assert found[-1] < 0.8 * found[0]
    assert worst < TOLERANCE


@pytest.mark.parametrize(
    ("tied", "optim", "ours"), [(True, "adamw_torch_fused", None), (False, "adamw_bnb_8bit", "adamw_8bit")]
)
def test_forty_losses_of_every_weight_equal_those_of_trl(
    tiny_base: Path,
    make_rows: Callable[..., list[TokenRow]],
    make_plan: Callable[..., Plan],
    tmp_path: Path,
    tied: bool,
    optim: str,
    ours: str | None,
) -> None:
    """With weight decay, which norms and biases do not have in either, and with gradients that are clipped."""
    from burnish.model.full import train_every_weight

    rows = [row for row in make_rows(80, prefixes=(0,)) if len(row.ids) > 9][:20]
    method = MethodPlan(
        kind="full", rank=0, alpha=0.0, dropout=0.0, targets=(), quantisation="none", double_quantisation=False
    )
    plan = make_plan(
        rows, method=method, row_tokens=19, rows_per_step=2, epochs=4.0, warmup_steps=0, learning_rate=3e-4,
        weight_decay=0.1, max_gradient_norm=0.5, optimizer=ours,
    )  # fmt: skip
    assert plan.train.steps == 40
    base = write_base(tmp_path / "base", tiny_base, tied=tied)
    model = load_base(base)
    train_every_weight(model)
    by_id = {row.row_id: row for row in rows}
    order = [
        by_id[row_id] for batch in sft.objective(plan.train, rows).batches(0) for row in batch for row_id in row.row_ids
    ]
    seen: list[Event] = []
    train(plan, sft.objective(plan.train, rows), model, folder=tmp_path / "ours", emit=seen.append, stop=lambda: False)
    found = [event for event in seen if isinstance(event, StepDone)]
    expected = theirs(base, None, order, plan, tmp_path / "theirs", optim=optim)
    assert len(expected) == 40
    worst = max(abs(a.loss - b) / b for a, b in zip(found, expected, strict=True))
    assert max(step.gradient_norm for step in found) > 0.5
    assert found[-1].loss < 0.8 * found[0].loss
    assert worst < TOLERANCE
