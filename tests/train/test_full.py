"""Every weight trained: against transformers' Trainer, by each optimizer, stopped and gone on, on disk as a base of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig, PhiConfig, PreTrainedModel

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.errors import Interrupted, TrainingError
from burnish.core.events import Event, Note, StepDone
from burnish.core.rows import TokenRow
from burnish.model.full import save_model, train_every_weight
from burnish.model.load import load_base
from burnish.model.place import load_placed
from burnish.train import checkpoint, sft
from burnish.train.loop import train

Rows = Callable[..., list[TokenRow]]
MakePlan = Callable[..., Plan]
ON_A_CPU = (None, "adamw_8bit", "muon", "adafactor")
FULL = MethodPlan(
    kind="full", rank=0, alpha=0.0, dropout=0.0, targets=(), quantisation="none", double_quantisation=False
)


@pytest.fixture
def make_whole(make_configs: dict[str, Callable]) -> Callable[..., PreTrainedModel]:
    """Return a tiny model every weight of which is trained."""

    def make(architecture: str = "llama", *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(make_configs[architecture](), attn_implementation="sdpa").to(dtype)
        model.eval()
        train_every_weight(model)
        return model

    return make


def run(plan: Plan, rows: Sequence[TokenRow], model: PreTrainedModel, folder: Path, **more: object) -> list[StepDone]:
    seen: list[Event] = []
    stop = more.get("stop", lambda: False)
    train(plan, sft.objective(plan.train, rows), model, folder=folder, emit=seen.append, stop=stop)  # type: ignore[arg-type]
    return [event for event in seen if isinstance(event, StepDone)]


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "model").glob("*.safetensors"))}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_every_weight_learns_and_transformers_reads_what_was_written(
    make_whole: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan, tmp_path: Path, architecture: str
) -> None:
    rows, model = make_rows(12), make_whole(architecture)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    plan = make_plan(rows, method=FULL, epochs=20.0, learning_rate=5e-3)
    steps = run(plan, rows, model, tmp_path)
    assert steps[-1].loss < 0.7 * steps[0].loss
    assert [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])] == []
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    ids = torch.tensor([rows[0].ids])
    assert torch.equal(model(input_ids=ids).logits, theirs(input_ids=ids).logits)
    assert theirs.config.use_cache
    assert not (tmp_path / "adapter").exists()


def test_a_tied_head_and_the_embedding_are_trained_as_one_weight(
    make_whole: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows, model = make_rows(4), make_whole("llama")
    run(make_plan(rows, method=FULL), rows, model, tmp_path)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    again = load_base(tmp_path / "model")
    assert torch.equal(again.get_output_embeddings().weight, model.get_input_embeddings().weight)


SMALL = {
    "vocab_size": 131, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
OTHERS = {
    "phi": lambda: PhiConfig(**SMALL),
    "cohere": lambda: CohereConfig(**SMALL, logit_scale=0.25),
    "granite": lambda: GraniteConfig(**SMALL, logits_scaling=4.0, embedding_multiplier=3.0, attention_dropout=0.2),
}
"""Bases of the plain path: a head with a bias, logits with a scale, attention weights that are dropped elsewhere."""


@pytest.mark.parametrize("architecture", ["llama", "phi", "cohere", "granite"])
def test_gradients_are_those_of_transformers_own_loss(
    make_whole: Callable[..., PreTrainedModel], make_configs: dict[str, Callable], make_rows: Rows, architecture: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of head (its bias), embedding (tied: both at once), norms and linears, in float64."""
    from burnish.model.attention import packing
    from burnish.train.pack import pack_row

    for name, config in OTHERS.items():
        monkeypatch.setitem(make_configs, name, config)
    (row,) = make_rows(1, prefixes=(0,))
    model, theirs = (make_whole(architecture).double() for _ in range(2))
    model.train()
    with packing(model):
        packed = pack_row([row], torch.device("cpu"))
        mine = sft.loss(model, packed) / packed.trained_tokens
        mine.backward()
    labels = torch.tensor([t if m else -100 for t, m in zip(row.ids, row.mask, strict=True)])
    logits = theirs(input_ids=torch.tensor([row.ids])).logits[0]
    expected = torch.nn.functional.cross_entropy(logits[:-1], labels[1:])  # its own loss rounds logits to float32
    expected.backward()
    assert mine.item() == pytest.approx(expected.item(), rel=1e-9)
    for (name, ours), (_, reference) in zip(model.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("architecture", ["phi", "granite"])
def test_a_base_of_the_plain_path_learns_and_says_what_is_left_out(
    make_whole: Callable[..., PreTrainedModel], make_configs: dict[str, Callable], make_rows: Rows, make_plan: MakePlan,
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(make_configs, architecture, OTHERS[architecture])
    rows, seen = make_rows(8), list[Event]()
    plan = make_plan(rows, method=FULL, epochs=10.0, learning_rate=5e-3)
    model = make_whole(architecture)
    train(plan, sft.objective(plan.train, rows), model, folder=tmp_path, emit=seen.append, stop=lambda: False)
    losses = [event.loss for event in seen if isinstance(event, StepDone)]
    assert losses[-1] < 0.95 * losses[0]
    told = [event.text for event in seen if isinstance(event, Note)]
    assert any("plain path for 2 layers" in text for text in told)
    assert any("no attention weights are dropped: the base's 0.2" in text for text in told) == (
        architecture == "granite"
    )


@pytest.mark.parametrize("in_backward", [None, True])
@pytest.mark.parametrize("optimizer", ON_A_CPU)
def test_layers_on_two_devices_whose_activations_wait_on_the_host_train_to_the_same_bits(
    make_whole: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan, tmp_path: Path,
    optimizer: str | None, in_backward: bool | None, blocks_taken: list[int],
) -> None:  # fmt: skip
    """Both devices are the CPU; stopped once as well."""
    rows, model = make_rows(10), make_whole("qwen3")
    save_model(model, tmp_path / "base")
    plan = make_plan(
        rows, method=FULL, optimizer=optimizer, optimizer_in_backward=in_backward, rows_per_step=1, epochs=3.0
    )
    run(plan, rows, model, tmp_path / "whole")
    train = plan.train.model_copy(
        update={"layers_by_device": (1, 2), "checkpointed_layers": 2, "feed_forward_again": 1, "offloaded_layers": 3}
    )
    asked = iter([False] * 2 + [True] + [False] * 100)
    for stopped in (True, False):
        split = load_placed(tmp_path / "base", devices=["cpu", "cpu:0"], layers_by_device=[1, 2])
        train_every_weight(split)
        with pytest.raises(Interrupted) if stopped else nullcontext():
            run(plan.model_copy(update={"train": train}), rows, split, tmp_path / "split", stop=lambda: next(asked))
    assert weights(tmp_path / "split") == weights(tmp_path / "whole")
    assert blocks_taken


@pytest.mark.parametrize("in_backward", [None, True])
@pytest.mark.parametrize("optimizer", ON_A_CPU)
def test_each_optimizer_learns_and_goes_on_with_the_same_bits(
    make_whole: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan, tmp_path: Path,
    optimizer: str | None, in_backward: bool | None,
) -> None:  # fmt: skip
    rows = make_rows(16)
    rate = 3e-2 if optimizer == "adafactor" else 3e-3
    plan = make_plan(
        rows, method=FULL, epochs=4.0, learning_rate=rate, optimizer=optimizer, optimizer_in_backward=in_backward,
        rows_per_step=1, weight_decay=0.01, checkpoint_every=1000,
    )  # fmt: skip
    steps = run(plan, rows, make_whole("qwen3"), tmp_path / "whole")
    assert sum(step.loss for step in steps[-4:]) < 0.9 * sum(step.loss for step in steps[:4])
    asked = iter([False] * 4 + [True])
    with pytest.raises(Interrupted, match="stopped after step 5 of"):
        run(plan, rows, make_whole("qwen3"), tmp_path / "cut", stop=lambda: next(asked))
    run(plan, rows, make_whole("qwen3"), tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_checkpoint_of_many_files_goes_on_with_the_same_bits(
    make_whole: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 60_000)
    rows = make_rows(16)
    plan = make_plan(rows, method=FULL, learning_rate=3e-3, checkpoint_every=1000)
    run(plan, rows, make_whole(), tmp_path / "whole")
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run(plan, rows, make_whole(), tmp_path / "cut", stop=lambda: next(asked))
    (saved,) = (tmp_path / "cut" / "checkpoints").iterdir()
    assert len(list(saved.glob("optimizer*.safetensors"))) > 3
    run(plan, rows, make_whole(), tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_updates_in_backward_are_those_at_the_end_where_nothing_is_clipped(
    make_whole: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows, found = make_rows(12), []
    for in_backward in (None, True):
        plan = make_plan(
            rows,
            method=FULL,
            rows_per_step=1,
            learning_rate=1e-3,
            max_gradient_norm=1e9,
            optimizer_in_backward=in_backward,
        )
        found.append(run(plan, rows, make_whole(), tmp_path / str(in_backward)))
    assert [step.loss for step in found[0]] == [step.loss for step in found[1]]
    assert [step.gradient_norm for step in found[1]] == pytest.approx(
        [step.gradient_norm for step in found[0]], rel=1e-5
    )


def test_no_two_gradients_are_held_at_once_in_backward(
    make_whole: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows, model = make_rows(6), make_whole()
    most: list[int] = []
    for weight in model.parameters():
        weight.register_hook(lambda gradient: most.append(sum(p.grad is not None for p in model.parameters())))
    plan = make_plan(rows, method=FULL, rows_per_step=1, optimizer_in_backward=True)
    run(plan, rows, model, tmp_path)
    assert most
    assert max(most) == 0


def test_16_bit_weights_move_by_less_than_their_own_steps(
    make_whole: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    """At a rate whose every update bfloat16 would round away, float32 weights beside it add up what is learned."""
    rows = make_rows(12)
    losses = {}
    for dtype in (torch.bfloat16, torch.float32):
        plan = make_plan(
            rows, method=FULL, epochs=30.0, learning_rate=3e-5, schedule="constant", warmup_steps=0,
            compute_dtype=str(dtype).removeprefix("torch."), checkpoint_every=1000,
        )  # fmt: skip
        model = make_whole("llama", dtype=torch.bfloat16).to(dtype)
        steps = run(plan, rows, model, tmp_path / str(dtype))
        losses[dtype] = [step.loss for step in steps]
        assert {weight.dtype for weight in model.parameters()} == {dtype}
    fall = {dtype: of[0] - of[-1] for dtype, of in losses.items()}
    assert fall[torch.float32] > 0.01
    assert fall[torch.bfloat16] == pytest.approx(fall[torch.float32], rel=0.1)


def test_vectors_do_not_decay_and_matrices_do(
    make_whole: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan
) -> None:
    from burnish.train.optim import optimizers

    model = make_whole("qwen3")
    named = dict(model.named_parameters())
    ids = {id(weight): name for name, weight in named.items()}
    for optimizer in ON_A_CPU:
        plan = make_plan(make_rows(3), optimizer=optimizer, weight_decay=0.1).train
        decays = {
            ids[id(weight)]: group["weight_decay"]
            for found in optimizers(plan, named, {"model.embed_tokens.weight", "lm_head.weight"})
            for group in found.param_groups
            for weight in group["params"]
        }
        assert decays == {name: 0.1 if weight.ndim > 1 else 0.0 for name, weight in named.items()}


def test_a_model_is_written_in_shards_whole_or_not_at_all(
    make_whole: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model = make_whole("qwen3")
    save_model(model, tmp_path / "model", shard_bytes=100_000)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 2
    assert all((tmp_path / "model" / name).stat().st_size < 120_000 for name in shards)
    again = load_base(tmp_path / "model")
    for name, weight in model.named_parameters():
        assert torch.equal(again.get_parameter(name), weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_whose_weights_are_frozen_is_an_error(
    make_whole: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: MakePlan, tmp_path: Path
) -> None:
    rows, model = make_rows(3), make_whole().requires_grad_(False)
    with pytest.raises(TrainingError, match="no weight of the model has a gradient"):
        run(make_plan(rows, method=FULL), rows, model, tmp_path)
