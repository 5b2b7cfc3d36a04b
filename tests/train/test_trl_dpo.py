"""The losses of preference pairs against TRL's DPOTrainer, in float64: same model, same adapter, same batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from burnish.core.artifacts import MethodPlan
from burnish.core.rows import TokenPair
from burnish.model.attention import packing
from burnish.model.lora import attach_lora, lora_parameters
from burnish.model.preference_loss import PreferenceKind, pair_rewards, preference_losses
from burnish.train.pairs import lay_pairs, log_probabilities, reference_log_probabilities

BETA = 0.3
METHOD = MethodPlan(
    kind="lora", rank=4, alpha=8.0, dropout=0.0, targets=("all-linear",), quantisation="none", double_quantisation=True
)  # fmt: skip
TEXTS = [
    ("Where is my parcel?", " It left Paris on Tuesday.", " No idea."),
    ("Two flights to London under 800 dollars", ' {"city":"London"}', ' {"city":"Paris","size":3}'),
    ("Hello team", " Hello!", " Find me another team, thanks, mine is late today."),
]


def in_float64(folder: Path):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():  # larger than the initialiser makes them, so that answers differ
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model


def ours(folder: Path):
    """Return the model with an adapter whose B is random, as after some training."""
    model = in_float64(folder).requires_grad_(False)
    attach_lora(model, METHOD, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            if name.endswith("lora_B"):
                parameter.normal_(std=0.05)
    return model


def trainer_of_trl(folder: Path, kind: PreferenceKind, adapter: dict[str, Tensor], output: Path):
    """Return TRL's trainer with the same adapter on the same model; its reference is the model without it."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    settings = DPOConfig(
        output_dir=str(output), per_device_train_batch_size=len(TEXTS), loss_type=[kind], beta=BETA, report_to="none",
        use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": p, "chosen": c, "rejected": r} for p, c, r in TEXTS])
    trainer = DPOTrainer(
        model=in_float64(folder), args=settings, train_dataset=data, processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(r=METHOD.rank, lora_alpha=METHOD.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    theirs = {name: p for name, p in trainer.model.named_parameters() if "lora_" in name}
    assert len(theirs) == len(adapter)
    with torch.no_grad():
        for name, value in adapter.items():
            theirs[f"base_model.model.{name}.default.weight"].data = value.detach().double()
    return trainer


def pairs_of(batch: dict[str, Tensor]) -> list[TokenPair]:
    """Read TRL's batch, chosen rows above rejected ones, back into pairs."""
    ids, kept, answer = batch["input_ids"], batch["attention_mask"].bool(), batch["completion_mask"].bool()
    prompts = [tuple(row[k & ~a].tolist()) for row, k, a in zip(ids, kept, answer, strict=True)]
    answers = [tuple(row[a].tolist()) for row, a in zip(ids, answer, strict=True)]
    half = len(answers) // 2
    assert prompts[:half] == prompts[half:]
    return [TokenPair(f"pair-{i}", prompts[i], answers[i], answers[half + i]) for i in range(half)]


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge"])
def test_loss_gradients_and_rewards_equal_those_of_trl_closely(
    tiny_base: Path, tmp_path: Path, kind: PreferenceKind
) -> None:
    model = ours(tiny_base)
    adapter = lora_parameters(model)
    trainer = trainer_of_trl(tiny_base, kind, dict(adapter), tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model.train(), batch)
    expected.backward()
    row = lay_pairs(pairs_of(batch), torch.device("cpu"))
    with packing(model):
        policy, reference = log_probabilities(model, row), reference_log_probabilities(model, row)
        found = preference_losses(policy, reference, row.lengths_2P, kind=kind, beta=BETA).mean()
        found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    theirs = {name: p for name, p in trainer.model.named_parameters() if "lora_" in name}
    for name, parameter in adapter.items():
        gradient = theirs[f"base_model.model.{name}.default.weight"].grad
        torch.testing.assert_close(
            parameter.grad.double(), gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item()
        )
    rewards, logged = pair_rewards(policy, reference, beta=BETA), trainer._metrics["train"]
    assert rewards.chosen == pytest.approx(logged["rewards/chosen"][0], rel=1e-5)
    assert rewards.margin == pytest.approx(logged["rewards/margins"][0], rel=1e-5)
    assert rewards.accuracy == pytest.approx(logged["rewards/accuracies"][0])


def test_gradients_of_every_weight_equal_those_of_trl(tiny_base: Path, tmp_path: Path) -> None:
    """Against TRL with a second model as reference; the policy has moved away from it. Head and embedding are tied."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    settings = DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=len(TEXTS), beta=BETA, report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, save_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    before, policy, theirs = (in_float64(tiny_base) for _ in range(3))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            weight.add_(0.02 * torch.randn_like(weight))
            theirs.get_parameter(name).copy_(weight)
    data = Dataset.from_list([{"prompt": p, "chosen": c, "rejected": r} for p, c, r in TEXTS])
    trainer = DPOTrainer(
        model=theirs, ref_model=before, args=settings, train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(tiny_base),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model.train(), batch)
    expected.backward()
    row = lay_pairs(pairs_of(batch), torch.device("cpu"))
    with packing(before):
        reference = reference_log_probabilities(before, row)
    with packing(policy):
        found = preference_losses(log_probabilities(policy, row), reference, row.lengths_2P, beta=BETA).mean()
        found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, weight in policy.named_parameters():
        gradient = theirs.get_parameter(name).grad
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())
