"""The stage from a raw file to a dataset: the ledger balances, nothing leaks, the same input gives the same bytes."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preparing import CONTEXT, Prepare, write_rows

from burnish.core.errors import DataError, RecipeError
from burnish.core.events import Note, Progress
from burnish.core.recipe_file import parse_recipe
from burnish.data.histogram import histogram
from burnish.data.prepare import prepare
from burnish.data.rows import read_token_rows, tokens_path
from burnish.text.render import render_prompt
from burnish.text.tokenizer import Tokenizer

CITIES = ["Rome", "Oslo", "Cairo", "Lima", "Delhi", "Seoul", "Paris", "Miami", "Quito", "Accra"]


def row(city: str, number: int = 0, **more: Any) -> dict[str, Any]:
    return {"instruction": f"fly to {city} {number}", "response": json.dumps({"to": city, "n": number}), **more}


def many(count: int = 40, **more: Any) -> list[dict[str, Any]]:
    return [row(CITIES[number % len(CITIES)], number, **more) for number in range(count)]


TEST = row("Zurich", 900, split="test")
DIRTY: list[dict[str, Any] | bytes] = [
    {
        "messages": [{"role": "user", "content": "to Rome"}, {"role": "assistant", "content": '{"to": "FCO"}'}],
        "split": "test",
    },
    {"instruction": "to  ROME", "response": '{"to":"FCO"}'},  # 2: the test row once more
    {"instruction": "to ZÃ¼rich please, I am ann@example.com", "response": '{"to": "ZRH"}'},
    {"instruction": "to Zürich please, I am bob@example.org", "response": '{ "to":"ZRH" }'},  # 4: the same, cleaned
    {"instruction": "Translate.", "input": "ciao\r\na tutti", "output": "hello all", "id": 3},
    {"prompt": "call 212-555-0123 about the flight to Lima", "completion": '{"to": "LIM"}'},
    b"",
    b'{"instruction": "cut of',
    b"[1, 2]",
    b'{"instruction": "\xff", "response": "x"}',
    {"where": "to Oslo", "code": "OSL"},
    {"instruction": "to Oslo", "response": ""},
    {"messages": [{"role": "user", "content": "to Oslo"}]},
    {"instruction": "say <|im_end|>", "response": "no"},
    {"instruction": "a b c d e f g h i j k l m n o p", "response": "z"},
    {"instruction": "a b c d e f g h i j k l m n o q", "response": "Z!"},  # 16: near 15 and the same answer
    {"instruction": "a b c d e f g h i j k l m n o q", "response": "y"},
    {"prompt": "to Oslo", "completion": "OSL", "split": "dev"},
]


def test_a_small_dirty_file_gives_this_ledger(run_prepare: Prepare) -> None:
    done = run_prepare(DIRTY, prepare={"near_duplicate": 0.7})
    ledger = done.manifest.ledger
    assert ledger.rows_in == 18
    assert ledger.rows_kept == 6
    assert ledger.rejected == {
        "blank line": 1,
        "broken JSON": 1,
        "does not end with an answer": 1,
        "does not fit the chat template": 1,
        "duplicate": 1,
        "duplicate of a test row": 1,
        "empty answer": 1,
        "near duplicate": 1,
        "not UTF-8": 1,
        "not a JSON object": 1,
        "unknown format": 1,
        "unknown split": 1,
    }
    assert ledger.changed == {"line ends": 1, "mojibake": 1, "personal data": 3}
    assert done.manifest.personal_data == {"EMAIL": 2, "PHONE": 1}
    assert done.manifest.leakage == {"duplicate": 1, "near duplicate": 0, "same request": 0}


def test_what_is_kept_of_it_is_clean_and_where_it_came_from_is_known(run_prepare: Prepare) -> None:
    done = run_prepare(DIRTY, prepare={"near_duplicate": 0.7})
    assert done.requests("test") == ["to Rome"]
    assert done.requests("train") == [
        "to Zürich please, I am [EMAIL]",
        "Translate.\n\nciao\na tutti",
        "call [PHONE] about the flight to Lima",
        "a b c d e f g h i j k l m n o p",
        "a b c d e f g h i j k l m n o q",
    ]
    assert [(r.source, r.line, r.format) for r in done.rows("train")] == [
        ("rows.jsonl", 3, "instruction-response"),
        ("rows.jsonl", 5, "alpaca"),
        ("rows.jsonl", 6, "prompt-completion"),
        ("rows.jsonl", 15, "instruction-response"),
        ("rows.jsonl", 17, "instruction-response"),
    ]
    (source,) = done.manifest.sources
    assert source.lines == 18
    assert source.formats == {"alpaca": 1, "instruction-response": 7, "messages": 1, "prompt-completion": 1}


def test_every_rejected_line_is_written_down_with_its_twin_and_without_personal_data(run_prepare: Prepare) -> None:
    done = run_prepare(DIRTY, prepare={"near_duplicate": 0.7})
    rejected = {record["line"]: record for record in done.rejected()}
    assert sorted(rejected) == [2, 4, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18]
    assert rejected[4]["detail"].endswith("rows.jsonl:3")
    assert rejected[2]["detail"].endswith("rows.jsonl:1")
    assert "bob@" not in (done.folder / "rejected.jsonl").read_text()
    assert stat.S_IMODE((done.folder / "rejected.jsonl").stat().st_mode) == 0o600


def test_the_token_rows_are_those_of_the_message_rows(run_prepare: Prepare, tokenizer: Tokenizer) -> None:
    done = run_prepare([TEST, *many()], system="Be brief.")
    for split in ("train", "test"):
        tokens = read_token_rows(tokens_path(done.folder, split))
        assert [r.row_id for r in tokens] == [r.row_id for r in done.rows(split)]
        for token_row, message_row in zip(tokens, done.rows(split), strict=True):
            assert message_row.messages[0] == {"role": "system", "content": "Be brief."}
            assert list(token_row.ids[: token_row.prompt]) == render_prompt(tokenizer, message_row.messages[:-1])
            assert (
                tokenizer.decode([i for i, m in zip(token_row.ids, token_row.mask, strict=True) if m])
                == (message_row.messages[-1]["content"])
            )


def test_the_numbers_of_a_split_are_those_of_its_rows(run_prepare: Prepare) -> None:
    rows = [row("Rome", n, date=f"2025-07-0{n % 2 + 1}") for n in range(6)]
    done = run_prepare([{**TEST, "date": "2025-07-01"}, *rows], system="On {date}.")
    tokens = read_token_rows(tokens_path(done.folder, "train"))
    split = done.manifest.splits["train"]
    prefixes = {r.ids[: r.prefix] for r in tokens}
    assert len(prefixes) == 2
    assert split.rows == len(tokens) == 6
    assert split.tokens == sum(len(r.ids) for r in tokens)
    assert split.unique_tokens == sum(len(r.ids) - r.prefix for r in tokens) + sum(map(len, prefixes))
    assert split.trained_tokens == sum(sum(r.mask) for r in tokens)
    assert split.longest_tokens == max(len(r.ids) for r in tokens)
    assert split.longest_answer_tokens == max(sum(r.mask) for r in tokens)
    assert sum(split.lengths.counts) == 6


def test_preparing_twice_gives_the_same_bytes_and_the_same_id(run_prepare: Prepare) -> None:
    first, second = (run_prepare(DIRTY, folder=folder) for folder in ("one", "two"))
    assert first.manifest.id == second.manifest.id
    files = sorted(path.name for path in first.folder.iterdir())
    assert files == [
        "audit.json", "certificate.json", "filters.json",
        "leakage.json", "rejected.jsonl", "test.rows.json", "test.tokens.json", "train.rows.json", "train.tokens.json",
    ]  # fmt: skip
    for name in files:
        content = (first.folder / name).read_bytes()
        # The rejected lines name the file they came from, which is the same file here.
        assert content == (second.folder / name).read_bytes()


def test_files_are_named_relative_to_the_root_with_their_hashes(run_prepare: Prepare) -> None:
    manifest = run_prepare(DIRTY).manifest
    assert manifest.rejected_file.path == "out/rejected.jsonl"
    assert manifest.splits["train"].file.path == "out/train.rows.json"
    assert manifest.splits["train"].token_file.path == "out/train.tokens.json"


@pytest.mark.parametrize(
    "settings",
    [
        {"system": "Be kind."},
        {"prepare": {"personal_data": "keep"}},
        {"prepare": {"near_duplicate": 0.5}},
        {"prepare": {"max_tokens": 300}},
    ],
)
def test_a_setting_that_matters_changes_the_id(run_prepare: Prepare, settings: dict[str, Any]) -> None:
    assert run_prepare(DIRTY, folder="other", **settings).manifest.id != run_prepare(DIRTY).manifest.id


def test_the_seed_and_the_name_do_not_change_the_dataset(run_prepare: Prepare) -> None:
    assert run_prepare(DIRTY, seed=5, name="other").manifest.id == run_prepare(DIRTY).manifest.id


def test_personal_data_stays_where_the_recipe_says_so_and_is_counted_all_the_same(run_prepare: Prepare) -> None:
    done = run_prepare(DIRTY, prepare={"personal_data": "keep"})
    assert "to Zürich please, I am bob@example.org" in done.requests("train")
    assert done.manifest.personal_data == {"EMAIL": 2, "PHONE": 1}
    assert "personal data" not in done.manifest.ledger.changed


# -------------------------------------------------------------------------------------------------- system prompt, date


def test_the_system_prompt_is_rendered_for_the_day_of_the_row(run_prepare: Prepare) -> None:
    done = run_prepare([{**TEST, "date": "2025-07-08"}, row("Rome", date="2024-02-29")], system="{weekday} {date}")
    assert done.rows("test")[0].messages[0]["content"] == "Tuesday 2025-07-08"
    assert done.rows("train")[0].messages[0]["content"] == "Thursday 2024-02-29"
    assert done.rows("train")[0].date == "2024-02-29"


def test_a_row_without_a_valid_date_is_rejected_only_where_the_prompt_needs_a_day(run_prepare: Prepare) -> None:
    rows = [{**TEST, "date": "2025-07-08"}, row("Rome", date="2025-07-08"), row("Oslo"), row("Lima", date="8 July")]
    own = row("Cairo", system="I have my own.")
    dated = run_prepare([*rows, own], system="Today is {date}")
    assert dated.manifest.ledger.rejected == {"no date": 2}
    assert dated.requests("train") == ["fly to Rome 0", "fly to Cairo 0"]
    assert [record["line"] for record in dated.rejected()] == [3, 4]
    plain = run_prepare([*rows, own], system="Be kind.")
    assert plain.manifest.ledger.rejected == {}
    assert plain.manifest.ledger.changed == {"date that is not YYYY-MM-DD": 1}


def test_a_row_with_its_own_system_prompt_keeps_it(run_prepare: Prepare) -> None:
    own = {
        "messages": [
            {"role": "system", "content": "Mine."},
            *({"role": r, "content": r} for r in ("user", "assistant")),
        ]
    }
    done = run_prepare([TEST, own], system="Yours.")
    assert [r.messages[0]["content"] for r in done.rows("train")] == ["Mine."]
    assert [r.messages[0]["content"] for r in done.rows("test")] == ["Yours."]


# --------------------------------------------------------------------------------------------------------------- splits


def test_rows_that_say_their_split_decide_for_all(run_prepare: Prepare) -> None:
    done = run_prepare([TEST, *many(12)])
    assert done.manifest.splits["test"].rows == 1
    assert done.manifest.splits["train"].rows == 12


def test_otherwise_rows_are_held_out_by_their_hash_and_stay_where_they_are_when_others_come(
    run_prepare: Prepare,
) -> None:
    few, more = run_prepare(many(100), folder="few"), run_prepare([*many(200)[::-1], row("Bonn", 7)], folder="more")
    held = set(few.requests("test"))
    assert 5 <= len(held) <= 28
    assert held <= set(more.requests("test"))
    assert set(few.requests("train")) <= set(more.requests("train"))


def test_a_training_row_like_a_test_row_is_rejected_and_the_test_row_stays(run_prepare: Prepare) -> None:
    long = "please find me a flight from Paris to Rome on the first of May for two people and one small dog"
    rows = [
        {"prompt": long + " thanks", "completion": "x"},
        {"prompt": long, "completion": "y"},
        {"prompt": "unlike all others", "completion": "x"},
        {"prompt": long, "completion": "x", "split": "test"},
    ]
    done = run_prepare(rows)
    assert done.requests("test") == [long]
    assert done.requests("train") == ["unlike all others"]
    assert done.manifest.leakage == {"duplicate": 0, "near duplicate": 1, "same request": 1}
    assert {record["reason"] for record in done.rejected()} == {
        "near duplicate of a test row", "same request of a test row",
    }  # fmt: skip


def test_tasks_are_splits_of_their_own_that_are_never_trained_on(run_prepare: Prepare) -> None:
    task = [row("Rome", 3), row("Rome", 3), row("Berne", 1, split="train")]
    done = run_prepare([TEST, row("Rome", 3), row("Oslo", 4)], tasks={"handwritten": task})
    assert list(done.manifest.splits) == ["train", "test", "handwritten"]
    assert done.requests("handwritten") == ["fly to Rome 3", "fly to Berne 1"]
    assert done.requests("train") == ["fly to Oslo 4"]
    assert done.manifest.ledger.rejected == {"duplicate": 1, "duplicate of a test row": 1}
    sources = [(source.path.rpartition("/")[2], source.lines) for source in done.manifest.sources]
    assert sources == [("rows.jsonl", 3), ("handwritten.jsonl", 3)]


# -------------------------------------------------------------------------------------------------------- rows too long


def long_row(words: int, **more: Any) -> dict[str, Any]:
    return {"prompt": " ".join(f"w{n}" for n in range(words)) + " to Rome", "completion": '{"to": "FCO"}', **more}


LONG = [TEST, row("Oslo"), long_row(400), long_row(500)]


def test_a_row_too_long_is_an_error_that_names_it_and_the_cost_of_each_policy(run_prepare: Prepare) -> None:
    with pytest.raises(DataError) as error:
        run_prepare(LONG)
    said = str(error.value)
    assert f"2 of 4 rows are longer than {CONTEXT} tokens" in said
    assert "rows.jsonl:3: " in said
    assert "rows.jsonl:4: " in said
    assert "prepare.overlong: reject    2 rows, " in said
    assert "prepare.overlong: truncate  about " in said
    assert f"prepare.max_tokens can be {CONTEXT} at most" in said


def test_the_error_names_five_rows_and_counts_the_others(run_prepare: Prepare) -> None:
    with pytest.raises(DataError) as error:
        run_prepare([TEST, *(row("Oslo" * 9, n) for n in range(8))], prepare={"max_tokens": 75})
    said = str(error.value)
    assert said.count("rows.jsonl:") == 5
    assert "and 3 more" in said
    assert "or set prepare.max_tokens to " in said


def test_rows_too_long_can_be_rejected(run_prepare: Prepare) -> None:
    done = run_prepare(LONG, prepare={"overlong": "reject"})
    account = done.manifest.account
    assert account is not None
    assert account.total.dropped_rows["over max_tokens"] == 2
    assert account.total.dropped["over max_tokens"] == sum(
        int(each["detail"].split()[0]) for each in done.rejected() if each["reason"] == "over max_tokens"
    )
    assert done.manifest.ledger.rejected == {"over max_tokens": 2}
    assert done.requests("train") == ["fly to Oslo 0"]


def test_rows_too_long_can_lose_the_beginning_of_their_request(run_prepare: Prepare) -> None:
    done = run_prepare(LONG, system="Be brief.", prepare={"overlong": "truncate"})
    assert done.manifest.ledger.changed == {"truncated": 2}
    assert done.manifest.ledger.rejected == {}
    _, *cut = read_token_rows(tokens_path(done.folder, "train"))
    assert all(CONTEXT - 8 <= len(r.ids) <= CONTEXT for r in cut)
    for kept in done.rows("train")[1:]:
        assert kept.messages[0]["content"] == "Be brief."
        assert kept.messages[1]["content"].endswith(" to Rome")
        assert kept.messages[2]["content"] == '{"to": "FCO"}'


def test_earlier_requests_are_cut_first_and_none_is_cut_to_nothing(run_prepare: Prepare) -> None:
    turns = [("one " * 30, "A"), ("two " * 30, "B")]
    messages = [{"role": r, "content": c} for asked, said in turns for r, c in (("user", asked), ("assistant", said))]
    done = run_prepare([TEST, {"messages": messages}], prepare={"overlong": "truncate", "max_tokens": 80})
    first, _, second, _ = (message["content"] for message in done.rows("train")[0].messages)
    assert first.strip()
    assert len(first) < 10
    assert 0 < len(second) < len("two " * 30)


def test_a_row_that_is_too_long_without_its_request_is_rejected(run_prepare: Prepare) -> None:
    rows = [TEST, row("Oslo"), {"prompt": "q", "completion": "word " * 300}]
    done = run_prepare(rows, prepare={"overlong": "truncate"})
    assert done.manifest.ledger.rejected == {"over max_tokens": 1}


def test_rows_that_become_the_same_by_truncation_are_duplicates(run_prepare: Prepare) -> None:
    rows = [TEST, long_row(500), {"prompt": "x " + str(long_row(500)["prompt"]), "completion": '{"to": "FCO"}'}]
    done = run_prepare(rows, prepare={"overlong": "truncate"})
    assert len(done.rows("train")) == 1


def test_a_limit_over_the_context_is_refused(run_prepare: Prepare) -> None:
    with pytest.raises(DataError, match=f"the base model's context is {CONTEXT} tokens"):
        run_prepare(LONG, prepare={"max_tokens": CONTEXT + 1})


# --------------------------------------------------------------------------------------------------------------- errors


def test_a_file_without_a_usable_row_says_the_reasons_with_counts_and_examples(run_prepare: Prepare) -> None:
    with pytest.raises(DataError) as error:
        run_prepare([b"{", b"nope", {"x": "y"}])
    said = str(error.value)
    assert "no usable row in 3 lines" in said
    assert "2 x broken JSON (first " in said
    assert "rows.jsonl:1: " in said
    assert "1 x unknown format (first " in said
    assert "its keys are x" in said


def test_one_json_array_gets_advice(run_prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r"looks like one JSON array: give the file a name that ends in \.json"):
        run_prepare([json.dumps(many(3), indent=1).encode()])


def test_a_task_without_a_usable_row_is_an_error(run_prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r"hand.jsonl has no usable row in 1 line"):
        run_prepare([TEST, *many(3)], tasks={"hand": [b"{"]})


def test_no_row_to_test_on_is_an_error_with_advice(run_prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r'split test. Raise prepare.test_share \(now 0.0\).*"split": "test"'):
        run_prepare(many(5), prepare={"test_share": 0.0})


def test_no_row_to_train_on_is_an_error_that_says_where_they_went(run_prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r"split train(.|\n)*1 x duplicate of a test row"):
        run_prepare([TEST, {key: value for key, value in TEST.items() if key != "split"}])


def test_a_template_that_no_row_fits_is_an_error_with_its_words(
    run_prepare: Prepare, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from burnish.text.tokenizer import load_tokenizer

    refuses = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
        "<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    )
    folder = tmp_path / "base"
    folder.mkdir()
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": refuses}))
    (folder / "config.json").write_text('{"max_position_embeddings": 512}')
    with pytest.raises(DataError, match=r"no row fits the base model's chat template(.|\n)*No system role"):
        run_prepare([TEST, *many(3)], tokenizer=load_tokenizer(folder), system="Be kind.")


def test_a_missing_file_is_an_error_before_anything_is_written(tmp_path: Path, tokenizer: Tokenizer) -> None:
    raw = {"name": "t", "base": "b", "data": str(tmp_path / "gone.jsonl"), "method": "lora"}
    with pytest.raises(DataError, match="does not exist"):
        prepare(parse_recipe(raw, source="t"), tokenizer=tokenizer, folder=tmp_path / "o", root=tmp_path, emit=print)
    assert not (tmp_path / "o").exists()


# ------------------------------------------------------------------------------------------------------------- and more


def test_progress_is_told_and_ends_at_the_end(run_prepare: Prepare) -> None:
    done = run_prepare([TEST, *many(250)])
    told = [event for event in done.events if isinstance(event, Progress)]
    assert {event.stage for event in told} == {"prepare"}
    for what in {event.what for event in told}:
        steps = [event for event in told if event.what == what]
        assert [event.done for event in steps] == sorted({event.done for event in steps})
        assert steps[-1].done == steps[-1].total
    assert {"reading rows.jsonl", "comparing rows", "writing rows"} <= {event.what for event in told}


def test_what_needs_a_model_and_is_off_is_told(run_prepare: Prepare) -> None:
    def told(**settings: object) -> str:
        done = run_prepare([TEST, row("Rome")], **settings)
        return "".join(event.text for event in done.events if isinstance(event, Note) and "Not looked" in event.text)

    said = told()
    assert "names of people" in said
    assert "in other words" in said
    embed = lambda texts: np.eye(len(texts), 8)  # noqa: E731 - nothing is alike
    assert "in other words" not in told(prepare={"semantic_duplicate": True}, embed=embed)


def test_keys_that_nobody_uses_are_mentioned(run_prepare: Prepare) -> None:
    done = run_prepare([TEST, row("Rome", id=4), row("Oslo", id=5, source="web")])
    (note,) = [event for event in done.events if isinstance(event, Note) and "Keys" in event.text]
    assert note.text == "Keys of rows that burnish does not use: id (2 rows), source (1 rows)."


def test_a_relative_data_file_is_found_from_the_working_folder(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "rows.jsonl", [TEST, *many(3)])
    monkeypatch.chdir(tmp_path)
    recipe = parse_recipe({"name": "t", "base": "b", "data": "data/rows.jsonl", "method": "lora"}, source="t")
    manifest = prepare(recipe, tokenizer=tokenizer, folder=tmp_path / "o", root=tmp_path, emit=lambda event: None)
    assert manifest.sources[0].path == "data/rows.jsonl"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.binary(max_size=60) | st.sampled_from([json.dumps(row("Rome", n)).encode() for n in range(5)]), max_size=30
    )
)
def test_whatever_the_lines_are_rows_in_are_rows_kept_and_rejected(run_prepare: Prepare, lines: list[bytes]) -> None:
    done = run_prepare([TEST, row("Safe"), *(line.replace(b"\n", b"") for line in lines)])
    ledger = done.manifest.ledger
    assert ledger.rows_in == len(lines) + 2
    assert ledger.rows_kept == sum(split.rows for split in done.manifest.splits.values())
    assert len(done.rejected()) == sum(ledger.rejected.values()) == ledger.rows_in - ledger.rows_kept


@pytest.mark.parametrize(
    ("values", "edges", "counts"),
    [
        ([7], (7, 8), (1,)),
        ([0, 1, 1, 3], (0, 1, 2, 3, 4), (1, 2, 0, 1)),
        ([10, 12, 39, 57], tuple(range(10, 61, 5)), (2, 0, 0, 0, 0, 1, 0, 0, 0, 1)),
    ],
)
def test_histograms_by_hand(values: list[int], edges: tuple[int, ...], counts: tuple[int, ...]) -> None:
    made = histogram(values)
    assert (made.edges, made.counts) == (edges, counts)


@given(values=st.lists(st.integers(0, 200_000), min_size=1, max_size=50))
def test_a_histogram_counts_every_value_once_in_at_most_24_bins(values: list[int]) -> None:
    made = histogram(values)
    assert sum(made.counts) == len(values)
    assert len(made.counts) == len(made.edges) - 1 <= 24
    assert made.edges[0] <= min(values) <= max(values) < made.edges[-1]


def test_the_demos_data_gives_the_ledger_that_its_readme_promises(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = Path(__file__).parents[2] / "examples" / "flights"
    raw = {
        "name": "flight-search", "base": "b", "data": str(folder / "requests.jsonl"), "method": "qlora",
        "system": "Today is {weekday} {date}.",
        "evaluate": {"tasks": {"handwritten": str(folder / "handwritten.jsonl")}},
    }  # fmt: skip
    manifest = prepare(
        parse_recipe(raw, source="t"), tokenizer=tokenizer, folder=tmp_path, root=tmp_path, emit=lambda e: None
    )
    assert manifest.ledger.rejected["duplicate"] >= 35, "those planted, and short rows that are alike by chance"
    assert manifest.ledger.rejected["blank line"] == 4
    assert manifest.ledger.changed["mojibake"] == 25
    assert manifest.ledger.changed["personal data"] == 31
    assert manifest.personal_data["CARD"] == 1
    assert manifest.splits["test"].rows >= 120
    assert manifest.splits["handwritten"].rows >= 60
    assert sum(manifest.leakage.values()) == 0


def test_a_folder_of_several_kinds_is_one_dataset(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "desk"
    folder.mkdir()
    rows = many(30)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:10]))
    (folder / "b.json").write_text(json.dumps(rows[10:20]))
    (folder / "c.csv").write_text(
        "instruction,response\n"
        + "".join(f'"{r["instruction"]}","{r["response"].replace(chr(34), chr(34) * 2)}"\n' for r in rows[20:])
    )
    recipe = parse_recipe({"name": "desk", "base": "tiny", "data": str(folder), "method": "lora"}, source="test")
    manifest = prepare(recipe, tokenizer=tokenizer, folder=tmp_path / "out", root=tmp_path, emit=lambda _: None)
    assert [Path(file.path).name for file in manifest.sources] == ["a.jsonl", "b.json", "c.csv"]
    assert [file.lines for file in manifest.sources] == [10, 10, 10]
    assert manifest.ledger.rows_in == manifest.ledger.rows_kept + sum(manifest.ledger.rejected.values()) == 30


def test_a_worse_answer_is_never_learned(run_prepare: Prepare) -> None:
    bad = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "completion": "c", "label": False},
        {"text": "a story in which nothing is asked"},
    ]
    done = run_prepare([*many(30), *bad])
    assert done.manifest.ledger.rejected["not a conversation"] == 3


def test_where_a_template_rewrites_turns_each_answer_is_trained_after_its_own_prompt(
    run_prepare: Prepare, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from burnish.text.tokenizer import load_tokenizer

    forgets = (  # only the last answer keeps what it thought, as with Qwen3
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last or m.role == 'user' else m.content.split('|')[-1] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    folder = tmp_path / "base"
    folder.mkdir()
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": forgets}))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": CONTEXT}))
    turns = [("user", "one"), ("assistant", "think|1"), ("user", "two"), ("assistant", "think more|2")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]}]
    rewriting = load_tokenizer(folder)
    done = run_prepare([TEST, *rows], tokenizer=rewriting)
    first, last = read_token_rows(tokens_path(done.folder, "train"))
    (kept,) = done.rows("train")
    assert (first.row_id, last.row_id) == (f"{kept.row_id}#1", kept.row_id)

    def trained(row: Any) -> str:
        return rewriting.decode([i for i, m in zip(row.ids, row.mask, strict=True) if m])

    assert (trained(first), trained(last)) == ("think|1", "think more|2")
    split = done.manifest.splits["train"]
    assert (split.rows, split.tokens) == (1, len(first.ids) + len(last.ids))


def test_the_recipe_says_what_the_columns_mean_and_a_row_without_them_is_told(run_prepare: Prepare) -> None:
    rows = [{"q": f"to {city}", "where": "by air", "a": city, "x": 1} for city in CITIES]
    mapping = {"user": "{q} {where}", "assistant": "a"}
    odd = {"instruction": "to Bonn", "response": "CGN"}
    test_row = {"q": "to Graz", "where": "by rail", "a": "GRZ", "s": "test"}
    rows = [{**row, "s": "train"} for row in rows]
    done = run_prepare([*rows, odd, test_row], columns={**mapping, "split": "s"}, tasks={"own": [odd]})
    assert done.manifest.ledger.rejected == {"missing column": 1}
    assert "to Rome by air" in done.requests("train")
    assert done.requests("test") == ["to Graz by rail"]
    assert done.requests("own") == ["to Bonn"], "a task may have a format of its own"


def test_a_mapping_that_is_wrong_names_every_problem(run_prepare: Prepare) -> None:
    with pytest.raises(RecipeError, match=r"2 problems(.|\n)*columns.usr(.|\n)*columns.assistant"):
        run_prepare([TEST], columns={"usr": "q", "assistant": 3})


def test_what_the_recipe_expects_must_hold(run_prepare: Prepare) -> None:
    rows = [TEST, *many(20)]
    held = {
        "rows": 20,
        "contains_in_prompt": "fly to",
        "last_trained_token": "<|im_end|>",
        "trained_share": "0.05..0.9",
    }
    run_prepare(rows, expect=held)
    with pytest.raises(DataError, match=r"expect.rows: asked for(.|\n)*expect.contains_in_answer(.|\n)*rows.jsonl:2"):
        run_prepare(rows, expect={"rows": ">= 21", "contains_in_answer": "train"})
    with pytest.raises(RecipeError, match=r"expect.row(.|\n)*Did you mean"):
        run_prepare(rows, expect={"row": 3})
