"""Packed training computes what one-by-one training computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from burnish.core.artifacts import Plan
from burnish.core.errors import TrainingError
from burnish.core.packing import pack_order
from burnish.core.rows import TokenRow
from burnish.model.attention import packing
from burnish.model.lora import lora_parameters
from burnish.model.recompute import Recomputation
from burnish.train import sft
from burnish.train.objective import CPU_TOKENS
from burnish.train.pack import lengths_of, pack_row
from one_by_one import assert_same, gradients, one_by_one

CPU = torch.device("cpu")
Rows = Callable[..., list[TokenRow]]
Adapted = Callable[..., PreTrainedModel]
MakePlan = Callable[..., Plan]


def packed(model: PreTrainedModel, groups: Sequence[Sequence[TokenRow]]) -> tuple[float, torch.Tensor]:
    total = 0.0
    with packing(model):
        for group in groups:
            loss = sft.loss(model, pack_row(group, CPU))
            loss.backward()
            total += loss.item()
    return total, gradients(model)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_a_packed_row_gives_the_loss_and_gradients_of_its_rows_one_by_one(
    make_adapted: Adapted, make_rows: Rows, architecture: str
) -> None:
    rows = make_rows(9)  # prefixes of 9, 5 and 0 tokens, in turn
    assert_same(packed(make_adapted(architecture), [rows]), one_by_one(make_adapted(architecture), rows))


def test_rows_without_any_prefix_are_packed_as_exactly(make_adapted: Adapted, make_rows: Rows) -> None:
    rows = make_rows(5, prefixes=(0,))
    assert_same(packed(make_adapted(), [rows]), one_by_one(make_adapted(), rows))


def test_how_rows_are_split_over_packed_rows_changes_nothing(make_adapted: Adapted, make_rows: Rows) -> None:
    rows = make_rows(8)
    assert_same(packed(make_adapted(), [rows]), packed(make_adapted(), [[row] for row in rows]))


def test_recomputed_layers_change_nothing(make_adapted: Adapted, make_rows: Rows) -> None:
    rows = make_rows(6)
    expected = packed(make_adapted().train(), [rows])
    for count in (1, 3):
        model = make_adapted().train()
        with Recomputation(model, count):
            recomputed = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
            assert len([module for module in recomputed if module is not model.base_model]) == count
            found = packed(model, [rows])
        assert found[0] == expected[0]
        assert torch.equal(found[1], expected[1])
        assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_a_token_of_one_sample_never_changes_another(make_adapted: Adapted, make_rows: Rows) -> None:
    model, rows = make_adapted(), make_rows(4, prefixes=(6,))
    other = rows[1]._replace(ids=rows[1].ids[:6] + tuple((token + 1) % 131 for token in rows[1].ids[6:]))

    def hidden(second: TokenRow) -> torch.Tensor:
        row = pack_row([rows[0], second, rows[2]], CPU)
        with packing(model), torch.no_grad():
            return model.base_model(
                input_ids=row.ids_T[None], position_ids=row.layout.positions_T[None], packed=row.layout
            ).last_hidden_state[0]

    before, after = hidden(rows[1]), hidden(other)
    start, end = len(rows[0].ids), len(rows[0].ids) + len(rows[1].ids) - 6
    assert torch.equal(before[:start], after[:start])
    assert torch.equal(before[end:], after[end:])
    assert not torch.allclose(before[start:end], after[start:end])


def test_prefix_and_prompt_tokens_are_never_targets(make_rows: Rows) -> None:
    rows = make_rows(6)
    row = pack_row(rows, CPU)
    assert row.trained_tokens == sum(sum(one.mask) for one in rows)
    assert row.tokens == sum(len(one.ids) for one in rows) - 9 - 5  # two prefixes, each for two rows
    answers = [one.ids[index] for one in rows for index in range(len(one.ids)) if one.mask[index]]
    assert sorted(row.targets_N.tolist()) == sorted(answers)


def test_each_target_is_the_next_token_of_the_same_sample(make_rows: Rows) -> None:
    rows = make_rows(6)
    row = pack_row(rows, CPU)
    assert torch.equal(row.ids_T[row.at_N + 1], row.targets_N)
    owner = {index: segment for segment in row.layout.segments for index in range(segment.start, segment.end)}
    assert all(owner[at] is owner[at + 1] for at in row.at_N.tolist())


def test_positions_go_on_after_the_prefix(make_rows: Rows) -> None:
    rows = make_rows(2, prefixes=(4,))
    tails = [len(one.ids) - 4 for one in rows]
    positions = pack_row(rows, CPU).layout.positions_T.tolist()
    assert positions == [*range(4), *range(4, 4 + tails[0]), *range(4, 4 + tails[1])]


def test_loss_on_a_prefix_is_refused(make_rows: Rows) -> None:
    row = make_rows(1)[0]
    wrong = row._replace(mask=(0,) * 8 + (1,) * (len(row.ids) - 8))
    with pytest.raises(TrainingError, match=f"row {row.row_id} has loss within its prefix"):
        pack_row([wrong], CPU)


def test_a_row_that_is_all_prefix_still_trains_nothing_and_is_kept() -> None:
    row = pack_row([TokenRow("x", (5, 6, 7), (0, 0, 0), 3, 3)], CPU)
    assert (row.tokens, row.trained_tokens) == (3, 0)


def test_batches_hold_every_row_once_an_epoch(make_rows: Rows, make_plan: MakePlan) -> None:
    rows = make_rows(30)
    plan = make_plan(rows, epochs=2.0)
    seen = [row_id for batch in sft.objective(plan.train, rows).batches(0) for row in batch for row_id in row.row_ids]
    assert sorted(seen) == sorted([row.row_id for row in rows] * 2)


def test_batches_from_a_later_step_are_the_same_batches(make_rows: Rows, make_plan: MakePlan) -> None:
    rows = make_rows(30)
    plan = make_plan(rows).train
    everything = list(sft.objective(plan, rows).batches(0))
    assert len(everything) == plan.steps
    later = list(sft.objective(plan, rows).batches(2))
    assert [[row.row_ids for row in batch] for batch in later] == [
        [row.row_ids for row in batch] for batch in everything[2:]
    ]


def test_rows_without_any_trained_token_are_an_error(make_rows: Rows, make_plan: MakePlan) -> None:
    rows = [row._replace(mask=(0,) * len(row.ids)) for row in make_rows(3)]
    with pytest.raises(TrainingError, match="none of the 3 rows has a token with loss"):
        next(sft.objective(make_plan(rows).train, rows).batches(0))


def test_a_plan_for_other_rows_is_an_error(make_rows: Rows, make_plan: MakePlan) -> None:
    plan = make_plan(make_rows(30)).train
    with pytest.raises(TrainingError, match=f"the plan counts {plan.steps} steps, the rows make"):
        next(sft.objective(plan, make_rows(5)).batches(0))


def test_a_row_longer_than_a_packed_row_is_an_error(make_rows: Rows, make_plan: MakePlan) -> None:
    rows = make_rows(3)
    with pytest.raises(TrainingError, match="a row holds up to 8"):
        next(sft.objective(make_plan(rows, steps=1, row_tokens=8).train, rows).batches(0))


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_filler_rounds_a_row_up_and_changes_neither_loss_nor_gradients(
    make_adapted: Adapted, make_rows: Rows, architecture: str
) -> None:
    rows = make_rows(7)
    plain, filled = pack_row(rows, CPU), pack_row(rows, CPU, multiple_of=32)
    assert filled.tokens == plain.tokens == len(plain.ids_T)
    assert len(filled.ids_T) % 32 == 0 < len(filled.ids_T) - filled.tokens
    results: list[tuple[float, torch.Tensor]] = []
    for row in (plain, filled):
        model = make_adapted(architecture)
        with packing(model):
            loss = sft.loss(model, row)
        loss.backward()
        results.append((loss.item(), gradients(model)))
    assert_same(results[1], results[0])


def test_only_bfloat16_on_a_cpu_is_filled(make_plan: MakePlan, make_rows: Rows) -> None:
    rows = make_rows(7)
    for dtype, filled in (("float32", False), ("bfloat16", True)):
        plan = make_plan(rows, compute_dtype=dtype, row_tokens=120).train
        steps = [row for step in sft.objective(plan, rows).batches(0) for row in step]
        assert all((len(row.ids_T) % CPU_TOKENS == 0) is filled for row in steps)
        assert sum(row.trained_tokens for row in steps) == sum(sum(row.mask[1:]) for row in rows)


def test_bfloat16_gradients_point_where_those_of_float32_do(make_adapted: Adapted, make_rows: Rows) -> None:
    rows = make_rows(9)
    exact = packed(make_adapted(), [rows])
    model = make_adapted()
    parameters = lora_parameters(model)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if "lora_" not in name:
            tensor.data = tensor.data.bfloat16()
    with packing(model):
        loss = sft.loss(model, pack_row(rows, CPU, multiple_of=32))
    loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in parameters.values())
    assert loss.item() == pytest.approx(exact[0], rel=0.02)
    assert torch.cosine_similarity(gradients(model), exact[1], dim=0) > 0.99


def test_an_order_is_packed_block_by_block_and_kept(make_rows: Rows, make_plan: MakePlan) -> None:
    rows = make_rows(12)
    order = ((7, 3, 7), tuple(range(6)), (11, 3))
    packed = len(pack_order(lengths_of(rows), order, 48, 0))
    plan = make_plan(rows, rows_per_step=1, steps=packed).train
    seen = list(sft.objective(plan, rows, order).batches(0))
    drawn = [[row.row_ids for row in batch] for batch in seen]
    flat = [name for batch in drawn for names in batch for name in names]
    assert sorted(flat[:3]) == ["row-3", "row-7", "row-7"]
    assert sorted(flat[3:9]) == [f"row-{number}" for number in range(6)]
    assert sorted(flat[9:]) == ["row-11", "row-3"]
    later = [[row.row_ids for row in b] for b in sft.objective(plan, rows, order).batches(2)]
    assert later == drawn[2:], "a run that goes on takes the same rows"
