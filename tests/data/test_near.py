"""Near duplicates are those that comparing every pair would find, and nothing else is removed."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burnish.core.errors import DataError, ResourceError
from burnish.data.near.brake import check
from burnish.data.near.canonical import plain, plain_answer
from burnish.data.near.find import Found, clusters, find
from burnish.data.near.rows import DOCUMENTS, REQUESTS, Row, Rules, conversation

NO_TEMPLATE = replace(REQUESTS, template_share=1.0)


def shingles(text: str, words: int = 3) -> set[tuple[str, ...]]:
    """By definition, for the oracle."""
    found = re.findall(r"\w+", plain(text))
    return {tuple(found[at : at + words]) for at in range(max(1, len(found) - words + 1))} if found else set()


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / max(1, len(a | b))


def rows_of(*pairs: tuple[str, str]) -> list[Row]:
    return [Row(number, text, answer) for number, (text, answer) in enumerate(pairs)]


def requests_of(*texts: str) -> list[Row]:
    return rows_of(*((text, "yes") for text in texts))


def rules(threshold: float, words: int = 3) -> Rules:
    return replace(NO_TEMPLATE, threshold=threshold, words=words)


def kept(rows: Sequence[Row], how: Rules) -> list[int]:
    gone = {removal.row for removal in find(rows, how).removals}
    return [row.number for row in rows if row.number not in gone]


def kept_by_brute_force(rows: Sequence[Row], threshold: float) -> list[int]:
    """By the definition: every row is compared with every kept row before it."""
    stay: list[tuple[Row, set[tuple[str, ...]]]] = []
    for row in rows:
        own = shingles(row.text)
        same = (
            old.answer == row.answer and (plain(old.text) == plain(row.text) or jaccard(own, theirs) >= threshold)
            for old, theirs in stay
        )
        if not any(same):
            stay.append((row, own))
    return [row.number for row, _ in stay]


def only(found: Found) -> tuple[int, int, str]:
    (removal,) = found.removals
    return removal.row, removal.kept, removal.kind


def test_rows_that_differ_in_case_space_unicode_form_and_key_order_are_exact_duplicates() -> None:
    answers = ['{"a": 1, "b": [2]}', '{ "b":[2], "a":1 }']
    texts = ["Fly to  ＲＯＭＥ", "fly to rome\n"]
    messages = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        for text, answer in zip(texts, answers, strict=True)
    ]
    found = find([Row(at, *conversation(each)) for at, each in enumerate(messages)])
    assert only(found) == (1, 0, "duplicate")
    assert found.removals[0].score == 1.0


def test_rows_that_differ_in_punctuation_or_a_word_are_near_duplicates() -> None:
    request = "I would like to fly from Paris to Rome next Tuesday in the morning with two bags and a dog"
    found = find(requests_of(request, request + " !", request.replace("dog", "cat"), request.upper()), rules(0.7))
    assert [(each.row, each.kept, each.kind) for each in found.removals] == [
        (1, 0, "near duplicate"), (2, 0, "near duplicate"), (3, 0, "duplicate")
    ]  # fmt: skip
    # 20 words, 18 three-grams; the last word is in one of them: 17 of 19 are shared.
    assert found.removals[1].score == 17 / 19


@pytest.mark.parametrize(("one", "other"), [("Rome", "Oslo"), ("Tuesday", "Friday"), ("300", "400")])
def test_requests_that_differ_only_in_a_city_a_day_or_a_price_are_not_duplicates(one: str, other: str) -> None:
    request = f"please find me the cheapest flight from Paris to {one} for two people and one dog next week thank you"
    different = request.replace(one, other)
    assert jaccard(shingles(request), shingles(different)) > 0.5
    assert kept(rows_of((request, f'{{"to": "{one}"}}'), (different, f'{{"to": "{other}"}}')), rules(0.5)) == [0, 1]


def test_function_calls_that_differ_in_an_argument_are_all_kept() -> None:
    def row(number: int, arguments: Any) -> Row:
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "book", "arguments": arguments}}
        asked = "please book a table for two people at the usual place near the river for this evening at "
        messages = [
            {"role": "system", "content": "You book tables."},
            {"role": "user", "content": f"{asked} {number} o'clock"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
        return Row(number, *conversation(messages))

    different = [row(hour, json.dumps({"hour": hour, "people": 2})) for hour in range(200)]
    assert kept(different, rules(0.6)) == list(range(200))
    same = [row(hour, {"people": 2, "hour": 7} if hour % 2 else '{"hour": 7, "people": 2}') for hour in range(200)]
    assert len(kept(same, rules(0.6))) == 1


def test_another_phrasing_with_the_same_answer_stays() -> None:
    assert kept(requests_of("Fly me to Rome tomorrow", "I need a ticket to Rome, leaving tomorrow"), REQUESTS) == [0, 1]


def test_nothing_is_removed_through_a_chain() -> None:
    words = [f"w{number}" for number in range(40)]
    chain = [" ".join(words[start : start + 20]) for start in range(0, 20, 2)]
    assert min(jaccard(shingles(a), shingles(b)) for a, b in pairwise(chain)) >= 0.8
    assert jaccard(shingles(chain[0]), shingles(chain[2])) < 0.8
    assert kept(requests_of(*chain), rules(0.8)) == [0, 2, 4, 6, 8]


def test_a_copy_of_a_removed_row_is_recorded_against_the_row_that_stays() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    found = find(requests_of(text, text + " thirteen", text + " Thirteen"), rules(0.8))
    assert [(each.row, each.kept, each.kind) for each in found.removals] == [
        (1, 0, "near duplicate"), (2, 0, "near duplicate")
    ]  # fmt: skip
    assert {each.score for each in found.removals} == {10 / 11}


def test_removals_name_kept_rows_only_and_scores_that_hold() -> None:
    rows = edited_sentences(500)
    found = find(rows, rules(0.6))
    gone = {each.row for each in found.removals}
    for each in found.removals:
        assert each.kept not in gone
        one, other = rows[each.row], rows[each.kept]
        assert one.answer == other.answer
        expected = 1.0 if each.kind == "duplicate" else jaccard(shingles(one.text), shingles(other.text))
        assert each.score == pytest.approx(expected)
    assert len(gone) > 20


def test_all_user_turns_of_a_conversation_count_and_all_answers_must_be_equal() -> None:
    def row(number: int, *contents: str) -> Row:
        roles = ("user", "assistant")
        turns = [{"role": roles[at % 2], "content": content} for at, content in enumerate(contents)]
        return Row(number, *conversation(turns))

    first = row(0, "to Rome", "when?", "tomorrow", "done")
    assert len(kept([first, row(1, "to Rome", "when?", "tomorrow", "done!")], REQUESTS)) == 1
    assert len(kept([first, row(1, "to Rome", "how many?", "tomorrow", "done")], REQUESTS)) == 2
    assert len(kept([first, row(1, "to Rome", "when?", "on Friday", "done")], REQUESTS)) == 2


def test_a_template_that_many_rows_share_makes_no_duplicates() -> None:
    instruction = "Classify the mood of the following review as good or bad and answer with one word only please: "
    reviews = requests_of(*(f"{instruction} number{n} was word{n} thing{n}" for n in range(60)))
    assert len(kept(reviews, rules(0.6))) < 60
    assert len(kept(reviews, replace(REQUESTS, threshold=0.6))) == 60
    twin = Row(60, f"{instruction} number7 was word7 thing7!", "yes")
    found = find([*reviews, twin], replace(REQUESTS, threshold=0.6))
    assert only(found) == (60, 7, "near duplicate")


def test_a_template_of_one_source_among_many_rows_is_found_too() -> None:
    instruction = "Classify the mood of the following review as good or bad and answer with one word only please: "
    reviews = [Row(n, f"{instruction} number{n} was word{n} thing{n}", "bad", "reviews") for n in range(60)]
    others = [Row(n, f"a{n} b{n} c{n} d{n} e{n}", "bad", "others") for n in range(60, 2000)]
    assert len(kept([*reviews, *others], replace(REQUESTS, threshold=0.6))) == 2000
    assert len(kept([*reviews, *others], rules(0.6))) < 2000


def test_few_rows_have_no_template() -> None:
    rows = requests_of(
        *(f"the same long request said once more and with some more words number {n}" for n in range(20))
    )
    assert kept(rows, replace(REQUESTS, threshold=0.7)) == kept(rows, rules(0.7)) == [0]


def test_copies_of_one_row_do_not_make_its_text_a_template() -> None:
    text = "this one request is there a hundred times and once more with another word at the end"
    rows = [*(Row(n, text, "yes") for n in range(100)), Row(100, text + " now", "yes")]
    assert kept(rows, replace(REQUESTS, stop_share=1.0)) == [0]


def test_texts_without_words_are_only_equal_to_themselves() -> None:
    assert kept(requests_of("😀", "😡", "?!", "", "😀 "), REQUESTS) == [0, 1, 2, 3]


def test_scripts_without_spaces_have_near_duplicates() -> None:
    text = "我想预订明天早上从北京飞往上海的两张经济舱机票并且需要靠窗的座位谢谢"
    assert kept(
        requests_of(text, text.replace("谢谢", "多谢"), "完全不同的一句话在这里说的是别的事情"), rules(0.7)
    ) == [0, 2]


def test_the_row_of_lower_rank_stays_and_fixed_rows_always_do() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    train, tested, task = Row(0, text, rank=2), Row(1, text + " thirteen", rank=1), Row(2, text, rank=0, fixed=True)
    assert kept([train, tested], rules(0.8)) == [1]
    assert kept([train, tested, task, task._replace(number=3)], rules(0.8)) == [2, 3]


def test_the_longer_of_two_rows_stays_when_asked() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    rows = requests_of(text, text + " thirteen")
    assert kept(rows, rules(0.8)) == [0]
    assert kept(rows, replace(rules(0.8), prefer="longer")) == [1]


def test_no_rows_have_no_duplicates() -> None:
    found = find([])
    assert (found.rows, len(found.removals), found.losses) == (0, 0, ())


def test_a_threshold_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(DataError, match=r"threshold = 1\.5"):
        Rules(threshold=1.5)


texts = st.lists(st.sampled_from(list("abcde")), min_size=1, max_size=9).map(" ".join)


@given(
    pairs=st.lists(st.tuples(texts, st.sampled_from(["x", "y"])), max_size=30),
    threshold=st.sampled_from([0.2, 1 / 3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0]),
)
@example(pairs=[("a b", "x"), ("a b c", "x")], threshold=1.0)
def test_short_texts_are_joined_as_by_comparing_every_pair(pairs: list[tuple[str, str]], threshold: float) -> None:
    rows = rows_of(*pairs)
    assert kept(rows, rules(threshold)) == kept_by_brute_force(rows, threshold)


def edited_sentences(count: int, longest: int = 25, seed: int = 11) -> list[Row]:
    chance = random.Random(seed)
    words = [f"word{number}" for number in range(60)]
    sentences = [chance.choices(words, k=chance.randrange(5, longest)) for _ in range(60)]
    rows: list[Row] = []
    for number in range(count):
        sentence = list(chance.choice(sentences))
        for _ in range(chance.randrange(4)):
            sentence[chance.randrange(len(sentence))] = chance.choice(words)
        rows.append(Row(number, " ".join(sentence), chance.choice(["yes", "no"])))
    return rows


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85])
@pytest.mark.parametrize("longest", [25, 300])
def test_edited_sentences_are_joined_as_by_comparing_every_pair(threshold: float, longest: int) -> None:
    rows = edited_sentences(500, longest)
    found = kept(rows, rules(threshold))
    assert found == kept_by_brute_force(rows, threshold)
    assert len(found) < 480


def test_a_source_that_loses_too_much_stops_and_shows_pairs() -> None:
    text = "the quick brown fox jumps over the lazy dog and then it sleeps all day long under the old oak tree"
    chat = [Row(n, f"{text} {n}", "yes", "chat") for n in range(120)]
    other = [Row(n, f"a{n} b{n} c{n} d{n}", "yes", "other") for n in range(120, 300)]
    how = replace(NO_TEMPLATE, threshold=0.8)
    found = find([*chat, *other], how)
    losses = {loss.source: loss for loss in found.losses}
    assert losses["chat"].stop
    assert (losses["chat"].exact, losses["chat"].similar) == (0, 119)
    assert not losses["other"].stop
    assert len(losses["chat"].pairs) == 10
    with pytest.raises(DataError) as caught:
        check(found.losses, how)
    message = str(caught.value)
    assert "chat would lose 119 of 120 rows (99%)" in message
    assert message.count("(kept)") == 10
    assert "stop_share" in message
    check(find([*chat[:99], *other], how).losses, how)
    check(found.losses[1:], how)


def test_documents_need_no_answer() -> None:
    words = [f"w{number}" for number in range(200)]
    document = " ".join(words)
    edited = " ".join([*words[:100], "other", *words[101:]])
    found = find([Row(0, document), Row(1, edited), Row(2, " ".join(reversed(words)))], DOCUMENTS)
    assert only(found) == (1, 0, "near duplicate")
    assert found.removals[0].score == 191 / 201  # 196 five-grams, 5 of them with the word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A\tb ", "a b"),
        ("Straße", "strasse"),
        ("ﬁn", "fin"),
        ("a\x1cb", "a b"),
        ("a\x0bb", "a b"),
        ("", ""),
        (" ", ""),
    ],
)
def test_canonical_text(text: str, expected: str) -> None:
    assert plain(text) == expected


@given(st.text())
def test_canonical_text_is_canonical(text: str) -> None:
    assert " ".join(plain(text).split()) == plain(text)
    assert plain(text.replace(" ", "\n  ")) == plain(text)


def test_json_answers_have_one_spelling_and_broken_ones_are_text() -> None:
    assert plain_answer('{"b": 1, "a": [1, 2]}') == plain_answer('{"a":[1,2],"b":1}')
    assert plain_answer('{"a": 1}') != plain_answer('{"a": 2}')
    assert plain_answer("{Yes!") == plain_answer("yes")


def clusters_by_brute_force(rows: Sequence[Row], threshold: float) -> list[int]:
    first = list(range(len(rows)))
    for later, earlier in ((a, b) for a in range(len(rows)) for b in range(a)):
        one, other = rows[later], rows[earlier]
        alike = plain(one.text) == plain(other.text) or jaccard(shingles(one.text), shingles(other.text)) >= threshold
        if alike and one.answer == other.answer:
            old, new = max(first[later], first[earlier]), min(first[later], first[earlier])
            first = [new if each == old else each for each in first]
    return first


@given(
    pairs=st.lists(st.tuples(texts, st.sampled_from(["x", "y"])), max_size=30),
    threshold=st.sampled_from([0.2, 0.5, 0.8, 1.0]),
)
def test_clusters_are_what_comparing_every_pair_connects(pairs: list[tuple[str, str]], threshold: float) -> None:
    rows = rows_of(*pairs)
    assert clusters(rows, rules(threshold)).tolist() == clusters_by_brute_force(rows, threshold)


def test_a_cluster_is_named_after_its_earliest_row_whatever_the_ranks() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    rows = [Row(5, text, rank=2), Row(6, text), Row(7, text + " thirteen", fixed=True), Row(8, "alone"), Row(9, text)]
    assert clusters(rows, rules(0.8)).tolist() == [0, 0, 0, 3, 0]


def test_the_result_does_not_depend_on_how_rows_are_put_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = edited_sentences(300, 60)
    whole = list(find(rows, rules(0.6)).removals)
    monkeypatch.setattr("burnish.data.near.find.BLOCK_BYTES", 500)
    monkeypatch.setattr("burnish.data.near.spool.BLOCK_VALUES", 50)
    assert list(find(rows, rules(0.6)).removals) == whole


def test_large_arrays_live_in_files_with_the_same_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = edited_sentences(300, 60)
    whole = list(find(rows, rules(0.6)).removals)
    monkeypatch.setattr("burnish.data.near.spool.IN_MEMORY", 100)
    assert list(find(rows, rules(0.6), folder=tmp_path).removals) == whole
    assert list(tmp_path.iterdir()) == []


def test_a_group_of_very_many_alike_rows_is_compared_with_some_of_them_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # All share "a a a", are not duplicates, and so each would be compared with all before it.
    rows = requests_of(*(f"a a a x{n} y{n} z{n}" for n in range(50)))
    assert find(rows, rules(0.2)).cut_short == 0
    monkeypatch.setattr("burnish.data.near.join.MOST_CANDIDATES", 10)
    assert find(rows, rules(0.2)).cut_short == 40


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> FileIO:
        return FileIO("/dev/full", "wb")

    monkeypatch.setattr("burnish.data.near.spool.tempfile.TemporaryFile", full)
    with pytest.raises(ResourceError, match=r"could not write to .*: No space left on device"):
        find(requests_of("a b c d"))
