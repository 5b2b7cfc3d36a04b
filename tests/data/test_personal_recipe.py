"""What a recipe says about personal data is what becomes of it, in any process, and the certificate says how sure that is."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from preparing import Prepare

from burnish.core.errors import GateError, RecipeError
from burnish.core.recipe import PERSONAL_KINDS
from burnish.core.recipe_file import parse_recipe
from burnish.data.private.cleaner import Treatment, make_cleaner
from burnish.data.private.kinds import Kind
from burnish.data.private.vault import Vault

KEY = bytes(range(32))
MAIL, PHONE = "ann.smith@example.com", "+1 212 555 0123"
ROWS = [
    {"instruction": f"order {n}: write to {MAIL}, or call {PHONE}", "response": f"sent {n} to {MAIL}", "split": split}
    for n, split in enumerate(["train"] * 6 + ["test"])
]


def said(text: str) -> Any:
    return {"prepare": {"personal_data": text}}


def test_the_recipes_kinds_are_those_that_are_looked_for() -> None:
    assert {kind.upper() for kind in PERSONAL_KINDS} == set(Kind)


def test_an_unknown_kind_names_the_nearest() -> None:
    raw = {"name": "a", "base": "b", "data": "c", "method": "lora"}
    with pytest.raises(RecipeError, match=r'unknown kind "mail".*Did you mean "email"'):
        parse_recipe(raw | {"prepare": {"personal_data": {"kinds": {"mail": "keep"}}}}, source="test")


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("placeholder", r"write to \[EMAIL\], or call \[PHONE\]"),
        ("remove", r"write to , or call "),
        ("hash", r"write to \[EMAIL#[a-r]{16}\], or call \[PHONE#[a-r]{16}\]"),
        ("surrogate", r"write to [a-z.]+@example\.org, or call \+\d[\d ]+"),
        ("vault", r"write to \[EMAIL#[a-r]{24}\], or call \[PHONE#[a-r]{24}\]"),
        ("keep", rf"write to {re.escape(MAIL)}, or call {re.escape(PHONE)}"),
        ({"action": "hash", "kinds": {"phone": "keep"}}, rf"write to \[EMAIL#[a-r]+\], or call {re.escape(PHONE)}"),
        ({"kinds": {"email": "remove"}}, r"write to , or call \[PHONE\]"),
    ],
)
def test_every_action_does_what_it_says_in_requests_and_answers(
    run_prepare: Prepare, tmp_path: Any, asked: Any, shown: str
) -> None:
    done = run_prepare(ROWS, prepare={"personal_data": asked}, key=KEY, vault=tmp_path / "vault.jsonl")
    requests = done.requests("train")
    assert all(re.search(shown + "$", request) for request in requests), requests[0]
    assert len({request.partition(":")[2] for request in requests}) == 1, (
        "the same value is written the same everywhere"
    )
    answers = [row.messages[-1]["content"] for row in done.rows("train")]
    mail = requests[0].partition("write to ")[2].partition(",")[0]
    assert answers[0] == f"sent 0 to {mail}"
    assert done.manifest.personal_data == {"EMAIL": 14, "PHONE": 7}


def test_the_vault_gives_back_what_it_took(run_prepare: Prepare, tmp_path: Any) -> None:
    vault = tmp_path / "vault.jsonl"
    request = run_prepare(ROWS, prepare={"personal_data": "vault"}, key=KEY, vault=vault).requests("train")[0]
    assert MAIL not in vault.read_text()
    assert Vault(vault, KEY).reveal(request) == ROWS[0]["instruction"]
    assert len(Vault(vault, KEY)) == 2, "planted values never come into it"


def test_processes_write_the_same_surrogates(run_prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    for processes in ("1", "2"):
        monkeypatch.setenv("BURNISH_PROCESSES", processes)
        done = run_prepare(ROWS, folder=processes, prepare={"personal_data": "surrogate"}, key=KEY)
        made.append((done.folder / "train.rows.json").read_bytes())
    assert made[0] == made[1]


def test_the_certificate_counts_planted_values_of_each_kind(run_prepare: Prepare) -> None:
    done = run_prepare(ROWS, prepare={"personal_data": {"kinds": {"phone": "keep"}, "recall": 0.9}})
    found = json.loads((done.folder / "certificate.json").read_text())
    assert done.manifest.certificate_file is not None
    kinds = {each["kind"]: each for each in found["kinds"]}
    assert "PHONE" not in kinds
    assert len(kinds) >= 11
    assert all(each["planted"] == 100 and each["low"] >= 0.9 for each in kinds.values())


def test_a_gate_on_recall_says_which_kinds_fall_short(run_prepare: Prepare) -> None:
    with pytest.raises(GateError, match=r"recall asks for 0\.99.*\n  \w+: \d+ of 100 found, lower limit 0\.9"):
        run_prepare(ROWS, prepare={"personal_data": {"recall": 0.99}})  # 100 of 100 give a lower limit of 0.963


def test_rejected_rows_are_redacted_where_anything_is_kept(run_prepare: Prepare) -> None:
    done = run_prepare([*ROWS, ROWS[0]], prepare={"personal_data": "keep"})
    (twin,) = [row for row in done.rejected() if row["reason"] == "duplicate"]
    assert "[EMAIL]" in twin["row"]
    assert MAIL not in twin["row"]
    assert (done.folder / "rejected.jsonl").stat().st_mode & 0o777 == 0o600


def test_names_are_found_where_they_are_asked_for() -> None:
    text = "Please ask Barack Obama about the flight."
    assert make_cleaner(Treatment())(text).text == text
    assert make_cleaner(Treatment(names=True))(text).text == "Please ask [PERSON] about the flight."


def test_actions_that_need_a_key_say_so() -> None:
    with pytest.raises(ValueError, match="need a key"):
        make_cleaner(Treatment("hash"))
    with pytest.raises(ValueError, match="needs a file"):
        make_cleaner(Treatment("vault", key=KEY))
