"""Filters: what each one marks and what it must leave alone; reports by default, removals that the recipe asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preparing import Prepare, Prepared

from burnish.core.errors import DataError, RecipeError
from burnish.core.recipe_filters import LANGUAGES
from burnish.data.filters import rules
from burnish.data.filters.clusters import cluster
from burnish.data.filters.columns import NO_SENTIMENT
from burnish.data.filters.language import LEAST_CONFIDENCE, MOST_CHARACTERS, languages_of
from burnish.data.filters.signals import VARIETIES, Said, signals_of
from burnish.data.near.canonical import plain, words_only
from burnish.data.near.rows import conversation
from burnish.data.near.shingle import words_of
from burnish.text.messages import Message

PROSE = (
    "The trains to the coast leave from platform four every twenty minutes. You can buy a ticket on board, "
    "but it costs two euros more than at the counter. "
)


def marks_of(answer: str, request: str = "What can you tell me?", **more: Any) -> set[str]:
    """Return the names of the filters that judge this row by itself and mark it."""
    bits = int(signals([(request, answer)], **more)["signals"][0])
    return {name for name, bit in rules.BY_ROW.items() if bits & bit}


def signals(pairs: list[tuple[str, str]]) -> np.ndarray:
    rows: list[list[Message]] = [
        [{"role": "user", "content": request}, {"role": "assistant", "content": answer}] for request, answer in pairs
    ]
    return signals_of_rows(rows)


def signals_of_rows(rows: list[list[Message]]) -> np.ndarray:
    said = [conversation(messages) for messages in rows]
    words = words_of([words_only(plain(part)) for pair in said for part in pair])
    return signals_of([Said(messages, answer, ()) for messages, (_, answer) in zip(rows, said, strict=True)], words)


REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but I can’t help with that request.",
    "Sorry, I can't help with that.",
    "I cannot fulfill your request. I'm just an AI and it is not within my programming.",
    "I am not able to provide legal advice on this matter.",
    "I must decline to write this story.",
    "It would be inappropriate for me to speculate about her health.",
    "I won't be able to assist you in hacking the account.",
    "Das ist gefährlich. Dabei kann ich leider nicht helfen.",
    "Je suis désolé, mais je ne peux pas répondre à cette question.",
    "Lo siento, pero no puedo ayudarte con eso.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals_are_found_in_several_languages(answer: str) -> None:
    assert "refusal" in marks_of(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't find any flights on that day.",
        "Unfortunately the device cannot connect. Restart the router and try again.",
        "If the door can't be opened, call the caretaker.",
        "He said: I cannot see the coast from here.",
        "You cannot provide more than three files at once.",
        '{"refusal": false, "text": "help"}',
    ],
)
def test_other_ways_to_say_no_are_no_refusals(answer: str) -> None:
    assert "refusal" not in marks_of(answer)


def test_an_answer_that_speaks_of_being_a_model_is_marked() -> None:
    assert marks_of("As an AI language model, I don't have personal opinions.") >= {"self_reference"}
    assert marks_of("As a large-language model I have no body.") >= {"self_reference"}
    assert "self_reference" not in marks_of("Paint it as an aisle, then measure. An AI lab is next door.")


CODE = "def area(radius):\n    return [3.14 * r ** 2 for r in radius if r > 0]\n\nprint(area([1, 2, 3]))"


@pytest.mark.parametrize(
    "answer",
    [
        '{"from": "Paris", "to": "Rome", "seats": 2}',
        '  [{"a": 1}, {"a": 2}]',
        '{"a": 1}\n{"a": 2}',
        CODE,
        f"```python\n{CODE}\n```",
        f"Here is the code:\n\n```python\n{CODE}\n```\n\nCall it with a list",
        "42",
        "Paris",
        "yes",
        "| city | people |\n|---|---|\n| Paris | 2,102,650 |\n| Rome | 2,748,109 |",
        "1. Open the lid.\n2. Take out the filter.\n3. Rinse it under cold water and put it back into the machine today",
        "SELECT name, count(*) FROM users WHERE age > 30 GROUP BY name HAVING count(*) > 1 ORDER BY 2 DESC;",
        "### Internal documents\n\nSupport logs, wikis and code.\n\n### External documents\n\nPages and books, 12 GB.",
        "[1] According to the annual report, revenue rose by a tenth in the last year and costs fell.",
        PROSE,
        "3.14 2.71 1.41 1.73 0.57 2.50 4.66 1.20 8.31 0.11 7.25 9.01 1.11 2.22 3.33 4.44 5.55 6.66 7.77 8.88 9.99",
        "東京は日本の首都です。人口は約一千四百万人で、世界でも最大級の都市の一つです。",
        "Wir fahren morgen mit dem Zug nach Köln und besuchen dort den Dom, das Museum und den alten Markt am Rhein.",
        "",
    ],
)
def test_good_answers_of_all_kinds_pass_every_rule(answer: str) -> None:
    marked = marks_of(answer)
    assert marked == ({"empty"} if not answer else set())


def test_answers_are_told_apart_by_kind() -> None:
    of = {
        '{"a": 1}': rules.STRUCTURED, CODE: rules.CODE, "yes": rules.SHORT, PROSE: rules.PROSE, PROSE * 6: rules.DOCUMENT,
        "12, 13, 14, 15, 16": rules.NUMBERS, "...": rules.NOTHING,
    }  # fmt: skip
    found = signals([("What?", answer) for answer in of])["kind"].tolist()
    assert dict(zip(of, found, strict=True)) == of


def test_the_worse_answer_of_a_pair_is_not_judged() -> None:
    messages: list[Message] = [
        {"role": "user", "content": "When does it leave?"}, {"role": "assistant", "content": "At ten."},
    ]  # fmt: skip
    compared = "at ten\ni can t assist with that"
    words = words_of([words_only(plain(part)) for part in ("When does it leave?", compared)])
    as_one = signals_of([Said(messages, compared, ())], words)
    as_pair = signals_of([Said(messages, compared, (), pair=True)], words)
    assert as_one["signals"].tolist() == [rules.BY_ROW["refusal"]]
    assert (as_pair["signals"].tolist(), as_pair["size"].tolist()) == ([0], [2])


def test_a_tool_call_without_text_is_structured_and_not_empty() -> None:
    call: Message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Rome"}'}}],
    }
    found = signals_of_rows([[{"role": "user", "content": "Find Rome"}, call]])
    assert found["kind"].tolist() == [rules.STRUCTURED]
    assert found["signals"].tolist() == [0]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("broken", '{"from": "Paris", "to": "Ro'),
        ("broken", '[{"a": 1}, {"a": 2'),
        ("broken", f"```python\n{CODE}"),
        ("unfinished", "The trains to the coast leave every twenty minutes. You can buy a ticket on board, but it costs two"),
        ("unfinished", PROSE + "If you would rather walk, take the path along the river, which is"),
        ("repetition", "I will check the order for you now please wait. " * 12),
        ("repetition", PROSE * 3 + "no no no " * 60),
        ("repetition", "\n".join([PROSE.strip(), "Read more here."] * 10)),
        ("noise", "xq zz kp ww vv qq rr tt yy uu ii oo pp aa ss dd ff gg hh jj kk ll zz xx cc vv"),
        ("noise", "### # " + "buy #now #best #deal #sale #win " * 5),
        ("boilerplate", "Thanks, it works. Sent from my iPhone"),
        ("boilerplate", "This e-mail and any attachments are confidential. Delete it if not for you."),
        ("boilerplate", "Please enable JavaScript to see this page."),
        ("empty", " ... "),
        ("profanity", "Well, that is just bullshit."),
    ],
)  # fmt: skip
def test_bad_answers_are_marked(name: str, answer: str) -> None:
    assert name in marks_of(answer)


def test_words_that_hold_swear_words_or_name_people_are_no_profanity() -> None:
    harmless = "Scunthorpe, Essex, Dick van Dyke, a cockpit, gay people, lesbians, Jews; kill the process with SIGTERM."
    assert "profanity" not in marks_of(harmless)


def test_an_answer_that_repeats_the_whole_request_first_is_marked() -> None:
    request = "Which platform do the trains to the coast leave from today?"
    assert "echo" in marks_of(f"{request} They leave from platform four.", request)
    assert "echo" not in marks_of("The trains to the coast leave from platform four.", request)
    assert "echo" not in marks_of("Where to? Rome.", "Where to?")


def test_languages_are_told_from_the_answer_or_else_the_request() -> None:
    found = signals([
        ("Wo ist der Bahnhof?", '{"place": "station"}'),
        ("Wo finde ich bitte den Bahnhof, und wann fährt der nächste Zug nach Hamburg?", '{"place": "station"}'),
        ("Translate: the station is next to the market.", "La gare se trouve juste à côté du grand marché de la ville."),
        ("?", "Вокзал находится рядом с большим рынком в центре города."),
        ("?", "駅は大きな市場の隣にあります。"),
        ("?", PROSE),
        ("?", "42"),
    ])["language"]  # fmt: skip
    assert [LANGUAGES[n - 1] if n else "" for n in found.tolist()] == ["", "de", "fr", "ru", "ja", "en", ""]


def test_languages_are_what_the_library_says_of_each_text_alone() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    library = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    library.set_languages(LANGUAGES)
    texts = [
        "Der Zug fährt heute von einem anderen Gleis ab.", "LE TRAIN PART DEMAIN À DIX HEURES", "駅は大きな市場の隣にあります。",
        "Вокзал находится рядом с большим рынком в центре города.", "Buenos Aires to Montréal, 2 adults", "aaaa" * 30,
        "\ud800 und noch ein Zug, der heute nicht fährt", "สถานีอยู่ติดกับตลาดใหญ่ในใจกลางเมือง",
        "Srbija, Hrvatska i Bosna su susedne zemlje",
        "Нови Сад је други по величини град у Србији", "x", "", "The train leaves from another platform today, sorry for that.",
    ]  # fmt: skip
    texts += [f"{a[:40]} {b[:40]}" for a in texts[:6] for b in texts[6:]]
    found = languages_of(texts)
    assert languages_of(texts[::-1]).tolist() == found.tolist()[::-1]
    for text, number in zip(texts, found.tolist(), strict=True):
        code, confidence = library.classify(text[:MOST_CHARACTERS])
        if number:
            assert (LANGUAGES[number - 1], confidence >= LEAST_CONFIDENCE) == (code, True)
        elif sum(map(str.isalpha, text[:MOST_CHARACTERS])) >= 20:
            assert confidence < LEAST_CONFIDENCE


def test_english_words_are_not_found_in_other_languages() -> None:
    found = signals([
        ("Kann man hier heute noch parken, oder ist das verboten?", "Man kann hier leider die ganze Woche nicht mehr parken."),
        ("Can a man park here today, or is that forbidden?", "Sorry, he cannot park here for the whole week."),
        ("Son chien et son chat sont dans le jardin de la maison.", "Her og nu er det slut med at parkere her i byen."),
    ])  # fmt: skip
    assert (found["asked"] > 0).tolist() == [False, True, False]
    assert (found["told"] > 0).tolist() == [False, True, False]
    assert (found["sentiment"] == NO_SENTIMENT).tolist() == [True, False, True]


def test_who_is_named_first_tells_twins_apart_that_name_both() -> None:
    asked = (
        "A man and his wife", "A woman and her husband", "The man, his son and his wife", "Nobody", "The husband and his wife",
    )  # fmt: skip
    named = signals([(f"{who} are in the garden with it.", "yes") for who in asked])["named"].tolist()
    assert named[0] == named[2] == named[4] != named[1]
    assert named[3] == 0


def test_varieties_of_english_are_told_by_spelling() -> None:
    found = signals([
        ("?", "The neighbours organised a programme at the theatre in the centre, and it was not in the catalogue."),
        ("?", "The neighbors organized it at the theater in the center, and the color of the curtain was gray."),
        ("?", "The colour is gray, and that is all there is to say about it."),
    ])["variety"]  # fmt: skip
    assert [VARIETIES[n - 1] if n else "" for n in found.tolist()] == ["en-GB", "en-US", ""]


def test_signals_do_not_depend_on_which_rows_are_looked_at_together() -> None:
    pairs = [("Say it.", answer) for answer in (*REFUSALS, CODE, PROSE, PROSE * 8, "", "?", '{"a": 1}', "As an AI")]
    together = signals(pairs)
    assert [signals([pair]).tolist()[0] for pair in pairs] == together.tolist()


ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
PIECES = st.sampled_from(
    ["```", '{"a": 1}', '{"a', "[1]", "...", "#", "\n", "As an AI", "I can't assist with", "ภาษา", "\ud800", "x" * 40]
)
TEXTS = st.lists(st.one_of(st.text(max_size=20), PIECES), max_size=8).map(" ".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.tuples(ROLES, TEXTS), max_size=3), min_size=1, max_size=3))
def test_no_conversation_is_too_odd_to_be_looked_at(rows: list[list[tuple[Any, str]]]) -> None:
    conversations = [[Message(role=role, content=text) for role, text in turns] for turns in rows]
    together = signals_of_rows(conversations).tolist()
    assert together == [signals_of_rows([each]).tolist()[0] for each in conversations]


# ---------------------------------------------------------------------------------------------------------------- prepare


def row(request: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"instruction": request, "response": answer, **more}


def good(count: int) -> list[dict[str, Any]]:
    words = ("coast", "valley", "old town", "airport", "harbour", "museum")
    return [
        row(f"When do trains number {n} to the {words[n % 6]} leave?", f"They leave at {n} past the hour, on platform {n % 9}.")
        for n in range(count)
    ]  # fmt: skip


def found_in(done: Prepared) -> dict[str, Any]:
    return json.loads((done.folder / "filters.json").read_text())


def by_name(done: Prepared) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in found_in(done)["filters"]}


BAD = [row(f"Tell me about case {n}, please.", f"I'm sorry, but I can't assist with that, {n}.") for n in range(12)]


def test_by_default_filters_count_and_show_and_remove_nothing(run_prepare: Prepare) -> None:
    done = run_prepare([*good(40), *BAD])
    assert done.manifest.ledger.rejected == {}
    refusal = by_name(done)["refusal"]
    assert (refusal["action"], refusal["marked"], refusal["in_dataset"], refusal["removed"]) == ("report", 12, 12, 0)
    assert refusal["share"] == round(12 / 52, 4)
    assert refusal["low"] < refusal["share"] < refusal["high"]
    assert refusal["by_source"][0]["source"] == "rows.jsonl"
    assert len(refusal["examples"]) == 10
    assert all(example["answer"].startswith("I'm sorry") and example["kept"] for example in refusal["examples"])
    assert done.manifest.filters_file is not None
    assert found_in(done)["not_run"] == ["outlier", "balance"]


def test_a_filter_that_removes_leaves_a_reason_and_a_pointer(run_prepare: Prepare) -> None:
    done = run_prepare([*good(40), *BAD], prepare={"filters": {"refusal": "remove"}})
    assert done.manifest.ledger.rejected == {"filter: refusal": 12}
    gone = done.rejected()
    assert [record["line"] for record in gone] == list(range(41, 53))
    assert all(record["reason"] == "filter: refusal" and "can't assist" in record["row"] for record in gone)
    refusal = by_name(done)["refusal"]
    assert (refusal["marked"], refusal["in_dataset"], refusal["removed"]) == (12, 0, 12)
    assert not any(example["kept"] for example in refusal["examples"])
    answers = [row.messages[-1]["content"] for split in ("train", "test") for row in done.rows(split)]
    assert not any("assist" in answer for answer in answers)


def test_reporting_leaves_the_rows_and_their_bytes_as_they_are(run_prepare: Prepare) -> None:
    rows = [*good(40), *BAD]
    off = dict.fromkeys([rule.name for rule in rules.RULES], "off")
    told = run_prepare(rows, folder="told")
    silent = run_prepare(rows, folder="silent", prepare={"filters": off})
    for split in told.manifest.splits:
        assert told.manifest.splits[split].token_file.sha256 == silent.manifest.splits[split].token_file.sha256
    assert found_in(silent)["filters"] == []


def test_rows_of_tasks_are_never_filtered(run_prepare: Prepare) -> None:
    done = run_prepare([*good(40), *BAD], tasks={"own": BAD[:3]}, prepare={"filters": {"refusal": "remove"}})
    assert done.manifest.splits["own"].rows == 3
    assert done.manifest.ledger.rejected == {"filter: refusal": 12}


def test_a_row_goes_for_the_first_filter_alone_and_no_duplicate_goes_for_one_that_was_filtered(
    run_prepare: Prepare,
) -> None:
    twice = row("Tell me about it, please.", "As an AI, I can't assist with that.")
    done = run_prepare(
        [*good(30), twice, twice], prepare={"filters": {"refusal": "remove", "self_reference": "remove"}}
    )
    assert done.manifest.ledger.rejected == {"filter: refusal": 2}


def test_rows_in_other_languages_go_when_the_recipe_names_those_that_stay(run_prepare: Prepare) -> None:
    german = row("Wann fährt der nächste Zug?", "Der nächste Zug fährt um zehn Uhr von Gleis vier ab, pünktlich.")
    short = row("Ça va?", "Oui.")
    told = run_prepare([*good(30), german, short], folder="told")
    assert by_name(told)["language"]["marked"] == 1
    assert {each["name"] for each in found_in(told)["languages"]} == {"en", "de", "unknown"}
    done = run_prepare([*good(30), german, short], prepare={"filters": {"language": "remove", "languages": ["en"]}})
    assert done.manifest.ledger.rejected == {"filter: language": 1}
    assert done.rejected()[0]["line"] == 31


def test_answers_far_longer_than_others_of_their_source_are_marked(run_prepare: Prepare) -> None:
    long = row("Tell me all there is, at length.", " ".join(f"Train {n} is on time." for n in range(15)))
    assert by_name(run_prepare([*good(40), long]))["length"]["marked"] == 1
    lenient = run_prepare([*good(40), long], folder="b", prepare={"filters": {"length_deviations": 90}})
    assert by_name(lenient)["length"]["marked"] == 0


def test_lines_of_boilerplate_are_cut_out_where_the_recipe_says_so(run_prepare: Prepare) -> None:
    mail = row("Does it work?", "Yes, it does.\n\nSent from my iPhone")
    alone = row("What does it say?", "All rights reserved.")
    done = run_prepare([*good(30), mail, alone], prepare={"filters": {"boilerplate": "strip"}})
    assert done.manifest.ledger.rejected == {}
    answers = {r.messages[-1]["content"] for split in ("train", "test") for r in done.rows(split)}
    assert {"Yes, it does.", "All rights reserved."} <= answers
    assert done.manifest.ledger.changed == {"boilerplate lines": 1}
    assert by_name(done)["boilerplate lines"]["marked"] == 1


def test_a_file_that_loses_too_much_stops_the_preparation_and_says_to_what(run_prepare: Prepare) -> None:
    bad = [row(f"Tell me about case {n}, please.", f"I can't assist with that, {n}.") for n in range(90)]
    with pytest.raises(DataError, match=r"would lose 90 of 120 rows to filters \(filter: refusal 90\)"):
        run_prepare([*good(30), *bad], prepare={"filters": {"refusal": "remove"}})
    done = run_prepare([*good(30), *bad], prepare={"filters": {"refusal": "remove"}, "stop_share": 1.0})
    assert done.manifest.ledger.rejected == {"filter: refusal": 90}


def test_examples_show_no_personal_data_even_where_the_dataset_keeps_it(run_prepare: Prepare) -> None:
    leak = row("Who?", "I'm sorry, but I can't help with that. Write to ann@example.com instead.")
    done = run_prepare([*good(30), leak], prepare={"personal_data": "keep"})
    example = by_name(done)["refusal"]["examples"][0]
    assert "ann@" not in example["answer"]
    assert "[EMAIL]" in example["answer"]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"refusal": "delete"}, "refusal"),
        ({"refusals": "remove"}, "refusals"),
        ({"language": "remove"}, "needs `languages`"),
        ({"languages": ["english"]}, 'unknown language "english"'),
        ({"length_deviations": 0}, "length_deviations"),
    ],
)
def test_a_recipe_with_a_wrong_filter_is_refused(run_prepare: Prepare, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run_prepare(good(3), prepare={"filters": filters})


# ------------------------------------------------------------------------------------------------------------- embeddings


LETTERS = "abcdefgh"


def by_letters(texts: Sequence[str]) -> np.ndarray:
    counts = np.array([[text.count(letter) + 0.01 for letter in LETTERS] for text in texts], np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def letters(text: str, number: int, **more: Any) -> dict[str, Any]:
    return row(f"{text} {number}", f"{number * 17}", split="train", **more)


GROUPED = [
    *(letters("aaaa b", n) for n in range(30)), *(letters("cccc d", 100 + n) for n in range(8)),
    *(letters("eeee f", 200 + n) for n in range(7)), letters("gggg hhhh", 300), row("a c", "5", split="test"),
]  # fmt: skip


def test_rows_far_from_all_groups_are_marked_and_go_when_asked(run_prepare: Prepare) -> None:
    told = run_prepare(
        GROUPED, folder="told", embed=by_letters, prepare={"filters": {"outlier": "report", "clusters": 4}}
    )
    outlier = by_name(told)["outlier"]
    assert (outlier["marked"], outlier["removed"], outlier["examples"][0]["request"]) == (1, 0, "gggg hhhh 300")
    done = run_prepare(GROUPED, embed=by_letters, prepare={"filters": {"outlier": "remove", "clusters": 4}})
    assert done.manifest.ledger.rejected == {"filter: outlier": 1}


def test_no_cluster_has_more_than_its_share_and_which_rows_stay_does_not_depend_on_their_order(
    run_prepare: Prepare,
) -> None:
    settings = {"filters": {"balance": 1.0, "clusters": 3}, "stop_share": 1.0}
    done = run_prepare(GROUPED[:45] + GROUPED[46:], embed=by_letters, prepare=settings)
    assert done.manifest.ledger.rejected == {"filter: balance": 15}  # of 45 rows in 3 groups each may have 15
    requests = set(done.requests("train"))
    assert sum(request.startswith("aaaa") for request in requests) == 15
    clusters = found_in(done)["clusters"]
    assert [(each["rows"], each["kept"]) for each in clusters["largest"]] == [(30, 15), (8, 8), (7, 7)]
    assert clusters["effective"] < clusters["effective_kept"]
    turned = run_prepare((GROUPED[:45] + GROUPED[46:])[::-1], folder="b", embed=by_letters, prepare=settings)
    assert set(turned.requests("train")) == requests


def test_embeddings_are_not_asked_for_unless_the_recipe_does(run_prepare: Prepare) -> None:
    def never(texts: Sequence[str]) -> np.ndarray:
        raise AssertionError("nothing was to be embedded")

    assert found_in(run_prepare(GROUPED, embed=never))["clusters"] is None


def test_groups_follow_the_vectors_and_identical_ones_are_one(tmp_path: Path) -> None:
    texts = ["aaab"] * 20 + ["ccd"] * 10
    found = cluster(texts, np.arange(30), by_letters, 5, tmp_path)
    assert sorted(found.sizes[found.sizes > 0].tolist()) == [10, 20]
    assert not found.outlying(4).any()
    assert len(cluster([], np.arange(0), by_letters, None, tmp_path).of) == 0
    with pytest.raises(DataError, match="shape"):
        cluster(texts, np.arange(30), lambda batch: np.ones(3, np.float32), 5, tmp_path)
