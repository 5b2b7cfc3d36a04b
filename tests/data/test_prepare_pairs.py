"""Preference pairs through `prepare`: masks, ledger, splits, token account, what is refused and why."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from preparing import Prepare, Prepared

from burnish.core.rows import TokenPair, pairs_of
from burnish.data.pair import read_content
from burnish.data.rows import read_token_rows, tokens_path
from burnish.data.versions.forgotten import row_hash
from burnish.data.versions.held import held
from burnish.text.tokenizer import Tokenizer

DPO: dict[str, Any] = {"objective": "dpo"}
HELD = {"prompt": "Held out?", "chosen": "Yes, this row.", "rejected": "Not at all.", "split": "test"}
"""Keeps every other row in the training split."""


def pair(ask: Any, better: Any, worse: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": ask, "chosen": better, "rejected": worse, **more}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pairs(done: Prepared, split: str = "train") -> list[TokenPair]:
    return list(pairs_of(read_token_rows(tokens_path(done.folder, split))))


def test_a_pair_becomes_a_prompt_and_two_answers_with_their_stop_tokens(
    run_prepare: Prepare, tokenizer: Tokenizer
) -> None:
    done = run_prepare([pair("Where to?", "To Oslo.", "No idea at all."), HELD], system="Be short.", **DPO)
    (found,) = pairs(done)
    said = "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nWhere to?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(found.prompt) == tokenizer.decode(tokenizer.encode(said))
    stop = next(iter(tokenizer.stop_ids))
    assert (tokenizer.decode(found.chosen[:-1]), found.chosen[-1]) == ("To Oslo.", stop)
    assert (tokenizer.decode(found.rejected[:-1]), found.rejected[-1]) == ("No idea at all.", stop)
    assert found.chosen_mask is None
    assert found.rejected_mask is None
    (row,) = done.rows("train")
    assert row.messages[-1]["content"] == "To Oslo."
    assert row.rejected is not None
    assert row.rejected[:-1] == row.messages[:-1]
    assert row.rejected[-1]["content"] == "No idea at all."
    assert done.manifest.settings["rows"] == "preference pairs"


def test_every_spelling_of_a_pair_gives_the_same_tokens(run_prepare: Prepare) -> None:
    ask, better, worse = turn("user", "Where to?"), turn("assistant", "To Oslo."), turn("assistant", "No.")
    spellings = [
        pair("Where to?", "To Oslo.", "No."),
        pair([ask], [better], [worse]),
        {"chosen": [ask, better], "rejected": [ask, worse]},
        pair("Where to?", [ask, better], [ask, worse]),
        {"question": "Where to?", "chosen": "To Oslo.", "rejected": "No."},
    ]
    found = [pairs(run_prepare([row, HELD], folder=f"out-{n}", **DPO)) for n, row in enumerate(spellings)]
    assert all(one == other for one, other in pairwise(found))


def test_earlier_answers_of_the_prompt_have_no_loss(run_prepare: Prepare, tokenizer: Tokenizer) -> None:
    start = [turn("user", "Hi"), turn("assistant", "Hello."), turn("user", "Where to?")]
    (found,) = pairs(run_prepare([pair(start, "Oslo.", "No."), HELD], **DPO))
    assert "Hello." in tokenizer.decode(found.prompt)
    assert tokenizer.decode(found.chosen[:-1]) == "Oslo."


def test_what_users_say_inside_an_answer_of_several_turns_has_no_loss(
    run_prepare: Prepare, tokenizer: Tokenizer
) -> None:
    better = [turn("assistant", "When?"), turn("user", "Today"), turn("assistant", "Oslo.")]
    (found,) = pairs(run_prepare([pair("Where to?", better, [turn("assistant", "No.")]), HELD], **DPO))
    assert found.chosen_mask is not None
    kept = [token for token, counts in zip(found.chosen, found.chosen_mask, strict=True) if counts]
    assert "Today" in tokenizer.decode(found.chosen)
    assert tokenizer.decode([token for token in kept if token not in tokenizer.stop_ids]) == "When?Oslo."


def test_rows_of_the_other_kind_are_rejected_with_the_reason(run_prepare: Prepare) -> None:
    rows = [
        pair("Where to?", "Oslo.", "No."),
        {"instruction": "Hi", "response": "Hello."},
        {"prompt": "Hi", "completion": "Hello.", "label": True},
        pair("Same?", "Yes.", "Yes."),
        {"chosen": "Yes.", "rejected": "No."},
        pair("Empty?", "Yes.", " "),
    ]
    learned = run_prepare([*rows, HELD], folder="dpo", **DPO)
    assert learned.manifest.ledger.rows_kept == 2
    reasons = {row["reason"] for row in learned.rejected()}
    other = [row["detail"] for row in learned.rejected() if row["reason"] == "not a preference pair"]
    assert len(other) == 2
    assert any("objective: dpo trains on pairs" in detail for detail in other)
    assert {"chosen and rejected are the same", "preference without a prompt", "empty answer"} <= reasons
    held = {"instruction": "Held out?", "response": "Yes.", "split": "test"}
    plain = run_prepare([*rows, held], folder="sft")
    assert plain.manifest.ledger.rows_kept == 2
    details = [row["detail"] for row in plain.rejected() if row["reason"] == "not a conversation"]
    assert any("a preference pair" in detail and "objective: sft" in detail for detail in details)


def test_the_account_counts_both_answers_and_the_ledger_balances(run_prepare: Prepare) -> None:
    rows = [pair(f"Where to number {n}?", f"To place {n}.", "No idea.") for n in range(30)]
    done = run_prepare([*rows, rows[0], {"text": "nothing"}, HELD], **DPO)
    split = done.manifest.splits["train"]
    found = pairs(done)
    account = done.manifest.account
    assert account is not None
    assert split.rows == len(found) == 30
    assert split.trained_tokens == sum(len(p.chosen) + len(p.rejected) for p in found)
    assert account.total.trained == split.trained_tokens + done.manifest.splits["test"].trained_tokens
    assert done.manifest.ledger.rejected == {"duplicate": 1, "not a preference pair": 1}
    assert account.total.dropped_rows["duplicate"] == 1


def test_two_pairs_of_one_prompt_are_no_duplicates_and_are_held_out_together(run_prepare: Prepare) -> None:
    rows = [
        pair(f"Where does journey {n} of the {n * n} go to?", "To Oslo.", f"Not there {k}.")
        for n in range(60)
        for k in (0, 1)
    ]
    done = run_prepare(rows, objective="dpo", prepare={"test_share": 0.3, "near_duplicate": 1.0})
    train, test = (set(done.requests(split)) for split in ("train", "test"))
    assert done.manifest.ledger.rows_kept == 120
    assert train
    assert test
    assert not train & test


def test_personal_data_leaves_both_answers(run_prepare: Prepare) -> None:
    (row,) = run_prepare(
        [pair("Mail?", "Write to ann@example.com now.", "It is bob@example.com, I think."), HELD], **DPO
    ).rows("train")
    assert row.rejected is not None
    assert "[EMAIL]" in row.messages[-1]["content"]
    assert "[EMAIL]" in row.rejected[-1]["content"]


def test_a_pair_that_is_too_long_is_cut_alike_on_both_sides(run_prepare: Prepare) -> None:
    long = pair("far " * 60 + "away?", "Oslo.", "Not at all, never, nowhere.")
    settings = {"max_tokens": 110, "overlong": "truncate"}
    done = run_prepare([long, HELD], objective="dpo", prepare=settings)
    (found,) = pairs(done)
    assert len(found.prompt) + len(found.rejected) <= 110
    assert done.manifest.ledger.changed["truncated"] == 1
    assert done.requests("train")[0].endswith("away?")
    gone = run_prepare(
        [long, pair("Near?", "Yes.", "No."), HELD],
        folder="rejected",
        objective="dpo",
        prepare={"max_tokens": 110, "overlong": "reject"},
    )
    assert gone.manifest.ledger.rejected == {"over max_tokens": 1}


def test_tasks_of_a_recipe_for_pairs_may_hold_conversations_and_pairs(run_prepare: Prepare) -> None:
    task = [{"instruction": "Asked?", "response": "Answered."}, pair("Which?", "This.", "That.")]
    done = run_prepare([pair("Where?", "Here.", "There."), HELD], tasks={"asked": task}, **DPO)
    assert [row.rejected is None for row in done.rows("asked")] == [True, False]


def test_a_pair_that_is_forgotten_does_not_come_back(run_prepare: Prepare, tokenizer: Tokenizer) -> None:
    from burnish.core.recipe_file import parse_recipe
    from burnish.data.prepare import prepare

    rows = [pair("Where?", "Here.", "There."), pair("When?", "Now.", "Later."), HELD]
    done = run_prepare(rows, **DPO)
    row = done.rows("train")[0]
    gone = np.array([row_hash(row.messages, row.rejected)], np.uint64)
    folder = done.folder.parent
    raw = {"name": "test", "base": "tiny", "data": str(folder / "rows.jsonl"), "method": "lora", **DPO}
    manifest = prepare(
        parse_recipe(raw, source="test"), tokenizer=tokenizer, folder=folder / "again", root=folder,
        emit=lambda event: None, forgotten=gone,
    )  # fmt: skip
    assert manifest.ledger.rows_kept == 2


def test_pairs_are_exported_as_the_fields_they_came_in(run_prepare: Prepare) -> None:
    done = run_prepare([pair("Where?", "Here.", "There."), HELD], **DPO)
    row, _ = held(done.manifest, done.folder.parent)
    said, rejected = read_content(row.content)
    assert (said[-1]["content"], rejected and rejected[-1]["content"]) == ("Here.", "There.")


def test_half_a_pair_is_an_error_of_ours(run_prepare: Prepare) -> None:
    rows = read_token_rows(tokens_path(run_prepare([pair("Where?", "Here.", "There."), HELD], **DPO).folder, "train"))
    with pytest.raises(ValueError, match="half a pair"):
        list(pairs_of(rows[:1]))
